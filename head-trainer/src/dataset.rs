//! What a head is trained on: the store's pooled features joined with the index's labels and the
//! split's sides.
//!
//! Images are in ascending order of their ids, so that a batch depends neither on names nor on
//! places. Left out, and counted: images without a label, images with two labels, images that gave
//! no features. A side is an image's, so that all its views are on it; validation and test are of
//! `identity` alone. Must not know about solvers.

mod stores;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use extractor::digest::{Digest, ImageId};
use extractor::files::counted_as;
use extractor::index::{Entry, Index, IndexError};
use extractor::store::{IDENTITY, RowRef, Store, StoreError};
use extractor::view::{View, Views};

pub use self::stores::{StoreFilter, find_store, find_stores};
use self::views::TrainRows;
pub use self::views::WantedViews;
use crate::pooled::{Pooled, PooledStore};
use crate::split::file::{SplitFile, SplitFileError, SplitHeader};
use crate::split::{self, DuplicateImage, Fractions, Side, SplitMode, SplitPlan};

/// The data set cannot be put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The split.
    #[error(transparent)]
    Split(#[from] SplitFileError),
    /// An image was given twice to the split.
    #[error(transparent)]
    Twice(#[from] DuplicateImage),
    /// A head tells classes apart.
    #[error(
        "the index has {} ({}), but a head needs two or more (hint: put the images of each class \
         into a folder of its own)",
        counted_as(.0.len(), "class", "classes"), .0.join(", ")
    )]
    Classes(Vec<String>),
    /// No store fits.
    #[error("no feature store in {} is {wanted} (hint: run make features; there are: {})", root.display(), there.join(", "))]
    NoStore {
        /// Where was looked.
        root: PathBuf,
        /// What was asked for.
        wanted: String,
        /// The stores that are there.
        there: Vec<String>,
    },
    /// Several stores fit.
    #[error("several feature stores fit: {} (hint: choose with --backbone, --preset, --dtype or --store; with make: BACKBONE=FILE, HEAD_ARGS=\"--preset NAME\")", .0.join(", "))]
    SeveralStores(Vec<String>),
    /// A view was asked for that training images lack.
    #[error(
        "{missing} of {total} training images have no row of the view {view} in {} (hint: run make \
         features FEATURES_ARGS=\"--views ...\" first; --views all takes what is there)",
        store.display()
    )]
    MissingView {
        /// The view.
        view: View,
        /// Training images without it.
        missing: usize,
        /// Training images.
        total: usize,
        /// The store.
        store: PathBuf,
    },
    /// Images of the index were never extracted.
    #[error(
        "{missing} of {total} images have no features in {} (hint: run make features with this data \
         set and this backbone first; DATA= and BACKBONE= must be the same for both verbs)",
        store.display()
    )]
    Missing {
        /// Images without a row or a rejection.
        missing: usize,
        /// Images with a label.
        total: usize,
        /// The store.
        store: PathBuf,
    },
}

/// How images get their sides.
#[derive(Debug, Clone, PartialEq)]
pub enum SplitSource {
    /// A file that the user brings.
    Given(PathBuf),
    /// A file of our own, made once for the index and reused.
    Own {
        /// Where it lies.
        path: PathBuf,
        /// Mode, if asked for.
        mode: Option<SplitMode>,
        /// Seed of the hash, if asked for.
        seed: Option<u64>,
        /// Shares, if asked for.
        fractions: Option<Fractions>,
        /// Make it anew.
        resplit: bool,
    },
}

/// What was left out of training, in images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Without a label.
    pub unlabelled: usize,
    /// With more than one label.
    pub conflicting: usize,
    /// Labelled, but rejected when features were computed.
    pub rejected: usize,
}

