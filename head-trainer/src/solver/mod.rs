//! Solvers: pooled features and labels in, a head out.
//!
//! All find the same head (weights, biases, a sigmoid or a softmax) for the same loss (mean
//! cross-entropy): [`adam`] by the tutorial's steps, [`lbfgs`] by going to the minimum of the
//! penalised loss, [`linfa`] by going there with another library, as a check on ours. [`fit`] is
//! the one entry; it measures what standardising and balanced classes need. A solver knows rows by
//! number and nothing of images, stores or files.

pub mod adam;
mod class_weight;
mod coordinates;
mod descent;
pub mod lbfgs;
pub mod linfa;
mod minimum;
mod objective;
mod problem;

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

pub use self::class_weight::ClassWeight;
pub use self::minimum::MinimumConfig;
pub use self::problem::{Problem, ProblemError};
use crate::head::Linear;

/// Something that finds a head.
pub trait Solver {
    /// Finds a head for `problem` and tells `observe` of every epoch as it ends.
    ///
    /// The result depends on the problem and the solver's configuration alone; of the number of
    /// threads only [`Epoch::secs`] depends.
    ///
    /// # Errors
    /// When the configuration is out of range or the search fails.
    fn fit(
        &self,
        problem: &Problem<'_>,
        observe: &mut dyn FnMut(&Epoch),
    ) -> Result<Fit, SolverError>;
}

/// A solver and its numbers, as a run records them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SolverConfig {
    /// The tutorial's optimizer.
    Adam(adam::AdamConfig),
    /// To the minimum of the penalised loss.
    Lbfgs(lbfgs::Lbfgs),
    /// The same by linfa-logistic.
    Linfa(linfa::Linfa),
}

impl SolverConfig {
    /// The name that a flag gives the solver.
    pub fn name(&self) -> &'static str {
        match self {
            SolverConfig::Adam(_) => "adam",
            SolverConfig::Lbfgs(_) => "lbfgs",
            SolverConfig::Linfa(_) => "linfa",
        }
    }

    /// Strength of the penalty l2/2 |w|^2.
    pub fn l2(&self) -> f64 {
        match self {
            SolverConfig::Adam(config) => config.l2,
            SolverConfig::Lbfgs(lbfgs::Lbfgs(config))
            | SolverConfig::Linfa(linfa::Linfa(config)) => config.l2,
        }
    }

    fn solver(&self) -> &dyn Solver {
        match self {
            SolverConfig::Adam(config) => config,
            SolverConfig::Lbfgs(config) => config,
            SolverConfig::Linfa(config) => config,
        }
    }
}

/// Everything that decides a fit besides its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitConfig {
    /// The solver.
    pub solver: SolverConfig,
    /// Whether the solver sees standardised features (see [`crate::standardize`]). Penalty and
    /// initial weights then apply to standardised weights.
    pub standardize: bool,
    /// What each class counts in training.
    #[serde(default, skip_serializing_if = "ClassWeight::is_none")]
    pub class_weight: ClassWeight,
}

impl FitConfig {
    /// A solver on features as they are, where every image counts the same.
    pub fn new(solver: SolverConfig) -> FitConfig {
        FitConfig {
            solver,
            standardize: false,
            class_weight: ClassWeight::None,
        }
    }

    /// Checks every number, so that a mistake shows before features are read.
    ///
    /// # Errors
    /// [`SolverError::Config`] with the first number that is out of range.
    pub fn check(&self) -> Result<(), SolverError> {
        self.class_weight.check()?;
        require(
            self.class_weight.is_none() || !matches!(self.solver, SolverConfig::Linfa(_)),
            "solver",
            self.solver.name(),
            "adam or lbfgs where classes have weights",
        )?;
        match &self.solver {
            SolverConfig::Adam(config) => config.check(),
            SolverConfig::Lbfgs(lbfgs::Lbfgs(config))
            | SolverConfig::Linfa(linfa::Linfa(config)) => config.check(),
        }
    }

    /// [`FitConfig::check`], and what only the number of classes shows. [`fit`] checks it too;
    /// this is for finding a mistake as soon as the classes are known.
    ///
    /// # Errors
    /// [`SolverError::Config`] with the first number that is out of range.
    pub fn check_for(&self, classes: usize) -> Result<(), SolverError> {
        self.check()?;
        self.class_weight.check_count(classes)
    }
}

/// One epoch, as Keras reports it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Number of the epoch, from 1.
    pub epoch: u32,
    /// Mean loss over the epoch's batches, each with the weights of its time, in nats.
    pub train_loss: f64,
    /// Share of right classes over the epoch's batches, each with the weights of its time.
    pub train_accuracy: f64,
    /// Mean loss on the validation side with the weights at the epoch's end; none without one.
    pub validation_loss: Option<f64>,
    /// Accuracy on the validation side with the weights at the epoch's end; none without one.
    pub validation_accuracy: Option<f64>,
    /// Wall-clock time of the epoch, validation included. The only number here that two equal
    /// runs do not share.
    pub secs: f64,
}

/// The epoch with the least validation loss, the first of equals. A loss that is no number is not
/// lower, as in Keras.
pub(crate) fn least_loss(history: &[Epoch]) -> Option<u32> {
    let mut least: Option<(f64, u32)> = None;
    for epoch in history {
        let loss = epoch.validation_loss.filter(|loss| loss.is_finite());
        if let Some(loss) = loss
            && least.is_none_or(|(lowest, _)| loss < lowest)
        {
            least = Some((loss, epoch.epoch));
        }
    }
    least.map(|(_, epoch)| epoch)
}

