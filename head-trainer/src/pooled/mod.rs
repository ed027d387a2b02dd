//! The pooled features of a store: computed once, in parallel, into one mapped file a shard, from
//! which every later training starts at once.
//!
//! A map of 4x4 positions is 16 times as large as its mean, and nothing but the means is trained
//! on. So the first training over a store reads its shards, checks their checksums and leaves the
//! means in a sidecar a shard ([`sidecar`] specifies them). Later ones map those and do not touch
//! the features at all. Nothing of the size of the features, pooled or not, is ever in the
//! heap, and a shard that is added later is all that is pooled later.
//!
//! The values have the same bits wherever they come from. A sidecar that is damaged, or not of
//! its shard as the shard is now, is made anew; one that cannot be kept, because the folder cannot
//! be written, is replaced by a nameless temporary file or, in the last resort, memory. So, short of
//! a disk that cannot be read, nothing about sidecars makes a training fail. Damage to a shard that
//! happens after it was pooled goes unnoticed here, since nothing that is read is damaged;
//! `extractor store verify` finds it. Must not know about labels.

mod average;
mod folder;
pub mod sidecar;

use std::sync::OnceLock;

use extractor::files::{FileError, escape_path};
use extractor::progress::Progress;
use extractor::store::{RowRef, Shard, Store, StoreError};
use rayon::prelude::*;

pub(crate) use self::average::average;
use self::folder::Folder;
use self::sidecar::{PoolError, Unusable, Values};
use crate::matrix::{Place, Rows};

/// The pooled features of all rows of a store.
#[derive(Debug)]
pub struct PooledStore {
    shards: Vec<Values>,         // [rows of the shard, C] each
    batch_starts: Vec<Vec<u32>>, // of each shard: the number of each record batch's first row
    channels: usize,
}

/// The pooled features of the rows that somebody asked for. Takes 8 bytes a row.
#[derive(Debug)]
pub struct Pooled {
    shards: Vec<Values>,
    places: Vec<Place>,
    channels: usize,
}

impl PooledStore {
    /// Maps the pooled features of `store` and pools what was not pooled yet, showing its progress
    /// unless it has to be `quiet`. When this succeeds, everything that was read of the store is
    /// as it was written.
    ///
    /// # Errors
    /// When a shard that has to be pooled is damaged.
    pub fn open(store: &Store, quiet: bool) -> Result<PooledStore, StoreError> {
        let shards = store.shards();
        let folder = Folder::of(store.folder());
        let found: Vec<Result<Values, Unusable>> = shards
            .par_iter()
            .map(|shard| sidecar::open(&folder.sidecar(shard.path()), shard))
            .collect();
        let mut rows_to_do = 0;
        for (found, shard) in found.iter().zip(shards) {
            match found {
                Ok(_) => continue,
                Err(Unusable::Missing) => {}
                Err(other) => tracing::warn!(
                    "pooled anew, as {} cannot be used: {other}",
                    escape_path(&folder.sidecar(shard.path()))
                ),
            }
            rows_to_do += shard.rows();
        }
        let pooling = Pooling {
            folder: &folder,
            progress: Progress::new(
                "pooling",
                "rows",
                rows_to_do as u64,
                quiet || rows_to_do == 0,
            ),
            not_kept: OnceLock::new(),
        };
        let pooled = found
            .into_par_iter()
            .zip(shards)
            .map(|(found, shard)| match found {
                Ok(values) => Ok(values),
                Err(Unusable::Missing) => pooling.pool(shard, false),
                Err(_) => pooling.pool(shard, true),
            })
            .collect::<Result<Vec<Values>, StoreError>>();
        pooling.progress.finish();
        let pooled = pooled?;
        if let Some(e) = pooling.not_kept.get() {
            tracing::warn!(
                "pooled features are not kept for the next training: {e}: {}",
                e.source
            );
        }
        tracing::debug!(
            "pooled features in {}: {} rows in {} shards, {rows_to_do} rows pooled now",
            escape_path(folder.path()),
            shards.iter().map(Shard::rows).sum::<usize>(),
            shards.len(),
        );
        folder.tidy(shards);
        Ok(PooledStore {
            shards: pooled,
            batch_starts: shards.iter().map(batch_starts).collect(),
            channels: store.map_shape().map_or(0, |shape| shape.channels),
        })
    }

    /// The given rows.
    ///
    /// # Panics
    /// When they are not of the store that was opened.
    pub fn gather(self, rows: &[RowRef]) -> Pooled {
        let place = |at: &RowRef| Place {
            part: at.shard() as u32,
            row: self.batch_starts[at.shard()][at.batch()] + at.row() as u32,
        };
        Pooled {
            places: rows.iter().map(place).collect(),
            shards: self.shards,
            channels: self.channels,
        }
    }
}

impl Pooled {
    /// The rows, in the order in which they were asked for: [N, C].
    ///
    /// # Panics
    /// When the store has no shard, so that no row could be asked for.
    pub fn rows(&self) -> Rows<'_> {
        Rows::gathered(&self.shards, &self.places, self.channels).expect("whole rows were pooled")
    }
}

/// Number of the first row of every record batch in the shard.
fn batch_starts(shard: &Shard) -> Vec<u32> {
    let starts = (0..shard.batches()).scan(0, |next, batch| {
        let start = *next;
        *next += shard.rows_in(batch) as u32; // a store has fewer than 2^32 rows
        Some(start)
    });
    starts.collect()
}

struct Pooling<'a> {
    folder: &'a Folder,
    progress: Progress,
    /// Why sidecars cannot be written.
    not_kept: OnceLock<FileError>,
}

impl Pooling<'_> {
    /// Pools a shard that has no sidecar, or one to be replaced.
    fn pool(&self, shard: &Shard, replace: bool) -> Result<Values, StoreError> {
        let on_rows = |rows| self.progress.add(rows as u64);
        let path = self.folder.sidecar(shard.path());
        if self.not_kept.get().is_none() {
            match sidecar::write(&path, replace, shard, &on_rows) {
                Ok(values) => return Ok(values),
                Err(PoolError::Shard(damage)) => return Err(damage),
                Err(PoolError::Place(e)) => {
                    let _ = self.not_kept.set(e); // the first one is told
                }
            }
        }
        match sidecar::write_nameless(shard, &on_rows) {
            Ok(values) => Ok(values),
            Err(PoolError::Shard(damage)) => Err(damage),
            Err(PoolError::Place(e)) => {
                tracing::debug!("pooled into memory: {e}: {}", e.source);
                sidecar::in_memory(shard, &on_rows)
            }
        }
    }
}
