//! All metrics of a head on one side of the split, together.

use serde::{Deserialize, Serialize};

use super::calibration::{brier, expected_calibration_error};
use super::confusion::ConfusionMatrix;
use super::interval::{Interval, Z_95, wilson};
use super::ranking::{average_precision, macro_average_precision, macro_roc_auc, roc_auc};
use super::{Basic, Logits};
use crate::head::Decision;

/// How well a head does on one side of the split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Images.
    pub images: u64,
    /// Mean cross-entropy, in nats, after the temperature.
    pub loss: f64,
    /// Share of images whose class was right.
    pub accuracy: f64,
    /// Wilson's 95 % interval of the accuracy.
    pub accuracy_interval: Interval,
    /// Mean over the classes of the share of their images that was right.
    pub balanced_accuracy: Option<f64>,
    /// Mean of the classes' F1.
    pub macro_f1: Option<f64>,
    /// Area under the ROC curve of class 1; of more than two classes, the mean of each against
    /// the rest. None where a class is missing.
    pub roc_auc: Option<f64>,
    /// Area under the precision-recall curve, as average precision; of more than two classes, the
    /// mean of each against the rest.
    pub pr_auc: Option<f64>,
    /// Brier score.
    pub brier: f64,
    /// Expected calibration error, 15 bins.
    pub calibration_error: f64,
    /// Of each class.
    pub classes: Vec<ClassMetrics>,
    /// Images by true class (row) and the class they were taken for (column).
    pub confusion: ConfusionMatrix,
}

/// How well a head does on one class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// Images of the class.
    pub images: u64,
    /// Of the images taken for it, the share that is of it; none if none were.
    pub precision: Option<f64>,
    /// Of its images, the share taken for it; none if there are none.
    pub recall: Option<f64>,
    /// Their harmonic mean.
    pub f1: Option<f64>,
}

impl Metrics {
    /// Loss and accuracy alone.
    pub fn basic(&self) -> Basic {
        Basic {
            loss: self.loss,
            accuracy: self.accuracy,
        }
    }

    /// Of given logits against their labels; none for no images at all.
    ///
    /// # Panics
    /// When there is not one label an image.
    pub fn of(logits: &Logits, labels: &[u32], decision: &Decision) -> Option<Metrics> {
        let classes = logits.classes();
        let scaled = logits.divided_by(decision.temperature);
        let basic = Basic::of(&scaled, labels)?;
        let mut confusion = ConfusionMatrix::new(classes);
        for (logits_o, label) in logits.iter().zip(labels) {
            confusion.count(*label, decision.class(logits_o));
        }
        let (roc_auc, pr_auc, probabilities) = match classes {
            2 => {
                // Logits, since probabilities near 0 and 1 make ties.
                let positive: Vec<bool> = labels.iter().map(|label| *label == 1).collect();
                let scores = logits.values();
                (
                    roc_auc(scores, &positive),
                    average_precision(scores, &positive),
                    scaled.probabilities_of_1(),
                )
            }
            _ => {
                let probabilities = scaled.probabilities();
                (
                    macro_roc_auc(&probabilities, labels, classes),
                    macro_average_precision(&probabilities, labels, classes),
                    probabilities,
                )
            }
        };
        Some(Metrics {
            images: confusion.total(),
            loss: basic.loss,
            accuracy: confusion.accuracy()?,
            accuracy_interval: wilson(confusion.correct(), confusion.total(), Z_95)?,
            balanced_accuracy: confusion.balanced_accuracy(),
            macro_f1: confusion.macro_f1(),
            roc_auc,
            pr_auc,
            brier: brier(&probabilities, labels, classes)?,
            calibration_error: expected_calibration_error(&probabilities, labels, classes)?,
            classes: (0..classes)
                .map(|class| ClassMetrics {
                    images: confusion.support(class),
                    precision: confusion.precision(class),
                    recall: confusion.recall(class),
                    f1: confusion.f1(class),
                })
                .collect(),
            confusion,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_classes_by_hand() {
        let logits = Logits::new(vec![2.0, -1.0, 3.0, 0.0, -2.0, 1.0], 1);
        let labels = [1, 0, 0, 1, 1, 1];
        let metrics = Metrics::of(&logits, &labels, &Decision::default()).unwrap();
        assert_eq!((metrics.images, metrics.accuracy), (6, 0.5));
        assert_eq!(
            metrics.confusion,
            ConfusionMatrix::of(&labels, &[1, 0, 1, 0, 0, 1], 2)
        );
        assert_eq!(metrics.classes[1].precision, Some(2.0 / 3.0));
        assert_eq!(metrics.classes[1].recall, Some(0.5));
        // Of the 4 x 2 pairs, 2.0, 0.0 and 1.0 beat -1.0; none beats 3.0.
        assert_eq!(metrics.roc_auc, Some(3.0 / 8.0));
        assert_eq!(
            Metrics::of(&Logits::new(vec![], 1), &[], &Decision::default()),
            None
        );
    }

    #[test]
    fn a_threshold_moves_classes_and_a_temperature_the_loss() {
        let logits = Logits::new(vec![2.0, -1.0, 1.0], 1);
        let of = |temperature, threshold| {
            let decision = Decision {
                temperature,
                threshold,
            };
            Metrics::of(&logits, &[1, 0, 0], &decision).unwrap()
        };
        let (plain, strict, soft) = (of(1.0, 0.5), of(1.0, 0.8), of(4.0, 0.5));
        assert_eq!(plain.accuracy, 2.0 / 3.0);
        assert_eq!(strict.accuracy, 1.0); // σ(1) = 0.73, σ(2) = 0.88
        assert_eq!(strict.loss, plain.loss);
        assert_eq!(soft.accuracy, plain.accuracy);
        assert_ne!(soft.loss, plain.loss);
        assert_eq!(soft.roc_auc, plain.roc_auc);
    }

    #[test]
    fn three_classes() {
        let logits = Logits::new(vec![3.0, 0.0, 0.0, 0.0, 2.0, 0.0, 1.0, 0.0, 0.5], 3);
        let metrics = Metrics::of(&logits, &[0, 1, 2], &Decision::default()).unwrap();
        assert_eq!(metrics.accuracy, 2.0 / 3.0);
        assert_eq!(metrics.confusion.at(2, 0), 1);
        assert_eq!(metrics.roc_auc, Some(1.0));
        assert_eq!(metrics.classes.len(), 3);
    }
}
