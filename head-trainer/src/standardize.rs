//! Standardised features: each channel with mean zero and standard deviation one on the training
//! side, and the way back to a head for raw features.
//!
//! A solver sees x' = (x - mean) / deviation. A head found there is folded back, so that a saved
//! head always takes raw pooled features: w = w' / deviation and b = b' - Σ w' * mean / deviation.
//! Means and deviations come from training rows alone, in f64 and in the order of the rows.

use rayon::prelude::*;

use crate::head::Linear;
use crate::kernels::vectorised;
use crate::matrix::Rows;

/// A deviation below this share of the mean is rounding, and the channel is constant.
const CONSTANT: f64 = 1e-6;

/// Rows that are summed on their own. Part of what a result's last bit is.
const BLOCK_ROWS: usize = 512;

/// Mean and standard deviation of each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Standardizer {
    mean_c: Vec<f64>,      // [C]
    deviation_c: Vec<f64>, // [C], population; 1 for a constant channel
}

impl Standardizer {
    /// Measures the rows that `indices` lists, on the current rayon pool.
    ///
    /// # Panics
    /// When there are none, or one does not exist.
    pub fn fit(rows: Rows<'_>, indices: &[u32]) -> Standardizer {
        assert!(!indices.is_empty(), "no rows to standardise by");
        let mean_c = mean_of(rows, indices, |_, x| f64::from(x));
        let mut deviation_c = mean_of(rows, indices, |c, x| {
            let distance = f64::from(x) - mean_c[c];
            distance * distance
        });
        for (deviation, mean) in deviation_c.iter_mut().zip(&mean_c) {
            let root = deviation.sqrt();
            let constant = root <= CONSTANT * mean.abs();
            *deviation = if constant { 1.0 } else { root };
        }
        Standardizer {
            mean_c,
            deviation_c,
        }
    }

    /// Means of the channels, `[C]`.
    pub fn mean(&self) -> &[f64] {
        &self.mean_c
    }

    /// Standard deviations of the channels, `[C]`; 1 for a constant one.
    pub fn deviation(&self) -> &[f64] {
        &self.deviation_c
    }

    /// Writes the standardised row `[C]` to `to`.
    pub fn apply(&self, row: &[f32], to: &mut [f32]) {
        let moments = self.mean_c.iter().zip(&self.deviation_c);
        for ((to, &x), (mean, deviation)) in to.iter_mut().zip(row).zip(moments) {
            *to = ((f64::from(x) - mean) / deviation) as f32;
        }
    }

    /// The head for raw features that gives the logits of `head` on standardised ones.
    pub fn fold_back(&self, head: &Linear) -> Linear {
        let numbers = head.weights_oc.iter().chain(&head.bias_o);
        let mut point: Vec<f64> = numbers.map(|x| f64::from(*x)).collect();
        self.fold(&mut point, head.outputs());
        let mut folded = head.clone();
        let numbers = folded.weights_oc.iter_mut().chain(&mut folded.bias_o);
        numbers.zip(point).for_each(|(to, x)| *to = x as f32);
        folded
    }

    /// The same in place and in f64, for weights `[O, C]` and, after them, `outputs` biases.
    pub(crate) fn fold(&self, point: &mut [f64], outputs: usize) {
        let (weights_oc, bias_o) = point.split_at_mut(point.len() - outputs);
        let units = weights_oc.chunks_exact_mut(self.mean_c.len());
        for (weights_c, bias) in units.zip(bias_o) {
            let mut shift = 0.0;
            for ((w, mean), deviation) in weights_c
                .iter_mut()
                .zip(&self.mean_c)
                .zip(&self.deviation_c)
            {
                *w /= deviation;
                shift += *w * mean;
            }
            *bias -= shift;
        }
    }
}

/// Mean over the listed rows of `term(channel, value)`, `[C]`. Blocks of rows are summed on their
/// own and the sums added in order: the same bits for any number of threads.
fn mean_of(rows: Rows<'_>, indices: &[u32], term: impl Fn(usize, f32) -> f64 + Sync) -> Vec<f64> {
    let sums: Vec<Vec<f64>> = indices
        .par_chunks(BLOCK_ROWS)
        .map(|block| {
            let mut sum_c = vec![0.0; rows.channels()];
            vectorised(
                #[inline(always)]
                || {
                    for &row in block {
                        for (c, (sum, &x)) in sum_c.iter_mut().zip(rows.row(row)).enumerate() {
                            *sum += term(c, x);
                        }
                    }
                },
            );
            sum_c
        })
        .collect();
    let mut mean_c = vec![0.0; rows.channels()];
    for sum_c in sums {
        for (mean, sum) in mean_c.iter_mut().zip(sum_c) {
            *mean += sum;
        }
    }
    mean_c
        .iter_mut()
        .for_each(|sum| *sum /= indices.len() as f64);
    mean_c
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
        let applied = |row: u32| {
            let mut to = [0.0; 2];
            standardizer.apply(rows.row(row), &mut to);
            to
        };
        assert_eq!([applied(2), applied(0)], [[1.0, 0.0], [-1.0, 0.0]]);
        assert_eq!(applied(1)[0], 97.0);
    }

    #[test]
    fn folding_back_keeps_the_logits() {
        let values: Vec<f32> = (0..60)
            .map(|i| (i as f32 * 1.7).sin() * (1 + i % 6) as f32 + (i % 6) as f32)
            .collect();
        let rows = Rows::new(&values, 6).unwrap();
        let all: Vec<u32> = (0..10).collect();
        let standardizer = Standardizer::fit(rows, &all);
        let head = Linear {
            weights_oc: (0..18).map(|i| (i as f32).cos()).collect(),
            bias_o: vec![0.3, -0.2, 0.0],
        };
        let folded = standardizer.fold_back(&head);
        let (mut standardised, mut a, mut b) = ([0.0; 6], [0.0; 3], [0.0; 3]);
        for row in all {
            standardizer.apply(rows.row(row), &mut standardised);
            head.logits_of(&standardised, &mut a);
            folded.logits_of(rows.row(row), &mut b);
            for (a, b) in a.iter().zip(b) {
                assert!((a - b).abs() < 1e-5, "{a} {b}");
            }
        }
    }
}
