//! Batch normalisation, ReLU and the maximum over 2 x 2 in one: forward and backward.
//!
//! ```text
//! y = scale x + shift    scale = gamma / sqrt(variance + 1e-3)    shift = beta - scale mean
//! a = max(0, the largest y of 2 x 2)
//! ```
//!
//! (S. Ioffe and C. Szegedy, "Batch normalization", 2015, algorithm 1; the variance is that of the
//! batch, divided by n.) The largest y stands where x is largest, or smallest where gamma is
//! negative. That is known before mean and variance are, so the maximum is taken right after the
//! convolution, while its output is still in the cache, and only a quarter of it goes on. Of equal
//! ones the first counts, as in Keras. (Where gamma is exactly 0 all are equal; here it is then the
//! largest x that counts, whose gradient of gamma is that of a gamma just above 0.)
//!
//! Backward, with g the derivative by y, which is zero but at the places of the maxima, and n
//! the number of places in the batch:
//!
//! ```text
//! dbeta  = Σ g
//! dgamma = Σ g x^                       x^ = (x - mean) / sqrt(variance + 1e-3)
//! dx     = scale (g - dbeta / n - x^ dgamma / n)
//! ```
//!
//! Sums over the batch are f64, each image's on its own. A bias before the normalisation is part
//! of the mean: it changes neither y nor, in training, any gradient, and its own gradient is zero.
//! It is added where a mean is told or kept. This file knows nothing of convolutions.

use super::shape::Stage;
use crate::kernels::vectorised;

