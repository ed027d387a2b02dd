//! Which class was taken for which, and the shares that follow from those counts alone.
//!
//! Knows nothing of scores: what a threshold or an argmax made of them comes in as a class. Counts
//! are integers, so every share here is one rounded division.

use serde::{Deserialize, Serialize};

/// How often each class was taken for each.
///
/// A row is a true class and a column a predicted one, as in scikit-learn's `confusion_matrix`.
/// In a file it is the nested array of its rows: `[[true negatives, false positives], [false
/// negatives, true positives]]` for two classes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Vec<u64>>", into = "Vec<Vec<u64>>")]
pub struct ConfusionMatrix {
    classes: usize,
    counts_kk: Vec<u64>, // [true class, predicted class]
}

/// A nested array that is no confusion matrix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfusionError {
    /// Rows and columns are not the same classes.
    #[error("confusion matrix has {rows} rows and one of {columns} columns, expected a square")]
    NotSquare {
        /// Number of rows.
        rows: usize,
        /// Length of the first row that is of another length; zero where there is no row at all.
        columns: usize,
    },
    /// The counts add up to no 64-bit number.
    #[error("confusion matrix counts more than 2^64 images")]
    Overflow,
}

impl ConfusionMatrix {
    /// A matrix of nothing counted yet.
    ///
    /// # Panics
    /// When there is no class.
    pub fn new(classes: usize) -> ConfusionMatrix {
        assert!(classes > 0, "a confusion matrix needs a class");
        ConfusionMatrix {
            classes,
            counts_kk: vec![0; classes * classes],
        }
    }

    /// Counts each row's label against the class predicted for it.
    ///
    /// # Panics
    /// When the two slices differ in length or name a class that does not exist.
    pub fn of(labels: &[u32], predicted: &[u32], classes: usize) -> ConfusionMatrix {
        assert_eq!(
            labels.len(),
            predicted.len(),
            "one prediction for each label"
        );
        let mut matrix = ConfusionMatrix::new(classes);
        for (&label, &predicted) in labels.iter().zip(predicted) {
            matrix.count(label, predicted);
        }
        matrix
    }

    /// Counts one image.
    ///
    /// # Panics
    /// When one of the classes does not exist.
    pub fn count(&mut self, label: u32, predicted: u32) {
        let at = self.position(label as usize, predicted as usize);
        self.counts_kk[at] += 1;
    }

    fn position(&self, label: usize, predicted: usize) -> usize {
        let classes = self.classes;
        assert!(
            label < classes && predicted < classes,
            "class {label} or {predicted} is not one of {classes}"
        );
        label * classes + predicted
    }

    /// Number of classes, K.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Images of class `label` that were said to be of class `predicted`.
    ///
    /// # Panics
    /// When one of the classes does not exist, as for every method that takes one.
    pub fn at(&self, label: usize, predicted: usize) -> u64 {
        self.counts_kk[self.position(label, predicted)]
    }

    /// Number of images.
    pub fn total(&self) -> u64 {
        self.counts_kk.iter().sum()
    }

    /// Number of images whose class was right.
    pub fn correct(&self) -> u64 {
        (0..self.classes).map(|class| self.at(class, class)).sum()
    }

    /// Number of images of `class`.
    pub fn support(&self, class: usize) -> u64 {
        (0..self.classes).map(|other| self.at(class, other)).sum()
    }

    /// Number of images said to be of `class`.
    pub fn predicted_as(&self, class: usize) -> u64 {
        (0..self.classes).map(|other| self.at(other, class)).sum()
    }

    /// Share of images whose class was right (`accuracy_score`); none for no images at all.
    pub fn accuracy(&self) -> Option<f64> {
        share(self.correct(), self.total())
    }

    /// Mean recall over the classes that occur (`balanced_accuracy_score`); none if none does.
    pub fn balanced_accuracy(&self) -> Option<f64> {
        mean_of_defined((0..self.classes).map(|class| self.recall(class)))
    }

