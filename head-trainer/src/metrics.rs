//! Loss, accuracy and the other metrics of a linear head, computed here for every solver alike.
//!
//! No solver's own metrics are ever reported: one definition for all makes runs comparable. The
//! exponential and the logarithm are `libm`'s and not the system's, so that a loss has the same
//! bits on every machine.

pub mod calibration;
pub mod confusion;
pub mod interval;
pub mod ranking;
mod summary;
pub mod temperature;
pub mod threshold;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use self::summary::{ClassMetrics, Metrics};
use crate::head::Linear;
use crate::matrix::Rows;

/// Rows that one task takes; only a matter of speed, since every logit stands alone.
const ROWS_PER_TASK: usize = 256;

/// The logistic function 1 / (1 + e^-z), without overflow on either side.
pub fn sigmoid(logit: f32) -> f32 {
    if logit >= 0.0 {
        1.0 / (1.0 + libm::expf(-logit))
    } else {
        let e = libm::expf(logit);
        e / (1.0 + e)
    }
}

/// Binary cross-entropy of one logit `z` against its label `y` (0 or 1), in nats.
///
/// max(z, 0) - z*y + ln(1 + e^-|z|), which equals -y ln σ(z) - (1-y) ln(1 - σ(z)) and neither
/// overflows nor loses the tail. Keras clips its probabilities to [1e-7, 1 - 1e-7] before the
/// logarithm and so caps a row's loss at 16.1; this does not.
pub fn binary_cross_entropy(logit: f32, label: u32) -> f32 {
    let hinge = if label == 1 { -logit } else { logit };
    hinge.max(0.0) + libm::log1pf(libm::expf(-logit.abs()))
}

/// Cross-entropy of the logits `[O]` of an image against its label, in nats: of one logit
/// [`binary_cross_entropy`]; of K, `ln Σ e^z[k] - z[label]`, that of softmax.
pub fn cross_entropy(logits_o: &[f32], label: u32) -> f32 {
    match logits_o {
        [logit] => binary_cross_entropy(*logit, label),
        logits => {
            let most = largest(logits);
            let sum: f32 = logits.iter().map(|z| libm::expf(z - most)).sum();
            libm::logf(sum) + (most - logits[label as usize])
        }
    }
}

/// Probabilities `[K]` of the logits `[O]` of an image: of one logit z, those of the classes 0 and
/// 1, 1 - σ(z) and σ(z); of K, their softmax.
pub fn probabilities(logits_o: &[f32]) -> Vec<f32> {
    match logits_o {
        [logit] => vec![sigmoid(-*logit), sigmoid(*logit)],
        logits => {
            let most = largest(logits);
            let mut shares: Vec<f32> = logits.iter().map(|z| libm::expf(z - most)).collect();
            let sum: f32 = shares.iter().sum();
            shares.iter_mut().for_each(|share| *share /= sum);
            shares
        }
    }
}

fn largest(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The class that the logits `[O]` of an image stand for. One logit: 1 if its probability is above
/// one half, which is a logit above zero; a tie is class 0, as in Keras (`p > 0.5`). K logits: the
/// class of the largest, the first on a tie.
pub fn predicted(logits_o: &[f32]) -> u32 {
    match logits_o {
        [logit] => u32::from(*logit > 0.0),
        logits => {
            let most = largest(logits);
            let first = logits.iter().position(|z| *z == most);
            first.unwrap_or_default() as u32
        }
    }
}

/// Logits divided by a temperature.
pub fn divided(logits: &[f32], temperature: f64) -> Vec<f32> {
    let divided = |z: &f32| (f64::from(*z) / temperature) as f32;
    logits.iter().map(divided).collect()
}

/// Logits of some images, `[N, O]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Logits {
    values_no: Vec<f32>,
    outputs: usize,
}

impl Logits {
    /// Logits of the rows that `indices` lists, in that order.
    ///
    /// Runs on the current rayon pool; the bits are the same for any number of threads.
    ///
    /// # Panics
    /// When a row does not exist or the head's width is not the rows'.
    pub fn of(head: &Linear, rows: Rows<'_>, indices: &[u32]) -> Logits {
        assert_eq!(head.channels(), rows.channels(), "head and rows must agree");
        let outputs = head.outputs();
        let mut values_no = vec![0.0; indices.len() * outputs];
        values_no
            .par_chunks_exact_mut(outputs)
            .zip(indices)
            .with_min_len(ROWS_PER_TASK)
            .for_each(|(logits_o, &row)| head.logits_of(rows.row(row), logits_o));
        Logits { values_no, outputs }
    }

    /// Given logits `[N, O]`, flat.
    ///
    /// # Panics
    /// When they do not make whole rows.
    pub fn new(values_no: Vec<f32>, outputs: usize) -> Logits {
        assert!(values_no.len().is_multiple_of(outputs), "whole rows");
        Logits { values_no, outputs }
    }

    /// Outputs, O.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Classes, K.
    pub fn classes(&self) -> usize {
        self.outputs.max(2)
    }

    /// Number of images, N.
    pub fn len(&self) -> usize {
        self.values_no.len() / self.outputs
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values_no.is_empty()
    }

