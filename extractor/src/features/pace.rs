//! How fast a backbone was measured to be in some arrangements of its threads, and which of them is best
//! for how much work.
//!
//! Must not know how that is measured or kept.

use serde::{Deserialize, Serialize};

/// More sessions must be at least this much faster, as they take more memory.
pub(super) const WORTH_IT: f64 = 1.02;

/// How the threads are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrangement {
    /// Sessions that run at the same time.
    pub sessions: usize,
    /// Threads of each.
    pub threads_each: usize,
}

impl std::fmt::Display for Arrangement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = |n: usize, word: &str| match n {
            1 => format!("1 {word}"),
            n => format!("{n} {word}s"),
        };
        let sessions = plural(self.sessions, "session");
        write!(f, "{sessions} of {}", plural(self.threads_each, "thread"))
    }
}

/// What a trial measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    batch_size: usize,
    opening_secs: f64,
    measured: Vec<Measured>, // the fewest sessions first
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Measured {
    #[serde(flatten)]
    arrangement: Arrangement,
    images_per_sec: f64,
}

impl Pace {
    /// Of sessions that take so many seconds to open; nothing is measured yet.
    pub fn new(batch_size: usize, opening_secs: f64) -> Pace {
        Pace {
            batch_size,
            opening_secs,
            measured: Vec::new(),
        }
    }

    /// Adds an arrangement, of more sessions than those before: its images a second, all sessions together.
    pub fn add(&mut self, arrangement: Arrangement, images_per_sec: f64) {
        self.measured.push(Measured {
            arrangement,
            images_per_sec,
        });
    }

    /// Whether this can be of a trial of at most so many sessions.
    pub fn is_of(&self, most_sessions: usize) -> bool {
        let sound = |m: &Measured| {
            let sessions = 1..=most_sessions;
            m.images_per_sec > 0.0 && sessions.contains(&m.arrangement.sessions)
        };
        !self.measured.is_empty() && self.measured.iter().all(sound)
    }

    /// Seconds that an arrangement takes for this many batches, if it was measured. In the end a session
    /// may wait for the others: all take as many batches as the one that takes most.
    fn secs(&self, arrangement: Arrangement, batches: usize) -> Option<f64> {
        let found = self
            .measured
            .iter()
            .find(|m| m.arrangement == arrangement)?;
        let rounds = batches.div_ceil(arrangement.sessions.max(1)) as f64;
        let images = rounds * arrangement.sessions as f64 * self.batch_size as f64;
        Some(images / found.images_per_sec)
    }

    /// The arrangement that takes the least time for this many batches, if that is less than with the one
    /// that there is `now`, opening included; one of fewer sessions if more of them gain next to nothing.
    pub fn better_than(&self, now: Arrangement, batches: usize) -> Option<Arrangement> {
        let secs_now = self.secs(now, batches)?;
        let each = self.measured.iter().filter_map(|m| {
            let secs = self.secs(m.arrangement, batches)?;
            Some((m.arrangement, secs))
        });
        let best = each.reduce(|best, other| match other.1 * WORTH_IT <= best.1 {
            true => other,
            false => best,
        });
        let (best, secs) = best?;
        (secs_now > secs + self.opening_secs).then_some(best)
    }

    /// The arrangement to begin with, for this many batches.
    pub fn best(&self, batches: usize) -> Option<Arrangement> {
        let fewest = self.measured.first()?.arrangement;
        Some(self.better_than(fewest, batches).unwrap_or(fewest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Arrangement = Arrangement {
        sessions: 1,
        threads_each: 2,
    };
    const TWO: Arrangement = Arrangement {
        sessions: 2,
        threads_each: 1,
    };

    fn pace(opening_secs: f64, one: f64, two: f64) -> Pace {
        let mut pace = Pace::new(64, opening_secs);
        pace.add(ONE, one);
        pace.add(TWO, two);
        pace
    }

    #[test]
    fn the_best_arrangement_depends_on_how_much_there_is_to_do() {
        let at_once = pace(0.0, 100.0, 105.0);
        let best = |batches| at_once.best(batches).unwrap();
        assert_eq!(best(1), ONE, "the second session would have nothing to do");
        assert_eq!(best(2), TWO);
        assert_eq!(best(3), ONE, "four batches' time for three");
        assert_eq!(best(16), TWO);
        assert_eq!(best(17), ONE, "18 / 105 is more than 17 / 100");
        assert_eq!(best(33), ONE, "34 / 105 is hardly less than 33 / 100");
        assert_eq!(best(101), TWO);
        let secs = at_once.secs(TWO, 3).unwrap();
        assert!((secs - 4.0 * 64.0 / 105.0).abs() < 1e-9);
    }

    #[test]
    fn what_is_gained_must_be_more_than_opening_takes() {
        let slow_to_open = pace(0.3, 100.0, 105.0);
        // 16 batches: 10.24 s or 9.75 s.
        assert_eq!(slow_to_open.best(16), Some(TWO));
        assert_eq!(slow_to_open.best(2), Some(ONE));
        // One batch: 0.64 s or 1.22 s.
        assert_eq!(slow_to_open.better_than(TWO, 1), Some(ONE));
        assert_eq!(slow_to_open.better_than(TWO, 16), None);
        assert_eq!(pace(0.6, 100.0, 105.0).better_than(TWO, 1), None);
    }

    #[test]
    fn more_sessions_must_be_worth_their_memory() {
        assert_eq!(pace(0.0, 100.0, 101.0).best(1000), Some(ONE));
    }

    #[test]
    fn what_no_trial_measures_is_told_and_does_no_harm() {
        assert!(pace(0.0, 100.0, 105.0).is_of(2));
        assert!(!pace(0.0, 100.0, 105.0).is_of(1), "more than there may be");
        assert!(!pace(0.0, 0.0, 105.0).is_of(2));
        assert!(!Pace::new(64, 0.0).is_of(2));
        assert_eq!(Pace::new(64, 0.0).best(10), None);
        let mut huge = pace(0.0, 100.0, 105.0);
        huge.batch_size = usize::MAX;
        let sessions = usize::MAX;
        huge.add(Arrangement { sessions, ..ONE }, 1e300);
        assert!(!huge.is_of(8));
        assert!(huge.best(usize::MAX).is_some());
    }
}