    /// Of the images said to be of `class`, the share that is; none if nothing was.
    ///
    /// Where this is none, scikit-learn's `precision_score` warns and says 0.
    pub fn precision(&self, class: usize) -> Option<f64> {
        share(self.at(class, class), self.predicted_as(class))
    }

    /// Of the images of `class`, the share said to be; none if there are none.
    ///
    /// Where this is none, scikit-learn's `recall_score` warns and says 0.
    pub fn recall(&self, class: usize) -> Option<f64> {
        share(self.at(class, class), self.support(class))
    }

    /// Harmonic mean of precision and recall, as 2 hits / (images of `class` + images said to
    /// be): 0 where either is 0 or undefined, and none where both are undefined, which is a class
    /// that neither occurs nor was predicted.
    pub fn f1(&self, class: usize) -> Option<f64> {
        let (support, predicted) = (self.support(class), self.predicted_as(class));
        (support > 0 || predicted > 0)
            .then(|| 2.0 * self.at(class, class) as f64 / (support as f64 + predicted as f64))
    }

    /// Mean F1 over the classes that occur or were predicted (`f1_score` with `average="macro"`);
    /// none if there is none.
    pub fn macro_f1(&self) -> Option<f64> {
        mean_of_defined((0..self.classes).map(|class| self.f1(class)))
    }
}

impl TryFrom<Vec<Vec<u64>>> for ConfusionMatrix {
    type Error = ConfusionError;

    fn try_from(rows: Vec<Vec<u64>>) -> Result<ConfusionMatrix, ConfusionError> {
        let classes = rows.len();
        let mut lengths = rows.iter().map(Vec::len);
        let odd = lengths.find(|&columns| columns != classes);
        if let Some(columns) = odd.or((classes == 0).then_some(0)) {
            return Err(ConfusionError::NotSquare {
                rows: classes,
                columns,
            });
        }
        let counts_kk = rows.concat();
        counts_kk
            .iter()
            .try_fold(0_u64, |sum, &count| sum.checked_add(count))
            .ok_or(ConfusionError::Overflow)?;
        Ok(ConfusionMatrix { classes, counts_kk })
    }
}

impl From<ConfusionMatrix> for Vec<Vec<u64>> {
    fn from(matrix: ConfusionMatrix) -> Vec<Vec<u64>> {
        let rows = matrix.counts_kk.chunks(matrix.classes);
        rows.map(<[u64]>::to_vec).collect()
    }
}

