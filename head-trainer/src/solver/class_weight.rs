//! What each class's losses count in training.

use serde::{Deserialize, Serialize};

use super::{Problem, SolverError, require};

/// Weights of the classes. A training loss is the mean over all rows of weight times loss, as
/// Keras's `class_weight` has it; validation and test are never weighted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeight {
    /// Every row counts the same.
    #[default]
    None,
    /// `n / (K n[k])`: each class counts the same, however many rows it has (scikit-learn's
    /// `balanced`).
    Balanced,
    /// These, `[K]`.
    Given(Vec<f64>),
}

impl ClassWeight {
    /// Whether every row counts the same.
    pub fn is_none(&self) -> bool {
        *self == ClassWeight::None
    }

    /// Checks every number.
    pub(super) fn check(&self) -> Result<(), SolverError> {
        let ClassWeight::Given(weights_k) = self else {
            return Ok(());
        };
        for weight in weights_k {
            let fine = weight.is_finite() && *weight >= 0.0;
            require(fine, "class weight", weight, "zero or a positive number")?;
        }
        Ok(())
    }

    /// Checks that there is a weight for each of `classes` classes, if there are any.
    pub(super) fn check_for(&self, classes: usize) -> Result<(), SolverError> {
        let ClassWeight::Given(weights_k) = self else {
            return Ok(());
        };
        require(
            weights_k.len() == classes,
            "number of class weights",
            weights_k.len(),
            "one for each class",
        )
    }

    /// The weights for a problem, `[K]`; none where every row counts the same.
    pub(super) fn of(&self, problem: &Problem<'_>) -> Result<Option<Vec<f64>>, SolverError> {
        let classes = problem.classes();
        match self {
            ClassWeight::None => Ok(None),
            ClassWeight::Balanced => {
                let mut counts = vec![0_u32; classes];
                for &row in problem.train() {
                    counts[problem.label(row) as usize] += 1;
                }
                let share = problem.train().len() as f64 / classes as f64;
                let weights = counts.into_iter().map(|n| share / f64::from(n.max(1)));
                Ok(Some(weights.collect()))
            }
            ClassWeight::Given(weights_k) => {
                self.check_for(classes)?;
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
                        "expected `balanced` or a number for each class, such as 1,2.5".to_owned()
                    })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::Rows;

    #[test]
    fn by_hand() {
        let values = [0.0; 5];
        let rows = Rows::new(&values, 1).unwrap();
        let labels = [0, 1, 1, 1, 0];
        let problem = Problem::new(rows, &labels, 2, &[0, 1, 2, 3], &[4]).unwrap();
        let of = |text: &str| text.parse::<ClassWeight>().unwrap().of(&problem);
        assert_eq!(of("none").unwrap(), None);
        assert_eq!(of("balanced").unwrap(), Some(vec![2.0, 4.0 / 6.0]));
        assert_eq!(of("1, 2.5").unwrap(), Some(vec![1.0, 2.5]));
        assert!(
            of("1")
                .unwrap_err()
                .to_string()
                .contains("one for each class")
        );
        for text in ["", "1,-1", "1,nan", "even"] {
            assert!(text.parse::<ClassWeight>().is_err());
        }
    }
}
