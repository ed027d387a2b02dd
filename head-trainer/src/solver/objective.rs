//! The penalised loss of a linear head and its gradient, in one pass over the features.
//!
//! ```text
//! f(w, b) = 1/n Σ binary_cross_entropy(w·x + b, y) + l2/2 |w|^2
//! df/dw   = 1/n Σ (σ(w·x + b) - y) x + l2 w
//! df/db   = 1/n Σ (σ(w·x + b) - y)
//! ```
//!
//! Features are f32 as they lie in memory; everything that is added up is f64, so that a search
//! can go on to small gradients. Each block of rows is summed on its own and the blocks' sums are
//! added in the order of the rows: the same bits for any number of threads. This file knows
//! nothing of how a minimum is searched. Every training row counts the same: the views of an image
//! as if each were an image.

use rayon::prelude::*;

use super::Problem;

/// Rows of a block. Part of what a result's last bit is.
const BLOCK_ROWS: usize = 256;

/// Lanes of independent partial sums in a dot product; part of what a result's last bit is.
const LANES: usize = 8;

/// The penalised mean loss over a problem's training rows, as a function of a point: the weights
/// `[C]` and, after them, the bias, which is not penalised.
pub(super) struct Objective<'a> {
    problem: &'a Problem<'a>,
    l2: f64,
}

/// What a block of rows adds.
struct Sums {
    loss: f64,
    gradient: Vec<f64>, // [C + 1]
}

impl<'a> Objective<'a> {
    /// The objective on the training rows of `problem` with the penalty l2/2 |w|^2.
    pub fn new(problem: &'a Problem<'a>, l2: f64) -> Objective<'a> {
        Objective { problem, l2 }
    }

    /// Number of coordinates of a point: C + 1.
    pub fn len(&self) -> usize {
        self.problem.rows().channels() + 1
    }

    /// The value at `point` `[C + 1]`; the gradient there is written to `gradient` `[C + 1]`.
    pub fn at(&self, point: &[f64], gradient: &mut [f64]) -> f64 {
        let train = self.problem.train();
        let blocks: Vec<Sums> = train
            .par_chunks(BLOCK_ROWS)
            .map(|rows| self.sums(rows, point))
            .collect();
        let (weights_c, gradient_c) = (&point[..self.len() - 1], &mut gradient[..]);
        gradient_c.fill(0.0);
        let mut loss = 0.0;
        for block in blocks {
            loss += block.loss;
            for (sum, part) in gradient_c.iter_mut().zip(&block.gradient) {
                *sum += part;
            }
        }
        let count = train.len() as f64;
        for sum in gradient_c.iter_mut() {
            *sum /= count;
        }
        for (sum, weight) in gradient_c.iter_mut().zip(weights_c) {
            *sum += self.l2 * weight;
        }
        let squares: f64 = weights_c.iter().map(|w| w * w).sum();
        loss / count + 0.5 * self.l2 * squares
    }

    fn sums(&self, rows: &[u32], point: &[f64]) -> Sums {
        let features = self.problem.rows();
        let channels = features.channels();
        let (weights_c, bias) = (&point[..channels], point[channels]);
        let mut sums = Sums {
            loss: 0.0,
            gradient: vec![0.0; point.len()],
        };
        let miss = |row: u32, sums: &mut Sums| {
            let logit = dot(weights_c, features.row(row)) + bias;
            let (loss, miss) = loss_and_miss(logit, self.problem.label(row));
            sums.loss += loss;
            sums.gradient[channels] += miss;
            miss
        };
        // Four rows at a time, so that the gradient is loaded and stored a quarter as often.
        let (fours, rest) = rows.as_chunks::<4>();
        for four in fours {
            let [m0, m1, m2, m3] = four.map(|row| miss(row, &mut sums));
            let [r0, r1, r2, r3] = four.map(|row| &features.row(row)[..channels]);
            let gradient_c = &mut sums.gradient[..channels];
            for c in 0..channels {
                let first = m0 * f64::from(r0[c]) + m1 * f64::from(r1[c]);
                let second = m2 * f64::from(r2[c]) + m3 * f64::from(r3[c]);
                gradient_c[c] += first + second;
            }
        }
        for &row in rest {
            let factor = miss(row, &mut sums);
            for (sum, x) in sums.gradient.iter_mut().zip(features.row(row)) {
                *sum += factor * f64::from(*x);
            }
        }
        sums
    }
}

