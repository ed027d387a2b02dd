//! Tests of sweeps.

use extractor::digest::{Digest, ImageId};

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

fn folds_of(labels: &[u32], count: usize) -> Parts {
    let numbers = 0..labels.len() as u32;
    let ids: Vec<ImageId> = numbers
        .clone()
        .map(|i| Digest::of(&i.to_le_bytes()))
        .collect();
    let side = TrainSide::of_images(numbers.collect());
    Parts::of_folds(side, folds(&ids, labels, count, 1), count).unwrap()
}

fn go(data: Data<'_>, candidates: &[FitConfig]) -> Result<Vec<Outcome>, SweepError> {
    run(data, candidates, &AtomicBool::new(false), &|| {})
}

#[test]
fn outcomes_are_those_of_fits_alone_for_any_number_of_threads() {
    let (values, labels) = data();
    let rows = Rows::new(&values, 4).unwrap();
    let data = Data {
        rows,
        labels_n: &labels,
        classes: 2,
        parts: &folds_of(&labels, 3),
    };
    let candidates = [lbfgs(0.01), adam(2), lbfgs(1.0), lbfgs(0.1), adam(3)];
    assert_eq!(paths(&candidates), [vec![2, 3, 0], vec![1], vec![4]]);
    check(data, &candidates).unwrap();
    let run_with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let count = std::sync::atomic::AtomicUsize::new(0);
        let done = || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let outcomes = pool
            .unwrap()
            .install(|| run(data, &candidates, &AtomicBool::new(false), &done))
            .unwrap();
        assert_eq!(count.into_inner(), 15);
        let scored = outcomes.into_iter().map(|o| (o.config, o.result.unwrap()));
        scored.collect::<Vec<_>>()
    };
    let outcomes = run_with(1);
    assert_eq!(outcomes, run_with(3));
    for ((config, scored), candidate) in outcomes.iter().zip(&candidates) {
        assert_eq!(config, candidate);
        assert!(scored.converged);
        for (number, score) in scored.scores.iter().enumerate() {
            let part = data.parts.part(number);
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
}

#[test]
fn each_seed_is_a_training_of_its_own() {
    let (values, labels) = data();
    let rows = Rows::new(&values, 4).unwrap();
    let side = TrainSide::of_images((0..40).collect());
    let validation: Vec<u32> = (40..60).collect();
    let parts = Parts::of_seeds(side.clone(), validation.clone(), vec![7, 8]).unwrap();
    let data = Data {
        rows,
        labels_n: &labels,
        classes: 2,
        parts: &parts,
    };
    let outcomes = go(data, &[adam(2)]).unwrap();
    let scored = outcomes[0].result.as_ref().unwrap();
    for (score, seed) in scored.scores.iter().zip([7, 8]) {
        let problem = Problem::new(rows, &labels, 2, &side.rows, &validation).unwrap();
        let SolverConfig::Adam(config) = adam(2).solver else {
            panic!("adam");
        };
        let config = FitConfig::new(SolverConfig::Adam(AdamConfig { seed, ..config }));
        let fit = solver::fit(&problem, &config, &mut |_| {}).unwrap();
        assert_eq!(
            evaluate(&fit.head, rows, &labels, &validation),
            Some(*score)
        );
    }
    assert_ne!(scored.scores[0], scored.scores[1]);
}

#[test]
fn a_candidate_that_finds_no_head_fails_alone() {
    let (values, labels) = data();
    // So small that an unpenalised weight is beyond f32.
    let tiny: Vec<f32> = values.iter().map(|x| x * 1e-39).collect();
    let parts = folds_of(&labels, 3);
    let data = |values| Data {
        rows: Rows::new(values, 4).unwrap(),
        labels_n: &labels,
        classes: 2,
        parts: &parts,
    };
    let counted = std::sync::atomic::AtomicUsize::new(0);
    let done = || {
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let path = [0.1, 0.0, 1.0].map(|l2| {
        FitConfig::new(SolverConfig::Lbfgs(Lbfgs(MinimumConfig {
            l2,
            gradient_tolerance: 1e-60,
            ..MinimumConfig::default()
        })))
    });
    let outcomes = run(data(&tiny), &path, &AtomicBool::new(false), &done).unwrap();
    let failed: Vec<bool> = outcomes.iter().map(|o| o.result.is_err()).collect();
    assert_eq!(failed, [false, true, false], "{outcomes:?}");
    assert_eq!(counted.into_inner(), 9);

    let wild = |learning_rate| {
        let adam = AdamConfig {
            learning_rate,
            ..AdamConfig::default()
        };
        FitConfig::new(SolverConfig::Adam(adam))
    };
    let outcomes = go(data(&values), &[wild(1e38), adam(2)]).unwrap();
    let message = outcomes[0].result.as_ref().unwrap_err().to_string();
    assert!(message.starts_with("part 1: "), "{message}");
    assert!(outcomes[1].result.is_ok());
    let entries = entries(&outcomes);
    assert_eq!(ranked(&entries, By::Loss), [1, 0]);
    assert_eq!(choose(&entries, By::Loss, true), Some(1));
    assert_eq!(choose(&entries[..1], By::Loss, true), None);
}

#[test]
fn nothing_begins_after_a_stop() {
    let (values, labels) = data();
    let data = Data {
        rows: Rows::new(&values, 4).unwrap(),
        labels_n: &labels,
        classes: 2,
        parts: &folds_of(&labels, 3),
    };
    let lbfgs = |l2| {
        FitConfig::new(SolverConfig::Lbfgs(Lbfgs(MinimumConfig {
            l2,
            ..MinimumConfig::default()
        })))
    };
    for candidates in [[adam(1), adam(2)], [lbfgs(0.1), lbfgs(0.2)]] {
        let (stop, trained) = (
            AtomicBool::new(false),
            std::sync::atomic::AtomicUsize::new(0),
        );
        let done = || {
            trained.fetch_add(1, Ordering::Relaxed);
            stop.store(true, Ordering::Relaxed);
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let result = pool
            .unwrap()
            .install(|| run(data, &candidates, &stop, &done));
        assert!(matches!(result, Err(SweepError::Stopped)), "{result:?}");
        assert_eq!(trained.into_inner(), 1);
    }
}

fn outcome(config: FitConfig, losses: [f64; 4]) -> Outcome {
    let score = |loss| Basic {
        loss,
        accuracy: 1.0 - loss,
    };
    Outcome {
        config,
        result: Ok(Scored::of(losses.map(score).to_vec(), true)),
        secs: 0.0,
    }
}

/// All of one store.
fn entries(outcomes: &[Outcome]) -> Vec<Entry<'_>> {
    let entry = |outcome| Entry { store: 0, outcome };
    outcomes.iter().map(entry).collect()
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
    let standardized = FitConfig {
        standardize: true,
        ..lbfgs(100.0)
    };
    let outcomes = [
        outcome(lbfgs(0.001), [0.4; 4]),
        outcome(lbfgs(0.01), [0.2, 0.3, 0.3, 0.4]),
        outcome(lbfgs(0.1), [0.31; 4]),
        outcome(lbfgs(1.0), [0.34; 4]),
        outcome(lbfgs(10.0), [0.35; 4]),
        outcome(adam(1), [0.32; 4]),
        outcome(standardized, [0.33; 4]),
    ];
    let mut entries = entries(&outcomes);
    for by in [By::Loss, By::Accuracy] {
        assert_eq!(ranked(&entries, by), [1, 2, 5, 6, 3, 4, 0]);
        assert_eq!(choose(&entries, by, false), Some(1));
        assert_eq!(choose(&entries, by, true), Some(3));
    }
    // A penalty says nothing of how simple a head of another store is.
    entries[3].store = 1;
    assert_eq!(choose(&entries, By::Loss, true), Some(2));
}

#[test]
fn equals_have_an_order() {
    let with_accuracy = |config, loss, accuracy| Outcome {
        config,
        result: Ok(Scored::of(vec![Basic { loss, accuracy }; 2], true)),
        secs: 0.0,
    };
    let outcomes = [
        with_accuracy(adam(3), 0.1, 0.5),
        with_accuracy(lbfgs(1.0), 0.3, 0.9),
        with_accuracy(lbfgs(0.1), 0.2, 0.9),
        with_accuracy(adam(2), 0.1, 0.5),
        with_accuracy(lbfgs(5.0), 0.1, 0.5),
    ];
    // By the other measure; then within a kind the simpler, the kind that was first first.
    assert_eq!(ranked(&entries(&outcomes), By::Accuracy), [2, 1, 3, 0, 4]);
    assert_eq!(ranked(&entries(&outcomes), By::Loss), [3, 0, 4, 2, 1]);
}

#[test]
fn what_cannot_be_trained_is_found_before() {
    let (values, labels) = data();
    let rows = Rows::new(&values, 4).unwrap();
    let weights = |weights: &str| FitConfig {
        class_weight: weights.parse().unwrap(),
        ..adam(1)
    };
    let fine = Data {
        rows,
        labels_n: &labels,
        classes: 2,
        parts: &folds_of(&labels, 4),
    };
    check(fine, &[weights("1,2"), weights("balanced")]).unwrap();
    for error in [
        check(fine, &[adam(1), weights("1,2,3")]).unwrap_err(),
        go(fine, &[adam(1), weights("1,2,3")]).unwrap_err(),
    ] {
        assert!(error.to_string().contains("one for each class"), "{error}");
    }
    let mut labels = vec![0; 60];
    labels[5] = 1;
    let data = Data {
        labels_n: &labels,
        parts: &folds_of(&labels, 4),
        ..fine
    };
    for error in [
        check(data, &[adam(1)]).unwrap_err(),
        go(data, &[adam(1)]).unwrap_err(),
    ] {
        assert!(error.to_string().contains("fewer --folds"), "{error}");
    }
}
