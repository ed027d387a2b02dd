//! Sweeps: many candidates on the same features, each judged several times, and the choice of one.
//!
//! [`grid`] says which candidates there are, [`folds`] where each is judged; [`run`] trains them
//! all, in parallel over one read-only matrix, and [`ranked`] and [`choose`] compare what came of
//! it. Candidates that differ in their penalty alone are one path for L-BFGS, from the strongest
//! penalty to the weakest, each search beginning where the last one ended. Must not know of files.

pub mod folds;
pub mod grid;

use std::time::Instant;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::folds::Part;
use crate::matrix::Rows;
use crate::metrics::{Basic, evaluate};
use crate::solver::lbfgs::Lbfgs;
use crate::solver::{self, FitConfig, Problem, ProblemError, SolverConfig, SolverError};

/// A part of the data on which no candidate can be trained, or a candidate that cannot be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// The part.
    #[error("part {part} of the data cannot be trained on (hint: fewer --folds)")]
    Part {
        /// Its number, from 1.
        part: usize,
        /// Why.
        source: ProblemError,
    },
    /// There are more parts than images.
    #[error("part {0} of the data has no image to judge by (hint: fewer --folds)")]
    Empty(usize),
    /// The candidate.
    #[error(transparent)]
    Solver(#[from] SolverError),
}

/// Features, labels and the parts that every candidate is judged on.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    /// Features `[N, C]`.
    pub rows: Rows<'a>,
    /// Labels `[N]`.
    pub labels_n: &'a [u32],
    /// Number of classes, K.
    pub classes: usize,
    /// Parts.
    pub parts: &'a [Part],
}

/// What came of a candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The candidate.
    pub config: FitConfig,
    /// Its loss and accuracy on each part.
    pub scores: Vec<Basic>,
    /// Mean and standard error of the losses.
    pub loss: Mean,
    /// Mean and standard error of the accuracies.
    pub accuracy: Mean,
    /// Whether every search reached its gradient tolerance; yes for adam, which has none.
    pub converged: bool,
    /// Time of all its trainings, in seconds of one after the other.
    pub secs: f64,
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

/// Trains every candidate on every part and judges it there; outcomes are in the candidates'
/// order and the same for any number of threads but for their times. `seeds`: the seed of each
/// part, for solvers that draw random numbers; none: the candidate's own. `done` is told of each
/// training.
///
/// # Errors
/// [`SweepError`]: the first of them.
pub fn run(
    data: Data<'_>,
    candidates: &[FitConfig],
    seeds: Option<&[u64]>,
    done: &(dyn Fn() + Sync),
) -> Result<Vec<Outcome>, SweepError> {
    let paths = paths(candidates);
    let tasks: Vec<(usize, &[usize])> = (0..data.parts.len())
        .flat_map(|part| paths.iter().map(move |path| (part, &path[..])))
        .collect();
    let found: Result<Vec<_>, SweepError> = tasks
        .par_iter()
        .map(|(part, path)| {
            let configs: Vec<FitConfig> = path.iter().map(|&i| candidates[i].clone()).collect();
            let seed = seeds.map(|seeds| seeds[*part]);
            let judged = judge(data, *part, configs, seed, done)?;
            Ok(path
                .iter()
                .map(|&i| (i, *part))
                .zip(judged)
                .collect::<Vec<_>>())
        })
        .collect();
    let mut judged: Vec<Vec<Option<Judged>>> = vec![vec![None; data.parts.len()]; candidates.len()];
    for ((candidate, part), one) in found?.into_iter().flatten() {
        judged[candidate][part] = Some(one);
    }
    let outcomes = candidates.iter().zip(judged).map(|(config, parts)| {
        let parts: Vec<Judged> = parts.into_iter().flatten().collect();
        let scores: Vec<Basic> = parts.iter().map(|p| p.score).collect();
        let mean = |of: fn(&Basic) -> f64| Mean::of(&scores.iter().map(of).collect::<Vec<_>>());
        Outcome {
            config: config.clone(),
            loss: mean(|s| s.loss),
            accuracy: mean(|s| s.accuracy),
            converged: parts.iter().all(|p| p.converged),
            secs: parts.iter().map(|p| p.secs).sum(),
            scores,
        }
    });
    Ok(outcomes.collect())
}

/// A candidate on a part.
#[derive(Clone, Copy, Debug)]
struct Judged {
    score: Basic,
    converged: bool,
    secs: f64,
}

