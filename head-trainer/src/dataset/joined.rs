//! The images that take part: an index joined with a split and with the store that holds their
//! rows, be they features or pixels.
//!
//! Must not know what the rows are for.

use std::collections::BTreeSet;

use extractor::digest::{Digest, ImageId};
use extractor::index::{Entry, Index};
use extractor::store::{IDENTITY, RowRef, Store};
use rayon::prelude::*;

use super::ids::Ids;
use super::{DatasetError, LeftOut, SplitSource};
use crate::split::file::{Resolved, SplitFile, SplitFileError, SplitHeader, SplitOrigin};
use crate::split::{self, Side, SplitMode, SplitPlan};

/// Images that are looked up together.
const CHUNK: usize = 16_384;

/// Images in ascending order of their ids, with labels and sides.
#[derive(Debug)]
pub struct Joined {
    /// Digest of the index.
    pub index_digest: Digest,
    /// The split file.
    pub split: SplitOrigin,
    /// Names of the classes, two or more.
    pub classes: Vec<String>,
    /// Ids, ascending.
    pub ids: Ids,
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
                .map(|position| index.entry(*position as usize))
                .filter(rejected)
                .map(|entry| entry.id)
                .collect();
            left_out.rejected = broken.len();
            labelled.retain(|position| !broken.contains(&index.entry(*position as usize).id));
        }
        let labelled = Labelled { index, labelled };
        let (split, sides) = resolve_split(&labelled, index_digest, split)?;

        let images = labelled.images();
        let total = images.len();
        let mut entries = Vec::with_capacity(total);
        let (mut labels_n, mut sides_n) = (Vec::with_capacity(total), Vec::with_capacity(total));
        let (mut rows, mut missing): (Vec<RowRef>, usize) = (Vec::with_capacity(total), 0);
        for chunk in images.chunks(CHUNK) {
            let row = |image: &u32| store.locate(&labelled.image(*image).0, IDENTITY);
            let found: Vec<Option<RowRef>> = chunk.par_iter().map(row).collect();
            for (image, found) in chunk.iter().zip(found) {
                let (id, label) = labelled.image(*image);
                match found {
                    Some(row) => {
                        entries.push(labelled.labelled[*image as usize]);
                        labels_n.push(label);
                        sides_n.push(sides[*image as usize]);
                        rows.push(row);
                    }
                    None if store.rejected(&id).is_some() => left_out.rejected += 1,
                    None => missing += 1,
                }
            }
        }
        if missing > 0 {
            return Err(DatasetError::Missing {
                missing,
                total,
                store: store.folder().to_owned(),
            });
        }
        let joined = Joined {
            index_digest,
            split,
            classes: index.classes.clone(),
            ids: Ids::new(index.clone(), entries),
            labels_n,
            sides_n,
            left_out,
        };
        Ok((joined, rows))
    }

    /// Numbers of the images on `side`, ascending: those of their `identity` rows.
    pub fn rows_on(&self, side: Side) -> Vec<u32> {
        let numbers = 0..u32::try_from(self.sides_n.len()).expect("an image number fits 32 bits");
        let count = self.sides_n.iter().filter(|s| **s == side).count();
        let mut rows = Vec::with_capacity(count);
        rows.extend(numbers.filter(|&i| self.sides_n[i as usize] == side));
        rows
    }

    /// Labels of `rows`.
    pub fn labels_of(&self, rows: &[u32]) -> Vec<u32> {
        rows.iter().map(|&i| self.labels_n[i as usize]).collect()
    }

    /// Ids of `images`.
    pub fn ids_of(&self, images: &[u32]) -> Vec<ImageId> {
        images.iter().map(|&i| self.ids[i as usize]).collect()
    }

    /// Ids of `images`, which are on `side`, if predictions of that side are kept; else none.
    pub fn predicted_ids_of(&self, side: Side, images: &[u32]) -> Vec<ImageId> {
        match side {
            Side::Train => Vec::new(),
            Side::Validation | Side::Test => self.ids_of(images),
        }
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

/// Positions of the entries that take part: labelled, and not twice with different labels.
fn labelled(index: &Index) -> (Vec<u32>, LeftOut) {
    let conflicts = index.label_conflicts();
    let mut left_out = LeftOut {
        conflicting: conflicts.len(),
        ..LeftOut::default()
    };
    let (mut labelled, mut unlabelled) = (Vec::with_capacity(index.len()), BTreeSet::new());
    for (position, entry) in (0..).zip(index.iter()) {
        if conflicts.contains_key(&entry.id) {
            continue;
        }
        match entry.label {
            Some(_) => labelled.push(position),
            None => {
                unlabelled.insert(entry.id);
            }
        }
    }
    for position in &labelled {
        if unlabelled.is_empty() {
            break;
        }
        unlabelled.remove(&index.entry(*position as usize).id);
    }
    left_out.unlabelled = unlabelled.len();
    (labelled, left_out)
}

/// The entries that take part, in the index's order. Takes 4 bytes an entry.
struct Labelled<'a> {
    index: &'a Index,
    labelled: Vec<u32>,
}

