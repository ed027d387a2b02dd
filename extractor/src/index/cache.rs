//! The digest cache: which file, unchanged since when, has which digest, so that indexing a large
//! data set again reads no image.
//!
//! A file is trusted to be unchanged when device, inode, size, modification time and change time
//! are all as they were (as git does it). A file that was modified or changed in the last two
//! seconds before it was looked at is not recorded: a later change in the same tick of the clock
//! could not be told apart ("racily clean", in git's words). The cache is an aid and never an
//! authority: it is thrown away when it is damaged, and `--rehash` ignores it.
//!
//! # Format, version 1
//!
//! Beside the index, `NAME.digests`: the 16 bytes `headstart-dig-1\n`, then for each file 72 bytes:
//! device, inode, size (u64), modification and change time in nanoseconds since 1970 (i64), all
//! little-endian, and the digest (32 bytes); in ascending order; then the XXH3-64 of all that (u64).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use xxhash_rust::xxh3::xxh3_64;

use crate::digest::{Digest, ImageId};
use crate::files::{FileError, write_atomically};
use crate::walk::Stamp;

const MAGIC: &[u8; 16] = b"headstart-dig-1\n";
const RECORD_BYTES: usize = 72;
const RACY_NANOS: i64 = 2_000_000_000;

/// Whether a file is old enough at `now_nanos` for a later change to show.
fn settled(stamp: &Stamp, now_nanos: i64) -> bool {
    let latest = stamp.modified_nanos.max(stamp.changed_nanos);
    latest < now_nanos.saturating_sub(RACY_NANOS)
}

/// Digests by stamp.
#[derive(Debug, Default)]
pub struct DigestCache {
    known: HashMap<Stamp, ImageId>,
}

impl DigestCache {
    /// Where the cache of the index at `index` lies.
    pub fn path(index: &Path) -> PathBuf {
        index.with_extension("digests")
    }

    /// Reads the cache at `path`. One that is missing or damaged is empty.
    pub fn read(path: &Path) -> DigestCache {
        match std::fs::read(path) {
            Ok(bytes) => parse(&bytes).unwrap_or_else(|| {
                tracing::warn!(
                    "the digest cache {} is damaged and not used",
                    path.display()
                );
                DigestCache::default()
            }),
            Err(_) => DigestCache::default(),
        }
    }

    /// The digest of the file with this stamp, if it is known.
    pub fn get(&self, stamp: &Stamp) -> Option<ImageId> {
        self.known.get(stamp).copied()
    }

    /// Writes the cache of `files` to `path`, unless it would say what this one says. `started` is
    /// when the first of them was looked at: files changed shortly before are left out.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn update(
        &self,
        path: &Path,
        files: impl Iterator<Item = (Stamp, ImageId)>,
        started: SystemTime,
    ) -> Result<(), FileError> {
        let now = started
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let now_nanos = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        let mut records: Vec<(Stamp, ImageId)> = files
            .filter(|(stamp, _)| settled(stamp, now_nanos))
            .collect();
        records.sort_unstable();
        records.dedup();
        let same = records.len() == self.known.len()
            && records
                .iter()
                .all(|(stamp, id)| self.known.get(stamp) == Some(id));
        if same {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(MAGIC.len() + records.len() * RECORD_BYTES + 8);
        bytes.extend_from_slice(MAGIC);
        for (stamp, id) in &records {
            bytes.extend_from_slice(&stamp.device.to_le_bytes());
            bytes.extend_from_slice(&stamp.inode.to_le_bytes());
            bytes.extend_from_slice(&stamp.size_bytes.to_le_bytes());
            bytes.extend_from_slice(&stamp.modified_nanos.to_le_bytes());
            bytes.extend_from_slice(&stamp.changed_nanos.to_le_bytes());
            bytes.extend_from_slice(&id.0);
        }
        bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
        write_atomically(path, &bytes)
    }
}

fn parse(bytes: &[u8]) -> Option<DigestCache> {
    let (body, checksum) = bytes.split_last_chunk::<8>()?;
    if xxh3_64(body).to_le_bytes() != *checksum {
        return None;
    }
    let records = body.strip_prefix(MAGIC)?;
    let mut known = HashMap::with_capacity(records.len() / RECORD_BYTES);
    for record in records.chunks(RECORD_BYTES) {
        let record: &[u8; RECORD_BYTES] = record.try_into().ok()?;
        let word = |i: usize| -> [u8; 8] {
            record[8 * i..8 * i + 8]
                .try_into()
                .expect("eight bytes of 72")
        };
        let stamp = Stamp {
            device: u64::from_le_bytes(word(0)),
            inode: u64::from_le_bytes(word(1)),
            size_bytes: u64::from_le_bytes(word(2)),
            modified_nanos: i64::from_le_bytes(word(3)),
            changed_nanos: i64::from_le_bytes(word(4)),
        };
        let id = record[40..].try_into().expect("32 bytes of 72");
        known.insert(stamp, Digest(id));
    }
    Some(DigestCache { known })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn stamp(inode: u64, secs: i64) -> Stamp {
        Stamp {
            device: 1,
            inode,
            size_bytes: 10,
            modified_nanos: secs * 1_000_000_000,
            changed_nanos: secs * 1_000_000_000,
        }
    }

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
    }

    #[test]
    fn settled_files_are_remembered_and_fresh_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.digests");
        let (old, fresh) = (Digest::of(b"old"), Digest::of(b"fresh"));
        let files = [(stamp(1, 900), old), (stamp(2, 999), fresh)];
        let empty = DigestCache::read(&path);
        empty.update(&path, files.into_iter(), at(1000)).unwrap();
        let cache = DigestCache::read(&path);
        assert_eq!(cache.get(&stamp(1, 900)), Some(old));
        assert_eq!(cache.get(&stamp(2, 999)), None, "racily clean");
        for field in 0..5 {
            let mut other = stamp(1, 900);
            match field {
                0 => other.device += 1,
                1 => other.inode += 1,
                2 => other.size_bytes += 1,
                3 => other.modified_nanos += 1,
                _ => other.changed_nanos += 1,
            }
            assert_eq!(cache.get(&other), None, "field {field}");
        }
        cache.update(&path, files.into_iter(), at(2000)).unwrap();
        assert_eq!(DigestCache::read(&path).get(&stamp(2, 999)), Some(fresh));
    }

    #[test]
    fn a_damaged_cache_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.digests");
        let files = [(stamp(1, 900), Digest::of(b"a"))];
        DigestCache::default()
            .update(&path, files.into_iter(), at(1000))
            .unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(parse(&bytes).is_none(), "byte {at}");
            assert!(parse(&whole[..at]).is_none(), "cut at {at}");
        }
        assert!(parse(&whole).is_some());
    }
}