/// part / whole, unless the whole is nothing.
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Mean of the values that are defined, summed in order; none if none is.
pub(super) fn mean_of_defined(values: impl IntoIterator<Item = Option<f64>>) -> Option<f64> {
    let (mut sum, mut count) = (0.0_f64, 0_u64);
    for value in values.into_iter().flatten() {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matrix(json: &str) -> ConfusionMatrix {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn two_classes_by_hand() {
        let labels = [1, 0, 0, 1, 1, 1];
        let predicted = [1, 0, 1, 0, 0, 1];
        let found = ConfusionMatrix::of(&labels, &predicted, 2);
        assert_eq!(serde_json::to_string(&found).unwrap(), "[[1,1],[2,2]]");
        assert_eq!(found, matrix("[[1,1],[2,2]]"));
        assert_eq!((found.total(), found.correct()), (6, 3));
        assert_eq!((found.support(1), found.predicted_as(1)), (4, 3));
        assert_eq!(found.accuracy(), Some(0.5));
        assert_eq!(found.balanced_accuracy(), Some(0.5));
        assert_eq!(found.precision(1), Some(2.0 / 3.0));
        assert_eq!(found.recall(1), Some(0.5));
        assert_eq!(found.f1(1), Some(4.0 / 7.0));
        assert_eq!(found.f1(0), Some(2.0 / 5.0));
        assert_eq!(found.macro_f1(), Some((2.0 / 5.0 + 4.0 / 7.0) / 2.0));
    }

    #[test]
    fn four_classes_by_hand() {
        // Class 2 is never predicted, class 3 never occurs and is predicted once.
        let found = matrix("[[3,1,0,0],[0,1,0,1],[1,1,0,0],[0,0,0,0]]");
        assert_eq!(found.accuracy(), Some(0.5));
        assert_eq!(found.balanced_accuracy(), Some((0.75 + 0.5 + 0.0) / 3.0));
        assert_eq!(found.precision(0), Some(0.75));
        assert_eq!(found.precision(1), Some(1.0 / 3.0));
        assert_eq!(found.precision(2), None);
        assert_eq!(found.recall(3), None);
        assert_eq!(found.f1(0), Some(0.75));
        assert_eq!(found.f1(1), Some(0.4));
        assert_eq!(found.f1(2), Some(0.0));
        assert_eq!(found.f1(3), Some(0.0));
        assert_eq!(found.macro_f1(), Some((0.75 + 0.4) / 4.0));
    }

    #[test]
    fn what_nothing_was_counted_for_is_undefined() {
        let empty = ConfusionMatrix::of(&[], &[], 3);
        assert_eq!(empty.total(), 0);
        assert_eq!(empty.accuracy(), None);
        assert_eq!(empty.balanced_accuracy(), None);
        assert_eq!(empty.macro_f1(), None);
        // A class that neither occurs nor is predicted has no F1 and is in no mean.
        let one = ConfusionMatrix::of(&[1, 1], &[1, 1], 3);
        assert_eq!(one.f1(2), None);
        assert_eq!(one.macro_f1(), Some(1.0));
        assert_eq!(one.balanced_accuracy(), Some(1.0));
    }

    #[test]
    fn what_is_no_matrix_is_refused() {
        let reason = |json| {
            let error = serde_json::from_str::<ConfusionMatrix>(json).unwrap_err();
            error.to_string()
        };
        assert!(reason("[]").contains("0 rows"));
        assert!(reason("[[1,2],[3]]").contains("2 rows and one of 1 columns"));
        assert!(reason("[[1,2,3],[3,4,5]]").contains("2 rows and one of 3 columns"));
        assert!(reason("[[18446744073709551615,1],[0,0]]").contains("more than 2^64"));
    }

    #[test]
    #[should_panic(expected = "class 0 or 2 is not one of 2")]
    fn a_class_that_is_not_there_is_refused() {
        // Unchecked, it would count as class 0 said for class 1.
        ConfusionMatrix::new(2).count(0, 2);
    }

    proptest! {
        #[test]
        fn shares_are_shares(
            classes in 1..6_u32,
            pairs in proptest::collection::vec((0..6_u32, 0..6_u32), 0..60),
        ) {
            let (labels, predicted): (Vec<u32>, Vec<u32>) =
                pairs.iter().map(|(y, p)| (y % classes, p % classes)).unzip();
            let k = classes as usize;
            let found = ConfusionMatrix::of(&labels, &predicted, k);
            let n = labels.len() as u64;
            prop_assert_eq!(found.total(), n);
            prop_assert_eq!((0..k).map(|c| found.support(c)).sum::<u64>(), n);
            prop_assert_eq!((0..k).map(|c| found.predicted_as(c)).sum::<u64>(), n);
            prop_assert_eq!(found.accuracy().is_some(), n > 0);

            // True and predicted change places: so do precision and recall, and F1 stays.
            let other = ConfusionMatrix::of(&predicted, &labels, k);
            for c in 0..k {
                prop_assert_eq!(found.precision(c), other.recall(c));
                prop_assert_eq!(found.f1(c), other.f1(c));
                if let (Some(p), Some(r)) = (found.precision(c), found.recall(c)) {
                    let harmonic = if p + r > 0.0 { 2.0 * p * r / (p + r) } else { 0.0 };
                    prop_assert!((found.f1(c).unwrap() - harmonic).abs() < 1e-15);
                }
            }
            prop_assert_eq!(found.accuracy(), other.accuracy());
            prop_assert_eq!(found.macro_f1(), other.macro_f1());
            let json = serde_json::to_string(&found).unwrap();
            prop_assert_eq!(matrix(&json), found);
        }
    }
}
