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
    /// How long a shard stays, from when it was written or replaced.
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
    /// Images whose row goes.
    pub dropped_images: usize,
    /// Shards without a single row that is kept.
    pub unneeded: Vec<PathBuf>,
    /// Shards with rows of both kinds: what is kept of them is written anew.
    pub partly_needed: Vec<PathBuf>,
    /// Shards that hold it.
    pub written: Vec<PathBuf>,
    /// What was or would be removed now.
    pub removed: Removed,
}

/// Drops every row of the store in `folder` whose image is not in `keep`.
///
/// A partly needed shard younger than the grace period is left as it is.
///
/// # Errors
/// When a shard is damaged or the disk fails; no row that is kept is lost.
pub fn collect(
    folder: &Path,
    keep: &HashSet<ImageId>,
    options: &Options,
) -> Result<Collected, StoreError> {
    let store = Store::open(folder)?;
    let census = Census::new(&store, Some(keep));
    let clock = Clock::new(folder, options.grace);
    let path = |i: &usize| store.shards()[*i].path().to_owned();
    let images: HashSet<ImageId> = store.iter().map(|(id, ..)| id).collect();
    let kept_images = images.iter().filter(|id| keep.contains(id)).count();
    let mixed = census.mixed();
    let mut collected = Collected {
        kept_images,
        dropped_images: images.len() - kept_images,
        unneeded: census.dead().iter().map(path).collect(),
        partly_needed: mixed.iter().map(path).collect(),
        ..Collected::default()
    };
    if !options.yes {
        collected.removed = remove(&census, &clock, true)?;
        return Ok(collected);
    }
    for i in mixed {
        if clock.is_old(store.shards()[i].path()) {
            let written = rewrite(
                &census,
                &[i],
                SHARD_BYTES.max(store.shards()[i].len_bytes() as usize),
            )?;
            collected.written.extend(written);
        }
    }
    let store = Store::open(folder)?;
    let clock = Clock::new(folder, options.grace);
    collected.removed = remove(&Census::new(&store, Some(keep)), &clock, false)?;
    Ok(collected)
}
