//! Merges small shards and drops the duplicates that racing writers made.
//!
//! Rows of different provenance never share a shard. Must not know which rows anybody needs:
//! all are kept, bit by bit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::census::{Census, Clock, Removed, remove};
use super::verify::must_be_sound;
use super::writer::{SHARD_BYTES, generation};
use super::{Provenance, ShardWriter, Store, StoreError};
use crate::digest::ImageId;

/// How long replaced shards and files under way are left alone, unless another time is asked for.
pub const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Rows a record batch of a rewritten shard.
const BATCH_ROWS: usize = 64;

/// How to compact.
#[derive(Debug, Clone)]
pub struct Options {
    /// Shards smaller than half of this are merged, up to about this size.
    pub shard_bytes: usize,
    /// How long a replaced shard stays.
    pub grace: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            shard_bytes: SHARD_BYTES,
            grace: GRACE,
        }
    }
}

/// What compacting did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Shards whose rows were taken over.
    pub replaced: usize,
    /// Shards that took them over.
    pub written: Vec<PathBuf>,
    /// Copies of rows that do not count.
    pub duplicates: usize,
    /// What was removed.
    pub removed: Removed,
}

/// Compacts the store in `folder`. What may go goes first, so that its space can be used; a rewritten
/// shard and those that it replaces need space both until the grace period is over.
///
/// # Errors
/// When a shard is damaged or the disk fails; no row is lost. [`StoreError::Stopped`] says what had
/// been removed by then.
pub fn compact(folder: &Path, options: &Options) -> Result<Compacted, StoreError> {
    let mut compacted = Compacted::default();
    match run(folder, options, &mut compacted) {
        Ok(()) => Ok(compacted),
        Err(e) => Err(compacted.removed.stopped(e)),
    }
}

fn run(folder: &Path, options: &Options, compacted: &mut Compacted) -> Result<(), StoreError> {
    let mut store = Store::open_whole(folder)?;
    let census = Census::new(&store, None);
    compacted.duplicates = census.duplicates();
    let clock = Clock::new(folder, options.grace);
    remove(&census, &clock, false, &mut compacted.removed)?;
    if compacted.removed.shards > 0 {
        // A removed shard takes space as long as it is mapped.
        drop(store);
        store = Store::open_whole(folder)?;
    }
    let census = Census::new(&store, None);
    let mixed = census.mixed();
    let mut groups: BTreeMap<&Provenance, Vec<usize>> = BTreeMap::new();
    for (i, shard) in store.shards().iter().enumerate() {
        let small = shard.len_bytes() < options.shard_bytes as u64 / 2;
        if mixed.contains(&i) || (small && census.live_rows(i) > 0) {
            groups.entry(shard.provenance()).or_default().push(i);
        }
    }
    for sources in groups.values() {
        if sources.len() > 1 || sources.iter().any(|i| mixed.contains(i)) {
            let written = rewrite(&census, sources, options.shard_bytes)?;
            compacted.replaced += sources.len();
            compacted.written.extend(written);
        }
    }
    if compacted.written.is_empty() {
        return Ok(());
    }
    // Counted again, as what was just written changes what counts.
    drop(store);
    let store = Store::open_whole(folder)?;
    let clock = Clock::new(folder, options.grace);
    let census = Census::new(&store, None);
    remove(&census, &clock, false, &mut compacted.removed)
}

/// Writes the rows that count of `sources`, which are of one provenance, into new shards.
pub(super) fn rewrite(
    census: &Census,
    sources: &[usize],
    shard_bytes: usize,
) -> Result<Vec<PathBuf>, StoreError> {
    let (store, Some(&first)) = (census.store, sources.first()) else {
        return Ok(Vec::new());
    };
    let shards = || sources.iter().map(|&i| &store.shards()[i]);
    // Damage must not get a new checksum.
    shards().try_for_each(must_be_sound)?;
    let first = &store.shards()[first];
    let oldest = shards().map(|shard| generation(shard.path())).max();
    let mut writer = ShardWriter::new(
        store.folder(),
        store.key(),
        first.provenance(),
        first.map_shape(),
        shard_bytes,
    )
    .with_generation(oldest.unwrap_or(0) + 1);

    let (mut rows, mut maps) = (Vec::<(ImageId, &str)>::new(), Vec::<f32>::new());
    for (number, shard) in sources.iter().zip(shards()) {
        for (batch, row) in census.live(*number) {
            if rows.len() == BATCH_ROWS {
                writer.write(&rows, std::mem::take(&mut maps))?;
                rows.clear();
            }
            rows.push((shard.id(batch, row), shard.view(batch, row)));
            shard.features(batch, row).widen_into(&mut maps); // and back, exactly
        }
    }
    writer.write(&rows, maps)?;
    writer.finish()
}
