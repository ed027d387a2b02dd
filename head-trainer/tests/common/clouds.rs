//! Made-up problems for the solvers' tests, and the solvers that they are given.

#![allow(dead_code)]

use head_trainer::matrix::Rows;
use head_trainer::protocol::{Protocol, Tutorial};
use head_trainer::solver::adam::AdamConfig;
use head_trainer::solver::lbfgs::Lbfgs;
use head_trainer::solver::linfa::Linfa;
use head_trainer::solver::{Fit, FitConfig, MinimumConfig, Problem, SolverConfig, fit};

pub const CHANNELS: usize = 19;

/// Two overlapping clouds with unequal scales, like pooled activations: not negative.
pub struct Clouds {
    pub features: Vec<f32>,
    pub labels: Vec<u32>,
    pub classes: usize,
    pub rows: Vec<u32>,
}

impl Clouds {
    pub fn new(count: u32, seed: u64) -> Clouds {
        Clouds::of(2, count, seed)
    }

    /// Class 1 is two fifths of two classes; of more, class 0 is two shares and the others one.
    pub fn of(classes: usize, count: u32, seed: u64) -> Clouds {
        let mut random = Noise(seed);
        let label = |i: u32| match classes {
            2 => u32::from(i % 5 < 2),
            more => (i % (more as u32 + 1)).saturating_sub(1),
        };
        let labels: Vec<u32> = (0..count).map(label).collect();
        let mut features = Vec::new();
        for &label in &labels {
            for c in 0..CHANNELS {
                let shifted = c % 3 == 0 && (classes == 2 || c % classes == label as usize);
                let shift = match (shifted, classes) {
                    (false, _) => 0.0,
                    (true, 2) => 0.3 * label as f32,
                    (true, _) => 0.6,
                };
                features.push((random.next() + shift) * (1 + c % 4) as f32);
            }
        }
        Clouds {
            features,
            labels,
            classes,
            rows: (0..count).collect(),
        }
    }

    /// The last fifth of the rows is the validation side.
    pub fn problem(&self) -> Problem<'_> {
        let (train, validation) = self.rows.split_at(self.rows.len() * 4 / 5);
        let rows = Rows::new(&self.features, CHANNELS).unwrap();
        Problem::new(rows, &self.labels, self.classes, train, validation).unwrap()
    }

    pub fn swapped(&self) -> Clouds {
        Clouds {
            features: self.features.clone(),
            labels: self.labels.iter().map(|y| 1 - y).collect(),
            classes: 2,
            rows: self.rows.clone(),
        }
    }
}

/// A small generator for test data (Knuth's MMIX constants).
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 24) as f32
    }
}

pub const SMALL_TUTORIAL: Protocol = Protocol::Tutorial(Tutorial {
    steps_per_epoch: 9,
    shuffle_buffer: 50,
    validation_steps: 3,
    validation_batch: 40,
});

pub fn adam(seed: u64, protocol: Protocol) -> FitConfig {
    let adam = AdamConfig {
        epochs: 10,
        learning_rate: 5e-2,
        seed,
        protocol,
        ..AdamConfig::default()
    };
    FitConfig::new(SolverConfig::Adam(adam))
}

pub fn linfa(l2: f64) -> FitConfig {
    minimum(l2, 1e-7, |config| SolverConfig::Linfa(Linfa(config)))
}

pub fn lbfgs(l2: f64) -> FitConfig {
    minimum(l2, 1e-9, |config| SolverConfig::Lbfgs(Lbfgs(config)))
}

pub fn minimum(
    l2: f64,
    gradient_tolerance: f64,
    solver: fn(MinimumConfig) -> SolverConfig,
) -> FitConfig {
    let config = MinimumConfig {
        l2,
        gradient_tolerance,
        ..MinimumConfig::default()
    };
    FitConfig::new(solver(config))
}

pub fn standardized(config: FitConfig) -> FitConfig {
    FitConfig {
        standardize: true,
        ..config
    }
}

pub fn run(problem: &Problem<'_>, config: &FitConfig) -> Fit {
    let mut fit = fit(problem, config, &mut |_| {}).unwrap();
    fit.history.iter_mut().for_each(|epoch| epoch.secs = 0.0);
    fit
}

pub fn all_configs() -> Vec<FitConfig> {
    [
        adam(7, Protocol::Full),
        adam(7, SMALL_TUTORIAL),
        lbfgs(0.01),
        linfa(0.01),
    ]
    .into_iter()
    .flat_map(|config| [config.clone(), standardized(config)])
    .collect()
}
