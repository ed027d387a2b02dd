//! Adam's numbers: what they may be, and the head that they begin with. Bounds keep a hand-made
//! record from asking for more memory than there is, and f32 from losing a number. Knows nothing of
//! batches or losses.

use serde::{Deserialize, Serialize};

use super::Schedule;
use crate::head::Linear;
use crate::protocol::Protocol;
use crate::rng::{Purpose, Stream};
use crate::solver::{SolverError, require};

/// Adam's numbers; the defaults are Keras's and the tutorial's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamConfig {
    /// Epochs; 7.
    pub epochs: u32,
    /// Rows in a batch; 64.
    pub batch_size: u32,
    /// Step size; 1e-3.
    pub learning_rate: f64,
    /// How the step size changes; constant.
    #[serde(default, skip_serializing_if = "is_default")]
    pub schedule: Schedule,
    /// Strength of the penalty l2/2 |w|^2; 0. The losses told are without it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub l2: f64,
    /// Share of a training row's channels that is left out; 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dropout: f64,
    /// Epochs without a lower validation loss after which to stop, and go back to the best one's
    /// weights; none: all epochs, and the last one's weights.
    #[serde(default, skip_serializing_if = "is_default")]
    pub patience: Option<u32>,
    /// Decay of the gradient's mean; 0.9.
    pub beta_1: f64,
    /// Decay of the squared gradient's mean; 0.999.
    pub beta_2: f64,
    /// Added to the root of the squared gradient's mean; 1e-7.
    pub epsilon: f64,
    /// How an epoch is made; full passes.
    pub protocol: Protocol,
    /// Seed of the initial weights and the order of rows; 0.
    pub seed: u64,
}

/// Epochs, rows in a batch and the like at most.
const MOST: u32 = 1_000_000;
/// Rows that the tutorial's validation may repeat each epoch.
const MOST_VALIDATION_ROWS: u64 = 10_000_000;
/// Steps in all.
const MOST_STEPS: u64 = 100_000_000;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for AdamConfig {
    fn default() -> AdamConfig {
        AdamConfig {
            epochs: 7,
            batch_size: 64,
            learning_rate: 1e-3,
            schedule: Schedule::Constant,
            l2: 0.0,
            dropout: 0.0,
            patience: None,
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-7,
            protocol: Protocol::Full,
            seed: 0,
        }
    }
}

impl AdamConfig {
    /// Checks every number.
    ///
    /// # Errors
    /// [`SolverError::Config`] with the first number that is out of range.
    pub fn check(&self) -> Result<(), SolverError> {
        // The update is in f32: what counts is what is left there.
        let positive = |x: f64| (x as f32).is_finite() && x as f32 > 0.0;
        let share = |x: f64| x >= 0.0 && (x as f32) < 1.0;
        let count = |name, value: u32| {
            let fine = (1..=MOST).contains(&value);
            require(fine, name, value, "from 1 to 1,000,000")
        };
        count("epochs", self.epochs)?;
        count("batch size", self.batch_size)?;
        let rate = self.learning_rate;
        require(positive(rate), "learning rate", rate, "a positive number")?;
        self.schedule.check()?;
        let l2 = self.l2;
        let fine = l2 == 0.0 || (positive(l2) && l2 <= 1e15);
        require(fine, "l2", l2, "zero or a positive number up to 1e15")?;
        let dropout = self.dropout;
        let fine = share(dropout);
        require(fine, "dropout", dropout, "at least 0 and below 1")?;
        let patience = self.patience.unwrap_or(1);
        require(patience > 0, "patience", patience, "at least 1")?;
        require(
            share(self.beta_1),
            "beta 1",
            self.beta_1,
            "at least 0 and below 1",
        )?;
        require(
            share(self.beta_2),
            "beta 2",
            self.beta_2,
            "at least 0 and below 1",
        )?;
        require(
            positive(self.epsilon),
            "epsilon",
            self.epsilon,
            "a positive number",
        )?;
        if let Protocol::Tutorial(tutorial) = self.protocol {
            count("steps per epoch", tutorial.steps_per_epoch)?;
            let buffer = tutorial.shuffle_buffer;
            require(buffer > 0, "shuffle buffer", buffer, "at least 1")?;
            let (steps, batch) = (tutorial.validation_steps, tutorial.validation_batch);
            count("validation steps", steps)?;
            count("validation batch", batch)?;
            let rows = u64::from(steps) * u64::from(batch);
            let fine = rows <= MOST_VALIDATION_ROWS;
            require(fine, "validation rows an epoch", rows, "at most 10,000,000")?;
            self.check_steps(u64::from(tutorial.steps_per_epoch))?;
        }
        Ok(())
    }

