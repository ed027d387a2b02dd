//! Where candidates are trained and judged: folds of the training side, or its validation side
//! with several seeds.
//!
//! Folds are dealt by what an image is, not by its place in a list: the images of each class in the
//! order of a hash of (seed, id), one class after the other, in turn. Stores of the same images so
//! have the same folds, whatever else is in them. The hash has a domain of its own, so that it has
//! nothing to do with the one that splits go by.

use extractor::digest::ImageId;
use sha2::{Digest as _, Sha256};

use super::SweepError;

/// Opens every hash; a change makes all folds other ones.
const DOMAIN: &[u8] = b"headstart folds v1";

/// Rows to train on and rows to judge by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Training rows, all views of an image one after the other.
    pub train: Vec<u32>,
    /// Where each image's rows begin among those, and the end of the last one's.
    pub starts: Vec<u32>,
    /// Rows to judge by, an image's own.
    pub validation: Vec<u32>,
    /// The seed of solvers that draw random numbers; none: the candidate's own.
    pub seed: Option<u64>,
}

/// The training side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainSide {
    /// Each image's own row (`identity`), by which it is judged. It need not be trained on.
    pub images: Vec<u32>,
    /// Rows to train on, all views of an image one after the other, image by image.
    pub rows: Vec<u32>,
    /// Where each image's rows begin among those, and the end of the last one's.
    pub starts: Vec<u32>,
}

impl TrainSide {
    /// One row an image.
    pub fn of_images(images: Vec<u32>) -> TrainSide {
        TrainSide {
            starts: (0..=images.len() as u32).collect(),
            rows: images.clone(),
            images,
        }
    }

    /// The images that `keep` says yes to, given their number on this side.
    pub fn filtered(&self, keep: impl Fn(usize) -> bool) -> TrainSide {
        let mut side = TrainSide {
            images: Vec::new(),
            rows: Vec::new(),
            starts: vec![0],
        };
        for (number, &image) in self.images.iter().enumerate().filter(|(i, _)| keep(*i)) {
            let (start, end) = (self.starts[number], self.starts[number + 1]);
            side.images.push(image);
            side.rows.extend(&self.rows[start as usize..end as usize]);
            side.starts.push(side.rows.len() as u32);
        }
        side
    }
}

/// What candidates are judged on. Parts are made when they are asked for, so that a thousand of
/// them take the memory of those in use.
#[derive(Clone, Debug)]
pub struct Parts {
    side: TrainSide,
    judged_by: JudgedBy,
}

#[derive(Clone, Debug)]
enum JudgedBy {
    /// The fold of each training image.
    Folds(Vec<u32>, usize),
    /// Validation rows, and the seed of each training.
    Validation(Vec<u32>, Vec<u64>),
}

impl Parts {
    /// A part a fold: each image is judged once, by heads that saw neither it nor any of its views.
    /// `fold_n` is the fold of each image of the side ([`folds`]), below `count`.
    ///
    /// # Errors
    /// [`SweepError`] if a fold has no image to judge by.
    ///
    /// # Panics
    /// When there are more or fewer folds than images.
    pub fn of_folds(side: TrainSide, fold_n: Vec<u32>, count: usize) -> Result<Parts, SweepError> {
        assert_eq!(fold_n.len(), side.images.len(), "a fold for each image");
        let is_empty = |fold: &usize| !fold_n.contains(&(*fold as u32));
        if let Some(empty) = (0..count).find(is_empty) {
            return Err(SweepError::Empty { part: empty + 1 });
        }
        Ok(Parts {
            side,
            judged_by: JudgedBy::Folds(fold_n, count),
        })
    }

