//! Sweeps: many candidates on the same features, each judged several times, and the choice of one.
//!
//! [`grid`] says which candidates there are, [`folds`] where each is judged; [`run`] trains them
//! all, in parallel over one read-only matrix, and [`ranked`] and [`choose`] compare what came of
//! it. Candidates that differ in their penalty alone are one path for L-BFGS, from the strongest
//! penalty to the weakest, each search beginning where the last one ended. A candidate that finds
//! no head, because its steps are too large, say, fails alone. Must not know of files.

mod choice;
pub mod folds;
pub mod grid;
mod outcome;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rayon::prelude::*;

pub use self::choice::{By, Entry, choose, ranked};
use self::folds::{Part, Parts};
pub use self::outcome::{Failure, Mean, Outcome, Scored};
use crate::matrix::Rows;
use crate::metrics::{Basic, evaluate};
use crate::solver::lbfgs::Lbfgs;
use crate::solver::{self, Fit, FitConfig, Problem, ProblemError, SolverConfig, SolverError};
use crate::standardize::Standardizer;

/// Data on which no candidate can be trained, or candidates that nothing can be trained from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SweepError {
    /// A part cannot be trained on.
    #[error("part {part} of the data cannot be trained on (hint: fewer --folds)")]
    Part {
        /// Its number, from 1.
        part: usize,
        /// Why.
        source: ProblemError,
    },
    /// There are more parts than images.
    #[error("part {part} of the data has no image to judge by (hint: fewer --folds)")]
    Empty {
        /// Its number, from 1.
        part: usize,
    },
    /// There is no image to judge by at all.
    #[error("the validation side has no images to judge by (hint: --folds)")]
    NoValidation,
    /// A candidate's numbers are out of range.
    #[error(transparent)]
    Config(#[from] SolverError),
    /// It was told to stop.
    #[error("stopped")]
    Stopped,
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
    pub parts: &'a Parts,
}

impl Data<'_> {
    /// Does `work` on a part.
    fn on<T>(
        &self,
        number: usize,
        work: impl FnOnce(&Part, &Problem<'_>) -> T,
    ) -> Result<T, SweepError> {
        let part = self.parts.part(number);
        let Part {
            train,
            starts,
            validation,
            ..
        } = &part;
        let problem = Problem::new(self.rows, self.labels_n, self.classes, train, validation)
            .and_then(|problem| problem.with_views(starts));
        let problem = problem.map_err(|source| {
            let part = number + 1;
            SweepError::Part { part, source }
        })?;
        Ok(work(&part, &problem))
    }
}

/// Checks all that can be checked without training: every part can be trained on and judged by,
/// every candidate's numbers are in range and fit the classes.
///
/// # Errors
/// [`SweepError`]: the first of them.
pub fn check(data: Data<'_>, candidates: &[FitConfig]) -> Result<(), SweepError> {
    for candidate in candidates {
        candidate.check_for(data.classes)?;
    }
    let parts = 0..data.parts.distinct();
    parts
        .into_par_iter()
        .try_for_each(|part| data.on(part, |_, _| ()))
}

/// Trains every candidate on every part and judges it there; outcomes are in the candidates'
/// order and the same for any number of threads but for their times. `done` is told of each
/// training. Once `stop` is set, no training begins any more.
///
/// # Errors
/// [`SweepError`]: the first of them, among them all that [`check`] finds.
pub fn run(
    data: Data<'_>,
    candidates: &[FitConfig],
    stop: &AtomicBool,
    done: &(dyn Fn() + Sync),
) -> Result<Vec<Outcome>, SweepError> {
    for candidate in candidates {
        candidate.check_for(data.classes)?;
    }
    // Once a part, as every candidate that sees standardised features needs them.
    let needs_moments = candidates.iter().any(|candidate| {
        candidate.standardize || matches!(candidate.solver, SolverConfig::Lbfgs(_))
    });
    let measured = match needs_moments {
        true => 0..data.parts.distinct(),
        false => 0..0,
    };
    let moments: Vec<Standardizer> = measured
        .map(|part| Standardizer::fit(data.rows, &data.parts.part(part).train))
        .collect();
    let paths = paths(candidates);
    let tasks: Vec<(usize, &[usize])> = (0..data.parts.count())
        .flat_map(|part| paths.iter().map(move |path| (part, &path[..])))
        .collect();
    let found: Result<Vec<_>, SweepError> = tasks
        .par_iter()
        .map(|(part, path)| {
            let configs: Vec<FitConfig> = path.iter().map(|&i| candidates[i].clone()).collect();
            let judged = judge(data, *part, &moments, configs, stop, done)?;
            Ok(path
                .iter()
                .map(|&i| (i, *part))
                .zip(judged)
                .collect::<Vec<_>>())
        })
        .collect();
    let none = || (0..data.parts.count()).map(|_| None).collect();
    let mut judged: Vec<Vec<Option<Judged>>> = candidates.iter().map(|_| none()).collect();
    for ((candidate, part), one) in found?.into_iter().flatten() {
        judged[candidate][part] = Some(one);
    }
    let outcomes = candidates.iter().zip(judged).map(|(config, parts)| {
        let parts: Vec<Judged> = parts.into_iter().flatten().collect();
        let secs = parts.iter().map(|p| p.secs).sum();
        let converged = parts.iter().all(|p| p.converged);
        let scores: Result<Vec<Basic>, Failure> = parts.into_iter().map(|p| p.score).collect();
        Outcome {
            config: config.clone(),
            result: scores.map(|scores| Scored::of(scores, converged)),
            secs,
        }
    });
    Ok(outcomes.collect())
}