/// Whether `patience` epochs have passed without a lower validation loss.
pub(crate) fn is_stalled(history: &[Epoch], patience: u32) -> bool {
    let since = least_loss(history).unwrap_or(0);
    history
        .last()
        .is_some_and(|last| last.epoch - since >= patience)
}

/// One batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Number of the step since the start of training, from 1.
    pub step: u64,
    /// The epoch that it belongs to, from 1.
    pub epoch: u32,
    /// Mean loss of the batch before its update, in nats.
    pub loss: f64,
    /// Mean loss since the epoch's start.
    pub running_loss: f64,
    /// Accuracy since the epoch's start.
    pub running_accuracy: f64,
}

/// How close to the minimum a solver of that kind came.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Convergence {
    /// The objective at the end: mean loss + l2/2 |w|^2.
    pub objective: f64,
    /// Euclidean norm of the objective's gradient at the end, by the weights that the solver sees.
    pub gradient_norm: f64,
    /// The norm that was asked for.
    pub gradient_tolerance: f64,
    /// A bound of how far the objective is above its minimum, as a share of it (see
    /// [`MinimumConfig::gap_tolerance`]); none without a penalty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<f64>,
    /// The share that was asked for; none if the gradient's norm decided alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_tolerance: Option<f64>,
    /// Whether both were reached. If not, the iterations ran out or the line search could go no
    /// further; the head is the best one found.
    pub converged: bool,
    /// Steps taken; none where the solver does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iterations: Option<u64>,
}

/// What a solver found, and how it got there.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// The head, for raw features.
    pub head: Linear,
    /// Adam: every epoch. The others: one entry with the end's metrics.
    pub history: Vec<Epoch>,
    /// Adam: every batch. The others: none.
    pub steps: Vec<Step>,
    /// The epoch whose weights the head has, if not the last one's.
    pub best_epoch: Option<u32>,
    /// How close it came to the minimum. Adam: none.
    pub convergence: Option<Convergence>,
}

/// Why there is no head.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SolverError {
    /// A number of the configuration is out of range.
    #[error("{name} is {value}, expected {expected}")]
    Config {
        /// The number's name, as the flag has it.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The weights are finite numbers no longer.
    #[error(
        "weights overflowed at step {step} (hint: a smaller --learning-rate, or --standardize)"
    )]
    Diverged {
        /// The step, from 1.
        step: u64,
    },
    /// linfa's own refusal.
    #[error("linfa-logistic found no head")]
    Linfa(#[from] linfa::Error),
}

/// Refuses a configured number unless it is fine.
pub(crate) fn require(
    fine: bool,
    name: &'static str,
    value: impl ToString,
    expected: &'static str,
) -> Result<(), SolverError> {
    if fine {
        return Ok(());
    }
    Err(SolverError::Config {
        name,
        value: value.to_string(),
        expected,
    })
}

/// Finds a head for raw features: the one entry to all solvers.
///
/// # Errors
/// See [`SolverError`].
pub fn fit(
    problem: &Problem<'_>,
    config: &FitConfig,
    observe: &mut dyn FnMut(&Epoch),
) -> Result<Fit, SolverError> {
    prepared(problem, config, |problem| {
        config.solver.solver().fit(problem, observe)
    })
}

/// The heads of [`lbfgs::path`], for raw features, on what `config` says of features and classes;
/// its own penalty is not used.
///
/// # Errors
/// See [`SolverError`].
pub fn fit_path(
    problem: &Problem<'_>,
    config: &FitConfig,
    minimum: &MinimumConfig,
    penalties: &[f64],
    found: &mut dyn FnMut(Fit) -> ControlFlow<()>,
) -> Result<(), SolverError> {
    prepared(problem, config, |problem| {
        lbfgs::path(problem, minimum, penalties, found)
    })
}

/// Does `work` on a problem that has the class weights and the standardised features of `config`.
/// Moments are measured only if they are wanted and [`Problem::with_moments`] brought none.
fn prepared<T>(
    problem: &Problem<'_>,
    config: &FitConfig,
    work: impl FnOnce(&Problem<'_>) -> Result<T, SolverError>,
) -> Result<T, SolverError> {
    config.check_for(problem.classes())?;
    let class_weights =
        config
            .class_weight
            .of(problem.labels(), problem.train(), problem.classes())?;
    let mut measured = None;
    let standardizer = config
        .standardize
        .then(|| problem.moments_or_measure(&mut measured));
    let problem = Problem {
        class_weights_k: class_weights.as_deref(),
        standardizer,
        ..*problem
    };
    work(&problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_from_the_least_finite_loss() {
        let history = |losses: &[f64]| -> Vec<Epoch> {
            let epoch = |(epoch, loss): (u32, &f64)| Epoch {
                epoch,
                train_loss: 0.0,
                train_accuracy: 0.0,
                validation_loss: Some(*loss),
                validation_accuracy: None,
                secs: 0.0,
            };
            (1..).zip(losses).map(epoch).collect()
        };
        for (losses, least, stalled) in [
            (&[][..], None, false),
            (&[1.0, 0.5, 0.5], Some(2), false),
            (&[1.0, 0.5, 0.5, 0.6], Some(2), true),
            (&[f64::NAN, 0.5, 0.4], Some(3), false),
            (&[f64::INFINITY, f64::NAN], None, true),
        ] {
            let history = history(losses);
            assert_eq!(least_loss(&history), least, "{losses:?}");
            assert_eq!(is_stalled(&history, 2), stalled, "{losses:?}");
        }
    }
}
