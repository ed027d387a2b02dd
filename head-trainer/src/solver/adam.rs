//! The tutorial's training: Adam on mini-batches, epoch by epoch, as Keras's `fit` does it.
//!
//! The weights start Glorot-uniform, in [-l, l) with l = sqrt(6 / (C + O)), the biases at zero (X.
//! Glorot and Y. Bengio, 2010, equation 16). An epoch's training metrics are Keras's: means over
//! the epoch's rows, each with the weights that its batch met. Dropout leaves out each channel of
//! a training row with the same probability and scales the others up (Keras's `Dropout` before the
//! head). Early stopping is Keras's `EarlyStopping(monitor="val_loss", patience=N,
//! restore_best_weights=True)`.
//!
//! Where the training side has several rows an image, its views, each batch shows one of them for
//! each of its images ([`crate::sampling`]).
//!
//! One thread does all of it: a batch of 64 rows is too little to share, and one order of all
//! sums is what makes the bits the same for any number of threads. Only validation, where every
//! row stands alone, uses the current rayon pool.

mod feed;
mod optimizer;
mod schedule;

use std::time::Instant;

use serde::{Deserialize, Serialize};

use self::feed::Feed;
pub use self::optimizer::{BatchResult, Optimizer};
pub use self::schedule::Schedule;
use super::{Epoch, Fit, Problem, Solver, SolverError, Step, require};
use crate::head::Linear;
use crate::metrics::evaluate;
use crate::protocol::{Batches, Protocol, validation_rows};
use crate::rng::{Purpose, Stream};
use crate::sampling::Sampled;

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
    fn check_steps(&self, steps_per_epoch: u64) -> Result<(), SolverError> {
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

impl Solver for AdamConfig {
    fn fit(
        &self,
        problem: &Problem<'_>,
        observe: &mut dyn FnMut(&Epoch),
    ) -> Result<Fit, SolverError> {
        self.check()?;
        let initial = self.initial(problem.outputs(), problem.rows().channels());
        let (size, protocol, seed) = (self.batch_size, self.protocol, self.seed);
        let Some(starts) = problem.train_starts() else {
            let mut batches = Batches::new(problem.train(), size, protocol, seed);
            return fit_batches(problem, self, initial, &mut batches, observe);
        };
        let images: Vec<u32> = (0..starts.len() as u32 - 1).collect();
        let mut batches = Sampled::new(&images, problem.train(), starts, size, protocol, seed);
        fit_batches(problem, self, initial, &mut batches, observe)
    }
}

/// Where batches come from: the seeded protocols, or a given order to compare with another
/// implementation.
pub trait BatchSource {
    /// Number of batches in an epoch.
    fn steps_per_epoch(&self) -> usize;
    /// The next batch's row numbers, at least one.
    fn next_batch(&mut self) -> &[u32];
}

impl BatchSource for Batches<'_> {
    fn steps_per_epoch(&self) -> usize {
        Batches::steps_per_epoch(self)
    }

    fn next_batch(&mut self) -> &[u32] {
        Batches::next_batch(self)
    }
}

/// Trains from a given head on given batches.
///
/// Of `config` this takes the rates, the number of epochs, the patience, the dropout with its seed
/// and, for the validation rows, the protocol and the seed.
///
/// # Errors
/// [`SolverError::Diverged`]; [`SolverError::Config`] for patience without validation rows.
pub fn fit_batches(
    problem: &Problem<'_>,
    config: &AdamConfig,
    initial: Linear,
    batches: &mut dyn BatchSource,
    observe: &mut dyn FnMut(&Epoch),
) -> Result<Fit, SolverError> {
    let validation = validation_rows(problem.validation(), config.protocol, config.seed);
    let patience = config.patience.filter(|_| !validation.is_empty());
    require(
        config.patience == patience,
        "number of validation images",
        0,
        "at least 1 for early stopping",
    )?;
    let steps_per_epoch = batches.steps_per_epoch();
    config.check_steps(steps_per_epoch as u64)?;
    let total_steps = steps_per_epoch as u64 * u64::from(config.epochs);
    let mut optimizer = Optimizer::new(initial, config);
    if let Some(weights_k) = problem.class_weights() {
        optimizer = optimizer.with_class_weights(weights_k);
    }
    let folded = |head: &Linear| match problem.standardizer() {
        Some(standardizer) => standardizer.fold_back(head),
        None => head.clone(),
    };
    let mut feed = Feed::new(problem, config);
    let (mut history, mut steps): (Vec<Epoch>, Vec<Step>) = (Vec::new(), Vec::new());
    let mut best: Option<(f64, u32, Linear)> = None;
    for epoch in 1..=config.epochs {
        let start = Instant::now();
        let (mut loss_sum, mut correct, mut count) = (0.0, 0, 0);
        for _ in 0..steps_per_epoch {
            let rate = config.schedule.factor(optimizer.steps(), total_steps);
            optimizer.set_learning_rate(config.learning_rate * rate);
            let batch = batches.next_batch();
            let (rows, labels_n, listed) = feed.rows(batch);
            let step = optimizer.step(rows, labels_n, listed);
            loss_sum += step.loss_sum;
            correct += step.correct;
            count += batch.len();
            if !step.loss_sum.is_finite() {
                let step = optimizer.steps();
                return Err(SolverError::Diverged { step });
            }
            steps.push(Step {
                step: optimizer.steps(),
                epoch,
                loss: step.loss_sum / batch.len() as f64,
                running_loss: loss_sum / count as f64,
                running_accuracy: correct as f64 / count as f64,
            });
        }
        let head = folded(optimizer.head());
        if !head.is_finite() {
            let step = optimizer.steps();
            return Err(SolverError::Diverged { step });
        }
        let metrics = evaluate(&head, problem.rows(), problem.labels(), &validation);
        let told = Epoch {
            epoch,
            train_loss: loss_sum / count as f64,
            train_accuracy: correct as f64 / count as f64,
            validation_loss: metrics.map(|m| m.loss),
            validation_accuracy: metrics.map(|m| m.accuracy),
            secs: start.elapsed().as_secs_f64(),
        };
        observe(&told);
        history.push(told);
        if let (Some(patience), Some(loss)) = (patience, told.validation_loss) {
            // A loss that is no number is not lower, as in Keras.
            let (least, since) = best.as_ref().map_or((f64::INFINITY, 0), |b| (b.0, b.1));
            if loss < least {
                best = Some((loss, epoch, head));
            } else if epoch - since >= patience {
                break;
            }
        }
    }
    let (head, best_epoch) = match best {
        Some((_, epoch, head)) => (head, Some(epoch)),
        None => (folded(&optimizer.into_head()), None),
    };
    Ok(Fit {
        head,
        history,
        steps,
        best_epoch,
        convergence: None,
    })
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
