//! Coordinates in which the minimum is found in few steps.
//!
//! The objective is that of [`super::objective`]; only the point is written differently, so that
//! the curvature at the start is about the same in all directions. A channel is measured from its
//! mean, which is what couples weights and biases, and in units of its curvature there:
//!
//! ```text
//! w[o, c] = u[o, c] / sqrt(h[c]),  h[c] = p (1 - p) variance[c] + penalty[c]
//! b[o]    = v[o] / sqrt(p (1 - p)) - Σ w[o, c] mean[c],  p = 1/K
//! ```
//!
//! This file knows nothing of losses.

use crate::standardize::Standardizer;

/// A linear change of coordinates of a point: the weights `[O, C]` and, after them, the biases `[O]`.
pub(super) struct Coordinates<'a> {
    mean_c: &'a [f64],
    scale_c: Vec<f64>,
    bias_scale: f64,
    outputs: usize,
}

impl<'a> Coordinates<'a> {
    /// For a head of `outputs` outputs for `classes` classes, where weight `w[c]` costs
    /// `penalty_c[c]`/2 w².
    pub fn new(
        moments: &'a Standardizer,
        penalty_c: &[f64],
        outputs: usize,
        classes: usize,
    ) -> Coordinates<'a> {
        let p = 1.0 / classes as f64;
        let spread = p * (1.0 - p);
        let scale_c = moments.deviation().iter().zip(penalty_c);
        Coordinates {
            mean_c: moments.mean(),
            scale_c: scale_c
                .map(|(d, penalty)| 1.0 / (spread * d * d + penalty).sqrt())
                .collect(),
            bias_scale: 1.0 / spread.sqrt(),
            outputs,
        }
    }

    /// The point itself.
    pub fn decode(&self, coordinates: &[f64], point: &mut [f64]) {
        let channels = self.scale_c.len();
        let (u_oc, v_o) = coordinates.split_at(channels * self.outputs);
        let (weights_oc, bias_o) = point.split_at_mut(channels * self.outputs);
        let units = weights_oc
            .chunks_exact_mut(channels)
            .zip(u_oc.chunks_exact(channels));
        for ((weights_c, u_c), (bias, v)) in units.zip(bias_o.iter_mut().zip(v_o)) {
            let mut shift = 0.0;
            for (c, w) in weights_c.iter_mut().enumerate() {
                *w = u_c[c] * self.scale_c[c];
                shift += *w * self.mean_c[c];
            }
            *bias = v * self.bias_scale - shift;
        }
    }

    /// The coordinates of a point.
    pub fn encode(&self, point: &[f64]) -> Vec<f64> {
        let channels = self.scale_c.len();
        let (weights_oc, bias_o) = point.split_at(channels * self.outputs);
        let mut coordinates: Vec<f64> = weights_oc
            .iter()
            .zip(self.scale_c.iter().cycle())
            .map(|(w, scale)| w / scale)
            .collect();
        for (weights_c, bias) in weights_oc.chunks_exact(channels).zip(bias_o) {
            let shift: f64 = weights_c.iter().zip(self.mean_c).map(|(w, m)| w * m).sum();
            coordinates.push((bias + shift) / self.bias_scale);
        }
        coordinates
    }

    /// Turns the gradient by the point into that by its coordinates, in place.
    pub fn gradient(&self, gradient: &mut [f64]) {
        let channels = self.scale_c.len();
        let (weights_oc, bias_o) = gradient.split_at_mut(channels * self.outputs);
        for (weights_c, bias) in weights_oc.chunks_exact_mut(channels).zip(bias_o) {
            for (c, g) in weights_c.iter_mut().enumerate() {
                *g = (*g - self.mean_c[c] * *bias) * self.scale_c[c];
            }
            *bias *= self.bias_scale;
        }
    }
}
