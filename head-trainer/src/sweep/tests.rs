//! Tests of sweeps.

use super::folds::{TrainSide, folds};
use super::*;
use crate::solver::MinimumConfig;
use crate::solver::adam::AdamConfig;

fn lbfgs(l2: f64) -> FitConfig {
    FitConfig::new(SolverConfig::Lbfgs(Lbfgs(MinimumConfig {
        l2,
        gradient_tolerance: 1e-8,
        ..MinimumConfig::default()
    })))
}

fn adam(epochs: u32) -> FitConfig {
    FitConfig::new(SolverConfig::Adam(AdamConfig {
        epochs,
        learning_rate: 0.05,
        ..AdamConfig::default()
    }))
}

/// 60 rows of 4 channels; a third of class 1.
fn data() -> (Vec<f32>, Vec<u32>) {
    let labels: Vec<u32> = (0..60).map(|i| u32::from(i % 3 == 0)).collect();
    let value = |i: usize, c: usize| {
        let noise = ((i * 7 + c * 13) as f32 * 0.61).sin();
        noise + if c == 0 { labels[i] as f32 } else { 0.0 }
    };
    let values = (0..60).flat_map(|i| (0..4).map(move |c| (i, c)));
    (values.map(|(i, c)| value(i, c)).collect(), labels)
}

#[test]
fn outcomes_are_those_of_fits_alone_for_any_number_of_threads() {
    let (values, labels) = data();
    let rows = Rows::new(&values, 4).unwrap();
    let all: Vec<u32> = (0..60).collect();
    let starts: Vec<u32> = (0..=60).collect();
    let side = TrainSide {
        rows: &all,
        starts: &starts,
    };
    let parts = folds(side, &labels, 3, 1);
    let data = Data {
        rows,
        labels_n: &labels,
        classes: 2,
        parts: &parts,
    };
    let candidates = [lbfgs(0.01), adam(2), lbfgs(1.0), lbfgs(0.1), adam(3)];
    assert_eq!(paths(&candidates), [vec![2, 3, 0], vec![1], vec![4]]);
    let run_with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let count = std::sync::atomic::AtomicUsize::new(0);
        let done = || {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        };
        let mut outcomes = pool
            .unwrap()
            .install(|| run(data, &candidates, None, &done))
            .unwrap();
        assert_eq!(count.into_inner(), 15);
        outcomes.iter_mut().for_each(|o| o.secs = 0.0);
        outcomes
    };
    let outcomes = run_with(1);
    assert_eq!(outcomes, run_with(3));
    for (outcome, config) in outcomes.iter().zip(&candidates) {
        assert_eq!(outcome.config, *config);
        assert!(outcome.converged);
        for (part, score) in parts.iter().zip(&outcome.scores) {
            let problem = Problem::new(rows, &labels, 2, &part.train, &part.validation).unwrap();
            let fit = solver::fit(&problem, config, &mut |_| {}).unwrap();
            let alone = evaluate(&fit.head, rows, &labels, &part.validation).unwrap();
            // Where a search begins is seen in the last digits alone.
            assert!(
                (alone.loss - score.loss).abs() < 1e-6,
                "{alone:?} {score:?}"
            );
        }
    }
    let seeded = run(data, &[adam(2)], Some(&[1, 2, 3]), &|| {}).unwrap();
    assert_ne!(seeded[0].scores[0], outcomes[1].scores[0]);
}

fn outcome(config: FitConfig, losses: [f64; 4]) -> Outcome {
    let score = |loss| Basic {
        loss,
        accuracy: 1.0 - loss,
    };
    Outcome {
        config,
        scores: losses.map(score).to_vec(),
        loss: Mean::of(&losses),
        accuracy: Mean::of(&losses.map(|loss| 1.0 - loss)),
        converged: true,
        secs: 0.0,
    }
}

#[test]
fn means_by_hand() {
    // Deviations -1, 0, 1: variance 1, error 1/sqrt(3).
    let mean = Mean::of(&[1.0, 2.0, 3.0]);
    assert_eq!(mean.mean, 2.0);
    assert!((mean.standard_error.unwrap() - 1.0 / 3_f64.sqrt()).abs() < 1e-15);
    assert_eq!(Mean::of(&[5.0]).standard_error, None);
}

#[test]
fn the_simplest_within_one_standard_error() {
    // The best has mean 0.3 and standard error sqrt(0.02 / 3 / 4) = 0.0408.
    let outcomes = [
        outcome(lbfgs(0.001), [0.4; 4]),
        outcome(lbfgs(0.01), [0.2, 0.3, 0.3, 0.4]),
        outcome(lbfgs(0.1), [0.31; 4]),
        outcome(lbfgs(1.0), [0.34; 4]),
        outcome(lbfgs(10.0), [0.35; 4]),
        outcome(adam(1), [0.32; 4]),
    ];
    for by in [By::Loss, By::Accuracy] {
        assert_eq!(ranked(&outcomes, by), [1, 2, 5, 3, 4, 0]);
        assert_eq!(choose(&outcomes, by, false), 1);
        assert_eq!(choose(&outcomes, by, true), 3);
    }
    let equal = [outcome(adam(3), [0.1; 4]), outcome(adam(2), [0.1; 4])];
    assert_eq!(ranked(&equal, By::Loss), [1, 0]);
}

#[test]
fn a_part_without_a_class_is_named() {
    let (values, mut labels) = data();
    labels.fill(0);
    labels[5] = 1;
    let all: Vec<u32> = (0..60).collect();
    let starts: Vec<u32> = (0..=60).collect();
    let side = TrainSide {
        rows: &all,
        starts: &starts,
    };
    let data = Data {
        rows: Rows::new(&values, 4).unwrap(),
        labels_n: &labels,
        classes: 2,
        parts: &folds(side, &labels, 4, 1),
    };
    let error = run(data, &[adam(1)], None, &|| {}).unwrap_err();
    assert!(error.to_string().contains("fewer --folds"), "{error}");
}
