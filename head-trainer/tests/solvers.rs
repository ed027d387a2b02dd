//! What all solvers must hold to: the same bits for any number of threads, seeds that decide,
//! classes that can be swapped, one minimum.

#[path = "common/clouds.rs"]
mod clouds;

use clouds::{
    CHANNELS, Clouds, Noise, SMALL_TUTORIAL, adam, all_configs, lbfgs, linfa, run, standardized,
};
use head_trainer::head::Linear;
use head_trainer::matrix::Rows;
use head_trainer::protocol::{Batches, Protocol};
use head_trainer::solver::adam::{AdamConfig, Schedule, fit_batches};
use head_trainer::solver::{ClassWeight, Fit, FitConfig, Problem, SolverConfig, fit};
use head_trainer::standardize::Standardizer;
use proptest::prelude::*;

#[test]
fn same_bits_for_any_number_of_threads() {
    for clouds in [Clouds::new(1500, 1), Clouds::of(4, 1500, 1)] {
        for config in all_configs() {
            let fits = [1, 2, 5].map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                pool.unwrap().install(|| run(&clouds.problem(), &config))
            });
            assert_eq!(fits[0], fits[1]);
            assert_eq!(fits[0], fits[2]);
        }
    }
}

/// The same at ResNet50's width, where batches are large.
#[test]
fn same_bits_in_large_batches() {
    const WIDE: usize = 2048;
    let mut random = Noise(1);
    let labels: Vec<u32> = (0..200).map(|i| i % 3).collect();
    let features: Vec<f32> = (0..200 * WIDE).map(|_| random.next()).collect();
    let rows = Rows::new(&features, WIDE).unwrap();
    let (train, validation): (Vec<u32>, Vec<u32>) = ((0..170).collect(), (170..200).collect());
    let binary: Vec<u32> = labels.iter().map(|label| label % 2).collect();
    for (labels, classes) in [(&binary, 2), (&labels, 3)] {
        let problem = Problem::new(rows, labels, classes, &train, &validation).unwrap();
        let fits = [1, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap()
                .install(|| run(&problem, &adam(1, Protocol::Full)))
        });
        assert_eq!(fits[0], fits[1]);
    }
}

#[test]
fn seeds_decide() {
    let clouds = Clouds::new(500, 1);
    for protocol in [Protocol::Full, SMALL_TUTORIAL] {
        let heads = [1, 2, 1].map(|seed| run(&clouds.problem(), &adam(seed, protocol)).head);
        assert_ne!(heads[0], heads[1]);
        assert_eq!(heads[0], heads[2]);
    }
}

#[test]
fn every_solver_learns_and_reports() {
    let clouds = Clouds::new(1500, 2);
    for config in all_configs() {
        let fit = run(&clouds.problem(), &config);
        let last = fit.history.last().unwrap();
        assert!(
            last.validation_accuracy.unwrap() > 0.8,
            "{config:?} {last:?}"
        );
        assert_eq!(fit.head.parameter_count(), CHANNELS + 1);
        assert_eq!(fit.convergence.is_none(), config.solver.name() == "adam");
    }
    let fit = run(&clouds.problem(), &adam(0, SMALL_TUTORIAL));
    assert_eq!((fit.history.len(), fit.steps.len()), (10, 90));
    let full = run(&clouds.problem(), &adam(0, Protocol::Full));
    assert_eq!(full.steps.len(), 10 * 19); // 1,200 training rows in batches of 64
    assert_eq!(
        full.steps.last().unwrap().running_loss,
        full.history[9].train_loss
    );
}

#[test]
fn every_solver_learns_many_classes() {
    let clouds = Clouds::of(5, 2000, 2);
    for config in all_configs() {
        let fit = run(&clouds.problem(), &config);
        let last = fit.history.last().unwrap();
        assert!(
            last.validation_accuracy.unwrap() > 0.7,
            "{config:?} {last:?}"
        );
        assert_eq!(fit.head.parameter_count(), 5 * (CHANNELS + 1));
    }
}