/// Pooled features, labels and sides. The first rows are the images' own (`identity`), image by
/// image; those of the training images' other views follow.
#[derive(Debug)]
pub struct Dataset {
    /// The store they come from.
    pub store: Store,
    /// Digest of the index.
    pub index_digest: Digest,
    /// The split file.
    pub split: SplitFile,
    /// Names of the classes, two or more.
    pub classes: Vec<String>,
    /// Ids, ascending.
    pub ids: Vec<ImageId>,
    /// Labels of all rows, below K; the first [`Dataset::ids`] ones are the images'.
    pub labels_n: Vec<u32>,
    /// Sides.
    pub sides_n: Vec<Side>,
    /// Views that training images are seen in.
    pub views: Views,
    /// Pooled features of all rows [N, C].
    pub pooled: Pooled,
    /// C.
    pub channels: usize,
    /// What is not in it.
    pub left_out: LeftOut,
    train_rows: TrainRows,
}

impl Dataset {
    /// Joins the store in `store` with the index in `index` and a split. Pools what was not pooled
    /// before.
    ///
    /// # Errors
    /// [`DatasetError`]; a damaged record batch is an error, too.
    pub fn load(
        store: &Path,
        index: &Path,
        split: &SplitSource,
        wanted: &WantedViews,
    ) -> Result<Dataset, DatasetError> {
        Dataset::load_showing(store, index, split, wanted, true)
    }

    /// [`Dataset::load`] that shows the progress of the pooling, unless it has to be `quiet`.
    ///
    /// # Errors
    /// Those of [`Dataset::load`].
    pub fn load_showing(
        store: &Path,
        index: &Path,
        split: &SplitSource,
        wanted: &WantedViews,
        quiet: bool,
    ) -> Result<Dataset, DatasetError> {
        let index = Index::read(index)?;
        let classes = index.classes.clone();
        if classes.len() < 2 {
            return Err(DatasetError::Classes(classes));
        }
        let (mut labelled, mut left_out) = labelled(&index);
        let index_digest = index.digest();
        let store = Store::open(store)?;
        // First, as it finds damage, which must not look like a missing row.
        let pooled = PooledStore::open(&store, quiet)?;
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
        let split = resolve_split(&index, &labelled, index_digest, split)?;

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
        let shape = match store.map_shape() {
            Some(shape) if missing == 0 => shape,
            _ => {
                return Err(DatasetError::Missing {
                    missing,
                    total: split.sides.len(),
                    store: store.folder().to_owned(),
                });
            }
        };
        let train: Vec<u32> = rows_on(&sides_n, Side::Train);
        let views = views::resolve(wanted, &store, &ids, &train)?;
        let train_rows = TrainRows::add(&store, &ids, &train, &views, &mut rows);
        labels_n.extend(
            train_rows
                .added
                .iter()
                .map(|i| labels_n[*i as usize])
                .collect::<Vec<_>>(),
        );
        let pooled = pooled.gather(&rows);
        Ok(Dataset {
            views,
            train_rows,
            store,
            index_digest,
            split: split.file,
            classes,
            ids,
            labels_n,
            sides_n,
            pooled,
            channels: shape.channels,
            left_out,
        })
    }

    /// Numbers of the images on `side`, ascending: those of their `identity` rows.
    pub fn rows_on(&self, side: Side) -> Vec<u32> {
        rows_on(&self.sides_n, side)
    }

    /// Labels of `rows`.
    pub fn labels_of(&self, rows: &[u32]) -> Vec<u32> {
        rows.iter().map(|&i| self.labels_n[i as usize]).collect()
    }

    /// Numbers of the rows to train on, all views of an image one after the other.
    pub fn train_rows(&self) -> &[u32] {
        &self.train_rows.rows
    }

    /// Where each training image's rows begin among those, and the end of the last one's.
    pub fn train_starts(&self) -> &[u32] {
        &self.train_rows.starts
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

fn rows_on(sides_n: &[Side], side: Side) -> Vec<u32> {
    let numbers = 0..u32::try_from(sides_n.len()).expect("an image number fits 32 bits");
    numbers.filter(|&i| sides_n[i as usize] == side).collect()
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
