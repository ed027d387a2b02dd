//! Progress of a long step: a bar with rate and time left on a terminal, a plain line now and then
//! otherwise, nothing when asked to be quiet. Always on stderr.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(10);

/// Counts towards a known total; may be shared by threads.
pub struct Progress {
    what: &'static str,
    total: u64,
    done: AtomicU64,
    started: Instant,
    sink: Sink,
}

enum Sink {
    Bar(ProgressBar),
    Lines(Mutex<Instant>),
    Quiet,
}

impl Progress {
    /// Starts counting `what` (such as `indexing`) towards `total` of `unit`.
    pub fn new(what: &'static str, unit: &'static str, total: u64, quiet: bool) -> Progress {
        let sink = if quiet {
            Sink::Quiet
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let template = format!(
                "{{msg}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit} {{per_sec}} ETA {{eta}}"
            );
            let style = ProgressStyle::with_template(&template);
            bar.set_style(style.expect("a valid template"));
            bar.set_message(what);
            Sink::Bar(bar)
        } else {
            Sink::Lines(Mutex::new(Instant::now()))
        };
        Progress {
            what,
            total,
            done: AtomicU64::new(0),
            started: Instant::now(),
            sink,
        }
    }

    /// Starts counting files whose number is not known.
    pub fn files(what: &'static str, quiet: bool) -> Progress {
        Progress::unbounded(what, "files", quiet)
    }

    /// Starts counting `unit` whose number is not known.
    pub fn unbounded(what: &'static str, unit: &'static str, quiet: bool) -> Progress {
        let mut progress = Progress::new(what, unit, 0, quiet);
        if let Sink::Bar(bar) = &mut progress.sink {
            bar.unset_length();
            let template = format!("{{spinner}} {{msg}} {{human_pos}} {unit}");
            let style = ProgressStyle::with_template(&template);
            bar.set_style(style.expect("a valid template"));
        }
        progress
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        let done = self.done.fetch_add(n, Ordering::Relaxed) + n;
        match &self.sink {
            Sink::Bar(bar) => bar.inc(n),
            Sink::Quiet => {}
            Sink::Lines(last) => {
                let Ok(mut last) = last.try_lock() else {
                    return;
                };
                if last.elapsed() < LINE_EVERY {
                    return;
                }
                *last = Instant::now();
                let secs = self.started.elapsed().as_secs_f64();
                let rate = done as f64 / secs;
                if self.total == 0 {
                    eprintln!("{}: {done} ({rate:.0} a second)", self.what);
                    return;
                }
                let left_secs = (self.total.saturating_sub(done)) as f64 / rate;
                eprintln!(
                    "{}: {done}/{} ({rate:.0} a second, {left_secs:.0} s left)",
                    self.what, self.total
                );
            }
        }
    }

    /// Prints a line without breaking the bar.
    pub fn line(&self, line: &str) {
        match &self.sink {
            Sink::Bar(bar) => bar.suspend(|| eprintln!("{line}")),
            _ => eprintln!("{line}"),
        }
    }

    /// Ends the count and clears the bar.
    pub fn finish(&self) {
        if let Sink::Bar(bar) = &self.sink {
            bar.finish_and_clear();
        }
    }
}
