//! What a solver is given: features, labels, and which rows are for training and validation.

use crate::head::outputs_for;
use crate::matrix::Rows;
use crate::standardize::Standardizer;

/// Features and labels of N rows and the rows of two sides of the split, all borrowed. A training
/// image may have several rows, its views.
///
/// List the rows in an order that depends on the index alone (by id, say): batches follow it.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a> {
    pub(super) rows: Rows<'a>,
    pub(super) labels_n: &'a [u32],
    pub(super) classes: usize,
    pub(super) train: &'a [u32],
    pub(super) train_starts: Option<&'a [u32]>,
    pub(super) validation: &'a [u32],
    pub(super) class_weights_k: Option<&'a [f64]>,
    pub(super) standardizer: Option<&'a Standardizer>,
    pub(super) moments: Option<&'a Standardizer>,
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
    /// A label is that of no class.
    #[error("row {row} has label {label}, but there are {classes} classes")]
    Label {
        /// The row.
        row: u32,
        /// Its label.
        label: u32,
        /// Classes.
        classes: usize,
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
    #[error("all training images are of class {label} (hint: check the split)")]
    OneClass {
        /// Their label.
        label: u32,
    },
    /// The training rows are not grouped by images.
    #[error("the rows of training image {image} are none, out of order or of two labels")]
    Group {
        /// Number of the image on the training side.
        image: usize,
    },
}

