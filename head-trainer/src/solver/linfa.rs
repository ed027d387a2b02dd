//! The minimum of the penalised loss, by linfa-logistic's L-BFGS. The one file that names linfa.
//!
//! Our objective is the mean over the n training rows, with an unpenalised bias:
//!
//! ```text
//! f(w, b) = 1/n Σ binary_cross_entropy(w·x + b, y) + l2/2 |w|^2
//! ```
//!
//! linfa minimises the *sum* of losses plus alpha/2 |w|^2, which is n f for alpha = n l2; its
//! gradient is n times ours, and so is the tolerance that it gets. Traps, and what is done:
//!
//! - Its positive class is the more frequent one (on a tie the first that it meets), whatever the
//!   labels say. The sign comes from `labels()`, never from an assumption.
//! - Its precision and recall for two classes are swapped. Its metrics are not used at all.
//! - It does not say whether it converged (a line search that fails ends it silently), so the
//!   gradient at the end is computed here.
//!
//! Every training row counts the same: the views of an image as if each were an image.
//!
//! Memory: features are copied to f64 once, 8 n C bytes (305 MB for 18,610 x 2,048), column by
//! column, because its gradient walks along columns.

use std::time::Instant;

use linfa::DatasetBase;
use linfa::ParamGuard as _;
use linfa::traits::Fit as _;
use linfa_logistic::LogisticRegression;
use ndarray::{Array1, Array2, ShapeBuilder as _};
use serde::{Deserialize, Serialize};

use super::objective::Objective;
use super::{Convergence, Epoch, Fit, Problem, Solver, SolverError};
use crate::head::Linear;

/// linfa-logistic's own errors.
pub use linfa_logistic::error::Error;

/// The penalty and when to stop.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinfaConfig {
    /// Strength of the penalty l2/2 |w|^2 on the mean loss; 0.1, which was near the best on
    /// validation for two backbones with 1,920 training images, standardised or not. More images
    /// want less.
    pub l2: f64,
    /// Iterations of L-BFGS at most; 1,000.
    pub max_iterations: u64,
    /// Euclidean norm of the objective's gradient at which to stop; 1e-4.
    pub gradient_tolerance: f64,
}

impl Default for LinfaConfig {
    fn default() -> LinfaConfig {
        LinfaConfig {
            l2: 0.1,
            max_iterations: 1000,
            gradient_tolerance: 1e-4,
        }
    }
}

impl LinfaConfig {
    /// Checks every number.
    ///
    /// # Errors
    /// [`SolverError::Config`] with the first number that is out of range.
    pub fn check(&self) -> Result<(), SolverError> {
        super::check_minimum(self.l2, self.max_iterations, self.gradient_tolerance)
    }
}

impl Solver for LinfaConfig {
    fn fit(
        &self,
        problem: &Problem<'_>,
        observe: &mut dyn FnMut(&Epoch),
    ) -> Result<Fit, SolverError> {
        self.check()?;
        let start = Instant::now();
        let data = training_data(problem);
        let count = problem.train().len() as f64;
        let model = LogisticRegression::default()
            .alpha(self.l2 * count)
            .max_iterations(self.max_iterations)
            .gradient_tolerance(self.gradient_tolerance * count)
            .check()
            .and_then(|parameters| parameters.fit(&data))?;
        let sign = if model.labels().pos.class == 1 {
            1.0
        } else {
            -1.0
        };
        let weights_c = model.params() * sign;
        let bias = model.intercept() * sign;

        let objective = Objective::new(problem, self.l2);
        let point: Vec<f64> = weights_c.iter().copied().chain([bias]).collect();
        let mut gradient = vec![0.0; point.len()];
        let value = objective.at(&point, &mut gradient);
        let gradient_norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let head = Linear {
            weights_c: weights_c.iter().map(|w| *w as f32).collect(),
            bias: bias as f32,
        };
        let epoch = super::last_epoch(&head, problem, start);
        observe(&epoch);
        Ok(Fit {
            head,
            history: vec![epoch],
            steps: Vec::new(),
            convergence: Some(Convergence {
                objective: value,
                gradient_norm,
                gradient_tolerance: self.gradient_tolerance,
                converged: gradient_norm <= self.gradient_tolerance,
                iterations: None,
            }),
        })
    }
}

type Data = DatasetBase<Array2<f64>, Array1<u32>>;

/// The training rows as linfa takes them: `[n, C]` in f64, column by column, and labels `[n]`.
fn training_data(problem: &Problem<'_>) -> Data {
    let rows = problem.rows();
    let (count, channels) = (problem.train().len(), rows.channels());
    let mut features = Array2::zeros((count, channels).f());
    for (mut copy, &row) in features.rows_mut().into_iter().zip(problem.train()) {
        for (to, &from) in copy.iter_mut().zip(rows.row(row)) {
            *to = f64::from(from);
        }
    }
    let labels = problem
        .train()
        .iter()
        .map(|&row| problem.label(row))
        .collect();
    DatasetBase::new(features, labels)
}