/// A candidate on a part.
#[derive(Debug)]
struct Judged {
    score: Result<Basic, Failure>,
    converged: bool,
    secs: f64,
}

/// The candidates' numbers, those of a path together, strongest penalty first.
fn paths(candidates: &[FitConfig]) -> Vec<Vec<usize>> {
    let mut paths: Vec<(Option<FitConfig>, Vec<usize>)> = Vec::new();
    for (number, candidate) in candidates.iter().enumerate() {
        let is_lbfgs = matches!(candidate.solver, SolverConfig::Lbfgs(_));
        let rest = is_lbfgs.then(|| grid::kind(candidate));
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
    number: usize,
    moments: &[Standardizer],
    mut configs: Vec<FitConfig>,
    stop: &AtomicBool,
    done: &(dyn Fn() + Sync),
) -> Result<Vec<Judged>, SweepError> {
    if stop.load(Ordering::Relaxed) {
        return Err(SweepError::Stopped);
    }
    data.on(number, |part_of, problem| {
        for config in &mut configs {
            if let (SolverConfig::Adam(adam), Some(seed)) = (&mut config.solver, part_of.seed) {
                adam.seed = seed;
            }
        }
        let start = Instant::now();
        let problem = match moments.get(number % data.parts.distinct()) {
            Some(moments) => problem.with_moments(moments),
            None => *problem,
        };
        let part_number = number + 1;
        let score = |fit: Result<Fit, SolverError>| {
            let part = part_number;
            let converged = match &fit {
                Ok(fit) => fit.convergence.is_none_or(|c| c.converged),
                Err(_) => false,
            };
            let score = match fit {
                Ok(fit) => {
                    let score = evaluate(&fit.head, data.rows, data.labels_n, &part_of.validation);
                    let score = score.expect("a part has rows to judge by");
                    match score.loss.is_finite() {
                        true => Ok(score),
                        false => Err(Failure::Loss {
                            part,
                            loss: score.loss,
                        }),
                    }
                }
                Err(source) => Err(Failure::Solver { part, source }),
            };
            Judged {
                score,
                converged,
                secs: 0.0,
            }
        };
        let mut judged = scores(&problem, &configs, &score, stop, done)?;
        let secs = start.elapsed().as_secs_f64() / judged.len() as f64;
        for one in &mut judged {
            one.secs = secs;
        }
        Ok(judged)
    })?
}

/// Trains the candidates of a path and scores each head as it is found, so that none is kept.
fn scores(
    problem: &Problem<'_>,
    configs: &[FitConfig],
    score: &dyn Fn(Result<Fit, SolverError>) -> Judged,
    stop: &AtomicBool,
    done: &(dyn Fn() + Sync),
) -> Result<Vec<Judged>, SweepError> {
    let mut judged = Vec::with_capacity(configs.len());
    let mut told = 0;
    if let ([_, _, ..], SolverConfig::Lbfgs(Lbfgs(config))) = (configs, &configs[0].solver) {
        let penalties: Vec<f64> = configs.iter().map(|c| c.solver.l2()).collect();
        let path = solver::fit_path(problem, &configs[0], config, &penalties, &mut |fit| {
            judged.push(score(Ok(fit)));
            told += 1;
            done();
            match stop.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        match path {
            Ok(()) if judged.len() == configs.len() => return Ok(judged),
            Ok(()) => return Err(SweepError::Stopped),
            // One of them found no head. The others do, each from its own beginning.
            Err(_) => judged.clear(),
        }
    }
    for (number, config) in configs.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            return Err(SweepError::Stopped);
        }
        judged.push(score(solver::fit(problem, config, &mut |_| {})));
        if number >= told {
            done();
        }
    }
    Ok(judged)
}

#[cfg(test)]
mod tests;
