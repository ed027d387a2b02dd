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
    measured: Vec<Measured>, // one at least, the fewest sessions first
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Measured {
    #[serde(flatten)]
    arrangement: Arrangement,
    images_per_sec: f64,
}

impl Measured {
    /// Seconds for this many batches. In the end a session may wait for the others: all take as many
    /// batches as the one that takes most.
    fn secs(&self, batches: usize, batch_size: usize) -> f64 {
        let sessions = self.arrangement.sessions.max(1);
        let all = batches.div_ceil(sessions) * sessions;
        (all * batch_size) as f64 / self.images_per_sec
    }
}

impl Pace {
    /// Of one arrangement: its images a second, all sessions together.
    pub fn new(batch_size: usize, arrangement: Arrangement, images_per_sec: f64) -> Pace {
        let mut pace = Pace {
            batch_size,
            measured: Vec::new(),
        };
        pace.add(arrangement, images_per_sec);
        pace
    }

    /// Adds an arrangement of more sessions.
    pub fn add(&mut self, arrangement: Arrangement, images_per_sec: f64) {
        self.measured.push(Measured {
            arrangement,
            images_per_sec,
        });
    }

    /// The arrangement that takes the least time for this many batches, and that time in seconds; one of
    /// fewer sessions if more of them gain next to nothing. None if nothing was measured.
    pub fn best(&self, batches: usize) -> Option<(Arrangement, f64)> {
        let each = self
            .measured
            .iter()
            .map(|m| (m.arrangement, m.secs(batches, self.batch_size)));
        each.reduce(|best, other| match other.1 * WORTH_IT <= best.1 {
            true => other,
            false => best,
        })
    }

    /// Seconds that an arrangement takes for this many batches, if it was measured.
    pub fn secs(&self, arrangement: Arrangement, batches: usize) -> Option<f64> {
        let found = self.measured.iter().find(|m| m.arrangement == arrangement);
        found.map(|m| m.secs(batches, self.batch_size))
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

    #[test]
    fn the_best_arrangement_depends_on_how_much_there_is_to_do() {
        let mut pace = Pace::new(64, ONE, 100.0);
        pace.add(TWO, 105.0);
        let best = |batches| pace.best(batches).unwrap().0;
        assert_eq!(best(1), ONE, "the second session would have nothing to do");
        assert_eq!(best(2), TWO);
        assert_eq!(best(3), ONE, "four batches' time for three");
        assert_eq!(best(16), TWO);
        assert_eq!(best(17), ONE, "18 / 105 is more than 17 / 100");
        assert_eq!(best(33), ONE, "34 / 105 is hardly less than 33 / 100");
        assert_eq!(best(101), TWO);
        let secs = pace.secs(TWO, 3).unwrap();
        assert!((secs - 4.0 * 64.0 / 105.0).abs() < 1e-9);
    }

    #[test]
    fn more_sessions_must_be_worth_their_memory() {
        let mut pace = Pace::new(64, ONE, 100.0);
        pace.add(TWO, 101.0);
        assert_eq!(pace.best(1000).unwrap().0, ONE);
        assert_eq!(pace.secs(Arrangement { sessions: 4, ..ONE }, 1), None);
    }
}
