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
//! - It knows a gradient tolerance alone. Where that ends farther above the minimum than the gap
//!   tolerance allows, it searches on from there to a smaller one.
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

/// Searches at most, each from where the one before it ended.
const SEARCHES: usize = 20;

impl Solver for Linfa {
    fn fit(
        &self,
        problem: &Problem<'_>,
        observe: &mut dyn FnMut(&Epoch),
    ) -> Result<Fit, SolverError> {
        let config = &self.0;
        config.check()?;
        let start = Instant::now();
        let mut objective = Objective::new(problem, config.l2);
        let mut raw = Vec::new();
        let mut end = None;
        let mut searches = 0;
        let mut asked = config.gradient_tolerance;
        // The gradient norm to search on to from a point that linfa found; none to stop there.
        let mut judge = |point: &[f64]| {
            raw.clear();
            raw.extend_from_slice(point);
            if let Some(standardizer) = problem.standardizer() {
                // The objective is a function of weights for raw features.
                standardizer.fold(&mut raw, problem.outputs());
            }
            let mut gradient = vec![0.0; raw.len()];
            let value = objective.at(&raw, &mut gradient);
            let norm = objective.norm(&gradient);
            let before = end.replace((value, norm));
            searches += 1;
            let lower = before.is_none_or(|(least, _)| value < least);
            // A search that ended above what was asked for ran out of iterations: another one would
            // take more of them than it may. linfa's own norm is the same but for rounding.
            let ended_well = norm <= 1.01 * asked;
            let on = searches < SEARCHES && lower && !config.is_reached(value, norm);
            on.then_some(()).filter(|()| ended_well).map(|()| {
                asked = 0.5 * config.norm_wanted(value);
                asked
            })
        };
        match problem.classes() {
            2 => two_classes(problem, config, &mut judge)?,
            _ => many_classes(problem, config, &mut judge)?,
        }
        let (value, norm) = end.expect("linfa found a point");
        let head = head_at(&raw, problem.outputs());
        let epoch = last_epoch(&head, problem, start);
        observe(&epoch);
        Ok(Fit {
            head,
            history: vec![epoch],
            steps: Vec::new(),
            best_epoch: None,
            convergence: Some(config.convergence(value, norm, None)),
        })
    }
}

/// Searches for the weights `[C]` and the bias of the one output until `judge` is content.
fn two_classes(
    problem: &Problem<'_>,
    config: &MinimumConfig,
    judge: &mut dyn FnMut(&[f64]) -> Option<f64>,
) -> Result<(), Error> {
    let (data, count) = (training_data(problem), problem.train().len() as f64);
    let mut search = LogisticRegression::default()
        .alpha(config.l2 * count)
        .max_iterations(config.max_iterations)
        .gradient_tolerance(config.gradient_tolerance * count);
    loop {
        let model = search.clone().check().and_then(|p| p.fit(&data))?;
        let sign = if model.labels().pos.class == 1 {
            1.0
        } else {
            -1.0
        };
        let mut found: Vec<f64> = model.params().to_vec();
        found.push(model.intercept());
        let point: Vec<f64> = found.iter().map(|w| w * sign).collect();
        let Some(norm) = judge(&point) else {
            return Ok(());
        };
        search = search
            .gradient_tolerance(norm * count)
            .initial_params(Array1::from(found));
    }
}

/// Searches for the weights `[K, C]` and the biases `[K]`, zeros for a class without a training
/// row, until `judge` is content.
fn many_classes(
    problem: &Problem<'_>,
    config: &MinimumConfig,
    judge: &mut dyn FnMut(&[f64]) -> Option<f64>,
) -> Result<(), Error> {
    let (data, count) = (training_data(problem), problem.train().len() as f64);
    let (classes, channels) = (problem.classes(), problem.rows().channels());
    let mut search = MultiLogisticRegression::default()
        .alpha(config.l2 * count)
        .max_iterations(config.max_iterations)
        .gradient_tolerance(config.gradient_tolerance * count);
    loop {
        let model = search.clone().check().and_then(|p| p.fit(&data))?;
        let mut found = model.params().to_owned();
        found
            .push_row(model.intercept().view())
            .expect("an intercept for each column");
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
        let Some(norm) = judge(&point) else {
            return Ok(());
        };
        search = search
            .gradient_tolerance(norm * count)
            .initial_params(found);
    }
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
