//! What came of a candidate: its scores on every part, or why it has none.

use serde::{Deserialize, Serialize};

use crate::metrics::Basic;
use crate::solver::{FitConfig, SolverError};

/// What came of a candidate.
#[derive(Debug)]
pub struct Outcome {
    /// The candidate.
    pub config: FitConfig,
    /// Its scores; a candidate that fails on one part has none.
    pub result: Result<Scored, Failure>,
    /// Time of all its trainings, in seconds of one after the other. Those of a path share theirs
    /// equally.
    pub secs: f64,
}

/// A candidate's scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// Its loss and accuracy on each part.
    pub scores: Vec<Basic>,
    /// Mean and standard error of the losses.
    pub loss: Mean,
    /// Mean and standard error of the accuracies.
    pub accuracy: Mean,
    /// Whether every search reached its gradient tolerance; yes for adam, which has none.
    pub converged: bool,
}

impl Scored {
    /// The means of some scores, at least one.
    pub(super) fn of(scores: Vec<Basic>, converged: bool) -> Scored {
        let mean = |of: fn(&Basic) -> f64| Mean::of(&scores.iter().map(of).collect::<Vec<_>>());
        Scored {
            loss: mean(|s| s.loss),
            accuracy: mean(|s| s.accuracy),
            converged,
            scores,
        }
    }
}

/// Why a candidate has no scores.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// No head was found.
    #[error("part {part}: {source}")]
    Solver {
        /// Number of the first part where that was so, from 1.
        part: usize,
        /// Why.
        source: SolverError,
    },
    /// A head was found, and its loss is no number that can be compared.
    #[error("part {part}: the loss is {loss} (hint: a smaller --learning-rate, or --standardize)")]
    Loss {
        /// Number of the first part where that was so, from 1.
        part: usize,
        /// The loss.
        loss: f64,
    },
}

/// A mean and its standard error: the sample's standard deviation over the root of its size; none
/// for one value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Its standard error.
    pub standard_error: Option<f64>,
}

impl Mean {
    /// Of some values.
    ///
    /// # Panics
    /// When there are none.
    pub fn of(values: &[f64]) -> Mean {
        assert!(!values.is_empty(), "no values");
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
        let error = (squares / (count - 1.0) / count).sqrt();
        Mean {
            mean,
            standard_error: (values.len() > 1).then_some(error),
        }
    }
}
