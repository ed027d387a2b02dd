//! The penalised loss of a linear head and its gradient, in one pass over the features.
//!
//! ```text
//! f(w, b)    = 1/n Σ weight[y] * cross_entropy(z, y) + 1/2 Σ penalty[c] w[o, c]²
//! z[o]       = Σ w[o, c] x[c] + b[o]
//! df/dw[o,c] = 1/n Σ weight[y] (p[o] - [o is y]) x[c] + penalty[c] w[o, c]
//! df/db[o]   = 1/n Σ weight[y] (p[o] - [o is y])
//! ```
//!
//! p is the sigmoid of the one logit or the softmax of K. The penalty is l2; for standardised
//! features it is on the weights of those, which is l2 deviation[c]² on ours.
//!
//! Features are f32 as they lie in memory; everything that is added up is f64, so that a search
//! can go on to small gradients. Each block of rows is summed on its own and the blocks' sums are
//! added in the order of the rows: the same bits for any number of threads. How many blocks there
//! are follows from the problem's shape alone, so that their gradients, 8 O (C + 1) bytes each,
//! have a bound: 1,000 classes on 2,048 channels are 16 blocks of 16 MB. This file knows nothing
//! of how a minimum is searched. Every training row counts the same: the views of an image
//! as if each were an image.

use rayon::prelude::*;

use super::Problem;
use crate::kernels::{add_four, dot_four, vectorised};
use crate::matrix::Rows;

/// Blocks that the rows are divided into at most. Part of what a result's last bit is.
const BLOCKS: usize = 64;

/// Rows of a block at least, a multiple of four. Part of what a result's last bit is.
const BLOCK_ROWS: usize = 64;

/// What the blocks' gradients may take together, unless two alone take more. Part of what a
/// result's last bit is.
const BLOCKS_BYTES: usize = 256 << 20;

/// Rows of each block where `rows` rows have gradients of `length` numbers.
fn rows_of_a_block(rows: usize, length: usize) -> usize {
    let blocks = (BLOCKS_BYTES / (8 * length)).clamp(2, BLOCKS);
    rows.div_ceil(blocks).next_multiple_of(4).max(BLOCK_ROWS)
}

/// The penalised mean loss over a problem's training rows, as a function of a point: the weights
/// `[O, C]` and, after them, the biases `[O]`, which are not penalised.
pub(super) struct Objective<'a> {
    problem: &'a Problem<'a>,
    penalty_c: Vec<f64>,
    block_rows: usize,
    blocks: Vec<Sums>,
}

/// What a block of rows adds.
#[derive(Clone)]
struct Sums {
    loss: f64,
    gradient: Vec<f64>,         // [O (C + 1)]
    residuals_o: Vec<[f64; 4]>, // of four rows at a time, [O]
}