/// The candidates' numbers, those of a path together, strongest penalty first.
fn paths(candidates: &[FitConfig]) -> Vec<Vec<usize>> {
    let mut paths: Vec<(Option<FitConfig>, Vec<usize>)> = Vec::new();
    for (number, candidate) in candidates.iter().enumerate() {
        let mut rest = None;
        if let SolverConfig::Lbfgs(Lbfgs(mut config)) = candidate.solver {
            config.l2 = 0.0;
            rest = Some(FitConfig {
                solver: SolverConfig::Lbfgs(Lbfgs(config)),
                ..candidate.clone()
            });
        }
        match paths.iter_mut().find(|(of, _)| of.is_some() && *of == rest) {
            Some((_, path)) => path.push(number),
            None => paths.push((rest, vec![number])),
        }
    }
    let strength = |i: &usize| candidates[*i].solver.l2();
    let sort = |mut path: Vec<usize>| {
        path.sort_by(|a, b| strength(b).total_cmp(&strength(a)));
        path
    };
    paths.into_iter().map(|(_, path)| sort(path)).collect()
}

/// Trains the candidates of a path on a part and judges them.
fn judge(
    data: Data<'_>,
    part: usize,
    mut configs: Vec<FitConfig>,
    seed: Option<u64>,
    done: &(dyn Fn() + Sync),
) -> Result<Vec<Judged>, SweepError> {
    let Part {
        train,
        starts,
        validation,
    } = &data.parts[part];
    if validation.is_empty() {
        return Err(SweepError::Empty(part + 1));
    }
    let problem = Problem::new(data.rows, data.labels_n, data.classes, train, validation)
        .and_then(|problem| problem.with_views(starts));
    let problem = problem.map_err(|source| {
        let part = part + 1;
        SweepError::Part { part, source }
    })?;
    for config in &mut configs {
        if let (SolverConfig::Adam(adam), Some(seed)) = (&mut config.solver, seed) {
            adam.seed = seed;
        }
    }
    let start = Instant::now();
    let fits = match (&configs[..], &configs[0].solver) {
        ([_, _, ..], SolverConfig::Lbfgs(Lbfgs(config))) => {
            let penalties: Vec<f64> = configs.iter().map(|c| c.solver.l2()).collect();
            solver::fit_path(&problem, &configs[0], config, &penalties, &mut |_| done())?
        }
        _ => {
            let mut fits = Vec::new();
            for config in &configs {
                fits.push(solver::fit(&problem, config, &mut |_| {})?);
                done();
            }
            fits
        }
    };
    let secs = start.elapsed().as_secs_f64() / fits.len() as f64;
    let judged = fits.iter().map(|fit| Judged {
        score: evaluate(&fit.head, data.rows, data.labels_n, validation)
            .expect("a part has rows to judge by"),
        converged: fit.convergence.is_none_or(|c| c.converged),
        secs,
    });
    Ok(judged.collect())
}

/// What candidates are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The mean loss, lower is better.
    Loss,
    /// The mean accuracy, higher is better.
    Accuracy,
}

impl By {
    /// Badness of an outcome, and its standard error.
    fn cost(self, outcome: &Outcome) -> (f64, f64) {
        let (mean, sign) = match self {
            By::Loss => (outcome.loss, 1.0),
            By::Accuracy => (outcome.accuracy, -1.0),
        };
        (sign * mean.mean, mean.standard_error.unwrap_or(0.0))
    }
}

/// Numbers of the outcomes, best first; of equals the simpler one, then the earlier one.
pub fn ranked(outcomes: &[Outcome], by: By) -> Vec<usize> {
    let mut order: Vec<usize> = (0..outcomes.len()).collect();
    let simplicity = |i: usize| grid::simplicity(&outcomes[i].config);
    order.sort_by(|&a, &b| {
        let costs = by.cost(&outcomes[a]).0.total_cmp(&by.cost(&outcomes[b]).0);
        costs.then_with(|| compare(simplicity(b), simplicity(a)))
    });
    order
}

/// The number of the outcome to take: the best one; with `one_standard_error`, the simplest of
/// those whose mean is within one standard error of the best one's (L. Breiman et al.,
/// *Classification and Regression Trees*, 1984, section 3.4.3), of the same solver as the best.
///
/// # Panics
/// When there are no outcomes.
pub fn choose(outcomes: &[Outcome], by: By, one_standard_error: bool) -> usize {
    let order = ranked(outcomes, by);
    let best = order[0];
    if !one_standard_error {
        return best;
    }
    let (cost, error) = by.cost(&outcomes[best]);
    let name = |i: usize| outcomes[i].config.solver.name();
    let simplicity = |i: usize| grid::simplicity(&outcomes[i].config);
    let mut chosen = best;
    for &i in &order[1..] {
        let near = by.cost(&outcomes[i]).0 <= cost + error && name(i) == name(best);
        if near && compare(simplicity(i), simplicity(chosen)).is_gt() {
            chosen = i;
        }
    }
    chosen
}

fn compare(a: (f64, f64, f64), b: (f64, f64, f64)) -> std::cmp::Ordering {
    a.0.total_cmp(&b.0)
        .then(a.1.total_cmp(&b.1))
        .then(a.2.total_cmp(&b.2))
}

#[cfg(test)]
mod tests;
