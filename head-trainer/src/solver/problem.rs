//! What a solver is given: features, labels, and which rows are for training and validation.

use crate::matrix::Rows;

/// Features and labels of N images and the rows of two sides of the split, all borrowed.
///
/// List the rows in an order that depends on the index alone (by id, say): batches follow it.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a> {
    rows: Rows<'a>,
    labels_n: &'a [u32],
    train: &'a [u32],
    validation: &'a [u32],
}

/// Why the data is no problem that a solver takes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProblemError {
    /// Features and labels do not belong together.
    #[error("{rows} rows of features have {labels} labels")]
    Count {
        /// Rows of features.
        rows: usize,
        /// Labels.
        labels: usize,
    },
    /// A listed row does not exist.
    #[error("row {row} is listed, but there are {rows} rows")]
    NoSuchRow {
        /// The row.
        row: u32,
        /// Rows of features.
        rows: usize,
    },
    /// A label is neither 0 nor 1.
    #[error(
        "row {row} has label {label}; a head tells two classes apart, 0 and 1 \
         (hint: choose a data set with two classes)"
    )]
    Label {
        /// The row.
        row: u32,
        /// Its label.
        label: u32,
    },
    /// A feature is infinite or not a number.
    #[error("row {row} has a feature that is no finite number (hint: verify the feature store)")]
    NotFinite {
        /// The row.
        row: u32,
    },
    /// There is nothing to learn from.
    #[error("the training side has no images (hint: check the split)")]
    NoTrainingRows,
    /// There is nothing to tell apart.
    #[error("all {count} training images are of class {label} (hint: check the split)")]
    OneClass {
        /// Training rows.
        count: usize,
        /// Their label.
        label: u32,
    },
}

impl<'a> Problem<'a> {
    /// Checks and keeps the parts.
    ///
    /// `labels_n` holds every row's label, `[N]`, 0 or 1; `train` and `validation` list row
    /// numbers. Only listed rows are checked. `validation` may be empty.
    ///
    /// # Errors
    /// See [`ProblemError`].
    pub fn new(
        rows: Rows<'a>,
        labels_n: &'a [u32],
        train: &'a [u32],
        validation: &'a [u32],
    ) -> Result<Problem<'a>, ProblemError> {
        let problem = Problem::checked(rows, labels_n, train, validation);
        if rows.count() != labels_n.len() {
            return Err(ProblemError::Count {
                rows: rows.count(),
                labels: labels_n.len(),
            });
        }
        for &row in train.iter().chain(validation) {
            let Some(&label) = labels_n.get(row as usize) else {
                return Err(ProblemError::NoSuchRow {
                    row,
                    rows: rows.count(),
                });
            };
            if label > 1 {
                return Err(ProblemError::Label { row, label });
            }
            if !rows.is_finite(row) {
                return Err(ProblemError::NotFinite { row });
            }
        }
        let &first = train.first().ok_or(ProblemError::NoTrainingRows)?;
        let label = problem.label(first);
        if train.iter().all(|&row| problem.label(row) == label) {
            return Err(ProblemError::OneClass {
                count: train.len(),
                label,
            });
        }
        Ok(problem)
    }

    /// Keeps parts that are known to be fine.
    pub(super) fn checked(
        rows: Rows<'a>,
        labels_n: &'a [u32],
        train: &'a [u32],
        validation: &'a [u32],
    ) -> Problem<'a> {
        Problem {
            rows,
            labels_n,
            train,
            validation,
        }
    }

    /// The features, `[N, C]`.
    pub fn rows(&self) -> Rows<'a> {
        self.rows
    }

    /// Every row's label, `[N]`.
    pub fn labels(&self) -> &'a [u32] {
        self.labels_n
    }

    /// The label of one row, 0 or 1.
    pub fn label(&self, row: u32) -> u32 {
        self.labels_n[row as usize]
    }

    /// Row numbers of the training side.
    pub fn train(&self) -> &'a [u32] {
        self.train
    }

    /// Row numbers of the validation side.
    pub fn validation(&self) -> &'a [u32] {
        self.validation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_its_name() {
        let values = [0.0, 1.0, f32::NAN, 3.0];
        let rows = Rows::new(&values, 1).unwrap();
        let check = |labels: &[u32], train: &[u32], validation: &[u32]| {
            Problem::new(rows, labels, train, validation).err()
        };
        use ProblemError::*;
        assert_eq!(check(&[0, 1, 0, 1], &[0, 1], &[3]), None);
        assert_eq!(check(&[0, 1, 0, 1], &[0, 1], &[]), None);
        assert_eq!(check(&[0], &[0], &[]), Some(Count { rows: 4, labels: 1 }));
        let missing = Some(NoSuchRow { row: 4, rows: 4 });
        assert_eq!(check(&[0, 1, 0, 1], &[0, 1], &[4]), missing);
        let label = Some(Label { row: 1, label: 2 });
        assert_eq!(check(&[0, 2, 0, 1], &[0, 1], &[]), label);
        assert_eq!(
            check(&[0, 1, 0, 1], &[0, 1, 2], &[]),
            Some(NotFinite { row: 2 })
        );
        assert_eq!(check(&[0, 1, 0, 1], &[], &[0]), Some(NoTrainingRows));
        let one_class = Some(OneClass { count: 2, label: 1 });
        assert_eq!(check(&[0, 1, 0, 1], &[1, 3], &[0]), one_class);
    }
}
