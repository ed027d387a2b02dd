//! The solvers that go to the minimum: they get there, from wherever they begin, and say how near
//! they came.

#[path = "common/clouds.rs"]
mod clouds;

use std::ops::ControlFlow;

use clouds::{CHANNELS, Clouds, lbfgs, linfa, run};
use head_trainer::matrix::Rows;
use head_trainer::metrics::sigmoid;
use head_trainer::solver::lbfgs::{self, Lbfgs};
use head_trainer::solver::linfa::Linfa;
use head_trainer::solver::{Fit, FitConfig, MinimumConfig, Problem, SolverConfig};

/// All heads of a path.
fn path(problem: &Problem<'_>, config: &MinimumConfig, penalties: &[f64]) -> Vec<Fit> {
    let mut fits = Vec::new();
    lbfgs::path(problem, config, penalties, &mut |fit| {
        fits.push(fit);
        ControlFlow::Continue(())
    })
    .unwrap();
    fits
}

#[test]
fn a_path_ends_where_each_search_would() {
    for classes in [2, 3] {
        let clouds = Clouds::of(classes, 600, 5);
        let config = MinimumConfig {
            gradient_tolerance: 1e-9,
            ..MinimumConfig::default()
        };
        let penalties = [10.0, 1.0, 0.1, 1e-3];
        let path = path(&clouds.problem(), &config, &penalties);
        for (found, l2) in path.iter().zip(penalties) {
            let alone = run(&clouds.problem(), &lbfgs(l2));
            let (a, b) = (found.convergence.unwrap(), alone.convergence.unwrap());
            assert!(
                a.converged && (a.objective - b.objective).abs() < 1e-12,
                "{a:?} {b:?}"
            );
        }
    }
}

/// The same at the usual tolerances and the weakest penalties, where a gradient norm alone would
/// stop a warm search far from the minimum: objective and score are those of a fit alone.
#[test]
fn a_path_depends_on_no_path() {
    for classes in [2, 3] {
        let clouds = Clouds::of(classes, 400, 5);
        let (train, validation) = clouds.rows.split_at(300);
        // Few rows: the classes can be told apart, and the minimum is far out.
        let rows = Rows::new(&clouds.features, CHANNELS).unwrap();
        for train in [train, &train[..30]] {
            let problem = Problem::new(rows, &clouds.labels, classes, train, validation).unwrap();
            let usual = MinimumConfig::default();
            let penalties: Vec<f64> = (-6..=5).rev().map(|e| 10_f64.powi(e)).collect();
            let path = path(&problem, &usual, &penalties);
            for (found, l2) in path.iter().zip(penalties) {
                let solver = SolverConfig::Lbfgs(Lbfgs(MinimumConfig { l2, ..usual }));
                let alone = run(&problem, &FitConfig::new(solver));
                let exact = MinimumConfig {
                    l2,
                    gap_tolerance: Some(1e-10),
                    ..usual
                };
                let exact = run(&problem, &FitConfig::new(SolverConfig::Lbfgs(Lbfgs(exact))));
                let least = exact.convergence.unwrap().objective;
                let score = exact.history[0].validation_loss.unwrap();
                for fit in [found, &alone] {
                    let end = fit.convergence.unwrap();
                    assert!(end.converged && end.gap.unwrap() <= 1e-5, "{l2} {end:?}");
                    // The bound holds, but for what rounding adds to both.
                    let above = end.objective / least - 1.0;
                    assert!(above <= end.gap.unwrap() + 1e-9, "{l2} {above} {end:?}");
                    let loss = fit.history[0].validation_loss.unwrap();
                    // Weights are off by about the root of the gap, 3e-3 of themselves.
                    let near = 1e-2 * score.max(0.1);
                    assert!((loss - score).abs() <= near, "{l2}: {loss}, not {score}");
                }
            }
        }
    }
}

