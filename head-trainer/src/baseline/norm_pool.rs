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

use super::lanes::{by_lanes, lanes, lanes_mut};
use super::shape::Stage;
use super::sums::{Moments, Sums};
use crate::kernels::vectorised;

/// What is added to a variance.
const EPSILON: f64 = 1e-3;

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
        vectorised(
            #[inline(always)]
            || {
                by_lanes!(filters, |f, N| {
                    let scale = *lanes::<N, _>(&self.scale, f);
                    let shift = *lanes::<N, _>(&self.shift, f);
                    let pixels = extremes_f.chunks_exact(filters);
                    for (x_f, a_f) in pixels.zip(activations_f.chunks_exact_mut(filters)) {
                        let (x, a) = (lanes::<N, _>(x_f, f), lanes_mut::<N, _>(a_f, f));
                        for lane in 0..N {
                            let y = x[lane] * scale[lane] + shift[lane];
                            a[lane] = if y > 0.0 { y } else { 0.0 };
                        }
                    }
                });
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
        vectorised(
            #[inline(always)]
            || {
                by_lanes!(filters, |f, N| {
                    let mean = *lanes::<N, _>(&self.mean, f);
                    let inverse = *lanes::<N, _>(&self.inverse, f);
                    let (mut first, mut second) = ([0.0_f64; N], [0.0_f64; N]);
                    let pixels = extremes_f.chunks_exact(filters);
                    let pixels = pixels.zip(activations_f.chunks_exact(filters));
                    for ((x_f, a_f), g_f) in pixels.zip(slopes_f.chunks_exact_mut(filters)) {
                        let (x, a) = (lanes::<N, _>(x_f, f), lanes::<N, _>(a_f, f));
                        let g = lanes_mut::<N, _>(g_f, f);
                        for lane in 0..N {
                            let slope = if a[lane] > 0.0 { g[lane] } else { 0.0 };
                            let normal = (x[lane] - mean[lane]) * inverse[lane];
                            g[lane] = slope;
                            first[lane] += f64::from(slope);
                            second[lane] += f64::from(slope * normal);
                        }
                    }
                    for lane in 0..N {
                        sums.first[f + lane] += first[lane];
                        sums.second[f + lane] += second[lane];
                    }
                });
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
    vectorised(
        #[inline(always)]
        || {
            by_lanes!(filters, |f, N| {
                let signs = *lanes::<N, _>(signs, f);
                let pooled = extremes_hwf.chunks_exact_mut(pooled_row);
                let pooled = pooled.zip(places_hwf.chunks_exact_mut(pooled_row));
                for (two_rows, (extremes, places)) in x_hwf.chunks_exact(2 * row).zip(pooled) {
                    let (upper, lower) = two_rows.split_at(row);
                    let windows = upper.chunks_exact(2 * filters);
                    let windows = windows.zip(lower.chunks_exact(2 * filters));
                    let pooled = extremes.chunks_exact_mut(filters);
                    let pooled = pooled.zip(places.chunks_exact_mut(filters));
                    for ((upper, lower), (extremes, places)) in windows.zip(pooled) {
                        let others = [
                            lanes::<N, _>(upper, filters + f),
                            lanes::<N, _>(lower, f),
                            lanes::<N, _>(lower, filters + f),
                        ];
                        let first = lanes::<N, _>(upper, f);
                        let extremes = lanes_mut::<N, _>(extremes, f);
                        let places = lanes_mut::<N, _>(places, f);
                        for lane in 0..N {
                            let (mut most, mut place) = (signs[lane] * first[lane], 0_u32);
                            for (x, at) in others.iter().zip(1..) {
                                let x = signs[lane] * x[lane];
                                place = if x > most { at } else { place };
                                most = if x > most { x } else { most };
                            }
                            extremes[lane] = signs[lane] * most;
                            places[lane] = place as u8;
                        }
                    }
                }
            });
        },
    );
}

/// Replaces x at place `at` of a 2 x 2 by dx: -(slope x + offset), and `own` at the maximum's place.
#[inline(always)]
fn replace<const N: usize>(
    x: &mut [f32; N],
    (slope, offset): (&[f32; N], &[f32; N]),
    own: &[f32; N],
    places: &[u8; N],
    at: u8,
) {
    for lane in 0..N {
        let own = if places[lane] == at { own[lane] } else { 0.0 };
        x[lane] = own - (slope[lane] * x[lane] + offset[lane]);
    }
}

impl Descent {
    /// Replaces x by dx, in place; the last two columns become zero.
    ///
    /// `x_hwf` is `[rows, W, F]` as in [`pool`], the others what belongs to it; rows and columns
    /// that the pooling left out have only the part of dx that all places share.
    pub fn apply(&self, stage: &Stage, x_hwf: &mut [f32], slopes_hwf: &[f32], places_hwf: &[u8]) {
        let filters = stage.filters;
        let (row, pooled_row) = (stage.width * filters, stage.pooled_width() * filters);
        vectorised(
            #[inline(always)]
            || {
                by_lanes!(filters, |f, N| {
                    let scale = *lanes::<N, _>(&self.scale, f);
                    let slope = *lanes::<N, _>(&self.slope, f);
                    let offset = *lanes::<N, _>(&self.offset, f);
                    let pooled = slopes_hwf.chunks_exact(pooled_row);
                    let pooled = pooled.zip(places_hwf.chunks_exact(pooled_row));
                    for (two_rows, (slopes, places)) in x_hwf.chunks_exact_mut(2 * row).zip(pooled)
                    {
                        let (upper, lower) = two_rows.split_at_mut(row);
                        let windows = upper.chunks_exact_mut(2 * filters);
                        let windows = windows.zip(lower.chunks_exact_mut(2 * filters));
                        let pooled = slopes.chunks_exact(filters);
                        let pooled = pooled.zip(places.chunks_exact(filters));
                        for ((upper, lower), (g_f, places)) in windows.zip(pooled) {
                            let (g, places) = (lanes::<N, _>(g_f, f), lanes::<N, _>(places, f));
                            let shared = (&slope, &offset);
                            let mut own = [0.0; N];
                            for lane in 0..N {
                                own[lane] = scale[lane] * g[lane];
                            }
                            let (x0, x1) = upper.split_at_mut(filters);
                            let (x2, x3) = lower.split_at_mut(filters);
                            replace(lanes_mut(x0, f), shared, &own, places, 0);
                            replace(lanes_mut(x1, f), shared, &own, places, 1);
                            replace(lanes_mut(x2, f), shared, &own, places, 2);
                            replace(lanes_mut(x3, f), shared, &own, places, 3);
                        }
                    }
                });
                self.apply_to_rest(stage, x_hwf);
            },
        );
    }

    /// The part of dx that all places share, where the pooling left out a row or a column, and the
    /// zeros at the end of each row.
    fn apply_to_rest(&self, stage: &Stage, x_hwf: &mut [f32]) {
        let filters = stage.filters;
        let whole_rows = x_hwf.len() / (stage.width * filters) / 2 * 2;
        for (y, row) in x_hwf.chunks_exact_mut(stage.width * filters).enumerate() {
            let (meant, rest) = row.split_at_mut(stage.conv_width() * filters);
            let pooled = if y < whole_rows {
                stage.pooled_width() * 2
            } else {
                0
            };
            for x_f in meant[pooled * filters..].chunks_exact_mut(filters) {
                for (f, x) in x_f.iter_mut().enumerate() {
                    *x = -(self.slope[f] * *x + self.offset[f]);
                }
            }
            rest.fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests;
