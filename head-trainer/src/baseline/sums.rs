//! Sums over the places of a batch, and the moments they give. They are f64: a variance is the
//! difference of two much larger numbers. Knows nothing of what is normalised by them.

use super::lanes::{by_lanes, lanes};
use super::shape::Stage;
use crate::kernels::vectorised;

/// Sums of some numbers, `[F]` each.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sums {
    /// Σ x, or Σ g.
    pub first: Vec<f64>,
    /// Σ x², or Σ g x^.
    pub second: Vec<f64>,
}

impl Sums {
    /// No numbers yet.
    pub fn zeros(filters: usize) -> Sums {
        Sums {
            first: vec![0.0; filters],
            second: vec![0.0; filters],
        }
    }

    /// No numbers any more.
    pub fn clear(&mut self) {
        self.first.fill(0.0);
        self.second.fill(0.0);
    }

    /// Adds others.
    pub fn add(&mut self, other: &Sums) {
        for (sums, others) in [
            (&mut self.first, &other.first),
            (&mut self.second, &other.second),
        ] {
            for (sum, other) in sums.iter_mut().zip(others) {
                *sum += other;
            }
        }
    }

    /// Adds the numbers of some rows of a convolution's output, `[rows, W, F]`, and their squares.
    pub fn add_moments(&mut self, stage: &Stage, x_hwf: &[f32]) {
        let filters = stage.filters;
        vectorised(
            #[inline(always)]
            || {
                by_lanes!(filters, |f, N| {
                    let (mut sums, mut squares) = ([0.0_f64; N], [0.0_f64; N]);
                    for row in x_hwf.chunks_exact(stage.width * filters) {
                        for x_f in row[..stage.conv_width() * filters].chunks_exact(filters) {
                            let x = lanes::<N, _>(x_f, f);
                            for lane in 0..N {
                                let x = f64::from(x[lane]);
                                sums[lane] += x;
                                squares[lane] += x * x;
                            }
                        }
                    }
                    for lane in 0..N {
                        self.first[f + lane] += sums[lane];
                        self.second[f + lane] += squares[lane];
                    }
                });
            },
        );
    }

    /// Mean and variance (divided by n) of what was added, n numbers a filter.
    pub fn moments(&self, count: f64) -> Moments {
        let mean: Vec<f64> = self.first.iter().map(|sum| sum / count).collect();
        let squares = self.second.iter().zip(&mean);
        let variance = squares.map(|(sum, mean)| (sum / count - mean * mean).max(0.0));
        Moments {
            variance: variance.collect(),
            mean,
        }
    }
}

/// Means and variances, `[F]` each.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Moments {
    pub mean: Vec<f64>,
    pub variance: Vec<f64>,
}