/// Weights of whole numbers are copies of rows.
#[test]
fn class_weights_count_rows_several_times() {
    for classes in [2, 3] {
        let clouds = Clouds::of(classes, 600, 5);
        let problem = clouds.problem();
        let weights: Vec<f64> = (0..classes).map(|k| f64::from(1 + k as u8)).collect();
        let copied: Vec<u32> = problem
            .train()
            .iter()
            .flat_map(|&row| vec![row; 1 + clouds.labels[row as usize] as usize])
            .collect();
        let more = Problem::new(problem.rows(), &clouds.labels, classes, &copied, &[]).unwrap();
        // The mean is over all rows: twice the rows are half the weight.
        let share = problem.train().len() as f64 / copied.len() as f64;
        let mut weighted = lbfgs(0.01);
        weighted.class_weight = ClassWeight::Given(weights.iter().map(|w| w * share).collect());
        let (a, b) = (run(&problem, &weighted), run(&more, &lbfgs(0.01)));
        for (x, y) in a.head.weights_oc.iter().zip(&b.head.weights_oc) {
            assert!((x - y).abs() < 1e-5, "{x} {y}");
        }
        let mut balanced = adam(1, Protocol::Full);
        balanced.class_weight = ClassWeight::Balanced;
        assert_ne!(
            run(&problem, &balanced).head,
            run(&problem, &adam(1, Protocol::Full)).head
        );
    }
    let mut refused = linfa(0.1);
    refused.class_weight = ClassWeight::Balanced;
    let error = fit(&Clouds::new(100, 1).problem(), &refused, &mut |_| {}).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("solver is linfa, expected adam or lbfgs"),
        "{error}"
    );
}

