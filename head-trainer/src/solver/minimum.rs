//! What the solvers that go to the minimum of the penalised loss share: when to stop, and how
//! close an end is.
//!
//! A search is done when the gradient's norm is at most the gradient tolerance *and* the gap to the
//! minimum is at most the gap tolerance times the value. The norm alone says little where the
//! penalty is weak: the loss may then be smaller than what is left to gain along directions that
//! the penalty alone curves. The gap is bounded by
//!
//! ```text
//! f(w, b) - f(w*, b*) <= |df/dw|² / (2 l2) + |df/db| |b - b*|
//! ```
//!
//! (the loss is convex, so it lies above its tangent, and the penalty is l2/2 |w|²; the first term
//! is the duality gap). The biases are not penalised, so `b*` is as unknown as the minimum. The
//! rule is
//!
//! ```text
//! |df/d(w, b)|² / (2 l2) <= gap tolerance * f(w, b)
//! ```
//!
//! which for given biases is exact. Their share is `|df/db|² / (2 s)` to second order, s being the
//! mean of p (1 - p), and the rule covers it as long as l2 is at most s. Where it is above, the loss
//! hardly moves from ln K, and the gradient tolerance decides alone. Gradients are by the weights
//! that the penalty is on: those of standardised features if the solver sees such. Without a
//! penalty there is no such bound, and again the gradient tolerance decides alone.

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
    /// Share of the objective that it may be above the minimum at the stop, for `l2` above zero;
    /// 1e-5. None, as in records that do not name it: the gradient's norm decides alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_tolerance: Option<f64>,
}

impl Default for MinimumConfig {
    fn default() -> MinimumConfig {
        MinimumConfig {
            l2: 0.1,
            max_iterations: 1000,
            gradient_tolerance: 1e-4,
            gap_tolerance: Some(1e-5),
        }
    }
}

/// Bounds of what is taken for a penalty, other than none: beyond them squares of weights overflow
/// or sums round the penalty away.
const PENALTIES: std::ops::RangeInclusive<f64> = 1e-15..=1e15;

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
            gap_tolerance,
        } = *self;
        let fine = l2 == 0.0 || PENALTIES.contains(&l2);
        require(fine, "l2", l2, "zero or a number from 1e-15 to 1e15")?;
        let fine = max_iterations > 0;
        require(fine, "max iterations", max_iterations, "at least 1")?;
        let fine = gradient_tolerance.is_finite() && gradient_tolerance > 0.0;
        require(
            fine,
            "gradient tolerance",
            gradient_tolerance,
            "a positive number",
        )?;
        let gap_tolerance = gap_tolerance.unwrap_or(1.0);
        let fine = gap_tolerance.is_finite() && gap_tolerance > 0.0;
        require(fine, "gap tolerance", gap_tolerance, "a positive number")
    }

    /// Bound of the gap to the minimum as a share of the value; none without a penalty.
    fn gap(&self, objective: f64, gradient_norm: f64) -> Option<f64> {
        let gap = gradient_norm * gradient_norm / (2.0 * self.l2) / objective;
        gap.is_finite().then_some(gap)
    }

    /// Whether a search that came there is done.
    pub(super) fn is_reached(&self, objective: f64, gradient_norm: f64) -> bool {
        gradient_norm <= self.norm_wanted(objective)
    }

    /// The gradient norm at which a search is done, if the minimum is `objective`.
    pub(super) fn norm_wanted(&self, objective: f64) -> f64 {
        match self.gap_tolerance {
            Some(tolerance) if self.l2 > 0.0 => {
                let norm = (2.0 * self.l2 * tolerance * objective).sqrt();
                norm.min(self.gradient_tolerance)
            }
            _ => self.gradient_tolerance,
        }
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
            gap: self.gap(objective, gradient_norm),
            gap_tolerance: self.gap_tolerance.filter(|_| self.l2 > 0.0),
            converged: self.is_reached(objective, gradient_norm),
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
