//! What `head-trainer sweep`'s flags combine to.

use anyhow::bail;

use super::Args;
use crate::cli::train::SolverName;
use crate::solver::adam::AdamConfig;
use crate::solver::lbfgs::Lbfgs;
use crate::solver::linfa::Linfa;
use crate::solver::{FitConfig, MinimumConfig, SolverConfig};
use crate::sweep::grid::{Grid, Values};

/// The penalties that are tried where none are named.
const PENALTIES: &str = "1e-6..1e5:45";

impl Args {
    /// Every candidate, each number checked.
    pub(super) fn candidates(&self) -> anyhow::Result<Vec<FitConfig>> {
        let adam = self.solver.contains(&SolverName::Adam);
        let minimum = self.solver.iter().any(|s| *s != SolverName::Adam);
        for (flag, given, fits, needed) in [
            (
                "--learning-rate",
                self.learning_rate.is_some(),
                adam,
                "--solver adam",
            ),
            ("--epochs", !self.epochs.is_empty(), adam, "--solver adam"),
            (
                "--batch-size",
                self.batch_size.is_some(),
                adam,
                "--solver adam",
            ),
            (
                "--seeds",
                self.seeds.is_some(),
                !minimum,
                "--solver adam alone",
            ),
            (
                "--max-iterations",
                self.max_iterations.is_some(),
                minimum,
                "--solver lbfgs or linfa",
            ),
            (
                "--gradient-tolerance",
                self.gradient_tolerance.is_some(),
                minimum,
                "--solver lbfgs or linfa",
            ),
        ] {
            if given && !fits {
                bail!("{flag} needs {needed}");
            }
        }
        let values = |values: &Option<Values>| values.clone().map_or_else(Vec::new, |v| v.0);
        let usual: Values = PENALTIES.parse().map_err(anyhow::Error::msg)?;
        let default = MinimumConfig::default();
        let minimum = MinimumConfig {
            max_iterations: self.max_iterations.unwrap_or(default.max_iterations),
            gradient_tolerance: self
                .gradient_tolerance
                .unwrap_or(default.gradient_tolerance),
            ..default
        };
        let mut candidates: Vec<FitConfig> = Vec::new();
        for name in &self.solver {
            let (solver, l2) = match name {
                SolverName::Lbfgs => (SolverConfig::Lbfgs(Lbfgs(minimum)), &usual.0[..]),
                SolverName::Linfa => (SolverConfig::Linfa(Linfa(minimum)), &usual.0[..]),
                SolverName::Adam => {
                    let default = AdamConfig::default();
                    let adam = AdamConfig {
                        batch_size: self.batch_size.unwrap_or(default.batch_size),
                        seed: self.seed,
                        ..default
                    };
                    (SolverConfig::Adam(adam), &[][..])
                }
            };
            let grid = Grid {
                base: FitConfig {
                    standardize: self.standardize,
                    class_weight: self.class_weight.clone(),
                    ..FitConfig::new(solver.clone())
                },
                solvers: vec![solver],
                l2: self.l2.as_ref().map_or(l2, |values| &values.0).to_vec(),
                learning_rates: values(&self.learning_rate),
                epochs: self.epochs.clone(),
            };
            for candidate in grid.candidates() {
                candidate.check()?;
                if !candidates.contains(&candidate) {
                    candidates.push(candidate);
                }
            }
        }
        Ok(candidates)
    }
}
