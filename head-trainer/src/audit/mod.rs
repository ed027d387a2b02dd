//! An audit of a data set from its cached features alone: labels that are probably wrong, and
//! images that look alike.
//!
//! [`neighbours`] compares all images and lists near-duplicates; [`held_out`] lets heads judge
//! images that they did not see, near-duplicates in the same fold; [`errors`] ranks the labels
//! that those judgements speak against. All images take part, on whatever side of the split they
//! are. [`report`] puts names to the numbers and writes the tables.

pub mod errors;
pub mod held_out;
pub mod neighbours;
pub mod report;

use serde::Serialize;

use self::errors::{Judged, LabelErrors};
use self::held_out::{HeldOut, Labelled, PENALTIES};
use self::neighbours::Neighbours;
use crate::solver::{ProblemError, SolverError, require};

/// Images of at least this cosine are kept in one fold, whatever similarity is asked for.
///
/// Chosen with an ImageNet MobileNetV2 at 100 px, where no two of 2,400 photos of cats and dogs reach
/// it and copies that were stored again or slightly changed mostly do.
pub const TOGETHER: f64 = 0.95;

/// Everything that decides an audit besides its data.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AuditConfig {
    /// Folds, 2 to 1,000; 5.
    pub folds: u32,
    /// Seed of the folds; 0.
    pub seed: u64,
    /// Penalty of the heads; none for the one of [`PENALTIES`] with the lowest held-out loss.
    pub l2: Option<f64>,
    /// Cosine from which on two images are near-duplicates; 0.95.
    pub similarity: f64,
}

impl Default for AuditConfig {
    fn default() -> AuditConfig {
        AuditConfig {
            folds: 5,
            seed: 0,
            l2: None,
            similarity: TOGETHER,
        }
    }
}

/// Why there is no audit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The images outside a fold cannot be trained on.
    #[error("the images outside fold {fold} cannot be trained on")]
    Fold {
        /// Its number, from 1.
        fold: usize,
        /// Why.
        source: ProblemError,
    },
    /// No image can be judged.
    #[error("no class has images in two folds (hint: an audit compares images of the same class)")]
    Alone,
    /// A number of the configuration is out of range, or the solver failed.
    #[error(transparent)]
    Solver(#[from] SolverError),
}

impl AuditConfig {
    /// Checks every number, so that a mistake shows before features are read.
    ///
    /// # Errors
    /// [`SolverError::Config`] with the first number that is out of range.
    pub fn check(&self) -> Result<(), SolverError> {
        let folds = self.folds;
        let fine = (2..=1000).contains(&self.folds);
        require(fine, "folds", folds, "a number from 2 to 1000")?;
        let l2 = self.l2.unwrap_or(0.0);
        let fine = l2.is_finite() && l2 >= 0.0;
        require(fine, "l2", l2, "zero or a positive number")?;
        let similarity = self.similarity;
        let fine = similarity > 0.0 && similarity <= 1.0;
        let range = "above 0 and at most 1";
        require(fine, "similarity", similarity, range)
    }
}

/// What an audit found.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    /// Near-duplicates.
    pub near: Neighbours,
    /// Images that were kept in one fold with others.
    pub kept_together: usize,
    /// What heads say of the images.
    pub held_out: HeldOut,
    /// The labels' audit.
    pub errors: LabelErrors,
}

/// Audits images. The result is the same for any number of threads.
///
/// # Errors
/// [`AuditError`].
pub fn audit(images: Labelled<'_>, config: &AuditConfig) -> Result<Audit, AuditError> {
    config.check()?;
    let Labelled {
        rows,
        labels_n,
        classes,
    } = images;
    // The folds are the same for any similarity that is asked for.
    let asked = config.similarity;
    let mut near = neighbours::find(rows, asked.min(TOGETHER) as f32, asked as f32);
    let folds = config.folds as usize;
    let groups_n = neighbours::groups(
        labels_n.len(),
        near.at_least(TOGETHER as f32),
        most_together(labels_n.len(), folds),
    );
    near.pairs.truncate(near.at_least(asked as f32).len());
    let fold_n = held_out::folds(labels_n, &groups_n, classes, folds, config.seed);
    let one = config.l2.map(|l2| [l2]);
    let penalties = one.as_ref().map_or(&PENALTIES[..], |l2| &l2[..]);
    let held_out = held_out::held_out(images, &fold_n, penalties)?;
    let errors = LabelErrors::find(Judged {
        images: &held_out.judged,
        probabilities_nk: &held_out.probabilities_nk,
        labels_n,
        classes,
    });
    Ok(Audit {
        near,
        kept_together: kept_together(&groups_n),
        held_out,
        errors,
    })
}

/// Images of a group at most: a quarter of a fold, so that folds stay even where a backbone finds
/// everything alike.
fn most_together(images: usize, folds: usize) -> usize {
    (images / (4 * folds)).max(2)
}

/// Images that are in a group with others.
fn kept_together(groups_n: &[u32]) -> usize {
    let mut size_n = vec![0_usize; groups_n.len()];
    for &group in groups_n {
        size_n[group as usize] += 1;
    }
    size_n.into_iter().filter(|size| *size > 1).sum()
}