/// Both libraries hold to the gap where the usual gradient norm is reached far from the minimum.
#[test]
fn lbfgs_and_linfa_agree_under_weak_penalties() {
    for (classes, count) in [(2, 40), (2, 400), (3, 60)] {
        let clouds = Clouds::of(classes, count, 8);
        for l2 in [1e-3, 1e-5] {
            let usual = MinimumConfig {
                l2,
                ..MinimumConfig::default()
            };
            let solvers = [
                SolverConfig::Lbfgs(Lbfgs(usual)),
                SolverConfig::Linfa(Linfa(usual)),
            ];
            let [ours, theirs] = solvers.map(|solver| {
                let fit = run(&clouds.problem(), &FitConfig::new(solver));
                fit.convergence.unwrap()
            });
            // Of more than two classes linfa's line search may end early, and says so.
            assert!(
                ours.converged && (theirs.converged || classes > 2),
                "{theirs:?}"
            );
            if !theirs.converged {
                assert!(ours.objective < theirs.objective, "{ours:?} {theirs:?}");
                continue;
            }
            let apart = (ours.objective - theirs.objective).abs() / theirs.objective;
            assert!(apart <= 1e-4, "{l2}: {ours:?} {theirs:?}");
        }
    }
}

/// A record from before the gap was asked for means the gradient's norm alone.
#[test]
fn without_a_gap_tolerance_the_norm_decides() {
    let text = r#"{"l2": 1e-6, "max_iterations": 1000, "gradient_tolerance": 1e-4}"#;
    let old: MinimumConfig = serde_json::from_str(text).unwrap();
    assert_eq!(old.gap_tolerance, None);
    let clouds = Clouds::new(40, 8);
    let [old, new] = [
        old,
        MinimumConfig {
            l2: 1e-6,
            ..MinimumConfig::default()
        },
    ]
    .map(|config| {
        let fit = run(
            &clouds.problem(),
            &FitConfig::new(SolverConfig::Lbfgs(Lbfgs(config))),
        );
        fit.convergence.unwrap()
    });
    assert!(old.converged && old.gradient_norm <= 1e-4, "{old:?}");
    assert!(old.gap.unwrap() > 1e-2, "the case shows nothing: {old:?}");
    assert!(new.converged && new.objective < old.objective, "{new:?}");
}

#[test]
fn lbfgs_and_linfa_reach_the_stated_minimum() {
    let clouds = Clouds::new(600, 3);
    let problem = clouds.problem();
    let l2 = 0.02;
    for config in [lbfgs(l2), linfa(l2)] {
        let fit = run(&problem, &config);
        let convergence = fit.convergence.unwrap();
        assert!(convergence.converged, "{convergence:?}");
        // The gradient of mean loss + l2/2 |w|^2, computed anew and with the bias unpenalised.
        let count = problem.train().len() as f64;
        let mut gradient = [0.0_f64; CHANNELS];
        let mut bias_gradient = 0.0;
        for &row in problem.train() {
            let x = problem.rows().row(row);
            let mut logit = [0.0];
            fit.head.logits_of(x, &mut logit);
            let residual = f64::from(sigmoid(logit[0])) - f64::from(problem.label(row));
            bias_gradient += residual / count;
            for (g, x) in gradient.iter_mut().zip(x) {
                *g += residual * f64::from(*x) / count;
            }
        }
        for (g, w) in gradient.iter().zip(&fit.head.weights_oc) {
            assert!((g + l2 * f64::from(*w)).abs() < 1e-6, "{g} {w}");
        }
        assert!(bias_gradient.abs() < 1e-6);
    }
}

#[test]
fn without_enough_iterations_a_solver_says_so() {
    let clouds = Clouds::new(600, 3);
    let two = MinimumConfig {
        max_iterations: 2,
        ..MinimumConfig::default()
    };
    for solver in [
        SolverConfig::Lbfgs(Lbfgs(two)),
        SolverConfig::Linfa(Linfa(two)),
    ] {
        let config = FitConfig::new(solver);
        let fit = run(&clouds.problem(), &config);
        assert!(!fit.convergence.unwrap().converged);
    }
}

/// Without a penalty the minimum of separable classes is at infinity: the gradient gets small on
/// the way there, and the head is a usable one.
#[test]
fn separable_classes_without_a_penalty() {
    let features = [-1.0, -2.0, 1.0, 3.0];
    let rows = Rows::new(&features, 1).unwrap();
    let problem = Problem::new(rows, &[0, 0, 1, 1], 2, &[0, 1, 2, 3], &[]).unwrap();
    let fit = run(&problem, &lbfgs(0.0));
    assert!(fit.convergence.unwrap().converged, "{fit:?}");
    assert!(fit.head.weights_oc[0] > 1.0 && fit.head.weights_oc[0].is_finite());
    assert_eq!(fit.history[0].train_accuracy, 1.0);
}
