//! How Adam's step size changes over training.

use serde::{Deserialize, Serialize};

use crate::solver::{SolverError, require};

/// A learning-rate schedule: what the step size is multiplied by at each step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Always 1.
    #[default]
    Constant,
    /// (1 + cos(π t / T)) / 2 at step t of T, from 1 down to 0: Keras's `CosineDecay`, after I.
    /// Loshchilov and F. Hutter, "SGDR", 2017.
    Cosine,
    /// rate^(t / T) at step t of T, from 1 down to `rate`: Keras's `ExponentialDecay`.
    Exponential {
        /// The factor at the end.
        rate: f64,
    },
}

impl Schedule {
    /// Checks every number.
    pub(crate) fn check(&self) -> Result<(), SolverError> {
        let Schedule::Exponential { rate } = *self else {
            return Ok(());
        };
        let fine = rate > 0.0 && rate <= 1.0;
        require(fine, "rate of the schedule", rate, "above 0 and at most 1")
    }

    /// The factor before the step after `done` of `total`.
    pub fn factor(&self, done: u64, total: u64) -> f64 {
        let share = done as f64 / total as f64;
        match *self {
            Schedule::Constant => 1.0,
            Schedule::Cosine => 0.5 * (1.0 + libm::cos(std::f64::consts::PI * share)),
            Schedule::Exponential { rate } => libm::pow(rate, share),
        }
    }
}

impl std::str::FromStr for Schedule {
    type Err = String;

    /// `constant`, `cosine` or `exponential:RATE`.
    fn from_str(text: &str) -> Result<Schedule, String> {
        let rate = text
            .strip_prefix("exponential:")
            .and_then(|r| r.parse().ok());
        let schedule = match (text, rate) {
            ("constant", _) => Some(Schedule::Constant),
            ("cosine", _) => Some(Schedule::Cosine),
            (_, Some(rate)) => Some(Schedule::Exponential { rate }),
            _ => None,
        };
        schedule
            .filter(|schedule| schedule.check().is_ok())
            .ok_or_else(|| {
                "expected constant, cosine or exponential:RATE, the rate above 0 and at most 1"
                    .to_owned()
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_by_hand() {
        let factors = |text: &str| {
            let schedule: Schedule = text.parse().unwrap();
            [0, 50, 100].map(|done| schedule.factor(done, 100))
        };
        assert_eq!(factors("constant"), [1.0; 3]);
        let close = |a: [f64; 3], b: [f64; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-15);
        assert!(close(factors("cosine"), [1.0, 0.5, 0.0]));
        assert!(close(factors("exponential:0.01"), [1.0, 0.1, 0.01]));
        for text in [
            "",
            "linear",
            "exponential",
            "exponential:0",
            "exponential:nan",
        ] {
            assert!(text.parse::<Schedule>().is_err(), "{text}");
        }
    }
}
