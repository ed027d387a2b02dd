//! What the solvers that go to the minimum of the penalised loss share: when to stop, and how
//! close an end is.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{Convergence, Epoch, Problem, SolverError, require};
use crate::head::Linear;
use crate::metrics::evaluate;

/// The penalty and when to stop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MinimumConfig {
    /// Strength of the penalty l2/2 |w|^2 on the mean loss; 0.1, which was near the best on
    /// validation for two backbones with 1,920 training images, standardised or not. More images
    /// want less.
    pub l2: f64,
    /// Iterations at most; 1,000.
    pub max_iterations: u64,
    /// Euclidean norm of the objective's gradient at which to stop; 1e-4.
    pub gradient_tolerance: f64,
}

impl Default for MinimumConfig {
    fn default() -> MinimumConfig {
        MinimumConfig {
            l2: 0.1,
            max_iterations: 1000,
            gradient_tolerance: 1e-4,
        }
    }
}

impl MinimumConfig {
    /// Checks every number.
    ///
    /// # Errors
    /// [`SolverError::Config`] with the first number that is out of range.
    pub fn check(&self) -> Result<(), SolverError> {
        let MinimumConfig {
            l2,
            max_iterations,
            gradient_tolerance,
        } = *self;
        let fine = l2.is_finite() && l2 >= 0.0;
        require(fine, "l2", l2, "zero or a positive number")?;
        let fine = max_iterations > 0;
        require(fine, "max iterations", max_iterations, "at least 1")?;
        let fine = gradient_tolerance.is_finite() && gradient_tolerance > 0.0;
        require(
            fine,
            "gradient tolerance",
            gradient_tolerance,
            "a positive number",
        )
    }

    /// How close an end with that objective and gradient is.
    pub(super) fn convergence(
        &self,
        objective: f64,
        gradient_norm: f64,
        iterations: Option<u64>,
    ) -> Convergence {
        Convergence {
            objective,
            gradient_norm,
            gradient_tolerance: self.gradient_tolerance,
            converged: gradient_norm <= self.gradient_tolerance,
            iterations,
        }
    }
}

/// The one entry in the history of a solver that knows no epochs: the end's metrics.
pub(super) fn last_epoch(head: &Linear, problem: &Problem<'_>, start: Instant) -> Epoch {
    let metrics_of = |rows| evaluate(head, problem.rows(), problem.labels(), rows);
    let train = metrics_of(problem.train()).expect("a problem has training rows");
    let validation = metrics_of(problem.validation());
    Epoch {
        epoch: 1,
        train_loss: train.loss,
        train_accuracy: train.accuracy,
        validation_loss: validation.map(|m| m.loss),
        validation_accuracy: validation.map(|m| m.accuracy),
        secs: start.elapsed().as_secs_f64(),
    }
}

/// The head at a point: the weights `[O, C]` and, after them, the biases `[O]`.
pub(super) fn head_at(point: &[f64], outputs: usize) -> Linear {
    let (weights_oc, bias_o) = point.split_at(point.len() - outputs);
    let narrow = |numbers: &[f64]| numbers.iter().map(|x| *x as f32).collect();
    Linear {
        weights_oc: narrow(weights_oc),
        bias_o: narrow(bias_o),
    }
}