/// Binary cross-entropy of a logit z against its label y, in nats, and its derivative σ(z) - y;
/// neither overflows nor loses the tail.
fn loss_and_miss(logit: f64, label: u32) -> (f64, f64) {
    let signed = if label == 1 { logit } else { -logit };
    let tail = libm::exp(-signed.abs());
    let loss = (-signed).max(0.0) + libm::log1p(tail);
    // 1 - σ(signed): how far the probability is from the label.
    let miss = if signed > 0.0 {
        tail / (1.0 + tail)
    } else {
        1.0 / (1.0 + tail)
    };
    (loss, if label == 1 { -miss } else { miss })
}

/// Sum of `weights_c[c] * row_c[c]` in f64: products into [`LANES`] lanes, the lanes pairwise.
fn dot(weights_c: &[f64], row_c: &[f32]) -> f64 {
    let (weight_blocks, weight_rest) = weights_c.as_chunks::<LANES>();
    let (row_blocks, row_rest) = row_c.as_chunks::<LANES>();
    let mut lanes = [0.0_f64; LANES];
    for (w, x) in weight_blocks.iter().zip(row_blocks) {
        for lane in 0..LANES {
            lanes[lane] += w[lane] * f64::from(x[lane]);
        }
    }
    for (lane, (w, x)) in weight_rest.iter().zip(row_rest).enumerate() {
        lanes[lane] += w * f64::from(*x);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Rows;

    #[test]
    fn by_hand() {
        // One channel, rows 1 and 3, labels 1 and 0, w = ln 3, b = 0: probabilities 3/4, 27/28.
        let values = [1.0, 3.0];
        let rows = Rows::new(&values, 1).unwrap();
        let problem = Problem::new(rows, &[1, 0], &[0, 1], &[]).unwrap();
        let weight = 3_f64.ln();
        let mut gradient = [9.0; 2];
        let value = Objective::new(&problem, 0.5).at(&[weight, 0.0], &mut gradient);
        let expected = (-(0.75_f64.ln()) - (1.0_f64 / 28.0).ln()) / 2.0 + 0.25 * weight * weight;
        assert!(
            (value - expected).abs() < 1e-14,
            "{value} is not {expected}"
        );
        let bias = (-0.25 + 27.0 / 28.0) / 2.0;
        let slope = (-0.25 + 3.0 * 27.0 / 28.0) / 2.0 + 0.5 * weight;
        assert!((gradient[0] - slope).abs() < 1e-14, "{gradient:?}");
        assert!((gradient[1] - bias).abs() < 1e-14, "{gradient:?}");
    }

    #[test]
    fn far_out_nothing_overflows() {
        for (logit, label, loss, miss) in [
            (1e4, 1, 0.0, 0.0),
            (1e4, 0, 1e4, 1.0),
            (-1e4, 1, 1e4, -1.0),
            (-1e4, 0, 0.0, 0.0),
        ] {
            assert_eq!(loss_and_miss(logit, label), (loss, miss));
        }
    }

    /// The gradient is that of the value: finite differences, at every remainder of the kernels.
    #[test]
    fn gradient_agrees_with_differences() {
        for (count, channels) in [(2, 1), (5, 3), (7, 8), (9, 13), (300, 17)] {
            let values: Vec<f32> = (0..count * channels)
                .map(|i| (i as f32 * 0.37).sin().max(-0.2) * 2.0)
                .collect();
            let labels: Vec<u32> = (0..count as u32).map(|i| i % 2).collect();
            let all: Vec<u32> = (0..count as u32).collect();
            let rows = Rows::new(&values, channels).unwrap();
            let problem = Problem::new(rows, &labels, &all, &[]).unwrap();
            let objective = Objective::new(&problem, 0.01);
            let point: Vec<f64> = (0..=channels).map(|i| (i as f64).cos() * 0.3).collect();
            let (mut gradient, mut unused) = (vec![0.0; channels + 1], vec![0.0; channels + 1]);
            objective.at(&point, &mut gradient);
            for i in 0..=channels {
                let mut side = |step: f64| {
                    let mut moved = point.clone();
                    moved[i] += step;
                    objective.at(&moved, &mut unused)
                };
                let slope = (side(1e-5) - side(-1e-5)) / 2e-5;
                assert!(
                    (slope - gradient[i]).abs() < 1e-8,
                    "{count} x {channels}, coordinate {i}: {slope}, {}",
                    gradient[i]
                );
            }
        }
    }
}
