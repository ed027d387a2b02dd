//! Where the time of an extraction goes: sums over all threads, stage by stage, and the way from the
//! command to the first batch.
//!
//! Must not know what the stages do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a thread is busy with, or waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Reading an image's bytes and comparing their digest.
    Read,
    /// Decoding.
    Decode,
    /// View, resize, colours and layout, into the input batch.
    Resize,
    /// The backbone, times its threads.
    Engine,
    /// Checking the maps and putting them together.
    Check,
    /// Converting, checksums and writing.
    Write,
    /// The backbone waiting for images, times its threads.
    Starved,
    /// The backbone waiting for the writer, times its threads.
    Blocked,
}

impl Stage {
    /// All of them, in the order of the pipeline.
    pub const ALL: [Stage; 8] = [
        Stage::Read,
        Stage::Decode,
        Stage::Resize,
        Stage::Engine,
        Stage::Check,
        Stage::Write,
        Stage::Starved,
        Stage::Blocked,
    ];

    /// What a reader sees.
    pub fn label(self) -> &'static str {
        match self {
            Stage::Read => "read",
            Stage::Decode => "decode",
            Stage::Resize => "resize",
            Stage::Engine => "engine",
            Stage::Check => "check",
            Stage::Write => "write",
            Stage::Starved => "engine waits for images",
            Stage::Blocked => "engine waits for writer",
        }
    }
}

/// Adds up what each stage takes. Costs two looks at the clock a piece of work.
#[derive(Debug, Default)]
pub struct Clock {
    nanos: [AtomicU64; Stage::ALL.len()],
    first_batch: AtomicU64, // nanoseconds since the start, plus one; 0: none yet
    start: Option<Instant>,
}

impl Clock {
    /// A clock that tells the first batch's time from `start` on.
    pub fn since(start: Instant) -> Clock {
        Clock {
            start: Some(start),
            ..Clock::default()
        }
    }

    /// Counts the time that `work` takes.
    pub fn time<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        self.time_on(stage, 1, work)
    }

    /// [`Clock::time`] for work that `threads` threads share.
    pub fn time_on<T>(&self, stage: Stage, threads: usize, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        self.add(stage, start.elapsed(), threads);
        done
    }

    fn add(&self, stage: Stage, time: Duration, threads: usize) {
        // 584 years of nanoseconds fit.
        let nanos = time.as_nanos() as u64 * threads as u64;
        self.nanos[stage as usize].fetch_add(nanos, Ordering::Relaxed);
    }

    /// Notes that a batch is through the backbone.
    pub(crate) fn batch_done(&self) {
        if let Some(start) = self.start {
            let nanos = start.elapsed().as_nanos() as u64 + 1;
            let _ =
                self.first_batch
                    .compare_exchange(0, nanos, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Seconds from the start to the end of the first batch, if there was one.
    pub fn first_batch_secs(&self) -> Option<f64> {
        match self.first_batch.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(nanos as f64 / 1e9),
        }
    }

    /// Seconds that a stage took, over all threads.
    pub fn secs(&self, stage: Stage) -> f64 {
        self.nanos[stage as usize].load(Ordering::Relaxed) as f64 / 1e9
    }

    /// Each stage's seconds by name, as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        let stages = Stage::ALL.map(|stage| {
            let name = serde_json::to_value(stage).expect("a name");
            let name = name.as_str().unwrap_or_default().to_owned();
            (name + "_secs", serde_json::Value::from(self.secs(stage)))
        });
        serde_json::Value::Object(stages.into_iter().collect())
    }

    /// The table of the stages: seconds, milliseconds a row, and the share of what `threads` threads
    /// could do in `wall_secs`. Threads that want the same core are busy at the same time, so the
    /// shares may add up to more than everything.
    pub fn table(&self, rows: usize, wall_secs: f64, threads: usize) -> String {
        let mut text = format!(
            "{:<26}{:>10}{:>10}{:>9}\n",
            "stage", "thread s", "ms/row", "share"
        );
        for stage in Stage::ALL {
            let secs = self.secs(stage);
            text += &format!(
                "{:<26}{secs:>10.2}{:>10.3}{:>7.1} %\n",
                stage.label(),
                secs * 1e3 / rows.max(1) as f64,
                100.0 * secs / (wall_secs * threads as f64).max(f64::MIN_POSITIVE),
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_add_up_over_threads() {
        let clock = Clock::since(Instant::now());
        clock.add(Stage::Decode, Duration::from_millis(250), 1);
        clock.add(Stage::Engine, Duration::from_secs(1), 2);
        clock.add(Stage::Engine, Duration::from_secs(1), 2);
        assert_eq!(clock.secs(Stage::Decode), 0.25);
        assert_eq!(clock.secs(Stage::Engine), 4.0);
        let table = clock.table(100, 4.0, 2);
        let line = |label: &str| table.lines().find(|l| l.starts_with(label)).unwrap();
        assert!(line("engine ").contains("40.000"), "{table}");
        assert!(line("engine ").ends_with("50.0 %"), "{table}");
        assert!(line("decode").ends_with("3.1 %"), "{table}");
        assert_eq!(clock.to_json()["engine_secs"], 4.0);
        assert_eq!(clock.to_json().as_object().unwrap().len(), 8);
    }

    #[test]
    fn the_first_batch_alone_is_noted() {
        let clock = Clock::since(Instant::now());
        assert_eq!(clock.first_batch_secs(), None);
        clock.batch_done();
        let first = clock.first_batch_secs().unwrap();
        std::thread::sleep(Duration::from_millis(2));
        clock.batch_done();
        assert_eq!(clock.first_batch_secs(), Some(first));
    }
}
