//! Loss, accuracy and confusion of a linear head, computed here for every solver alike.
//!
//! No solver's own metrics are ever reported: one definition for all makes runs comparable. The
//! exponential and the logarithm are `libm`'s and not the system's, so that a loss has the same
//! bits on every machine.

pub mod calibration;
pub mod confusion;
pub mod interval;
pub mod ranking;
pub mod temperature;
pub mod threshold;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

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

/// The class that a logit stands for: 1 if its probability is above one half, which is a logit
/// above zero. A tie is class 0, as in Keras (`p > 0.5`).
pub fn predicted(logit: f32) -> u32 {
    u32::from(logit > 0.0)
}

/// How often each class was taken for each; class 1 is "positive".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// Class 0, said to be 0.
    pub true_negatives: u64,
    /// Class 0, said to be 1.
    pub false_positives: u64,
    /// Class 1, said to be 0.
    pub false_negatives: u64,
    /// Class 1, said to be 1.
    pub true_positives: u64,
}

impl Confusion {
    /// Counts one image.
    pub fn count(&mut self, label: u32, predicted: u32) {
        match (label, predicted) {
            (0, 0) => self.true_negatives += 1,
            (0, _) => self.false_positives += 1,
            (_, 0) => self.false_negatives += 1,
            _ => self.true_positives += 1,
        }
    }

    /// Number of images.
    pub fn total(&self) -> u64 {
        self.true_negatives + self.false_positives + self.false_negatives + self.true_positives
    }

    /// Share of images whose class was right.
    pub fn accuracy(&self) -> f64 {
        (self.true_negatives + self.true_positives) as f64 / self.total() as f64
    }

    /// Of the images said to be of class 1, the share that is; none if nothing was.
    pub fn precision(&self) -> Option<f64> {
        ratio(self.true_positives, self.false_positives)
    }

    /// Of the images of class 1, the share said to be; none if there are none.
    pub fn recall(&self) -> Option<f64> {
        ratio(self.true_positives, self.false_negatives)
    }
}

/// hits / (hits + misses), unless both are zero.
fn ratio(hits: u64, misses: u64) -> Option<f64> {
    (hits + misses > 0).then(|| hits as f64 / (hits + misses) as f64)
}

/// How well a head does on one side of the split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Mean binary cross-entropy, in nats.
    pub loss: f64,
    /// Share of images whose class was right.
    pub accuracy: f64,
    /// The counts behind the accuracy.
    pub confusion: Confusion,
}

impl Metrics {
    /// Metrics of given logits against their labels; none for no images at all.
    ///
    /// # Panics
    /// When the two slices differ in length.
    pub fn of_logits(logits: &[f32], labels: &[u32]) -> Option<Metrics> {
        assert_eq!(logits.len(), labels.len(), "one label for each logit");
        let mut loss_sum = 0.0_f64;
        let mut confusion = Confusion::default();
        for (&logit, &label) in logits.iter().zip(labels) {
            loss_sum += f64::from(binary_cross_entropy(logit, label));
            confusion.count(label, predicted(logit));
        }
        (!logits.is_empty()).then(|| Metrics {
            loss: loss_sum / logits.len() as f64,
            accuracy: confusion.accuracy(),
            confusion,
        })
    }
}

/// Logits of the rows that `indices` lists, in that order.
///
/// Runs on the current rayon pool; the bits are the same for any number of threads.
///
/// # Panics
/// When a row does not exist or the head's width is not the rows'.
pub fn logits(head: &Linear, rows: Rows<'_>, indices: &[u32]) -> Vec<f32> {
    assert_eq!(
        head.weights_c.len(),
        rows.channels(),
        "head and rows must agree"
    );
    indices
        .par_iter()
        .with_min_len(ROWS_PER_TASK)
        .map(|&row| head.logit(rows.row(row)))
        .collect()
}

/// Metrics of `head` on the rows that `indices` lists; none if it lists none.
///
/// `labels_n` holds every row's label, `[N]`, and not only those of `indices`.
///
/// # Panics
/// As [`logits`].
pub fn evaluate(
    head: &Linear,
    rows: Rows<'_>,
    labels_n: &[u32],
    indices: &[u32],
) -> Option<Metrics> {
    let labels: Vec<u32> = indices.iter().map(|&row| labels_n[row as usize]).collect();
    Metrics::of_logits(&logits(head, rows, indices), &labels)
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
    fn a_tie_is_class_zero() {
        assert_eq!(predicted(0.0), 0);
        assert_eq!(predicted(-0.0), 0);
        assert_eq!(predicted(f32::MIN_POSITIVE), 1);
    }

    #[test]
    fn confusion_by_hand() {
        let logits = [2.0, -1.0, 3.0, 0.0, -2.0, 1.0];
        let labels = [1, 0, 0, 1, 1, 1];
        let metrics = Metrics::of_logits(&logits, &labels).unwrap();
        let confusion = Confusion {
            true_negatives: 1,
            false_positives: 1,
            false_negatives: 2,
            true_positives: 2,
        };
        assert_eq!(metrics.confusion, confusion);
        assert_eq!(metrics.accuracy, 0.5);
        assert_eq!(confusion.precision(), Some(2.0 / 3.0));
        assert_eq!(confusion.recall(), Some(0.5));
        assert_eq!(Confusion::default().precision(), None);
        assert_eq!(Metrics::of_logits(&[], &[]), None);
    }
}