impl<'a> Problem<'a> {
    /// Checks and keeps the parts.
    ///
    /// `labels_n` holds every row's label, `[N]`, below `classes`; `train` and `validation` list
    /// row numbers. Only listed rows are checked. `validation` may be empty.
    ///
    /// # Errors
    /// See [`ProblemError`].
    pub fn new(
        rows: Rows<'a>,
        labels_n: &'a [u32],
        classes: usize,
        train: &'a [u32],
        validation: &'a [u32],
    ) -> Result<Problem<'a>, ProblemError> {
        let problem = Problem {
            rows,
            labels_n,
            classes,
            train,
            train_starts: None,
            validation,
            class_weights_k: None,
            standardizer: None,
            moments: None,
        };
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
            if label as usize >= classes {
                return Err(ProblemError::Label {
                    row,
                    label,
                    classes,
                });
            }
            if !rows.is_finite(row) {
                return Err(ProblemError::NotFinite { row });
            }
        }
        let &first = train.first().ok_or(ProblemError::NoTrainingRows)?;
        let label = problem.label(first);
        if train.iter().all(|&row| problem.label(row) == label) {
            return Err(ProblemError::OneClass { label });
        }
        Ok(problem)
    }

    /// Says which training rows are views of one image: those of image `i` are `starts[i]` to
    /// `starts[i + 1]` (excluded) of the listed ones.
    ///
    /// # Errors
    /// [`ProblemError::Group`] unless every listed row belongs to an image, and all of an image
    /// have one label.
    pub fn with_views(mut self, starts: &'a [u32]) -> Result<Problem<'a>, ProblemError> {
        let images = starts.len().saturating_sub(1);
        for image in 0..images {
            let (start, end) = (starts[image] as usize, starts[image + 1] as usize);
            let rows = self.train.get(start..end).unwrap_or_default();
            let joins = start == 0 || image > 0;
            let one_label = rows
                .iter()
                .all(|row| self.label(*row) == self.label(rows[0]));
            if rows.is_empty() || !joins || !one_label {
                return Err(ProblemError::Group { image });
            }
        }
        if starts.last().map(|end| *end as usize) != Some(self.train.len()) {
            return Err(ProblemError::Group { image: images });
        }
        // Where every row is an image, there is nothing to choose from.
        self.train_starts = (images < self.train.len()).then_some(starts);
        Ok(self)
    }

    /// Brings the moments of the training rows, [`Standardizer::fit`] of [`Problem::rows`] and
    /// [`Problem::train`], so that several fits on the same rows need not each measure them. The
    /// results are the same to the last bit. Features are standardised only if a fit's
    /// configuration says so.
    ///
    /// # Panics
    /// When they are of another number of channels.
    pub fn with_moments(mut self, moments: &'a Standardizer) -> Problem<'a> {
        let channels = self.rows.channels();
        assert_eq!(moments.mean().len(), channels, "moments of these channels");
        self.moments = Some(moments);
        self
    }

    /// The moments of the training rows: those brought, those that the features are standardised
    /// by, or, measured now, `measured`.
    pub(super) fn moments_or_measure<'b>(
        &self,
        measured: &'b mut Option<Standardizer>,
    ) -> &'b Standardizer
    where
        'a: 'b,
    {
        match self.standardizer.or(self.moments) {
            Some(moments) => moments,
            None => measured.insert(Standardizer::fit(self.rows, self.train)),
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

    /// The label of one row, below K.
    pub fn label(&self, row: u32) -> u32 {
        self.labels_n[row as usize]
    }

    /// Number of classes, K.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Outputs of a head for them, O.
    pub fn outputs(&self) -> usize {
        outputs_for(self.classes)
    }

    /// What each class's losses are multiplied by in training, `[K]`; none for 1.
    pub fn class_weights(&self) -> Option<&'a [f64]> {
        self.class_weights_k
    }

    /// What a solver shall see the features through; none for as they are.
    pub fn standardizer(&self) -> Option<&'a Standardizer> {
        self.standardizer
    }

    /// Copies a row as a solver shall see it, `[C]`.
    pub(super) fn copy_row(&self, row: u32, to: &mut [f32]) {
        match self.standardizer {
            Some(standardizer) => standardizer.apply(self.rows.row(row), to),
            None => to.copy_from_slice(self.rows.row(row)),
        }
    }

    /// Row numbers of the training side, all views of an image one after the other.
    pub fn train(&self) -> &'a [u32] {
        self.train
    }

    /// Where each image's rows begin among them, and the end of the last one's; none if every row
    /// is an image.
    pub fn train_starts(&self) -> Option<&'a [u32]> {
        self.train_starts
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
            Problem::new(rows, labels, 2, train, validation).err()
        };
        use ProblemError::*;
        assert_eq!(check(&[0, 1, 0, 1], &[0, 1], &[3]), None);
        assert_eq!(check(&[0, 1, 0, 1], &[0, 1], &[]), None);
        assert_eq!(check(&[0], &[0], &[]), Some(Count { rows: 4, labels: 1 }));
        let missing = Some(NoSuchRow { row: 4, rows: 4 });
        assert_eq!(check(&[0, 1, 0, 1], &[0, 1], &[4]), missing);
        let label = Some(Label {
            row: 1,
            label: 2,
            classes: 2,
        });
        assert_eq!(check(&[0, 2, 0, 1], &[0, 1], &[]), label);
        assert_eq!(
            check(&[0, 1, 0, 1], &[0, 1, 2], &[]),
            Some(NotFinite { row: 2 })
        );
        assert_eq!(check(&[0, 1, 0, 1], &[], &[0]), Some(NoTrainingRows));
        let one_class = Some(OneClass { label: 1 });
        assert_eq!(check(&[0, 1, 0, 1], &[1, 3], &[0]), one_class);
    }

    #[test]
    fn views_are_grouped_by_image() {
        let values = [0.0, 1.0, 2.0, 3.0, 4.0];
        let rows = Rows::new(&values, 1).unwrap();
        let labels = [0, 0, 1, 1, 1];
        let problem = Problem::new(rows, &labels, 2, &[0, 1, 2, 3, 4], &[]).unwrap();
        let check = |starts: &[u32]| problem.with_views(starts).err();
        assert_eq!(check(&[0, 2, 5]), None);
        assert_eq!(check(&[0, 1, 2, 3, 4, 5]), None);
        for (starts, image) in [
            (&[][..], 0),
            (&[0], 0),
            (&[1, 2, 5], 0),
            (&[0, 3, 5], 0),
            (&[0, 2, 2, 5], 1),
            (&[0, 2, 1, 5], 1),
            (&[0, 2, 4], 2),
            (&[0, 2, 6], 1),
        ] {
            assert_eq!(
                check(starts),
                Some(ProblemError::Group { image }),
                "{starts:?}"
            );
        }
    }
}
