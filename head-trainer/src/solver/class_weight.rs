//! What each class's losses count in training.

use serde::{Deserialize, Serialize};

use super::{SolverError, require};

/// Weights of the classes. A training loss is the mean over all rows of weight times loss, as
/// Keras's `class_weight` has it; validation and test are never weighted.
///
/// A class of weight zero counts nothing: its rows add no loss and no gradient, while the mean is
/// over all rows still and it stays one of the head's classes. At least two classes that have training rows
/// must count, or there is nothing to tell apart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeight {
    /// Every row counts the same.
    #[default]
    None,
    /// `n / (K n[k])`: each class counts the same, however many rows it has (scikit-learn's
    /// `balanced`).
    Balanced,
    /// These, `[K]`; zero or from 1e-6 to 1e6, what f32 squares without loss.
    Given(Vec<f64>),
}

/// What a given weight may be besides zero.
const WEIGHTS: std::ops::RangeInclusive<f64> = 1e-6..=1e6;

impl ClassWeight {
    /// Whether every row counts the same.
    pub fn is_none(&self) -> bool {
        *self == ClassWeight::None
    }

    /// Checks every number.
    ///
    /// # Errors
    /// [`SolverError::Config`].
    pub(crate) fn check(&self) -> Result<(), SolverError> {
        let ClassWeight::Given(weights_k) = self else {
            return Ok(());
        };
        for weight in weights_k {
            let fine = *weight == 0.0 || WEIGHTS.contains(weight);
            require(fine, "class weight", weight, "zero or from 1e-6 to 1e6")?;
        }
        let counting = weights_k.iter().filter(|w| **w > 0.0).count();
        require(
            counting >= 2,
            "number of class weights above zero",
            counting,
            "at least 2",
        )
    }

    /// Checks that there is a weight for each of `classes` classes.
    ///
    /// # Errors
    /// [`SolverError::Config`].
    pub(crate) fn check_count(&self, classes: usize) -> Result<(), SolverError> {
        let ClassWeight::Given(weights_k) = self else {
            return Ok(());
        };
        let count = weights_k.len();
        require(
            count == classes,
            "number of class weights",
            format!("{count} for {classes} classes"),
            "one for each class",
        )
    }

    /// The weights for the training rows `train` of some labelled rows, `[K]`; none where every
    /// row counts the same.
    pub(crate) fn of(
        &self,
        labels_n: &[u32],
        train: &[u32],
        classes: usize,
    ) -> Result<Option<Vec<f64>>, SolverError> {
        match self {
            ClassWeight::None => Ok(None),
            ClassWeight::Balanced => {
                let mut counts = vec![0_u32; classes];
                for &row in train {
                    counts[labels_n[row as usize] as usize] += 1;
                }
                let share = train.len() as f64 / classes as f64;
                let weights = counts.into_iter().map(|n| share / f64::from(n.max(1)));
                Ok(Some(weights.collect()))
            }
            ClassWeight::Given(weights_k) => {
                self.check_count(classes)?;
                let mut seen_k = vec![false; classes];
                for &row in train {
                    let label = labels_n[row as usize] as usize;
                    seen_k[label] = weights_k[label] > 0.0;
                }
                let counting = seen_k.into_iter().filter(|seen| *seen).count();
                require(
                    counting >= 2,
                    "number of classes with training images and a weight above zero",
                    counting,
                    "at least 2",
                )?;
                Ok(Some(weights_k.clone()))
            }
        }
    }
}

impl std::str::FromStr for ClassWeight {
    type Err = String;

    /// `none`, `balanced` or numbers with commas between them, one a class.
    fn from_str(text: &str) -> Result<ClassWeight, String> {
        match text {
            "none" => Ok(ClassWeight::None),
            "balanced" => Ok(ClassWeight::Balanced),
            _ => {
                let numbers: Result<Vec<f64>, _> =
                    text.split(',').map(|w| w.trim().parse()).collect();
                let weight = numbers.map(ClassWeight::Given).ok();
                weight
                    .filter(|weight| weight.check().is_ok())
                    .ok_or_else(|| {
                        "expected `none`, `balanced` or a number for each class, such as 1,2.5: zero or \
                         from 1e-6 to 1e6, and two of them above zero"
                            .to_owned()
                    })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let labels = [0, 1, 1, 1, 0];
        let of = |text: &str| {
            let weights = text.parse::<ClassWeight>().unwrap();
            weights.of(&labels, &[0, 1, 2, 3], 2)
        };
        assert_eq!(of("none").unwrap(), None);
        assert_eq!(of("balanced").unwrap(), Some(vec![2.0, 4.0 / 6.0]));
        assert_eq!(of("1, 2.5").unwrap(), Some(vec![1.0, 2.5]));
        assert!(
            of("1,1,1")
                .unwrap_err()
                .to_string()
                .contains("one for each class")
        );
        for text in [
            "", "1,-1", "1,nan", "1,inf", "even", "0,0", "1,0", "0", "1,1e300", "1,1e-300",
        ] {
            assert!(text.parse::<ClassWeight>().is_err(), "{text}");
        }
        for weights_k in [vec![0.0; 3], vec![1.0, 1e300], vec![1.0, f64::NAN], vec![]] {
            assert!(ClassWeight::Given(weights_k).check().is_err());
        }
    }

    #[test]
    fn two_classes_must_count() {
        // Class 2 has no training row.
        let of = |text: &str| {
            let weights: ClassWeight = text.parse().unwrap();
            weights.of(&[0, 1, 2, 2], &[0, 1], 3)
        };
        assert_eq!(of("1,2,0").unwrap(), Some(vec![1.0, 2.0, 0.0]));
        let error = of("0,1,1").unwrap_err().to_string();
        assert_eq!(
            error,
            "number of classes with training images and a weight above zero is 1, expected at \
             least 2"
        );
        let weights: ClassWeight = "1,1".parse().unwrap();
        assert!(weights.check_count(2).is_ok() && ClassWeight::None.check_count(9).is_ok());
        let error = weights.check_count(3).unwrap_err().to_string();
        assert_eq!(
            error,
            "number of class weights is 2 for 3 classes, expected one for each class"
        );
    }
}
