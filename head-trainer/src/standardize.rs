//! Standardised features: each channel with mean zero and standard deviation one on the training
//! side, and the way back to a head for raw features.
//!
//! A solver sees x' = (x - mean) / deviation. A head found there is folded back, so that a saved
//! head always takes raw pooled features: w = w' / deviation and b = b' - Σ w' * mean / deviation.
//! Means and deviations come from training rows alone, in f64 and in the order of the rows.

use crate::head::Linear;
use crate::matrix::Rows;

/// A deviation below this share of the mean is rounding, and the channel is constant.
const CONSTANT: f64 = 1e-6;

/// Mean and standard deviation of each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Standardizer {
    mean_c: Vec<f64>,      // [C]
    deviation_c: Vec<f64>, // [C], population; 1 for a constant channel
}

impl Standardizer {
    /// Measures the rows that `indices` lists.
    ///
    /// # Panics
    /// When there are none, or one does not exist.
    pub fn fit(rows: Rows<'_>, indices: &[u32]) -> Standardizer {
        assert!(!indices.is_empty(), "no rows to standardise by");
        let count = indices.len() as f64;
        let mut mean_c = vec![0.0_f64; rows.channels()];
        for &row in indices {
            for (sum, &x) in mean_c.iter_mut().zip(rows.row(row)) {
                *sum += f64::from(x);
            }
        }
        mean_c.iter_mut().for_each(|sum| *sum /= count);
        let mut deviation_c = vec![0.0_f64; rows.channels()];
        for &row in indices {
            for ((sum, &x), mean) in deviation_c.iter_mut().zip(rows.row(row)).zip(&mean_c) {
                let distance = f64::from(x) - mean;
                *sum += distance * distance;
            }
        }
        for (sum, mean) in deviation_c.iter_mut().zip(&mean_c) {
            let deviation = (*sum / count).sqrt();
            let constant = deviation <= CONSTANT * mean.abs();
            *sum = if constant { 1.0 } else { deviation };
        }
        Standardizer {
            mean_c,
            deviation_c,
        }
    }

    /// Standardised copies of the rows that `indices` lists, row-major `[indices.len(), C]`.
    pub fn apply(&self, rows: Rows<'_>, indices: &[u32]) -> Vec<f32> {
        let mut features_nc = Vec::with_capacity(indices.len() * rows.channels());
        for &row in indices {
            let moments = self.mean_c.iter().zip(&self.deviation_c);
            features_nc.extend(
                rows.row(row)
                    .iter()
                    .zip(moments)
                    .map(|(&x, (mean, deviation))| ((f64::from(x) - mean) / deviation) as f32),
            );
        }
        features_nc
    }

    /// The head for raw features that gives the logits of `head` on standardised ones.
    pub fn fold_back(&self, head: &Linear) -> Linear {
        let mut bias = f64::from(head.bias);
        let moments = self.mean_c.iter().zip(&self.deviation_c);
        let weights_c = head
            .weights_c
            .iter()
            .zip(moments)
            .map(|(&w, (mean, deviation))| {
                let weight = f64::from(w) / deviation;
                bias -= weight * mean;
                weight as f32
            })
            .collect();
        Linear {
            weights_c,
            bias: bias as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_by_hand() {
        // Channel 0: 1, 3 -> mean 2, deviation 1. Channel 1: constant. Row 1 is not listed.
        let values = [1.0, 0.3, 99.0, 99.0, 3.0, 0.3];
        let rows = Rows::new(&values, 2).unwrap();
        let standardizer = Standardizer::fit(rows, &[0, 2]);
        assert_eq!(standardizer.apply(rows, &[2, 0]), [1.0, 0.0, -1.0, 0.0]);
        assert_eq!(standardizer.apply(rows, &[1])[0], 97.0);
    }

    #[test]
    fn folding_back_keeps_the_logits() {
        let values: Vec<f32> = (0..60)
            .map(|i| (i as f32 * 1.7).sin() * (1 + i % 6) as f32 + (i % 6) as f32)
            .collect();
        let rows = Rows::new(&values, 6).unwrap();
        let all: Vec<u32> = (0..10).collect();
        let standardizer = Standardizer::fit(rows, &all);
        let standardised = standardizer.apply(rows, &all);
        let standardised = Rows::new(&standardised, 6).unwrap();
        let head = Linear {
            weights_c: vec![0.5, -1.0, 2.0, 0.1, 0.0, -0.7],
            bias: 0.3,
        };
        let folded = standardizer.fold_back(&head);
        for row in all {
            let (a, b) = (
                head.logit(standardised.row(row)),
                folded.logit(rows.row(row)),
            );
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}
