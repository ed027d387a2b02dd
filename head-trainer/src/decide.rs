//! What is chosen on the validation side once a head is trained: a temperature that makes its
//! probabilities fit, a threshold that suits a purpose.

use serde::{Deserialize, Serialize};

use crate::head::Decision;
use crate::metrics::Logits;
use crate::metrics::temperature::fit_temperature;
use crate::metrics::threshold::{Criterion, choose_threshold};
use crate::split::Side;

/// What to choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Choices {
    /// Whether to fit a temperature (C. Guo et al., "On calibration of modern neural networks",
    /// 2017, section 4.2).
    #[serde(default)]
    pub temperature: bool,
    /// What the threshold shall suit; none: it stays at one half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Criterion>,
}

/// Nothing can be chosen.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecideError {
    /// What was trained is of no use.
    #[error(
        "weights overflowed: the logits on the {0} side are no finite numbers (hint: a smaller \
         --learning-rate, or --standardize)"
    )]
    NotFinite(Side),
    /// A threshold is for two classes.
    #[error("--threshold is for two classes, and there are {0}")]
    Classes(usize),
    /// Costs are infinite, negative or both zero.
    #[error("the costs of --threshold are no usable ones (hint: cost:1:5)")]
    Costs,
    /// There is nothing to choose by.
    #[error(
        "--temperature and --threshold are chosen on the validation side, which {0} (hint: check \
         the split)"
    )]
    Validation(&'static str),
}

impl Choices {
    /// Whether nothing is to be chosen.
    pub fn is_none(&self) -> bool {
        *self == Choices::default()
    }

    /// Whether the choices can be made for so many classes, with these labels on the validation
    /// side: to be asked before training.
    ///
    /// # Errors
    /// [`DecideError`].
    pub fn check(&self, classes: usize, labels: &[u32]) -> Result<(), DecideError> {
        if self.is_none() {
            return Ok(());
        }
        if self.threshold.is_some() && classes > 2 {
            return Err(DecideError::Classes(classes));
        }
        if self
            .threshold
            .is_some_and(|criterion| !criterion.is_usable())
        {
            return Err(DecideError::Costs);
        }
        let [first, ..] = labels else {
            return Err(DecideError::Validation("has no images"));
        };
        if self.threshold.is_some() && labels.iter().all(|label| label == first) {
            return Err(DecideError::Validation("lacks a class"));
        }
        Ok(())
    }

    /// Chooses by the logits and labels of the validation side. The temperature comes first; the
    /// threshold is one on the probabilities that it gives.
    ///
    /// # Errors
    /// [`DecideError`].
    pub fn decide(&self, logits: &Logits, labels: &[u32]) -> Result<Decision, DecideError> {
        let mut decision = Decision::default();
        if self.is_none() {
            return Ok(decision);
        }
        let classes = logits.classes();
        self.check(classes, labels)?;
        if self.temperature
            && let Some(found) = fit_temperature(logits.values(), labels, classes)
        {
            match found.at_bound() {
                false => decision.temperature = found.temperature,
                true => tracing::warn!(
                    "no temperature fits: every validation image is right, or as good as wrong; \
                     it stays at 1"
                ),
            }
        }
        if let Some(criterion) = self.threshold {
            let probabilities = logits.divided_by(decision.temperature).probabilities_of_1();
            let positive: Vec<bool> = labels.iter().map(|label| *label == 1).collect();
            let choice = choose_threshold(&probabilities, &positive, criterion);
            let choice = choice.ok_or(DecideError::Validation("lacks a class"))?;
            decision.threshold = choice.threshold;
        }
        Ok(decision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_chosen() {
        let logits = Logits::new(vec![4.0, 3.0, 2.0, 1.0, 0.0, -1.0], 1);
        let labels = [1, 0, 1, 0, 0, 0];
        let none = Choices::default().decide(&logits, &labels).unwrap();
        assert_eq!(none, Decision::default());
        let both = Choices {
            temperature: true,
            threshold: Some(Criterion::Accuracy),
        };
        let decision = both.decide(&logits, &labels).unwrap();
        assert!(decision.temperature > 1.0, "{decision:?}");
        let right = logits.iter().zip(labels);
        let right = right
            .filter(|(z, label)| decision.class(z) == *label)
            .count();
        assert_eq!(right, 5);
        let none = both.decide(&Logits::new(vec![], 1), &[]).unwrap_err();
        assert!(none.to_string().contains("has no images"), "{none}");
        let one = both.decide(&logits, &[0; 6]).unwrap_err();
        assert!(one.to_string().contains("lacks a class"), "{one}");
        let free = Choices {
            temperature: false,
            threshold: Some(Criterion::Cost {
                false_positive: 0.0,
                false_negative: -1.0,
            }),
        };
        assert_eq!(free.decide(&logits, &labels), Err(DecideError::Costs));
        let three = both.decide(&Logits::new(vec![0.0; 6], 3), &[0, 1]);
        assert_eq!(three, Err(DecideError::Classes(3)));
    }
}