#[test]
fn unknown_fields_are_refused() {
    let config = lbfgs(0.1);
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<FitConfig>(&text).unwrap(), config);
    let adam = serde_json::to_string(&adam(1, SMALL_TUTORIAL)).unwrap();
    let schedule = r#"{"exponential":{"rate":0.5}}"#;
    for (text, from, to) in [
        (
            &text,
            r#""standardize""#,
            r#""standardise":true,"standardize""#,
        ),
        (&text, r#""l2""#, r#""l1":1.0,"l2""#),
        (&adam, r#""epochs""#, r#""epoch":1,"epochs""#),
        (
            &adam,
            r#""shuffle_buffer""#,
            r#""buffer":1,"shuffle_buffer""#,
        ),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(*text, changed);
        let error = serde_json::from_str::<FitConfig>(&changed).unwrap_err();
        assert!(error.to_string().contains("unknown field"), "{error}");
    }
    assert!(serde_json::from_str::<Schedule>(schedule).is_ok());
    let more = schedule.replace("0.5", r#"0.5,"steps":3"#);
    assert!(serde_json::from_str::<Schedule>(&more).is_err());
}

/// Moments brought along change no bit.
#[test]
fn moments_may_be_measured_before() {
    for classes in [2, 3] {
        let clouds = Clouds::of(classes, 600, 3);
        let problem = clouds.problem();
        let moments = Standardizer::fit(problem.rows(), problem.train());
        for config in all_configs() {
            assert_eq!(
                run(&problem.with_moments(&moments), &config),
                run(&problem, &config)
            );
        }
    }
    // They are used, not measured again.
    let clouds = Clouds::new(600, 3);
    let problem = clouds.problem();
    let other = Standardizer::fit(problem.rows(), problem.validation());
    let config = standardized(lbfgs(0.1));
    assert_ne!(
        run(&problem.with_moments(&other), &config).head,
        run(&problem, &config).head
    );
}

/// A class of weight zero counts nothing: its rows add no loss and no gradient.
#[test]
fn a_class_of_weight_zero_counts_nothing() {
    let clouds = Clouds::of(4, 600, 5);
    let problem = clouds.problem();
    let mut config = lbfgs(0.01);
    config.class_weight = ClassWeight::Given(vec![1.0, 1.0, 0.0, 1.0]);
    let fit = run(&problem, &config);
    let other: Vec<u32> = problem.train().to_vec();
    let mut features = clouds.features.clone();
    for &row in &other {
        if clouds.labels[row as usize] == 2 {
            features[row as usize * CHANNELS..][..CHANNELS].fill(0.5);
        }
    }
    let rows = Rows::new(&features, CHANNELS).unwrap();
    let changed = Problem::new(rows, &clouds.labels, 4, &other, &[]).unwrap();
    let same = run(&changed, &config);
    let (a, b) = (fit.convergence.unwrap(), same.convergence.unwrap());
    assert!((a.objective - b.objective).abs() < 1e-7, "{a:?} {b:?}");
    for (x, y) in fit.head.weights_oc.iter().zip(&same.head.weights_oc) {
        assert!((x - y).abs() < 1e-4, "{x} {y}");
    }
    // Nothing is ever called by it.
    let mut logits = [0.0; 4];
    for &row in problem.validation() {
        fit.head.logits_of(problem.rows().row(row), &mut logits);
        assert!(logits[2] < logits[0].max(logits[1]).max(logits[3]));
    }
    config.class_weight = ClassWeight::Given(vec![1.0; 3]);
    let error = head_trainer::solver::fit(&problem, &config, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("3 for 4 classes"), "{error}");
    assert!(config.check().is_ok() && config.check_for(3).is_ok());
    assert!(config.check_for(4).is_err());
}

#[test]
fn early_stopping_restores_the_best_epoch() {
    let clouds = Clouds::new(150, 4);
    let problem = clouds.problem();
    let config = AdamConfig {
        epochs: 200,
        learning_rate: 0.3,
        patience: Some(3),
        ..AdamConfig::default()
    };
    let fit = run(&problem, &FitConfig::new(SolverConfig::Adam(config)));
    let best = fit.best_epoch.unwrap();
    assert_eq!(fit.history.len() as u32, best + 3);
    assert!(fit.history.len() < 200);
    let least = |e: &head_trainer::solver::Epoch| e.validation_loss.unwrap();
    let losses: Vec<f64> = fit.history.iter().map(least).collect();
    assert!(losses.iter().all(|loss| *loss >= losses[best as usize - 1]));
    let short = AdamConfig {
        epochs: best,
        patience: None,
        ..config
    };
    let short = run(&problem, &FitConfig::new(SolverConfig::Adam(short)));
    assert_eq!(short.head, fit.head);
    let none = Problem::new(problem.rows(), &clouds.labels, 2, &clouds.rows, &[]).unwrap();
    let config = FitConfig::new(SolverConfig::Adam(config));
    let error = head_trainer::solver::fit(&none, &config, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("early stopping"), "{error}");
}

/// A validation loss that is no finite number is not lower than another, as in Keras.
#[test]
fn early_stopping_takes_no_overflow_for_the_best() {
    // The last two rows' logits overflow, one of them on the wrong side.
    let features = [-1.0, -2.0, 1.0, 3.0, 3e38, 3e38];
    let labels = [0, 0, 1, 1, 0, 1];
    let rows = Rows::new(&features, 1).unwrap();
    let problem = Problem::new(rows, &labels, 2, &[0, 1, 2, 3], &[4, 5]).unwrap();
    let config = FitConfig::new(SolverConfig::Adam(AdamConfig {
        epochs: 50,
        batch_size: 1,
        learning_rate: 1.0,
        patience: Some(4),
        ..AdamConfig::default()
    }));
    let fit = run(&problem, &config);
    let losses: Vec<Option<f64>> = fit.history.iter().map(|e| e.validation_loss).collect();
    assert!(losses.iter().all(|loss| !loss.unwrap().is_finite()));
    assert_eq!((fit.history.len(), fit.best_epoch), (4, None));
}

#[test]
fn schedule_dropout_and_penalty_change_a_fit() {
    let clouds = Clouds::new(500, 4);
    let plain = AdamConfig {
        learning_rate: 5e-2,
        ..AdamConfig::default()
    };
    let fit = |config: AdamConfig| {
        let fit = run(
            &clouds.problem(),
            &FitConfig::new(SolverConfig::Adam(config)),
        );
        assert!(fit.history[6].validation_accuracy.unwrap() > 0.7);
        fit.head
    };
    let norm = |head: &Linear| head.weights_oc.iter().map(|w| w * w).sum::<f32>();
    let heads = [
        plain,
        AdamConfig {
            schedule: Schedule::Cosine,
            ..plain
        },
        AdamConfig {
            dropout: 0.3,
            ..plain
        },
        AdamConfig { l2: 0.1, ..plain },
    ]
    .map(fit);
    for (i, head) in heads.iter().enumerate() {
        assert!(heads[..i].iter().all(|other| other != head));
    }
    assert!(norm(&heads[3]) < norm(&heads[0]));
}

#[test]
fn validation_may_be_empty() {
    let clouds = Clouds::new(100, 2);
    let problem = clouds.problem();
    let rows = problem.rows();
    let problem = Problem::new(rows, &clouds.labels, 2, &clouds.rows, &[]).unwrap();
    for config in all_configs() {
        let fit = run(&problem, &config);
        assert_eq!(fit.history[0].validation_loss, None);
    }
}

#[test]
fn a_rate_too_large_is_an_error_not_a_head() {
    let clouds = Clouds::new(200, 3);
    let config = FitConfig::new(SolverConfig::Adam(AdamConfig {
        learning_rate: 1e38,
        ..AdamConfig::default()
    }));
    let error = fit(&clouds.problem(), &config, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("overflowed at step"), "{error}");
}

/// Whatever solver, whatever majority: the probability is that of class 1.
fn assert_mirrored(a: &Fit, b: &Fit, tolerance: f32) {
    for (x, y) in a.head.weights_oc.iter().zip(&b.head.weights_oc) {
        assert!((x + y).abs() <= tolerance, "{x} {y}");
    }
    assert!((a.head.bias_o[0] + b.head.bias_o[0]).abs() <= tolerance);
    let (a, b) = (a.history.last().unwrap(), b.history.last().unwrap());
    assert!((a.train_loss - b.train_loss).abs() <= f64::from(tolerance));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Swapping the labels mirrors linfa's head, with either class in the majority or none.
    #[test]
    fn swapped_labels_mirror_linfa(seed in any::<u64>(), count in 60_u32..200) {
        let clouds = Clouds::new(count, seed);
        let config = linfa(0.01);
        let a = run(&clouds.problem(), &config);
        let b = run(&clouds.swapped().problem(), &config);
        // Class 1 is the minority here and the majority there: linfa sees one and the same
        // problem, and only `labels()` tells them apart.
        prop_assert!(a.history[0].train_accuracy > 0.6);
        assert_mirrored(&a, &b, 0.0);
        let even = Clouds {
            labels: clouds.rows.iter().map(|i| i % 2).collect(),
            ..clouds
        };
        let (a, b) = (run(&even.problem(), &config), run(&even.swapped().problem(), &config));
        assert_mirrored(&a, &b, 0.0);
    }

    /// Both ways to the minimum end at the same objective, whatever the penalty.
    #[test]
    fn lbfgs_agrees_with_linfa(
        seed in any::<u64>(),
        count in 60_u32..400,
        exponent in -4..2,
        classes in 2_usize..5,
        standardize: bool,
    ) {
        let clouds = Clouds::of(classes, count, seed);
        let l2 = 10_f64.powi(exponent);
        let [ours, theirs] = [lbfgs(l2), linfa(l2)].map(|config| {
            run(&clouds.problem(), &FitConfig { standardize, ..config })
        });
        let (a, b) = (ours.convergence.unwrap(), theirs.convergence.unwrap());
        prop_assert!(a.converged, "{a:?}");
        prop_assert!(a.objective <= b.objective * (1.0 + 1e-9), "{a:?} {b:?}");
        // linfa's line search may end early, then ours is lower.
        let near = (a.objective - b.objective).abs() <= 1e-4 * b.objective;
        prop_assert!(near || (b.gradient_norm > 1e-4 && classes > 2), "{a:?} {b:?}");
    }

    /// Swapping the labels mirrors the head of L-BFGS.
    #[test]
    fn swapped_labels_mirror_lbfgs(seed in any::<u64>(), count in 60_u32..200) {
        let clouds = Clouds::new(count, seed);
        let config = lbfgs(0.01);
        let a = run(&clouds.problem(), &config);
        let b = run(&clouds.swapped().problem(), &config);
        assert_mirrored(&a, &b, 1e-6);
    }

    /// Swapping the labels and mirroring the initial head mirrors Adam's.
    #[test]
    fn swapped_labels_mirror_adam(seed in any::<u64>(), count in 60_u32..200) {
        let clouds = Clouds::new(count, seed);
        let config = AdamConfig { epochs: 2, batch_size: 16, seed, ..AdamConfig::default() };
        let start = |clouds: &Clouds, initial: Linear| {
            let problem = clouds.problem();
            let mut batches = Batches::new(problem.train(), 16, Protocol::Full, seed);
            fit_batches(&problem, &config, initial, &mut batches, &mut |_| {}).unwrap()
        };
        let initial = config.initial(1, CHANNELS);
        let a = start(&clouds, initial.clone());
        let b = start(&clouds.swapped(), initial.mirrored());
        assert_mirrored(&a, &b, 1e-5);
    }

    /// A head folded back from standardised features is the minimum there: without a penalty it
    /// is the minimum for raw features too.
    #[test]
    fn standardising_keeps_an_unpenalised_minimum(seed in any::<u64>()) {
        let clouds = Clouds::new(900, seed);
        let raw = run(&clouds.problem(), &lbfgs(0.0));
        let folded = run(&clouds.problem(), &standardized(lbfgs(0.0)));
        let (a, b) = (raw.convergence.unwrap(), folded.convergence.unwrap());
        prop_assert!((a.objective - b.objective).abs() < 1e-6, "{a:?} {b:?}");
        for (x, y) in raw.head.weights_oc.iter().zip(&folded.head.weights_oc) {
            prop_assert!((x - y).abs() < 1e-2 * x.abs().max(1.0), "{x} {y}");
        }
    }
}
