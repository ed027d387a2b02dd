//! The minimum of the penalised loss, by linfa-logistic's L-BFGS. The one file that names linfa.
//!
//! Our objective is the mean over the n training rows, with an unpenalised bias:
//!
//! ```text
//! f(w, b) = 1/n Σ cross_entropy(w·x + b, y) + l2/2 |w|^2
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
//! Every training row counts the same: the views of an image as if each were an image. It knows no
//! weights of classes; [`super::FitConfig::check`] refuses them.
//!
//! Memory: features are copied to f64 once, 8 n C bytes (305 MB for 18,610 x 2,048), column by
//! column, because its gradient walks along columns.

use std::time::Instant;

use linfa::DatasetBase;
use linfa::ParamGuard as _;
use linfa::traits::Fit as _;
use linfa_logistic::{LogisticRegression, MultiLogisticRegression};
use ndarray::{Array1, Array2, ShapeBuilder as _};
use serde::{Deserialize, Serialize};

use super::minimum::{MinimumConfig, head_at, last_epoch};
use super::objective::Objective;
use super::{Epoch, Fit, Problem, Solver, SolverError};

/// linfa-logistic's own errors.
pub use linfa_logistic::error::Error;

/// linfa-logistic's L-BFGS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Linfa(pub MinimumConfig);

impl Solver for Linfa {
    fn fit(
        &self,
        problem: &Problem<'_>,
        observe: &mut dyn FnMut(&Epoch),
    ) -> Result<Fit, SolverError> {
        let config = &self.0;
        config.check()?;
        let start = Instant::now();
        let standardizer = problem.standardizer();
        let point = match problem.classes() {
            2 => two_classes(problem, config)?,
            _ => many_classes(problem, config)?,
        };
        let mut objective = Objective::new(problem, config.l2);
        let found = head_at(&point, problem.outputs());
        let head = standardizer.map_or(found.clone(), |s| s.fold_back(&found));
        // The objective is a function of weights for raw features.
        let numbers = head.weights_oc.iter().chain(&head.bias_o);
        let raw: Vec<f64> = match standardizer {
            None => point,
            Some(_) => numbers.map(|x| f64::from(*x)).collect(),
        };
        let mut gradient = vec![0.0; raw.len()];
        let value = objective.at(&raw, &mut gradient);
        let epoch = last_epoch(&head, problem, start);
        observe(&epoch);
        Ok(Fit {
            head,
            history: vec![epoch],
            steps: Vec::new(),
            best_epoch: None,
            convergence: Some(config.convergence(value, objective.norm(&gradient), None)),
        })
    }
}

/// Weights `[C]` and bias of the one output.
fn two_classes(problem: &Problem<'_>, config: &MinimumConfig) -> Result<Vec<f64>, Error> {
    let count = problem.train().len() as f64;
    let model = LogisticRegression::default()
        .alpha(config.l2 * count)
        .max_iterations(config.max_iterations)
        .gradient_tolerance(config.gradient_tolerance * count)
        .check()
        .and_then(|parameters| parameters.fit(&training_data(problem)))?;
    let sign = if model.labels().pos.class == 1 {
        1.0
    } else {
        -1.0
    };
    let mut point: Vec<f64> = model.params().iter().map(|w| w * sign).collect();
    point.push(model.intercept() * sign);
    Ok(point)
}

/// Weights `[K, C]` and biases `[K]`; zeros for a class without a training row.
fn many_classes(problem: &Problem<'_>, config: &MinimumConfig) -> Result<Vec<f64>, Error> {
    let count = problem.train().len() as f64;
    let model = MultiLogisticRegression::default()
        .alpha(config.l2 * count)
        .max_iterations(config.max_iterations)
        .gradient_tolerance(config.gradient_tolerance * count)
        .check()
        .and_then(|parameters| parameters.fit(&training_data(problem)))?;
    let (classes, channels) = (problem.classes(), problem.rows().channels());
    let mut point = vec![0.0; classes * (channels + 1)];
    // Its columns are in the order of the classes that it met.
    for (column, &class) in model.classes().iter().enumerate() {
        let class = class as usize;
        let weights = model.params().column(column);
        for (to, from) in point[class * channels..].iter_mut().zip(weights) {
            *to = *from;
        }
        point[classes * channels + class] = model.intercept()[column];
    }
    Ok(point)
}

type Data = DatasetBase<Array2<f64>, Array1<u32>>;

/// The training rows as linfa takes them: `[n, C]` in f64, column by column, and labels `[n]`.
fn training_data(problem: &Problem<'_>) -> Data {
    let (count, channels) = (problem.train().len(), problem.rows().channels());
    let mut features = Array2::zeros((count, channels).f());
    let mut values = vec![0.0; channels];
    for (mut copy, &row) in features.rows_mut().into_iter().zip(problem.train()) {
        problem.copy_row(row, &mut values);
        for (to, &from) in copy.iter_mut().zip(&values) {
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
