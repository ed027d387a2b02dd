//! Drops the rows that nobody needs any more. Who needs what is said by the caller, as ids.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::census::{Census, Clock, Removed, remove};
use super::compact::{GRACE, rewrite};
use super::writer::SHARD_BYTES;
use super::{Store, StoreError};
use crate::digest::ImageId;

/// How to collect.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a shard stays: only one that is this old goes, and only if those that hold copies
    /// of its rows that are kept are this old, too.
    pub grace: Duration,
    /// Do it; otherwise only say what would be done.
    pub yes: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            grace: GRACE,
            yes: false,
        }
    }
}

/// What collecting did or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Images with a row that is kept.
    pub kept_images: usize,
    /// Images with a row that is not kept.
    pub unneeded_images: usize,
    /// Those of them that have no row any more now.
    pub dropped_images: usize,
    /// Shards without a single row that is kept.
    pub unneeded: Vec<PathBuf>,
    /// Shards with rows of both kinds: what is kept of them is written anew.
    pub partly_needed: Vec<PathBuf>,
    /// Those of them that are left as they are, younger than the grace period.
    pub young: usize,
    /// Shards that hold it.
    pub written: Vec<PathBuf>,
    /// What was or would be removed now.
    pub removed: Removed,
}

/// Drops every row of the store in `folder` whose image is not in `keep`.
///
/// A shard younger than the grace period is left as it is.
///
/// # Errors
/// When nothing would be kept, a shard is damaged or the disk fails; no row that is kept is lost.
/// [`StoreError::Stopped`] says what had been removed by then.
pub fn collect(
    folder: &Path,
    keep: &HashSet<ImageId>,
    options: &Options,
) -> Result<Collected, StoreError> {
    let mut collected = Collected::default();
    match run(folder, keep, options, &mut collected) {
        Ok(()) => Ok(collected),
        Err(e) => Err(collected.removed.stopped(e)),
    }
}

fn run(
    folder: &Path,
    keep: &HashSet<ImageId>,
    options: &Options,
    collected: &mut Collected,
) -> Result<(), StoreError> {
    let mut store = Store::open_whole(folder)?;
    let census = Census::new(&store, Some(keep));
    let clock = Clock::new(folder, options.grace);
    let path = |i: &usize| store.shards()[*i].path().to_owned();
    let is_young = |i: &&usize| !clock.is_old(store.shards()[**i].path());
    let images: HashSet<ImageId> = store.iter().map(|(id, ..)| id).collect();
    let kept_images = images.iter().filter(|id| keep.contains(id)).count();
    let mixed = census.mixed();
    *collected = Collected {
        kept_images,
        unneeded_images: images.len() - kept_images,
        unneeded: census.dead().iter().map(path).collect(),
        partly_needed: mixed.iter().map(path).collect(),
        young: mixed.iter().filter(is_young).count(),
        ..Collected::default()
    };
    if options.yes && kept_images == 0 && !images.is_empty() {
        return Err(StoreError::NothingKept {
            path: folder.to_owned(),
            images: images.len(),
        });
    }
    drop(images);
    // What may go goes first, so that its space can be used.
    remove(&census, &clock, !options.yes, &mut collected.removed)?;
    if !options.yes {
        return Ok(());
    }
    if collected.removed.shards > 0 {
        // A removed shard takes space as long as it is mapped.
        drop(store);
        store = Store::open_whole(folder)?;
    }
    let census = Census::new(&store, Some(keep));
    for i in census.mixed() {
        let shard = &store.shards()[i];
        if clock.is_old(shard.path()) {
            let shard_bytes = SHARD_BYTES.max(shard.len_bytes() as usize);
            let written = rewrite(&census, &[i], shard_bytes)?;
            collected.written.extend(written);
        }
    }
    if !collected.written.is_empty() {
        drop(store);
        store = Store::open_whole(folder)?;
        let clock = Clock::new(folder, options.grace);
        let census = Census::new(&store, Some(keep));
        remove(&census, &clock, false, &mut collected.removed)?;
        drop(store);
        store = Store::open_whole(folder)?;
    }
    let left: HashSet<ImageId> = store.iter().map(|(id, ..)| id).collect();
    let left = left.iter().filter(|id| !keep.contains(id)).count();
    collected.dropped_images = collected.unneeded_images.saturating_sub(left);
    Ok(())
}
