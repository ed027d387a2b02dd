//! The feature store: rows of (id, view, feature map), computed once, in immutable shards under
//! one folder a key.
//!
//! Must not know about paths, labels, splits or data sets: those are the index's. One id may serve
//! many data sets.
//!
//! # Format, version 1
//!
//! A store is a folder `ROOT/PRESET-HxW-DTYPE-DIGEST12`, holding
//!
//! - `store.json`: [`StoreJson`], the key and the backbone's name, for people and tools;
//! - `shard-*.arrow`: the rows ([`shard`] specifies them);
//! - `rejected-*.jsonl`: ids that have no row in this store and why, one JSON object a line
//!   (`{"id": "...", "reason": "..."}`); with `"view": "..."` only this view of the image has none.
//!
//! Every file is written under a temporary name beginning with `.tmp-` and renamed; a published
//! file MUST NOT be changed. Readers MUST ignore names they do not know. Two shards MAY hold the
//! same row (two writers raced); the one in the shard with the lower name counts. A reader MUST
//! refuse a store or shard whose version or key differs from what it expects.
//!
//! # Many at once
//!
//! There is no lock, so that a store may lie on any shared file system. Writers only ever add
//! whole shards. [`compact`] and [`gc`] replace shards: they publish the shard that takes rows
//! over under a lower name, so that its rows count from then on, and remove the replaced one when
//! both have been there for a grace period. A reader that finds a listed shard gone lists again.

mod census;
pub mod compact;
pub mod gc;
pub mod inspect;
pub mod key;
pub mod map;
mod provenance;
pub mod rejected;
mod rows;
pub mod shard;
pub mod verify;
pub mod writer;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use arrow::error::ArrowError;

use crate::backbone::MapShape;
use crate::digest::ImageId;
use crate::files::FileError;
use crate::view::View;
pub use census::Removed;
pub use key::{Dtype, StoreJson, StoreKey};
pub use provenance::Provenance;
pub use rejected::Rejected;
use rows::Rows;
pub use shard::{Features, Shard};
pub use writer::ShardWriter;

/// Version of the on-disk format; bumped with any change.
pub const FORMAT_VERSION: u32 = 1;

/// The view of an image as it is.
pub const IDENTITY: &str = "identity";

/// The store cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A shard is damaged or not of this format.
    #[error("shard {} cannot be used: {reason} (hint: extractor store verify --quarantine sets \
             damaged shards aside; the next make features computes only their rows anew)", path.display())]
    Shard {
        /// The shard.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A record of rejected images is damaged.
    #[error("the record of rejected images {} cannot be used: {reason} (hint: extractor store \
             verify --quarantine sets it aside; the next make features writes it anew)", path.display())]
    Rejected {
        /// The record.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Arrow's writer failed.
    #[error("cannot write the shard {}{}", path.display(), full(source))]
    Write {
        /// The shard under way.
        path: PathBuf,
        /// Arrow's error.
        #[source]
        source: ArrowError,
    },
    /// The folder is no store of this format.
    #[error("{} is no feature store of format {FORMAT_VERSION}: {reason} (hint: if its store.json is \
             damaged, extractor store verify --quarantine sets it aside; the next make features \
             writes it anew)", path.display())]
    NotAStore {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The store is of another format: not damaged, but not for this program.
    #[error("feature store {} has format {found}, expected {FORMAT_VERSION} (hint: use the program \
             that wrote it, or another folder)", path.display())]
    Version {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// There is no store where one was expected.
    #[error("no feature store in {} (hint: run make features)", .0.display())]
    None(PathBuf),
    /// The store is not where it was when the run began.
    #[error("the feature store {} is gone while it is written to (hint: was its disk unmounted? \
             run the same command again when it is back; what was published is kept)", .0.display())]
    Gone(PathBuf),
    /// A key field differs from what is expected.
    #[error("feature store {} has {field} {found}, expected {expected}", path.display())]
    Key {
        /// The store or shard.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What is there.
        found: String,
        /// What was expected.
        expected: String,
    },
}

fn full(error: &ArrowError) -> &'static str {
    match error {
        ArrowError::IoError(_, e) if e.kind() == std::io::ErrorKind::StorageFull => {
            ": the disk is full (hint: free some space and run the same command again; published \
             shards are kept)"
        }
        _ => "",
    }
}

/// Where a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowRef {
    shard: u32,
    batch: u32,
    row: u32,
}

impl RowRef {
    /// Number of the shard among [`Store::shards`].
    pub fn shard(&self) -> usize {
        self.shard as usize
    }

    /// Number of the record batch in the shard.
    pub fn batch(&self) -> usize {
        self.batch as usize
    }

    /// Number of the row in the record batch.
    pub fn row(&self) -> usize {
        self.row as usize
    }
}

/// A store opened for reading: all shards mapped, all ids known.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    json: StoreJson,
    shards: Vec<Shard>,
    rows: Rows,
    rejected: rejected::Reasons,
}

impl Store {
    /// Opens the store in `folder`: checks `store.json`, checks the structure of every shard and
    /// maps it. No feature is read.
    ///
    /// # Errors
    /// When the folder is no store, a shard is damaged or belongs to another key.
    pub fn open(folder: &Path) -> Result<Store, StoreError> {
        let mut tries = 0;
        loop {
            match Store::open_listed(folder) {
                // A shard was replaced since it was listed; the new list has the new one.
                Err(StoreError::File(e))
                    if e.source.kind() == std::io::ErrorKind::NotFound && tries < 100 =>
                {
                    tries += 1;
                }
                opened => return opened,
            }
        }
    }

