//! The images that take part: an index joined with a split and with the store that holds their
//! rows, be they features or pixels.
//!
//! Must not know what the rows are for.

use std::collections::{BTreeMap, BTreeSet};

use extractor::digest::{Digest, ImageId};
use extractor::index::{Entry, Index};
use extractor::store::{IDENTITY, RowRef, Store};

use super::{DatasetError, LeftOut, SplitSource};
use crate::split::file::{SplitFile, SplitFileError, SplitHeader};
use crate::split::{self, Side, SplitMode, SplitPlan};

/// Images in ascending order of their ids, with labels and sides.
#[derive(Debug)]
pub struct Joined {
    /// Digest of the index.
    pub index_digest: Digest,
    /// The split file.
    pub split: SplitFile,
    /// Names of the classes, two or more.
    pub classes: Vec<String>,
    /// Ids, ascending.
    pub ids: Vec<ImageId>,
    /// Labels, below K. The first [`Joined::ids`] ones are the images'; those of further rows, such
    /// as other views, may follow.
    pub labels_n: Vec<u32>,
    /// Sides.
    pub sides_n: Vec<Side>,
    /// What is not in it.
    pub left_out: LeftOut,
}

impl Joined {
    /// Joins `index`, `store` and a split; returns the images' rows in the store, too.
    ///
    /// # Errors
    /// [`DatasetError`], [`DatasetError::Missing`] among them where an image was never extracted.
    pub fn load(
        index: &Index,
        store: &Store,
        split: &SplitSource,
    ) -> Result<(Joined, Vec<RowRef>), DatasetError> {
        must_have_classes(index)?;
        let (mut labelled, mut left_out) = labelled(index);
        let index_digest = index.digest();
        let rejected = |entry: &Entry| store.rejected(&entry.id).is_some();
        // A split of our own depends on the index alone, so that it is the same for every store; one
        // that the user brings need not name images that cannot be trained on.
        if matches!(split, SplitSource::Given(_)) {
            let broken: BTreeSet<ImageId> = labelled
                .iter()
                .filter(|e| rejected(e))
                .map(|e| e.id)
                .collect();
            left_out.rejected = broken.len();
            labelled.retain(|entry| !broken.contains(&entry.id));
        }
        let split = resolve_split(index, &labelled, index_digest, split)?;

        let (mut ids, mut labels_n, mut sides_n) = (Vec::new(), Vec::new(), Vec::new());
        let (mut rows, mut missing): (Vec<RowRef>, usize) = (Vec::new(), 0);
        for (&id, &(label, side)) in &split.sides {
            match store.locate(&id, IDENTITY) {
                Some(row) => {
                    ids.push(id);
                    labels_n.push(label);
                    sides_n.push(side);
                    rows.push(row);
                }
                None if store.rejected(&id).is_some() => left_out.rejected += 1,
                None => missing += 1,
            }
        }
        if missing > 0 {
            return Err(DatasetError::Missing {
                missing,
                total: split.sides.len(),
                store: store.folder().to_owned(),
            });
        }
        let joined = Joined {
            index_digest,
            split: split.file,
            classes: index.classes.clone(),
            ids,
            labels_n,
            sides_n,
            left_out,
        };
        Ok((joined, rows))
    }

    /// Numbers of the images on `side`, ascending: those of their `identity` rows.
    pub fn rows_on(&self, side: Side) -> Vec<u32> {
        let numbers = 0..u32::try_from(self.sides_n.len()).expect("an image number fits 32 bits");
        numbers
            .filter(|&i| self.sides_n[i as usize] == side)
            .collect()
    }

    /// Labels of `rows`.
    pub fn labels_of(&self, rows: &[u32]) -> Vec<u32> {
        rows.iter().map(|&i| self.labels_n[i as usize]).collect()
    }

    /// Ids of `images`.
    pub fn ids_of(&self, images: &[u32]) -> Vec<ImageId> {
        images.iter().map(|&i| self.ids[i as usize]).collect()
    }

    /// Images on `side`, of each class.
    pub fn counts_on(&self, side: Side) -> Vec<u64> {
        let pairs = self
            .sides_n
            .iter()
            .copied()
            .zip(self.labels_n.iter().copied());
        let counts = split::count(pairs);
        let labels = 0..self.classes.len() as u32;
        labels
            .map(|label| counts.get(&(side, label)).copied().unwrap_or(0))
            .collect()
    }
}

