//! The minimum of the penalised loss by L-BFGS.
//!
//! The objective is that of `objective.rs`: mean cross-entropy + l2/2 |w|^2, the biases not
//! penalised; the search is that of `descent.rs`, in the coordinates of `coordinates.rs`. It begins
//! at zero and draws no random number, so that a fit depends on its problem and its configuration
//! alone. A path of penalties begins each where the last one ended.
//!
//! 60 steps are remembered, fewer where they would take too much memory. Under a weak penalty that
//! saves half of the passes that ten need, and costs as much as a pass over 120 rows.

use std::ops::ControlFlow;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::coordinates::Coordinates;
use super::descent::{Value, minimise};
use super::minimum::{MinimumConfig, head_at, last_epoch};
use super::objective::Objective;
use super::{Epoch, Fit, Problem, Solver, SolverError, require};

/// Steps remembered, as far as the bytes allow. Part of what a result's last bit is.
const MEMORY: usize = 60;

/// What the steps remembered may take together, unless three alone take more.
const MEMORY_BYTES: usize = 256 << 20;

/// Steps to remember of points of `length` numbers: from the shape alone.
fn memory(length: usize) -> usize {
    (MEMORY_BYTES / (16 * length)).clamp(3, MEMORY)
}

/// L-BFGS of our own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lbfgs(pub MinimumConfig);

impl Solver for Lbfgs {
    fn fit(
        &self,
        problem: &Problem<'_>,
        observe: &mut dyn FnMut(&Epoch),
    ) -> Result<Fit, SolverError> {
        let mut only = None;
        path(problem, &self.0, &[self.0.l2], &mut |fit| {
            observe(&fit.history[0]);
            only = Some(fit);
            ControlFlow::Continue(())
        })?;
        Ok(only.expect("one penalty, one fit"))
    }
}

/// The minima for several penalties, in the order given: each search begins where the one before
/// it ended, which is near if the penalties are. Of the configuration, `l2` is not used. `found`
/// gets each as it comes and says whether to go on to the next.
///
/// # Errors
/// [`SolverError::Config`].
pub fn path(
    problem: &Problem<'_>,
    config: &MinimumConfig,
    penalties: &[f64],
    found: &mut dyn FnMut(Fit) -> ControlFlow<()>,
) -> Result<(), SolverError> {
    let mut measured = None;
    let moments = problem.moments_or_measure(&mut measured);
    let (outputs, classes) = (problem.outputs(), problem.classes());
    let mut objective = Objective::new(problem, config.l2);
    let mut point = vec![0.0; objective.len()];
    for &l2 in penalties {
        let config = MinimumConfig { l2, ..*config };
        config.check()?;
        let start = Instant::now();
        objective.penalise(l2);
        let coordinates = Coordinates::new(moments, objective.penalty(), outputs, classes);
        let mut decoded = point.clone();
        let mut function = |at: &[f64], gradient: &mut [f64]| {
            coordinates.decode(at, &mut decoded);
            let value = objective.at(&decoded, gradient);
            let norm = objective.norm(gradient);
            coordinates.gradient(gradient);
            Value { value, norm }
        };
        let minimum = minimise(
            &mut function,
            coordinates.encode(&point),
            memory(point.len()),
            config.max_iterations,
            |at| config.is_reached(at.value, at.norm),
        );
        coordinates.decode(&minimum.point, &mut point);
        let head = head_at(&point, outputs);
        require(
            head.is_finite(),
            "l2",
            l2,
            "a penalty that keeps the weights in the range of f32",
        )?;
        let epoch = last_epoch(&head, problem, start);
        let fit = Fit {
            head,
            history: vec![epoch],
            steps: Vec::new(),
            best_epoch: None,
            convergence: Some(config.convergence(
                minimum.value,
                minimum.norm,
                Some(minimum.iterations),
            )),
        };
        if found(fit).is_break() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_the_shape() {
        for (outputs, channels, steps) in [
            (1, 2048, 60),
            (100, 2048, 60),
            (1000, 2048, 8),
            (20_000, 4096, 3),
        ] {
            assert_eq!(memory(outputs * (channels + 1)), steps, "{outputs}");
        }
    }
}