    /// The logits `[O]` of each image.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values_no.chunks_exact(self.outputs)
    }

    /// Each divided by a temperature.
    pub fn divided_by(&self, temperature: f64) -> Logits {
        Logits {
            values_no: divided(&self.values_no, temperature),
            outputs: self.outputs,
        }
    }

    /// Probabilities of the classes, `[N, K]`, flat.
    pub fn probabilities(&self) -> Vec<f32> {
        self.iter().flat_map(probabilities).collect()
    }

    /// Probabilities of class 1 of two, `[N]`.
    pub fn probabilities_of_1(&self) -> Vec<f32> {
        self.values_no.iter().map(|z| sigmoid(*z)).collect()
    }

    /// All of them, `[N, O]`, flat.
    pub fn values(&self) -> &[f32] {
        &self.values_no
    }
}

/// Mean loss and accuracy: what every epoch tells.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Basic {
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Share of images whose class was right.
    pub accuracy: f64,
}

impl Basic {
    /// Of given logits against their labels; none for no images at all.
    ///
    /// # Panics
    /// When there is not one label an image.
    pub fn of(logits: &Logits, labels: &[u32]) -> Option<Basic> {
        assert_eq!(logits.len(), labels.len(), "one label for each image");
        let (mut loss_sum, mut right) = (0.0_f64, 0_u64);
        for (logits_o, &label) in logits.iter().zip(labels) {
            loss_sum += f64::from(cross_entropy(logits_o, label));
            right += u64::from(predicted(logits_o) == label);
        }
        let count = labels.len() as f64;
        (!labels.is_empty()).then(|| Basic {
            loss: loss_sum / count,
            accuracy: right as f64 / count,
        })
    }
}

/// Loss and accuracy of `head` on the rows that `indices` lists; none if it lists none.
///
/// `labels_n` holds every row's label, `[N]`, and not only those of `indices`.
///
/// # Panics
/// As [`Logits::of`].
pub fn evaluate(head: &Linear, rows: Rows<'_>, labels_n: &[u32], indices: &[u32]) -> Option<Basic> {
    let labels: Vec<u32> = indices.iter().map(|&row| labels_n[row as usize]).collect();
    Basic::of(&Logits::of(head, rows, indices), &labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f32, b: f32) {
        assert!((a - b).abs() <= 1e-6 * b.abs().max(1e-6), "{a} is not {b}");
    }

    #[test]
    fn sigmoid_by_hand() {
        assert_eq!(sigmoid(0.0), 0.5);
        close(sigmoid(3_f32.ln()), 0.75);
        close(sigmoid(-(3_f32.ln())), 0.25);
        assert_eq!(sigmoid(1000.0), 1.0);
        assert_eq!(sigmoid(-1000.0), 0.0);
    }

    #[test]
    fn cross_entropy_by_hand() {
        close(binary_cross_entropy(0.0, 0), 2_f32.ln());
        close(binary_cross_entropy(0.0, 1), 2_f32.ln());
        // Probability 3/4 of class 1.
        close(binary_cross_entropy(3_f32.ln(), 1), -(0.75_f32.ln()));
        close(binary_cross_entropy(3_f32.ln(), 0), -(0.25_f32.ln()));
        // Far out, where 1 - p is no f32 any more.
        close(binary_cross_entropy(100.0, 0), 100.0);
        close(binary_cross_entropy(-100.0, 1), 100.0);
        close(binary_cross_entropy(20.0, 1), 2.061_153_6e-9);
    }

    #[test]
    fn three_classes_by_hand() {
        // Shares 1 : 2 : 5, whatever is added to all.
        for shift in [0.0, 100.0, -100.0] {
            let logits = [1_f32, 2.0, 5.0].map(|share| share.ln() + shift);
            for (p, expected) in probabilities(&logits).into_iter().zip([0.125, 0.25, 0.625]) {
                assert!((p - expected).abs() < 1e-5, "{p}");
            }
            assert!((cross_entropy(&logits, 1) - 4_f32.ln()).abs() < 1e-5);
            assert_eq!(predicted(&logits), 2);
        }
        assert_eq!(cross_entropy(&[0.0, 1000.0, 0.0], 0), 1000.0);
        assert_eq!(cross_entropy(&[0.0, 1000.0, 0.0], 1), 0.0);
        assert_eq!(predicted(&[1.0, 3.0, 3.0]), 1);
        // Two logits of a softmax are one of a sigmoid, their difference.
        close(cross_entropy(&[0.3, 1.5], 1), binary_cross_entropy(1.2, 1));
        assert_eq!(probabilities(&[0.0]), [0.5, 0.5]);
    }

    #[test]
    fn a_tie_is_class_zero() {
        assert_eq!(predicted(&[0.0]), 0);
        assert_eq!(predicted(&[-0.0]), 0);
        assert_eq!(predicted(&[f32::MIN_POSITIVE]), 1);
    }

    #[test]
    fn accuracy_by_hand() {
        let logits = Logits::new(vec![2.0, -1.0, 3.0, 0.0, -2.0, 1.0], 1);
        let basic = Basic::of(&logits, &[1, 0, 0, 1, 1, 1]).unwrap();
        assert_eq!(basic.accuracy, 0.5);
        assert_eq!(Basic::of(&Logits::new(vec![], 1), &[]), None);
    }
}