    fn open_listed(folder: &Path) -> Result<Store, StoreError> {
        let json = key::read(folder)?;
        let mut store = Store {
            folder: folder.to_owned(),
            json,
            shards: Vec::new(),
            rows: Rows::default(),
            rejected: rejected::read_all(folder)?,
        };
        for path in files(folder, shard::PREFIX, shard::SUFFIX)? {
            let shard = Shard::open(&path)?;
            shard.key().must_equal(&store.json.key, &path)?;
            if let Some(first) = store.shards.first()
                && first.map_shape() != shard.map_shape()
            {
                return Err(StoreError::Shard {
                    path,
                    reason: format!(
                        "its maps are {}, those of the other shards {}",
                        shard.map_shape(),
                        first.map_shape()
                    ),
                });
            }
            store.shards.push(shard);
        }
        store.rows = Rows::of(&store.shards);
        Ok(store)
    }

    /// The store's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Everything that changes a feature.
    pub fn key(&self) -> &StoreKey {
        &self.json.key
    }

    /// The backbone's name when the store was made; for people.
    pub fn backbone_name(&self) -> &str {
        &self.json.backbone_name
    }

    /// Whether the backbone's weights are trained, if its description said.
    pub fn backbone_trained(&self) -> Option<bool> {
        self.json.backbone_trained
    }

    /// Shape of the maps; none as long as the store has no row.
    pub fn map_shape(&self) -> Option<MapShape> {
        self.shards.first().map(Shard::map_shape)
    }

    /// The shards, by name.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Number of different rows: images times their views.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Every different row once: the image, the view and where it is.
    pub fn iter(&self) -> impl Iterator<Item = (ImageId, &str, RowRef)> {
        self.rows.iter().map(|at| {
            let (id, view) = rows::at(&self.shards, at);
            (id, view, at)
        })
    }

    /// Number of images with a row, of whatever view. Looks at every row.
    pub fn images(&self) -> usize {
        // All images but the rare half extracted ones have their identity row.
        let mut others = HashSet::new();
        let mut count = 0;
        for (id, view, _) in self.iter() {
            if view == IDENTITY {
                count += 1;
            } else if self.locate(&id, IDENTITY).is_none() {
                others.insert(id);
            }
        }
        count + others.len()
    }

    /// Number of rows of every view, by the view's name: those that are known in their order, then
    /// others. Looks at every row.
    pub fn views(&self) -> Vec<(String, usize)> {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for (_, view, _) in self.iter() {
            *counts.entry(view).or_default() += 1;
        }
        let counts = counts.into_iter().map(|(name, n)| (name.to_owned(), n));
        let mut counts: Vec<(String, usize)> = counts.collect();
        counts.sort_by_cached_key(|(name, _)| {
            let view = name.parse::<View>();
            (view.is_err(), view.ok(), name.clone())
        });
        counts
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The row of a view of an image.
    pub fn locate(&self, id: &ImageId, view: &str) -> Option<RowRef> {
        self.rows.get(&self.shards, id, view)
    }

    /// Why an image has no row at all, if it was tried.
    pub fn rejected(&self, id: &ImageId) -> Option<&str> {
        self.rejected.get(&(*id, None)).map(String::as_str)
    }

    /// Why a view of an image has no row, if it was tried.
    pub fn rejected_view(&self, id: &ImageId, view: &str) -> Option<&str> {
        let of_view = || self.rejected.get(&(*id, Some(view.to_owned())));
        self.rejected(id).or_else(|| of_view().map(String::as_str))
    }

    /// A row's feature map [h * w * c], channels last, straight from the mapped file.
    pub fn features(&self, row: RowRef) -> Features<'_> {
        self.shards[row.shard as usize].features(row.batch as usize, row.row as usize)
    }

    /// The provenances of all shards, without duplicates. More than one means that the rows were
    /// computed by different engines, providers or processors.
    pub fn provenances(&self) -> BTreeSet<&Provenance> {
        self.shards.iter().map(Shard::provenance).collect()
    }

    /// A warning if the rows were not all computed the same way.
    pub fn mixture(&self) -> Option<String> {
        let provenances = self.provenances();
        if provenances.len() < 2 {
            return None;
        }
        let list: Vec<_> = provenances.iter().map(|p| p.to_string()).collect();
        Some(format!(
            "the store mixes rows of {} provenances, which agree only within rounding: {}",
            list.len(),
            list.join("; ")
        ))
    }
}

/// The stores below `root`, or `root` itself if it is a store.
///
/// # Errors
/// When `root` cannot be read or holds no store.
pub fn find(root: &Path) -> Result<Vec<PathBuf>, StoreError> {
    if root.join(key::STORE_JSON).is_file() {
        return Ok(vec![root.to_owned()]);
    }
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(StoreError::None(root.to_owned()));
        }
        Err(e) => return Err(FileError::new("read the folder", root)(e).into()),
    };
    let mut stores: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join(key::STORE_JSON).is_file())
        .collect();
    stores.sort();
    if stores.is_empty() {
        return Err(StoreError::None(root.to_owned()));
    }
    Ok(stores)
}

/// Whether the store in `folder` has any shard.
///
/// # Errors
/// When the folder cannot be read.
pub fn has_rows(folder: &Path) -> Result<bool, StoreError> {
    Ok(!files(folder, shard::PREFIX, shard::SUFFIX)?.is_empty())
}

/// The files of `folder` with the given beginning and end of name, sorted.
fn files(folder: &Path, prefix: &str, suffix: &str) -> Result<Vec<PathBuf>, StoreError> {
    let error = |e| FileError::new("read the folder", folder)(e);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(prefix) && name.ends_with(suffix) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests;
