//! How long the solvers take at full size. Ignored by default; run with
//! `cargo test --release -p head-trainer --test speed -- --ignored --nocapture`.

use std::time::Instant;

use head_trainer::audit::held_out::Labelled;
use head_trainer::audit::{AuditConfig, audit, neighbours};
use head_trainer::matrix::Rows;
use head_trainer::protocol::{Protocol, Tutorial};
use head_trainer::solver::adam::AdamConfig;
use head_trainer::solver::lbfgs::Lbfgs;
use head_trainer::solver::linfa::Linfa;
use head_trainer::solver::{FitConfig, MinimumConfig, Problem, SolverConfig, fit};

/// Sparse non-negative features, some of which know the label.
fn features(count: usize, channels: usize) -> (Vec<f32>, Vec<u32>) {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32
    };
    let mut features = Vec::with_capacity(count * channels);
    let mut labels = Vec::with_capacity(count);
    for _ in 0..count {
        let label = u32::from(next() > 0.5);
        labels.push(label);
        let size = next();
        for c in 0..channels {
            let shift = if c % 16 == 0 { 0.1 * label as f32 } else { 0.0 };
            features.push((next() * (0.5 + size) - 0.4 + shift).max(0.0) * (1 + c % 3) as f32);
        }
    }
    (features, labels)
}

fn time(count: usize, channels: usize, validation: usize, config: &FitConfig) {
    let (features, labels) = features(count + validation, channels);
    let all: Vec<u32> = (0..labels.len() as u32).collect();
    let (train, validation) = all.split_at(count);
    let rows = Rows::new(&features, channels).unwrap();
    let problem = Problem::new(rows, &labels, 2, train, validation).unwrap();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .unwrap();
    for _ in 0..3 {
        let start = Instant::now();
        let fit = pool.install(|| fit(&problem, config, &mut |_| {})).unwrap();
        println!(
            "{} standardize={} on {count} x {channels}: {:.3} s; {:?} {:?}",
            config.solver.name(),
            config.standardize,
            start.elapsed().as_secs_f64(),
            fit.history.last().unwrap(),
            fit.convergence,
        );
    }
}

#[test]
#[ignore = "a measurement"]
fn adam_at_full_size() {
    for protocol in [Protocol::Full, Protocol::Tutorial(Tutorial::default())] {
        let solver = SolverConfig::Adam(AdamConfig {
            protocol,
            ..AdamConfig::default()
        });
        let config = FitConfig::new(solver);
        time(18_610, 2048, 2326, &config);
    }
}

#[test]
#[ignore = "a measurement"]
fn lbfgs_at_full_size() {
    for l2 in [1e-3, 1e-5] {
        for gradient_tolerance in [1e-4, 1e-6] {
            let solver = SolverConfig::Lbfgs(Lbfgs(MinimumConfig {
                l2,
                gradient_tolerance,
                ..MinimumConfig::default()
            }));
            let config = FitConfig::new(solver);
            time(18_610, 2048, 2326, &config);
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn linfa_at_full_size() {
    for (count, channels) in [(1920, 1280), (1920, 2048), (18_610, 2048)] {
        for standardize in [false, true] {
            let config = FitConfig {
                standardize,
                ..FitConfig::new(SolverConfig::Linfa(Linfa::default()))
            };
            time(count, channels, count / 8, &config);
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn audit_at_full_size() {
    let (features, labels_n) = features(25_000, 2048);
    let rows = Rows::new(&features, 2048).unwrap();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .unwrap();
    pool.install(|| {
        let start = Instant::now();
        let found = neighbours::find(rows, 0.95, 0.95);
        println!(
            "neighbours of 25,000 x 2048: {:.3} s, {} pairs",
            start.elapsed().as_secs_f64(),
            found.total
        );
        let images = Labelled {
            rows,
            labels_n: &labels_n,
            classes: 2,
        };
        for l2 in [None, Some(0.1)] {
            let config = AuditConfig {
                l2,
                ..AuditConfig::default()
            };
            let start = Instant::now();
            let found = audit(images, &config).unwrap();
            println!(
                "audit of 25,000 x 2048, l2 {l2:?}: {:.3} s; {:?}",
                start.elapsed().as_secs_f64(),
                found.held_out.chosen
            );
        }
    });
}