impl<'a> Labelled<'a> {
    /// Ids and paths.
    fn pairs(&self) -> impl Iterator<Item = (ImageId, &'a [u8])> + Clone {
        let entries = self.labelled.iter().map(|i| self.index.entry(*i as usize));
        entries.map(|entry| (entry.id, entry.path))
    }

    /// Id and label of the entry of this number.
    fn image(&self, number: u32) -> (ImageId, u32) {
        let position = self.labelled[number as usize];
        let entry = self.index.entry(position as usize);
        (entry.id, entry.label.expect("labelled entries only"))
    }

    /// Numbers of the first entry of every image, in ascending order of the ids.
    fn images(&self) -> Vec<u32> {
        let id = |number: u32| self.image(number).0;
        // By the first bytes, which lie together; next to never by all, which do not.
        let first =
            |number: u32| u64::from_be_bytes(*id(number).0.first_chunk().expect("32 bytes"));
        let mut keyed: Vec<(u64, u32)> = (0..)
            .take(self.labelled.len())
            .map(|number| (first(number), number))
            .collect();
        keyed.par_sort_unstable_by(|a, b| {
            let by_id = || id(a.1).cmp(&id(b.1)).then(a.1.cmp(&b.1));
            a.0.cmp(&b.0).then_with(by_id)
        });
        let mut numbers: Vec<u32> = keyed.iter().map(|(_, number)| *number).collect();
        numbers.dedup_by_key(|number| id(*number));
        numbers
    }
}

/// The split and the side of each entry.
fn resolve_split(
    labelled: &Labelled,
    index_digest: Digest,
    source: &SplitSource,
) -> Result<(SplitOrigin, Vec<Side>), DatasetError> {
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
                .and_then(|f| f.origin.header)
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
            let sides = match &found {
                Some(file) => still_fits(file, &header, labelled)?,
                None => None,
            };
            if let (Some(file), Some(resolved)) = (found, sides) {
                return Ok(told(file, resolved, labelled));
            }
            let images = labelled.images();
            let image = |i: u32| labelled.image(images[i as usize]);
            let sides = plan.assign_all(images.len(), image)?;
            let ids = images.iter().map(|i| labelled.image(*i).0);
            split::file::write(path, &header, ids.zip(sides))?;
            drop(images);
            SplitFile::read(path)?
        }
    };
    let resolved = file.resolve(labelled.pairs())?;
    Ok(told(file, resolved, labelled))
}

/// The sides that a split gives; says which it gives to nobody.
fn told(file: SplitFile, resolved: Resolved, labelled: &Labelled) -> (SplitOrigin, Vec<Side>) {
    if resolved.unused > 0 {
        let (unused, images) = (resolved.unused, labelled.index.len());
        tracing::warn!(
            "the split {} names {unused} images that are not among the {images} of the index",
            file.origin.path.display()
        );
    }
    (file.origin, resolved.sides)
}

/// The sides by a split of our own, if it can be reused as it is. The index may have changed: a renamed or
/// removed image changes no side; a new one gets its side by hash in threshold mode (none: write
/// the file anew, nothing moves), and needs `--resplit` in rank mode.
fn still_fits(
    file: &SplitFile,
    wanted: &SplitHeader,
    labelled: &Labelled,
) -> Result<Option<Resolved>, SplitFileError> {
    let made_for = file.origin.header.map_or(wanted.index, |h| h.index);
    file.check_made_for(&SplitHeader {
        index: made_for,
        ..*wanted
    })?;
    match file.resolve(labelled.pairs()) {
        Ok(resolved) => Ok(Some(resolved)),
        Err(SplitFileError::Missing { .. }) if wanted.plan.mode == SplitMode::Threshold => Ok(None),
        Err(other) => Err(other),
    }
}