impl<'a> Objective<'a> {
    /// The objective on the training rows of `problem` with the penalty l2/2 |w|^2, w being the
    /// weights of standardised features if the problem has those.
    pub fn new(problem: &'a Problem<'a>, l2: f64) -> Objective<'a> {
        let rows = problem.train().len();
        let mut objective = Objective {
            problem,
            penalty_c: Vec::new(),
            block_rows: 0,
            blocks: Vec::new(),
        };
        objective.block_rows = rows_of_a_block(rows, objective.len());
        let sums = Sums {
            loss: 0.0,
            gradient: vec![0.0; objective.len()],
            residuals_o: vec![[0.0; 4]; problem.outputs()],
        };
        objective.blocks = vec![sums; rows.div_ceil(objective.block_rows)];
        objective.penalise(l2);
        objective
    }

    /// Another penalty.
    pub fn penalise(&mut self, l2: f64) {
        self.penalty_c = match self.problem.standardizer() {
            Some(moments) => moments.deviation().iter().map(|d| l2 * d * d).collect(),
            None => vec![l2; self.problem.rows().channels()],
        };
    }

    /// What each weight's square, halved, costs: `[C]`.
    pub fn penalty(&self) -> &[f64] {
        &self.penalty_c
    }

    /// Number of coordinates of a point: O (C + 1).
    pub fn len(&self) -> usize {
        self.problem.outputs() * (self.problem.rows().channels() + 1)
    }

    /// The value at `point`; the gradient there is written to `gradient`, both `[O (C + 1)]`.
    pub fn at(&mut self, point: &[f64], gradient: &mut [f64]) -> f64 {
        let (problem, train) = (self.problem, self.problem.train());
        self.blocks
            .par_iter_mut()
            .zip(train.par_chunks(self.block_rows))
            .for_each(|(sums, rows)| {
                vectorised(
                    #[inline(always)]
                    || sums.fill(problem, rows, point),
                );
            });
        gradient.fill(0.0);
        let mut loss = 0.0;
        for block in &self.blocks {
            loss += block.loss;
            for (sum, part) in gradient.iter_mut().zip(&block.gradient) {
                *sum += part;
            }
        }
        let count = train.len() as f64;
        for sum in gradient.iter_mut() {
            *sum /= count;
        }
        let weights = problem.outputs() * self.penalty_c.len();
        let mut penalty = 0.0;
        for ((sum, weight), factor) in gradient[..weights]
            .iter_mut()
            .zip(point)
            .zip(self.penalty_c.iter().cycle())
        {
            *sum += factor * weight;
            penalty += factor * weight * weight;
        }
        loss / count + 0.5 * penalty
    }

    /// Euclidean norm of a gradient at a point, by the coordinates that the penalty is on: those
    /// of standardised features if the problem has those.
    pub fn norm(&self, gradient: &[f64]) -> f64 {
        let Some(moments) = self.problem.standardizer() else {
            return norm(gradient);
        };
        let (weights_oc, bias_o) = gradient.split_at(gradient.len() - self.problem.outputs());
        let mut squares = 0.0;
        for (weights_c, bias) in weights_oc.chunks_exact(moments.mean().len()).zip(bias_o) {
            squares += bias * bias;
            for ((g, mean), deviation) in weights_c
                .iter()
                .zip(moments.mean())
                .zip(moments.deviation())
            {
                let g = (g - mean * bias) / deviation;
                squares += g * g;
            }
        }
        squares.sqrt()
    }
}

impl Sums {
    /// Sums over some rows.
    #[inline(always)]
    fn fill(&mut self, problem: &Problem<'_>, rows: &[u32], point: &[f64]) {
        self.loss = 0.0;
        self.gradient.fill(0.0);
        let (fours, rest) = rows.as_chunks::<4>();
        for four in fours {
            self.add(problem, *four, 4, point);
        }
        if let Some(&last) = rest.last() {
            // The last row stands in for those that are missing and is counted once.
            let mut four = [last; 4];
            four[..rest.len()].copy_from_slice(rest);
            self.add(problem, four, rest.len(), point);
        }
    }

    /// Adds the first `count` of four rows.
    #[inline(always)]
    fn add(&mut self, problem: &Problem<'_>, four: [u32; 4], count: usize, point: &[f64]) {
        let features: Rows<'_> = problem.rows();
        let (channels, outputs) = (features.channels(), problem.outputs());
        let rows = four.map(|row| features.row(row));
        let (weights_oc, bias_o) = point.split_at(outputs * channels);
        for (output, logits) in self.residuals_o.iter_mut().enumerate() {
            let weights_c = &weights_oc[output * channels..][..channels];
            *logits = dot_four(weights_c, rows).map(|dot| dot + bias_o[output]);
        }
        for (i, row) in four.into_iter().enumerate() {
            let label = problem.label(row);
            let weight = match problem.class_weights() {
                _ if i >= count => 0.0,
                Some(weights_k) => weights_k[label as usize],
                None => 1.0,
            };
            self.loss += weight * loss_and_residuals(&mut self.residuals_o, i, label);
            for residuals in &mut self.residuals_o {
                residuals[i] *= weight;
            }
        }
        let (gradient_oc, gradient_o) = self.gradient.split_at_mut(outputs * channels);
        for (output, residuals) in self.residuals_o.iter().enumerate() {
            add_four(
                &mut gradient_oc[output * channels..][..channels],
                rows,
                *residuals,
            );
            gradient_o[output] += (residuals[0] + residuals[1]) + (residuals[2] + residuals[3]);
        }
    }
}

