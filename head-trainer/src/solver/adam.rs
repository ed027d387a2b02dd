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

mod config;
mod feed;
mod optimizer;
mod schedule;

use std::time::Instant;

pub use self::config::AdamConfig;
use self::feed::Feed;
pub use self::optimizer::{BatchResult, Optimizer};
pub(crate) use self::optimizer::{Rates, replace_by_residuals};
pub use self::schedule::Schedule;
use super::{Epoch, Fit, Problem, Solver, SolverError, Step, is_stalled, least_loss, require};
use crate::head::Linear;
use crate::metrics::evaluate;
use crate::protocol::{Batches, validation_rows};
use crate::sampling::Sampled;

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
    let mut best: Option<(u32, Linear)> = None;
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
        if let Some(patience) = patience {
            if least_loss(&history) == Some(epoch) {
                best = Some((epoch, head));
            } else if is_stalled(&history, patience) {
                break;
            }
        }
    }
    let (head, best_epoch) = match best {
        Some((epoch, head)) => (head, Some(epoch)),
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