    /// Checks the number of steps in all, each of which a run records.
    pub(super) fn check_steps(&self, steps_per_epoch: u64) -> Result<(), SolverError> {
        let steps = steps_per_epoch.saturating_mul(u64::from(self.epochs));
        require(
            steps <= MOST_STEPS,
            "number of steps, epochs times those of each,",
            steps,
            "at most 100,000,000",
        )
    }

    /// The seeded initial head of `outputs` outputs for `channels` channels.
    pub fn initial(&self, outputs: usize, channels: usize) -> Linear {
        let limit = (6.0 / (channels + outputs) as f64).sqrt() as f32;
        let mut random = Stream::new(self.seed, Purpose::Initial);
        let mut head = Linear::zeros(outputs, channels);
        let weights = &mut head.weights_oc;
        weights.fill_with(|| random.symmetric(limit));
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Tutorial;

    #[test]
    fn glorot_limit() {
        let config = AdamConfig::default();
        let head = config.initial(1, 2048);
        let limit = (6.0_f32 / 2049.0).sqrt();
        let largest = head.weights_oc.iter().fold(0.0_f32, |a, w| a.max(w.abs()));
        assert!(largest <= limit && largest > 0.99 * limit);
        assert_eq!(head.bias_o, [0.0]);
        assert_eq!(head.parameter_count(), 2049);
        let other = AdamConfig { seed: 1, ..config };
        assert_ne!(other.initial(1, 2048), head);
        assert_eq!(config.initial(10, 2048).parameter_count(), 20_490);
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let config = AdamConfig {
            learning_rate: -1.0,
            ..AdamConfig::default()
        };
        let message = config.check().unwrap_err().to_string();
        assert_eq!(message, "learning rate is -1, expected a positive number");
        for config in [
            AdamConfig {
                epochs: 0,
                ..AdamConfig::default()
            },
            AdamConfig {
                batch_size: 0,
                ..AdamConfig::default()
            },
            AdamConfig {
                beta_1: 1.0,
                ..AdamConfig::default()
            },
            AdamConfig {
                epsilon: f64::NAN,
                ..AdamConfig::default()
            },
            AdamConfig {
                dropout: 1.0,
                ..AdamConfig::default()
            },
            AdamConfig {
                patience: Some(0),
                ..AdamConfig::default()
            },
            AdamConfig {
                schedule: Schedule::Exponential { rate: 0.0 },
                ..AdamConfig::default()
            },
            // Numbers that f32 does not tell from 0, 1 or infinity.
            AdamConfig {
                learning_rate: 1e-60,
                ..AdamConfig::default()
            },
            AdamConfig {
                learning_rate: 1e60,
                ..AdamConfig::default()
            },
            AdamConfig {
                l2: 1e60,
                ..AdamConfig::default()
            },
            AdamConfig {
                beta_2: 1.0 - 1e-12,
                ..AdamConfig::default()
            },
            AdamConfig {
                dropout: 1.0 - 1e-12,
                ..AdamConfig::default()
            },
            AdamConfig {
                epsilon: 1e-60,
                ..AdamConfig::default()
            },
            AdamConfig {
                epochs: u32::MAX,
                ..AdamConfig::default()
            },
            AdamConfig {
                batch_size: u32::MAX,
                ..AdamConfig::default()
            },
        ] {
            assert!(config.check().is_err(), "{config:?}");
        }
    }

    #[test]
    fn the_tutorials_numbers_have_bounds() {
        let check = |change: fn(&mut AdamConfig, &mut Tutorial)| {
            let (mut config, mut tutorial) = (AdamConfig::default(), Tutorial::default());
            change(&mut config, &mut tutorial);
            config.protocol = Protocol::Tutorial(tutorial);
            config.check().map_err(|e| e.to_string())
        };
        assert_eq!(check(|_, _| ()), Ok(()));
        assert_eq!(check(|_, t| t.shuffle_buffer = u32::MAX), Ok(()));
        assert!(check(|_, t| t.validation_steps = u32::MAX).is_err());
        assert!(check(|_, t| t.validation_batch = 0).is_err());
        let error = check(|_, t| (t.validation_steps, t.validation_batch) = (1 << 19, 1 << 19));
        assert_eq!(
            error.unwrap_err(),
            "validation rows an epoch is 274877906944, expected at most 10,000,000"
        );
        let error = check(|c, t| (c.epochs, t.steps_per_epoch) = (1_000_000, 101));
        assert!(error.unwrap_err().contains("101000000, expected at most"));
    }
}
