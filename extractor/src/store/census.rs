//! Which rows of which shards count, and what follows: shards to be rewritten, shards and files
//! to be removed. The common ground of [`super::compact`] and [`super::gc`].
//!
//! # Why nothing is lost
//!
//! Of several copies of a row the one in the shard with the lowest name counts, and a shard is
//! removed only if none of its wanted rows counts. So whoever removes shards at the same time, the
//! copy that counts is removed by nobody. A rewritten shard has a lower name than those whose rows
//! it took over ([`super::writer`]) and holds the same bits, so that a row does not change when
//! its copies go, in whatever order.
//!
//! Whoever removes shards must have seen all that are there ([`Store::open`] would leave out what
//! seems gone), and reads what replaces them once more, by its name.
//!
//! # When another copy may come to count
//!
//! Removing changes no row, but adding may: a writer that computed a row a second time publishes
//! its copy in a shard whose name may be the lower one, and of two shards that compactions wrote at
//! the same time of different copies the one with the lower name counts. Setting a damaged shard
//! aside makes the next copy count. Copies of one provenance are the same bits; those of different
//! ones (other processors, engines, batch sizes) agree within rounding, so that a row may then
//! change in its last bits. Readers see one copy for as long as they have the store open.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::verify::must_be_sound;
use super::{RowRef, Shard, Store, StoreError, files};
use crate::digest::ImageId;
use crate::files::{FileError, Pending, TEMPORARY_PREFIX, is_gone, sync_folder};

/// Ids of images; none stands for all.
pub(super) type Keep<'a> = Option<&'a HashSet<ImageId>>;

/// Which of the wanted rows are where. The copy of a row that counts is the one that a reader
/// gets: [`Store::locate`].
pub(super) struct Census<'a> {
    pub store: &'a Store,
    keep: Keep<'a>,
    live: Vec<usize>,
}

impl<'a> Census<'a> {
    pub fn new(store: &'a Store, keep: Keep<'a>) -> Census<'a> {
        let mut census = Census {
            store,
            keep,
            live: vec![0; store.shards.len()],
        };
        for (id, _, at) in store.iter() {
            census.live[at.shard as usize] += usize::from(census.is_wanted(&id));
        }
        census
    }

    fn is_wanted(&self, id: &ImageId) -> bool {
        self.keep.is_none_or(|keep| keep.contains(id))
    }

    /// The copy that counts of a row of a shard, if it is wanted.
    fn counting(&self, shard: &Shard, batch: usize, row: usize) -> Option<RowRef> {
        let id = shard.id(batch, row);
        let counting = self.store.locate(&id, shard.view(batch, row));
        counting.filter(|_| self.is_wanted(&id))
    }

    fn shard(&self, number: usize) -> &'a Shard {
        &self.store.shards[number]
    }

    /// The rows of a shard that are wanted and count.
    pub fn live(&self, number: usize) -> impl Iterator<Item = (usize, usize)> {
        let shard = self.shard(number);
        shard.positions().filter(move |&(batch, row)| {
            let here = RowRef {
                shard: number as u32,
                batch: batch as u32,
                row: row as u32,
            };
            self.counting(shard, batch, row) == Some(here)
        })
    }

    /// The number of those.
    pub fn live_rows(&self, number: usize) -> usize {
        self.live[number]
    }

    /// Shards with rows that count and rows that do not.
    pub fn mixed(&self) -> Vec<usize> {
        (0..self.live.len())
            .filter(|&i| self.live[i] > 0 && self.live[i] < self.shard(i).rows())
            .collect()
    }

    /// Shards of which no row counts.
    pub fn dead(&self) -> Vec<usize> {
        (0..self.live.len())
            .filter(|&i| self.live[i] == 0)
            .collect()
    }

    /// Rows that are not wanted or of which another copy counts.
    pub fn duplicates(&self) -> usize {
        let rows: usize = self.store.shards.iter().map(Shard::rows).sum();
        rows - self.live.iter().sum::<usize>()
    }

    /// The shards that hold the counting copies of a dead shard's wanted rows.
    fn replacing(&self, number: usize) -> BTreeSet<usize> {
        let shard = self.shard(number);
        shard
            .positions()
            .filter_map(|(batch, row)| self.counting(shard, batch, row))
            .map(|counting| counting.shard as usize)
            .collect()
    }
}

