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
//!   (`{"id": "...", "reason": "..."}`); with `"view": "..."` only this view of the image has none;
//!   with `"retry": true` the reason lies in the engine and not in the image, so that a writer
//!   SHOULD try it again. Where `*` is 12 hexadecimal digits, they are the beginning of the SHA-256 of
//!   the file, and a reader SHOULD check them;
//! - `cost-*.json`: how long an extraction took, for people ([`cost`]).
//!
//! Every file is written under a temporary name beginning with `.tmp-` and renamed; a published
//! file MUST NOT be changed, nor replaced by another one unless it is damaged. Readers MUST ignore
//! names they do not know. Two shards MAY hold the same row (two writers raced); the one in the
//! shard with the lower name counts. A reader MUST refuse a store or shard whose version or key
//! differs from what it expects.
//!
//! # Many at once
//!
//! There is no lock, so that a store may lie on any shared file system. Writers only ever add
//! whole shards. [`compact`] and [`gc`] replace shards: they publish the shard that takes rows
//! over under a lower name, so that its rows count from then on, and remove the replaced one when
//! both have been there for a grace period. A reader that finds a listed shard gone lists again, and
//! goes on without it if it stays so for some seconds. A writer whose shard's name is taken leaves
//! the one that has it, which is of the same rows, unless that is damaged.

mod census;
pub mod compact;
pub mod cost;
mod error;
mod folder;
pub mod gc;
pub mod inspect;
pub mod key;
mod layout;
pub mod map;
pub mod outline;
mod provenance;
pub mod rejected;
mod rows;
pub mod shard;
pub mod verify;
pub mod writer;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rayon::prelude::*;

use crate::backbone::MapShape;
use crate::causes::chain;
use crate::digest::ImageId;
use crate::view::View;
pub use census::Removed;
pub use cost::{Cost, costs};
pub use error::StoreError;
use folder::files;
pub use folder::{find, has_rows};
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

/// How long to wait before each new look at a folder that lists what is not there: at once for a
/// shard that was just replaced, then longer, some 5 seconds in all.
const PAUSES_MILLIS: [u64; 9] = [0, 20, 40, 80, 160, 320, 640, 1280, 2560];

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
    /// A listed file that is gone was replaced since it was listed: the list is read again, for
    /// some seconds if it must be, as a network file system may show an old list for a while. What
    /// is gone even then is left out with a warning.
    ///
    /// # Errors
    /// When the folder is no store, a shard is damaged, of another version or of another key.
    pub fn open(folder: &Path) -> Result<Store, StoreError> {
        match Store::open_whole(folder) {
            Err(e) if e.is_vanished() => Store::open_listed(folder, true),
            opened => opened,
        }
    }

    /// [`Store::open`] for those who remove shards: what is listed must be there.
    fn open_whole(folder: &Path) -> Result<Store, StoreError> {
        let mut pauses = PAUSES_MILLIS.iter();
        loop {
            match (Store::open_listed(folder, false), pauses.next()) {
                (Err(e), Some(pause)) if e.is_vanished() => {
                    std::thread::sleep(Duration::from_millis(*pause));
                }
                (opened, _) => return opened,
            }
        }
    }

    fn open_listed(folder: &Path, leave_out: bool) -> Result<Store, StoreError> {
        let json = key::read(folder)?;
        let mut store = Store {
            folder: folder.to_owned(),
            json,
            shards: Vec::new(),
            rows: Rows::default(),
            rejected: rejected::Reasons::new(),
        };
        let left_out = |e: StoreError| match leave_out && e.is_vanished() {
            true => {
                tracing::warn!("left out, as it is listed and not there: {}", chain(&e));
                Ok(())
            }
            false => Err(e),
        };
        for path in files(folder, rejected::PREFIX, rejected::SUFFIX)? {
            match rejected::read(&path) {
                Ok(records) => rejected::add(&mut store.rejected, records),
                Err(e) => left_out(e)?,
            }
        }
        // Many at once, as each waits for a few pages from afar.
        let paths = files(folder, shard::PREFIX, shard::SUFFIX)?;
        let opened: Vec<_> = paths.par_iter().map(|path| Shard::open(path)).collect();
        for (path, shard) in paths.into_iter().zip(opened) {
            let shard = match shard {
                Ok(shard) => shard,
                Err(e) => {
                    left_out(e)?;
                    continue;
                }
            };
            shard.must_be_of(&store.json.key)?;
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
        self.rejected.get(&(*id, None)).map(|r| r.text.as_str())
    }

    /// Why a view of an image has no row, if it was tried.
    pub fn rejected_view(&self, id: &ImageId, view: &str) -> Option<&str> {
        let of_view = || self.rejected.get(&(*id, Some(view.to_owned())));
        self.rejected(id)
            .or_else(|| of_view().map(|r| r.text.as_str()))
    }

    /// The store as one who computes rows takes it: without the rejections that another try may
    /// overcome.
    pub fn to_try_again(mut self) -> Store {
        self.rejected.retain(|_, reason| !reason.retry);
        self
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

#[cfg(test)]
mod tests;
