//! The candidates of a sweep: every combination of the values that were asked for.

use crate::solver::adam::AdamConfig;
use crate::solver::lbfgs::Lbfgs;
use crate::solver::linfa::Linfa;
use crate::solver::{FitConfig, SolverConfig};

/// Values on a scale: `0.1`, `0.01,0.1,1` or `1e-6..1e5:45`, 45 values from 1e-6 to 1e5 in equal
/// ratios.
#[derive(Clone, Debug, PartialEq)]
pub struct Values(pub Vec<f64>);

impl std::str::FromStr for Values {
    type Err = String;

    fn from_str(text: &str) -> Result<Values, String> {
        let number = |text: &str| {
            let number: Option<f64> = text.trim().parse().ok();
            number
                .filter(|x| x.is_finite())
                .ok_or_else(|| format!("`{text}` is no number"))
        };
        let Some((from, rest)) = text.split_once("..") else {
            let values: Result<Vec<f64>, String> = text.split(',').map(number).collect();
            return values.map(Values);
        };
        let (to, count) = rest
            .split_once(':')
            .ok_or("expected FROM..TO:COUNT, say 1e-6..1e5:45")?;
        let (from, to) = (number(from)?, number(to)?);
        let count: u32 = count
            .parse()
            .ok()
            .filter(|n| (2..=10_000).contains(n))
            .ok_or("the count is a number from 2 to 10,000")?;
        if from <= 0.0 || to <= 0.0 {
            return Err("equal ratios need positive ends".to_owned());
        }
        let (low, high) = (libm::log10(from), libm::log10(to));
        let value = |i: u32| match i {
            0 => from,
            i if i == count - 1 => to,
            i => libm::pow(
                10.0,
                low + (high - low) * f64::from(i) / f64::from(count - 1),
            ),
        };
        Ok(Values((0..count).map(value).collect()))
    }
}

/// What is combined with what. A list that a solver has no use for is ignored for it.
#[derive(Clone, Debug)]
pub struct Grid {
    /// Solvers, with the numbers that do not vary.
    pub solvers: Vec<SolverConfig>,
    /// Penalties; empty: the solver's own.
    pub l2: Vec<f64>,
    /// Adam: step sizes; empty: its own.
    pub learning_rates: Vec<f64>,
    /// Adam: numbers of epochs; empty: its own.
    pub epochs: Vec<u32>,
    /// What all have in common besides the solver.
    pub base: FitConfig,
}

impl Grid {
    /// Every candidate, the last list's values changing fastest.
    pub fn candidates(&self) -> Vec<FitConfig> {
        let mut candidates = Vec::new();
        for solver in &self.solvers {
            match *solver {
                SolverConfig::Adam(adam) => {
                    for epochs in or_own(&self.epochs, adam.epochs) {
                        for learning_rate in or_own(&self.learning_rates, adam.learning_rate) {
                            for l2 in or_own(&self.l2, adam.l2) {
                                candidates.push(SolverConfig::Adam(AdamConfig {
                                    epochs,
                                    learning_rate,
                                    l2,
                                    ..adam
                                }));
                            }
                        }
                    }
                }
                SolverConfig::Lbfgs(Lbfgs(mut config)) => {
                    for l2 in or_own(&self.l2, config.l2) {
                        config.l2 = l2;
                        candidates.push(SolverConfig::Lbfgs(Lbfgs(config)));
                    }
                }
                SolverConfig::Linfa(Linfa(mut config)) => {
                    for l2 in or_own(&self.l2, config.l2) {
                        config.l2 = l2;
                        candidates.push(SolverConfig::Linfa(Linfa(config)));
                    }
                }
            }
        }
        let complete = |solver| FitConfig {
            solver,
            ..self.base.clone()
        };
        candidates.into_iter().map(complete).collect()
    }
}

fn or_own<T: Copy>(values: &[T], own: T) -> Vec<T> {
    match values {
        [] => vec![own],
        values => values.to_vec(),
    }
}

/// How strongly a candidate is held back, for the one-standard-error rule: the stronger the
/// penalty, the fewer the epochs and the smaller the steps, the simpler the head. Compared in that
/// order, larger is simpler.
pub(super) fn simplicity(config: &FitConfig) -> (f64, f64, f64) {
    let (epochs, learning_rate) = match config.solver {
        SolverConfig::Adam(adam) => (f64::from(adam.epochs), adam.learning_rate),
        SolverConfig::Lbfgs(_) | SolverConfig::Linfa(_) => (0.0, 0.0),
    };
    (config.solver.l2(), -epochs, -learning_rate)
}

/// What a candidate is besides its [`simplicity`]: the same with every number of that at zero. How
/// simple heads are can be compared where this is equal.
pub(super) fn kind(config: &FitConfig) -> FitConfig {
    let mut kind = config.clone();
    match &mut kind.solver {
        SolverConfig::Adam(adam) => {
            (adam.l2, adam.epochs, adam.learning_rate) = (0.0, 0, 0.0);
        }
        SolverConfig::Lbfgs(Lbfgs(config)) | SolverConfig::Linfa(Linfa(config)) => config.l2 = 0.0,
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::solver::MinimumConfig;

    #[test]
    fn values_by_hand() {
        let values = |text: &str| text.parse::<Values>().map(|v| v.0);
        assert_eq!(values("0.5"), Ok(vec![0.5]));
        assert_eq!(values("1, 2,3e1"), Ok(vec![1.0, 2.0, 30.0]));
        let path = values("1e-6..1e5:45").unwrap();
        assert_eq!((path.len(), path[0], path[44]), (45, 1e-6, 1e5));
        assert!((path[4] / 1e-5 - 1.0).abs() < 1e-12, "{}", path[4]);
        assert_eq!(values("8..2:2"), Ok(vec![8.0, 2.0]));
        for text in ["", "a", "1,", "1..2", "0..1:3", "1..2:1", "1..inf:3"] {
            assert!(values(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_combination() {
        let adam = AdamConfig {
            seed: 3,
            ..AdamConfig::default()
        };
        let solvers = vec![
            SolverConfig::Adam(adam),
            SolverConfig::Lbfgs(Lbfgs(MinimumConfig::default())),
        ];
        let base = FitConfig {
            standardize: true,
            ..FitConfig::new(solvers[0].clone())
        };
        let grid = Grid {
            solvers,
            l2: vec![0.1, 1.0],
            learning_rates: vec![0.01, 0.1, 1.0],
            epochs: vec![],
            base,
        };
        let candidates = grid.candidates();
        assert_eq!(candidates.len(), 3 * 2 + 2);
        assert!(candidates.iter().all(|c| c.standardize));
        let SolverConfig::Adam(first) = candidates[1].solver else {
            panic!("adam first");
        };
        assert_eq!((first.learning_rate, first.l2, first.seed), (0.01, 1.0, 3));
        assert!(simplicity(&candidates[1]) > simplicity(&candidates[0]));
        assert!(simplicity(&candidates[0]) > simplicity(&candidates[2]));
    }
}