/// Ages of files, by the clock of the file system they lie on.
pub(super) struct Clock {
    now: SystemTime,
    grace: Duration,
}

impl Clock {
    /// The clock of `folder`; this machine's, if nothing can be written there.
    pub fn new(folder: &Path, grace: Duration) -> Clock {
        let now = || {
            let mut probe = Pending::new(&folder.join("clock")).ok()?;
            probe.file().metadata().ok()?.modified().ok()
        };
        Clock {
            now: now().unwrap_or_else(SystemTime::now),
            grace,
        }
    }

    /// Whether a file has been there for the grace period; no for one that is gone.
    pub fn is_old(&self, path: &Path) -> bool {
        let modified = fs::symlink_metadata(path).and_then(|m| m.modified());
        modified.is_ok_and(|m| self.now.duration_since(m).unwrap_or_default() >= self.grace)
    }
}

/// What was removed and what has to wait.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// Shards removed.
    pub shards: usize,
    /// Temporary files of killed runs removed.
    pub temporary: usize,
    /// Bytes both took.
    pub bytes: u64,
    /// Shards of which no row counts any more, kept as they or what replaces them are younger than
    /// the grace period.
    pub waiting: usize,
    /// Bytes they take.
    pub waiting_bytes: u64,
}

impl Removed {
    /// The error of what came after something may have been removed.
    pub(super) fn stopped(self, source: StoreError) -> StoreError {
        match self.shards + self.temporary {
            0 => source,
            _ => StoreError::Stopped {
                removed: self,
                source: Box::new(source),
            },
        }
    }
}

/// Removes the shards of which no row counts and the temporary files of killed runs, as far as
/// they and what replaces them are old enough; with `dry`, only says so. Adds what it removed to
/// `removed`, whether it fails or not; what has to wait is what has to wait now.
pub(super) fn remove(
    census: &Census,
    clock: &Clock,
    dry: bool,
    removed: &mut Removed,
) -> Result<(), StoreError> {
    let folder = census.store.folder();
    let before = removed.shards + removed.temporary;
    (removed.waiting, removed.waiting_bytes) = (0, 0);
    let mut sound = HashSet::new();
    for number in census.dead() {
        let shard = census.shard(number);
        let replacing = census.replacing(number);
        let mut needed = replacing.iter().map(|&i| census.shard(i).path());
        let mut may_go = clock.is_old(shard.path()) && needed.all(|path| clock.is_old(path));
        // The copies that remain must be there and good before the others go.
        for i in replacing {
            if may_go && !dry && !sound.contains(&i) {
                match must_be_sound(census.shard(i)) {
                    Ok(()) => may_go = sound.insert(i),
                    Err(e) if e.is_vanished() => may_go = false,
                    Err(e) => return Err(e),
                }
            }
        }
        if !may_go {
            removed.waiting += 1;
            removed.waiting_bytes += shard.len_bytes();
        } else if dry || unlink(shard.path(), clock)? {
            removed.shards += 1;
            removed.bytes += shard.len_bytes();
        }
    }
    for path in temporary(folder, clock)? {
        let len_bytes = fs::symlink_metadata(&path).map_or(0, |m| m.len());
        if dry || unlink(&path, clock)? {
            removed.temporary += 1;
            removed.bytes += len_bytes;
        }
    }
    if !dry && removed.shards + removed.temporary > before {
        sync_folder(folder)?;
    }
    Ok(())
}

/// Temporary files that nobody writes any more.
fn temporary(folder: &Path, clock: &Clock) -> Result<Vec<PathBuf>, StoreError> {
    let mut paths = temporary_files(folder)?;
    paths.retain(|path| clock.is_old(path));
    Ok(paths)
}

/// Temporary files, under way or left behind. Nothing else of such a name is ours.
pub(super) fn temporary_files(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut paths = files(folder, TEMPORARY_PREFIX, "")?;
    paths.retain(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_file()));
    Ok(paths)
}

/// Removes a file unless it was written anew in the meantime.
fn unlink(path: &Path, clock: &Clock) -> Result<bool, StoreError> {
    if !clock.is_old(path) {
        return Ok(false);
    }
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if is_gone(&e) => Ok(false),
        Err(e) => Err(FileError::new("remove", path)(e).into()),
    }
}
