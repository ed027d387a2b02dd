//! The images that candidates are trained and judged on: those that every store has, in folds that
//! are the same for all.

use std::collections::BTreeSet;

use anyhow::ensure;
use extractor::digest::ImageId;
use extractor::files::counted;
use serde::Serialize;

use crate::dataset::Dataset;
use crate::split::Side;
use crate::sweep::SweepError;
use crate::sweep::folds::{Parts, TrainSide, folds};

/// How candidates are judged.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum JudgedOn {
    /// On folds of the training side.
    Folds {
        /// How many.
        count: u16,
        /// What an image's fold depends on besides its id.
        seed: u64,
    },
    /// On the validation side.
    Seeds {
        /// How many.
        count: u16,
        /// The first; each is one more than the one before.
        first: u64,
    },
}

impl JudgedOn {
    /// Trainings of a candidate.
    pub fn count(self) -> usize {
        let (JudgedOn::Folds { count, .. } | JudgedOn::Seeds { count, .. }) = self;
        count.into()
    }
}

impl std::fmt::Display for JudgedOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            JudgedOn::Folds { count, seed } => {
                write!(f, "{count} folds of the training side, seed {seed}")
            }
            JudgedOn::Seeds { count, first } => {
                let seeds = counted((*count).into(), "seed");
                write!(f, "the validation side, {seeds} from {first}")
            }
        }
    }
}

/// An image: id, side and label.
pub(super) type Image = (ImageId, Side, u32);

/// The images that all stores have.
pub(super) struct Images {
    /// Those.
    pub all: BTreeSet<Image>,
    union: BTreeSet<Image>,
}

impl Images {
    /// Those of the first store.
    pub fn new(images: BTreeSet<Image>) -> Images {
        Images {
            all: images.clone(),
            union: images,
        }
    }

    /// Leaves out those that another store lacks.
    pub fn restrict(&mut self, images: BTreeSet<Image>) {
        self.all.retain(|image| images.contains(image));
        self.union.extend(images);
    }

    /// How many some stores have and others lack.
    pub fn left_out(&self) -> usize {
        self.union.len() - self.all.len()
    }

    /// How many are on a side, of each of `classes` classes.
    pub fn counts(&self, side: Side, classes: usize) -> Vec<u64> {
        let mut counts = vec![0; classes];
        for (.., label) in self.all.iter().filter(|(_, on, _)| *on == side) {
            counts[*label as usize] += 1;
        }
        counts
    }
}

/// Where candidates are trained and judged in a data set, among the images that `is_common` says
/// yes to.
pub(super) fn parts(
    dataset: &Dataset,
    judged_on: JudgedOn,
    is_common: impl Fn(&ImageId) -> bool,
) -> Result<Parts, SweepError> {
    let is_common = |row: u32| is_common(&dataset.ids[row as usize]);
    let side = TrainSide {
        images: dataset.rows_on(Side::Train),
        rows: dataset.train_rows().to_vec(),
        starts: dataset.train_starts().to_vec(),
    };
    let side = side.filtered(|image| is_common(side.images[image]));
    match judged_on {
        JudgedOn::Folds { count, seed } => {
            let ids: Vec<ImageId> = side
                .images
                .iter()
                .map(|i| dataset.ids[*i as usize])
                .collect();
            let labels = side.images.iter().map(|i| dataset.labels_n[*i as usize]);
            let labels: Vec<u32> = labels.collect();
            let fold_n = folds(&ids, &labels, count.into(), seed);
            Parts::of_folds(side, fold_n, count.into())
        }
        JudgedOn::Seeds { count, first } => {
            let validation = dataset.rows_on(Side::Validation).into_iter();
            let validation = validation.filter(|row| is_common(*row)).collect();
            let seeds = (0..u64::from(count)).map(|i| first.wrapping_add(i));
            Parts::of_seeds(side, validation, seeds.collect())
        }
    }
}

/// Checks that the images that all stores have are enough to train and judge on; warns of classes
/// with fewer of them than there are folds.
pub(super) fn check_images(
    images: &Images,
    classes: &[String],
    judged_on: JudgedOn,
) -> anyhow::Result<()> {
    let counts = images.counts(Side::Train, classes.len());
    let total: u64 = counts.iter().sum();
    match judged_on {
        JudgedOn::Folds { count, seed } => {
            let train = images
                .all
                .iter()
                .filter(|(_, side, _)| *side == Side::Train);
            let (ids, labels): (Vec<ImageId>, Vec<u32>) = train.map(|i| (i.0, i.2)).unzip();
            let fold_n = folds(&ids, &labels, count.into(), seed);
            let seen = |fold: u32| -> BTreeSet<u32> {
                let outside = fold_n.iter().zip(&labels).filter(|(of, _)| **of != fold);
                outside.map(|(_, label)| *label).collect()
            };
            ensure!(
                total >= count.into() && (0..count.into()).all(|fold| seen(fold).len() >= 2),
                "{} cannot be dealt out to {count} folds so that heads see two classes outside of \
                 each (hint: fewer --folds)",
                counted(ids.len(), "training image")
            );
            let count = u64::from(count);
            let rare: Vec<&str> = (0..classes.len())
                .filter(|class| (1..count).contains(&counts[*class]))
                .map(|class| classes[class].as_str())
                .collect();
            if !rare.is_empty() {
                tracing::warn!(
                    "not in every fold, as there are fewer than {count} training images of them: \
                     {} (hint: fewer --folds)",
                    rare.join(", ")
                );
            }
        }
        JudgedOn::Seeds { .. } => {
            let validation: u64 = images.counts(Side::Validation, classes.len()).iter().sum();
            ensure!(
                total > 0 && validation > 0,
                "no images that all stores have are left to train and to judge on (hint: choose \
                 stores with --backbone, --preset, --dtype or --precision)"
            );
        }
    }
    Ok(())
}