/// What is added to a variance.
pub(super) const EPSILON: f64 = 1e-3;

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
        let (first, second) = (&mut self.first[..filters], &mut self.second[..filters]);
        vectorised(
            #[inline(always)]
            || {
                for row in x_hwf.chunks_exact(stage.width * filters) {
                    for x_f in row[..stage.conv_width() * filters].chunks_exact(filters) {
                        for f in 0..filters {
                            let x = f64::from(x_f[f]);
                            first[f] += x;
                            second[f] += x * x;
                        }
                    }
                }
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

/// What becomes of x, `[F]` each.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    scale: Vec<f32>,
    shift: Vec<f32>,
    mean: Vec<f32>,
    inverse: Vec<f32>, // 1 / sqrt(variance + epsilon)
}

impl Norm {
    /// Normalisation by given moments.
    pub fn new(moments: &Moments, gamma: &[f32], beta: &[f32]) -> Norm {
        let Moments { mean, variance } = moments;
        let inverse: Vec<f64> = variance
            .iter()
            .map(|v| 1.0 / (v + EPSILON).sqrt())
            .collect();
        let gammas = gamma.iter().map(|gamma| f64::from(*gamma));
        let scale: Vec<f64> = gammas
            .zip(&inverse)
            .map(|(g, inverse)| g * inverse)
            .collect();
        let shifts = beta.iter().zip(mean.iter().zip(&scale));
        let narrow = |wide: &[f64]| wide.iter().map(|x| *x as f32).collect();
        Norm {
            shift: shifts
                .map(|(beta, (mean, scale))| (f64::from(*beta) - mean * scale) as f32)
                .collect(),
            scale: narrow(&scale),
            mean: narrow(mean),
            inverse: narrow(&inverse),
        }
    }

    /// `a` of the extremes, both `[.., F]`.
    pub fn activate(&self, extremes_f: &[f32], activations_f: &mut [f32]) {
        let filters = self.scale.len();
        let (scale, shift) = (&self.scale[..filters], &self.shift[..filters]);
        vectorised(
            #[inline(always)]
            || {
                let pixels = extremes_f.chunks_exact(filters);
                for (x, a) in pixels.zip(activations_f.chunks_exact_mut(filters)) {
                    for f in 0..filters {
                        let y = x[f] * scale[f] + shift[f];
                        a[f] = if y > 0.0 { y } else { 0.0 };
                    }
                }
            },
        );
    }

    /// Turns the derivative by `a` into that by the largest y, in place, and adds it and its
    /// product with x^ to `sums`; all `[.., F]`.
    pub fn through_relu(
        &self,
        extremes_f: &[f32],
        activations_f: &[f32],
        slopes_f: &mut [f32],
        sums: &mut Sums,
    ) {
        let filters = self.scale.len();
        let (mean, inverse) = (&self.mean[..filters], &self.inverse[..filters]);
        let (first, second) = (&mut sums.first[..filters], &mut sums.second[..filters]);
        vectorised(
            #[inline(always)]
            || {
                let pixels = extremes_f.chunks_exact(filters);
                let pixels = pixels.zip(activations_f.chunks_exact(filters));
                for ((x, a), g) in pixels.zip(slopes_f.chunks_exact_mut(filters)) {
                    for f in 0..filters {
                        g[f] = if a[f] > 0.0 { g[f] } else { 0.0 };
                        first[f] += f64::from(g[f]);
                        second[f] += f64::from(g[f] * ((x[f] - mean[f]) * inverse[f]));
                    }
                }
            },
        );
    }

    /// What [`Descent::apply`] needs of the batch's sums of g and g x^, over n places.
    pub fn descent(&self, sums: &Sums, count: f64) -> Descent {
        let filters = self.scale.len();
        let mut descent = Descent {
            scale: self.scale.clone(),
            slope: vec![0.0; filters],
            offset: vec![0.0; filters],
        };
        for f in 0..filters {
            let [scale, mean, inverse] =
                [self.scale[f], self.mean[f], self.inverse[f]].map(f64::from);
            let slope = scale * inverse * sums.second[f] / count;
            descent.slope[f] = slope as f32;
            descent.offset[f] = (scale * sums.first[f] / count - mean * slope) as f32;
        }
        descent
    }
}

/// `dx = scale g - (slope x + offset)`, `[F]` each.
#[derive(Clone, Debug)]
pub(super) struct Descent {
    scale: Vec<f32>,
    slope: Vec<f32>,
    offset: Vec<f32>,
}

/// For each filter 1, or -1 where its gamma is negative: what makes the place of the largest y
/// that of the largest product with x.
pub(super) fn signs(gamma: &[f32]) -> Vec<f32> {
    let sign = |gamma: &f32| if *gamma < 0.0 { -1.0 } else { 1.0 };
    gamma.iter().map(sign).collect()
}

/// The x of the largest y of each 2 x 2 and its place among the four, in reading order.
///
/// `x_hwf` is an even number of rows of a convolution's output, `[rows, W, F]`; an odd row at the
/// end is left out. Results are `[rows / 2, pooled W, F]`.
pub(super) fn pool(
    stage: &Stage,
    x_hwf: &[f32],
    signs: &[f32],
    extremes_hwf: &mut [f32],
    places_hwf: &mut [u8],
) {
    let filters = stage.filters;
    let (row, pooled_row) = (stage.width * filters, stage.pooled_width() * filters);
    let signs = &signs[..filters];
    vectorised(
        #[inline(always)]
        || {
            let pooled = extremes_hwf.chunks_exact_mut(pooled_row);
            let pooled = pooled.zip(places_hwf.chunks_exact_mut(pooled_row));
            for (two_rows, (extremes, places)) in x_hwf.chunks_exact(2 * row).zip(pooled) {
                let (upper, lower) = two_rows.split_at(row);
                let windows = upper
                    .chunks_exact(2 * filters)
                    .zip(lower.chunks_exact(2 * filters));
                let pooled = extremes
                    .chunks_exact_mut(filters)
                    .zip(places.chunks_exact_mut(filters));
                for ((upper, lower), (extremes, places)) in windows.zip(pooled) {
                    let (x0, x1) = upper.split_at(filters);
                    let (x2, x3) = lower.split_at(filters);
                    let (x0, x1) = (&x0[..filters], &x1[..filters]);
                    let (x2, x3) = (&x2[..filters], &x3[..filters]);
                    for f in 0..filters {
                        let sign = signs[f];
                        let (mut most, mut place) = (sign * x0[f], 0);
                        for (x, at) in [(x1[f], 1), (x2[f], 2), (x3[f], 3)] {
                            let x = sign * x;
                            place = if x > most { at } else { place };
                            most = if x > most { x } else { most };
                        }
                        extremes[f] = sign * most;
                        places[f] = place;
                    }
                }
            }
        },
    );
}

impl Descent {
    /// The part of dx that all places share, in place of x, `[.., F]`.
    #[inline(always)]
    fn apply_alone(&self, x_f: &mut [f32]) {
        let filters = self.scale.len();
        let (slope, offset) = (&self.slope[..filters], &self.offset[..filters]);
        for x in x_f.chunks_exact_mut(filters) {
            for f in 0..filters {
                x[f] = -(slope[f] * x[f] + offset[f]);
            }
        }
    }

    /// Replaces x by dx, in place; the last two columns become zero.
    ///
    /// `x_hwf` is `[rows, W, F]` as in [`pool`], the others what belongs to it; rows and columns
    /// that the pooling left out have only the part of dx that all places share.
    pub fn apply(&self, stage: &Stage, x_hwf: &mut [f32], slopes_hwf: &[f32], places_hwf: &[u8]) {
        let filters = stage.filters;
        let (row, pooled_row) = (stage.width * filters, stage.pooled_width() * filters);
        let rows = x_hwf.len() / row;
        let (scale, slope, offset) = (
            &self.scale[..filters],
            &self.slope[..filters],
            &self.offset[..filters],
        );
        vectorised(
            #[inline(always)]
            || {
                let pooled = slopes_hwf.chunks_exact(pooled_row);
                let pooled = pooled.zip(places_hwf.chunks_exact(pooled_row));
                let mut pairs = x_hwf.chunks_exact_mut(2 * row);
                for (two_rows, (slopes, places)) in (&mut pairs).zip(pooled).take(rows / 2) {
                    let (upper, lower) = two_rows.split_at_mut(row);
                    let windows = upper
                        .chunks_exact_mut(2 * filters)
                        .zip(lower.chunks_exact_mut(2 * filters));
                    let pooled = slopes
                        .chunks_exact(filters)
                        .zip(places.chunks_exact(filters));
                    for ((upper, lower), (g, place)) in windows.zip(pooled) {
                        let (x0, x1) = upper.split_at_mut(filters);
                        let (x2, x3) = lower.split_at_mut(filters);
                        for (x, at) in [(x0, 0), (x1, 1), (x2, 2), (x3, 3)] {
                            let x = &mut x[..filters];
                            for f in 0..filters {
                                let own = if place[f] == at { scale[f] * g[f] } else { 0.0 };
                                x[f] = own - (slope[f] * x[f] + offset[f]);
                            }
                        }
                    }
                    for row in [upper, lower] {
                        let (meant, rest) = row.split_at_mut(stage.conv_width() * filters);
                        self.apply_alone(&mut meant[pooled_row * 2..]);
                        rest.fill(0.0);
                    }
                }
                let row = pairs.into_remainder();
                if !row.is_empty() {
                    let (meant, rest) = row.split_at_mut(stage.conv_width() * filters);
                    self.apply_alone(meant);
                    rest.fill(0.0);
                }
            },
        );
    }
}

#[cfg(test)]
mod tests;