/// Checks that there is something to tell apart.
pub(crate) fn must_have_classes(index: &Index) -> Result<(), DatasetError> {
    match index.classes.len() {
        0 | 1 => Err(DatasetError::Classes(index.classes.clone())),
        _ => Ok(()),
    }
}

/// Entries that take part: labelled, and not twice with different labels.
fn labelled(index: &Index) -> (Vec<Entry<'_>>, LeftOut) {
    let conflicts = index.label_conflicts();
    let mut left_out = LeftOut {
        conflicting: conflicts.len(),
        ..LeftOut::default()
    };
    let (mut entries, mut unlabelled) = (Vec::new(), BTreeSet::new());
    for entry in index.iter() {
        if conflicts.contains_key(&entry.id) {
            continue;
        }
        match entry.label {
            Some(_) => entries.push(entry),
            None => {
                unlabelled.insert(entry.id);
            }
        }
    }
    let with_label: BTreeSet<ImageId> = entries.iter().map(|e| e.id).collect();
    left_out.unlabelled = unlabelled.difference(&with_label).count();
    (entries, left_out)
}

struct ResolvedSplit {
    file: SplitFile,
    sides: BTreeMap<ImageId, (u32, Side)>,
}

fn resolve_split(
    index: &Index,
    labelled: &[Entry],
    index_digest: Digest,
    source: &SplitSource,
) -> Result<ResolvedSplit, DatasetError> {
    let pairs: Vec<(ImageId, &[u8])> = labelled.iter().map(|e| (e.id, e.path)).collect();
    let label = |entry: &Entry| entry.label.expect("labelled entries only");
    let file = match source {
        SplitSource::Given(path) => SplitFile::read(path)?,
        SplitSource::Own {
            path,
            mode,
            seed,
            fractions,
            resplit,
        } => {
            let found = match path.exists() {
                // A file to be replaced need not be readable.
                true if *resplit => SplitFile::read(path).ok(),
                true => Some(SplitFile::read(path)?),
                false => None,
            };
            let base = found
                .as_ref()
                .and_then(|f| f.header)
                .map(|h| h.plan)
                .unwrap_or_default();
            let found = found.filter(|_| !resplit);
            let plan = SplitPlan {
                mode: mode.unwrap_or(base.mode),
                seed: seed.unwrap_or(base.seed),
                fractions: fractions.unwrap_or(base.fractions),
            };
            let header = SplitHeader {
                plan,
                index: index_digest,
            };
            match found {
                Some(file) if still_fits(&file, &header, &pairs)? => file,
                _ => {
                    let mut images: Vec<(ImageId, u32)> =
                        labelled.iter().map(|e| (e.id, label(e))).collect();
                    images.sort_unstable();
                    images.dedup();
                    let sides = plan.assign(&images)?;
                    let rows: Vec<(ImageId, Side)> = images
                        .iter()
                        .zip(sides)
                        .map(|(&(id, _), side)| (id, side))
                        .collect();
                    split::file::write(path, &header, &rows)?;
                    SplitFile::read(path)?
                }
            }
        }
    };
    let resolved = file.resolve(&pairs)?;
    if resolved.unused > 0 {
        let (unused, images) = (resolved.unused, index.len());
        tracing::warn!(
            "the split {} names {unused} images that are not among the {images} of the index",
            file.path.display()
        );
    }
    let sides = labelled
        .iter()
        .zip(resolved.sides)
        .map(|(entry, side)| (entry.id, (label(entry), side)))
        .collect();
    Ok(ResolvedSplit { file, sides })
}

/// Whether a split of our own can be reused as it is. The index may have changed: a renamed or
/// removed image changes no side; a new one gets its side by hash in threshold mode (false: write
/// the file anew, nothing moves), and needs `--resplit` in rank mode.
fn still_fits(
    file: &SplitFile,
    wanted: &SplitHeader,
    pairs: &[(ImageId, &[u8])],
) -> Result<bool, SplitFileError> {
    let made_for = file.header.map_or(wanted.index, |h| h.index);
    file.check_made_for(&SplitHeader {
        index: made_for,
        ..*wanted
    })?;
    match file.resolve(pairs) {
        Ok(_) => Ok(true),
        Err(SplitFileError::Missing { .. }) if wanted.plan.mode == SplitMode::Threshold => {
            Ok(false)
        }
        Err(other) => Err(other),
    }
}