/// Loss of row `i` of four, whose logits `logits_o` holds, in nats; leaves the loss's derivative
/// by each logit in their place. Nothing overflows or loses its tail.
fn loss_and_residuals(logits_o: &mut [[f64; 4]], i: usize, label: u32) -> f64 {
    if let [logits] = logits_o {
        let (loss, residual) = binary(logits[i], label);
        logits[i] = residual;
        return loss;
    }
    let most = logits_o
        .iter()
        .map(|z| z[i])
        .fold(f64::NEG_INFINITY, f64::max);
    let below = most - logits_o[label as usize][i];
    let mut sum = 0.0;
    for logits in logits_o.iter_mut() {
        logits[i] = libm::exp(logits[i] - most);
        sum += logits[i];
    }
    for (class, logits) in (0..).zip(logits_o.iter_mut()) {
        logits[i] = logits[i] / sum - f64::from(u8::from(class == label));
    }
    libm::log(sum) + below
}

/// Binary cross-entropy of a logit z against its label y, in nats, and its derivative σ(z) - y.
fn binary(logit: f64, label: u32) -> (f64, f64) {
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

/// Euclidean norm.
pub(super) fn norm(a: &[f64]) -> f64 {
    a.iter().map(|a| a * a).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standardize::Standardizer;

    #[test]
    fn by_hand() {
        // One channel, rows 1 and 3, labels 1 and 0, w = ln 3, b = 0: probabilities 3/4, 27/28.
        let values = [1.0, 3.0];
        let rows = Rows::new(&values, 1).unwrap();
        let mut problem = Problem::new(rows, &[1, 0], 2, &[0, 1], &[]).unwrap();
        let weight = 3_f64.ln();
        let mut gradient = [9.0; 2];
        let value = Objective::new(&problem, 0.5).at(&[weight, 0.0], &mut gradient);
        let losses = [-(0.75_f64.ln()), -(1.0_f64 / 28.0).ln()];
        let expected = (losses[0] + losses[1]) / 2.0 + 0.25 * weight * weight;
        assert!(
            (value - expected).abs() < 1e-14,
            "{value} is not {expected}"
        );
        let bias = (-0.25 + 27.0 / 28.0) / 2.0;
        let slope = (-0.25 + 3.0 * 27.0 / 28.0) / 2.0 + 0.5 * weight;
        assert!((gradient[0] - slope).abs() < 1e-14, "{gradient:?}");
        assert!((gradient[1] - bias).abs() < 1e-14, "{gradient:?}");
        problem.class_weights_k = Some(&[2.0, 0.5]);
        let value = Objective::new(&problem, 0.0).at(&[weight, 0.0], &mut gradient);
        let expected = (0.5 * losses[0] + 2.0 * losses[1]) / 2.0;
        assert!((value - expected).abs() < 1e-14);
        let bias = (-0.125 + 2.0 * 27.0 / 28.0) / 2.0;
        assert!((gradient[1] - bias).abs() < 1e-14, "{gradient:?}");
    }

    #[test]
    fn partial_gradients_have_a_bound() {
        for (rows, outputs, channels, blocks) in [
            (18_610, 1, 2048, 64),
            (18_610, 120, 2048, 64),
            (3, 1, 2048, 1),
            (50_000, 1000, 2048, 16),
            (50_000, 20_000, 4096, 2),
        ] {
            let length = outputs * (channels + 1);
            let block_rows = rows_of_a_block(rows, length);
            assert_eq!(block_rows % 4, 0);
            assert!(rows.div_ceil(block_rows) <= blocks, "{rows} x {length}");
            let bytes = blocks * 8 * length;
            assert!(bytes <= BLOCKS_BYTES || blocks == 2, "{bytes}");
        }
        // Small problems are divided as ever: 64 blocks.
        assert_eq!(rows_of_a_block(18_610, 120 * 2049), 292);
        assert_eq!(rows_of_a_block(18_610, 2049), 292);
    }

    /// However few the blocks, the sums are the same but for rounding.
    #[test]
    fn blocks_change_rounding_alone() {
        let values: Vec<f32> = (0..900 * 5).map(|i| (i as f32 * 0.37).sin()).collect();
        let labels: Vec<u32> = (0..900).map(|i| i % 3).collect();
        let all: Vec<u32> = (0..900).collect();
        let rows = Rows::new(&values, 5).unwrap();
        let problem = Problem::new(rows, &labels, 3, &all, &[]).unwrap();
        let found = [64, 452].map(|block_rows| {
            let mut objective = Objective::new(&problem, 0.1);
            objective.block_rows = block_rows;
            let point: Vec<f64> = (0..objective.len()).map(|i| (i as f64).cos()).collect();
            let mut gradient = vec![0.0; point.len()];
            objective
                .blocks
                .truncate(problem.train().len().div_ceil(block_rows));
            let value = objective.at(&point, &mut gradient);
            gradient.push(value);
            gradient
        });
        for (a, b) in found[0].iter().zip(&found[1]) {
            assert!((a - b).abs() < 1e-14, "{a} {b}");
        }
    }

    #[test]
    fn far_out_nothing_overflows() {
        for (logit, label, loss, miss) in [
            (1e4, 1, 0.0, 0.0),
            (1e4, 0, 1e4, 1.0),
            (-1e4, 1, 1e4, -1.0),
            (-1e4, 0, 0.0, 0.0),
        ] {
            assert_eq!(binary(logit, label), (loss, miss));
            let mut logits_o = [[0.0; 4], [logit; 4]];
            assert_eq!(loss_and_residuals(&mut logits_o, 2, label), loss);
            assert_eq!([logits_o[0][2], logits_o[1][2]], [-miss, miss]);
            assert_eq!(logits_o[1][1], logit);
        }
    }

    /// The gradient is that of the value: finite differences, at every remainder of the kernels,
    /// for two classes and more, with and without weights and standardised features.
    #[test]
    fn gradient_agrees_with_differences() {
        for (count, channels, classes) in [
            (3, 1, 2),
            (5, 3, 3),
            (7, 8, 2),
            (9, 13, 4),
            (300, 17, 2),
            (301, 6, 3),
        ] {
            let values: Vec<f32> = (0..count * channels)
                .map(|i| (i as f32 * 0.37).sin().max(-0.2) * 2.0)
                .collect();
            let labels: Vec<u32> = (0..count as u32).map(|i| i % classes as u32).collect();
            let all: Vec<u32> = (0..count as u32).collect();
            let rows = Rows::new(&values, channels).unwrap();
            let moments = Standardizer::fit(rows, &all);
            let mut problem = Problem::new(rows, &labels, classes, &all, &[]).unwrap();
            let weights = [0.5, 2.0, 1.5, 0.1];
            for weighted in [false, true] {
                problem.class_weights_k = weighted.then_some(&weights[..classes]);
                problem.standardizer = weighted.then_some(&moments);
                let mut objective = Objective::new(&problem, 0.01);
                let length = objective.len();
                let point: Vec<f64> = (0..length).map(|i| (i as f64).cos() * 0.3).collect();
                let (mut gradient, mut unused) = (vec![0.0; length], vec![0.0; length]);
                objective.at(&point, &mut gradient);
                for i in 0..length {
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
}