    /// A part a seed, each trained on the whole side and judged by the `validation` rows.
    ///
    /// # Errors
    /// [`SweepError`] if there is nothing to judge by.
    pub fn of_seeds(
        side: TrainSide,
        validation: Vec<u32>,
        seeds: Vec<u64>,
    ) -> Result<Parts, SweepError> {
        if validation.is_empty() {
            return Err(SweepError::NoValidation);
        }
        Ok(Parts {
            side,
            judged_by: JudgedBy::Validation(validation, seeds),
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match &self.judged_by {
            JudgedBy::Folds(_, count) => *count,
            JudgedBy::Validation(_, seeds) => seeds.len(),
        }
    }

    /// How many there are that differ in more than their seed.
    pub(super) fn distinct(&self) -> usize {
        match &self.judged_by {
            JudgedBy::Folds(_, count) => *count,
            JudgedBy::Validation(_, seeds) => seeds.len().min(1),
        }
    }

    /// Number `number`, from 0.
    pub fn part(&self, number: usize) -> Part {
        match &self.judged_by {
            JudgedBy::Folds(fold_n, _) => {
                let inside = |image: usize| fold_n[image] as usize == number;
                let train = self.side.filtered(|image| !inside(image));
                let images = self.side.images.iter().enumerate();
                Part {
                    train: train.rows,
                    starts: train.starts,
                    validation: images
                        .filter(|(i, _)| inside(*i))
                        .map(|(_, r)| *r)
                        .collect(),
                    seed: None,
                }
            }
            JudgedBy::Validation(validation, seeds) => Part {
                train: self.side.rows.clone(),
                starts: self.side.starts.clone(),
                validation: validation.clone(),
                seed: Some(seeds[number]),
            },
        }
    }
}

/// The fold of each image, `[N]`, below `count`: see the file's header. They have the same shares
/// of the classes, and sizes that differ by one at most, in all and in each class. The order of the
/// images does not matter.
///
/// # Panics
/// When there are fewer than two folds.
pub fn folds(ids_n: &[ImageId], labels_n: &[u32], count: usize, seed: u64) -> Vec<u32> {
    assert!(count >= 2, "two folds or more");
    let hash = |id: &ImageId| -> [u8; 32] {
        Sha256::new()
            .chain_update(DOMAIN)
            .chain_update(seed.to_le_bytes())
            .chain_update(id.0)
            .finalize()
            .into()
    };
    let images = ids_n.iter().zip(labels_n).enumerate();
    let mut order: Vec<(u32, [u8; 32], usize)> = images
        .map(|(image, (id, &label))| (label, hash(id), image))
        .collect();
    order.sort_unstable();
    let mut fold_n = vec![0; ids_n.len()];
    for (turn, (.., image)) in order.into_iter().enumerate() {
        fold_n[image] = (turn % count) as u32;
    }
    fold_n
}

#[cfg(test)]
mod tests {
    use extractor::digest::Digest;

    use super::*;

    /// 23 images; image i has 1 + i % 3 rows, none of which is its own for every fifth image, whose
    /// own rows come last; every fourth is of class 1.
    fn side() -> (TrainSide, Vec<ImageId>, Vec<u32>) {
        let mut side = TrainSide {
            images: vec![],
            rows: vec![],
            starts: vec![0],
        };
        for image in 0..23_u32 {
            let first = side.rows.len() as u32;
            side.images
                .push(if image % 5 == 0 { 100 + image } else { first });
            side.rows.extend(first..=first + image % 3);
            side.starts.push(side.rows.len() as u32);
        }
        let ids = (0..23_u8).map(|i| Digest::of(&[i])).collect();
        let labels = (0..23).map(|i| u32::from(i % 4 == 0)).collect();
        (side, ids, labels)
    }

    #[test]
    fn every_image_is_judged_once_and_never_seen() {
        let (side, ids, labels) = side();
        let fold_n = folds(&ids, &labels, 5, 7);
        let parts = Parts::of_folds(side.clone(), fold_n, 5).unwrap();
        assert_eq!((parts.count(), parts.distinct()), (5, 5));
        let parts: Vec<Part> = (0..5).map(|i| parts.part(i)).collect();
        let mut judged: Vec<u32> = parts.iter().flat_map(|p| p.validation.clone()).collect();
        judged.sort_unstable();
        let mut own = side.images.clone();
        own.sort_unstable();
        assert_eq!(judged, own);
        for part in &parts {
            assert!((4..=5).contains(&part.validation.len()));
            assert_eq!(part.starts.len() - 1 + part.validation.len(), 23);
            assert_eq!(*part.starts.last().unwrap() as usize, part.train.len());
            let mut of_one = 0;
            for row in &part.validation {
                let image = side.images.iter().position(|own| own == row).unwrap();
                let views = side.starts[image]..side.starts[image + 1];
                assert!(part.train.iter().all(|row| !views.contains(row)));
                of_one += labels[image];
            }
            assert!((1..=2).contains(&of_one));
        }
    }

    #[test]
    fn folds_go_with_the_image_and_the_seed() {
        let (_, ids, labels) = side();
        let fold_n = folds(&ids, &labels, 5, 7);
        let reversed = |values: &[u32]| values.iter().rev().copied().collect::<Vec<u32>>();
        let ids_back: Vec<ImageId> = ids.iter().rev().copied().collect();
        let back = folds(&ids_back, &reversed(&labels), 5, 7);
        assert_eq!(reversed(&back), fold_n);
        assert_ne!(folds(&ids, &labels, 5, 8), fold_n);
        // By a separate implementation of the file's header.
        let golden = [
            4, 0, 0, 1, 3, 3, 4, 3, 2, 4, 4, 3, 1, 1, 1, 2, 2, 2, 0, 1, 0, 2, 0,
        ];
        assert_eq!(fold_n, golden);
    }

    #[test]
    fn seeds_share_the_side() {
        let (side, ..) = side();
        let parts = Parts::of_seeds(side.clone(), vec![200, 201], vec![4, 5]).unwrap();
        assert_eq!((parts.count(), parts.distinct()), (2, 1));
        let part = parts.part(1);
        assert_eq!(
            (part.train, part.starts),
            (side.rows.clone(), side.starts.clone())
        );
        assert_eq!((part.validation, part.seed), (vec![200, 201], Some(5)));
        assert!(Parts::of_seeds(side, vec![], vec![4]).is_err());
    }

    #[test]
    fn more_folds_than_images_are_refused() {
        let side = TrainSide::of_images(vec![3, 4, 5]);
        let ids: Vec<ImageId> = (0..3_u8).map(|i| Digest::of(&[i])).collect();
        let fold_n = folds(&ids, &[0, 1, 0], 4, 0);
        let error = Parts::of_folds(side, fold_n, 4).unwrap_err();
        assert!(error.to_string().contains("fewer --folds"), "{error}");
    }
}
