//! The digest cache: which file, unchanged since when, has which digest, so that indexing a large
//! data set again reads no image.
//!
//! A file is trusted to be unchanged when device, inode, size, modification time and change time
//! are all as they were (as git does it). A file that was modified or changed in the last two
//! seconds before it was looked at is not recorded: a later change in the same tick of the clock
//! could not be told apart ("racily clean", in git's words). The cache is an aid and never an
//! authority: it is thrown away when it is damaged, and `--rehash` ignores it.
//!
//! Records stay in their files: in memory is a table of record numbers (7 bytes a file), and a
//! look-up reads the few records that it may mean.
//!
//! # Format, version 2
//!
//! Beside the index, `NAME.digests`: the 16 bytes `headstart-dig-2\n`, then for each file 72 bytes:
//! device, inode, size (u64), modification and change time in nanoseconds since 1970 (i64), all
//! little-endian, and the digest (32 bytes); in any order, and a file that has several names MAY
//! occur several times; then the XXH3-64 of all that (u64). Version 1, `headstart-dig-1\n`, was the
//! same in ascending order, each file once; it is still read.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::notes::{Notes, RECORD_BYTES, STAMP_BYTES, parse, stamp_bytes};
use super::spool::Spool;
use crate::digest::ImageId;
use crate::files::{self, FileError, Pending};
use crate::numbers::Numbers;
use crate::part::Part;
use crate::walk::Stamp;

const MAGIC: &[u8; 16] = b"headstart-dig-2\n";
const OLD_MAGIC: &[u8; 16] = b"headstart-dig-1\n";
const CHECKSUM_BYTES: u64 = 8;
const RACY_NANOS: i64 = 2_000_000_000;

/// Whether a file is old enough at `now_nanos` for a later change to show.
fn settled(stamp: &Stamp, now_nanos: i64) -> bool {
    let latest = stamp.modified_nanos.max(stamp.changed_nanos);
    latest < now_nanos.saturating_sub(RACY_NANOS)
}

/// Digests by stamp.
#[derive(Debug, Default)]
pub struct DigestCache {
    folder: Option<PathBuf>,
    known: Option<Known>,
    parts: Vec<Known>,
}

/// A cache file that was found whole.
#[derive(Debug)]
struct Known {
    index: PathBuf,
    file: File,
    numbers: Numbers, // of records, by their stamps
}

impl DigestCache {
    /// Where the cache of the index at `index` lies.
    pub fn path(index: &Path) -> PathBuf {
        index.with_extension("digests")
    }

    /// Reads the cache of the index at `index`, and those of its parts ([`part_path`]). One that is
    /// missing or damaged is empty.
    pub fn read(index: &Path) -> DigestCache {
        DigestCache {
            known: Known::of(index),
            parts: part_paths(index)
                .iter()
                .filter_map(|i| Known::of(i))
                .collect(),
            ..DigestCache::unread(index)
        }
    }

    /// A cache of the index at `index` that knows nothing, whatever lies there.
    pub fn unread(index: &Path) -> DigestCache {
        DigestCache {
            folder: Some(files::folder_of(index).to_owned()),
            ..DigestCache::default()
        }
    }

    /// The digest of the file with this stamp, if it is known.
    pub fn get(&self, stamp: &Stamp) -> Option<ImageId> {
        let mut all = self.known.iter().chain(&self.parts);
        all.find_map(|known| known.get(stamp))
    }

    /// The digests known for this stamp, each with the index whose cache knows it.
    pub(super) fn indexes(&self, stamp: &Stamp) -> Vec<(PathBuf, ImageId)> {
        let all = self.known.iter().chain(&self.parts);
        all.filter_map(|known| Some((known.index.clone(), known.get(stamp)?)))
            .collect()
    }

    /// Where to note down what the next cache is made of.
    pub fn notes(&self) -> Notes {
        Notes::new(self.folder_of_temporary())
    }

    /// Where to put the ids that are found.
    pub(super) fn spool(&self) -> Spool {
        Spool::new(self.folder_of_temporary())
    }

    fn folder_of_temporary(&self) -> PathBuf {
        self.folder.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// Writes the cache of the files in `notes` for the index at `index`, unless it would say what
    /// is there. `started` is when the first of them was looked at: files changed shortly before are left
    /// out.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn update(
        &self,
        index: &Path,
        notes: &mut Notes,
        started: SystemTime,
    ) -> Result<(), FileError> {
        let path = &DigestCache::path(index);
        let known = |stamp: &Stamp| self.known.as_ref()?.get(stamp);
        let now = started
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let now_nanos = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);

        let (mut count, mut same) = (0, true);
        notes.for_each(|record| {
            let (stamp, id) = parse(record);
            if settled(&stamp, now_nanos) {
                count += 1;
                same = same && known(&stamp) == Some(id);
            }
            Ok(())
        })?;
        let before = self.known.as_ref().map_or(0, |known| known.numbers.len());
        if same && count == before {
            return Ok(());
        }
        let mut pending = Pending::new(path)?;
        let mut hasher = Xxh3Default::new();
        let mut out = BufWriter::new(pending.file());
        let mut write = |bytes: &[u8]| {
            hasher.update(bytes);
            out.write_all(bytes)
        };
        let header = write(MAGIC);
        header.map_err(FileError::new("write", path))?;
        notes.for_each(|record| match settled(&parse(record).0, now_nanos) {
            true => write(record),
            false => Ok(()),
        })?;
        let rest = out.write_all(&hasher.digest().to_le_bytes());
        let rest = rest.and_then(|()| out.flush());
        rest.map_err(FileError::new("write", path))?;
        drop(out);
        pending.publish()?;
        Ok(())
    }
}

/// Where the index of a part lies that is made without one of the whole: beside it.
pub fn part_path(index: &Path, part: Part) -> PathBuf {
    let (number, of) = (part.number(), part.of());
    let mut name = index.file_stem().unwrap_or_default().to_owned();
    name.push(format!("{PART}{number}-of-{of}"));
    if let Some(extension) = index.extension() {
        name.push(".");
        name.push(extension);
    }
    index.with_file_name(name)
}

const PART: &str = ".part-";

/// Indexes of parts that lie beside the index at `index`.
fn part_paths(index: &Path) -> Vec<PathBuf> {
    let stem = index.file_stem().unwrap_or_default().as_bytes();
    let entries = std::fs::read_dir(files::folder_of(index));
    let mut paths: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension() == index.extension())
        .filter(|path| {
            let name = path.file_stem().unwrap_or_default().as_bytes();
            let part = name
                .strip_prefix(stem)
                .and_then(|rest| rest.strip_prefix(PART.as_bytes()))
                .and_then(|part| std::str::from_utf8(part).ok());
            part.is_some_and(|part| part.replacen("-of-", "/", 1).parse::<Part>().is_ok())
        })
        .collect();
    paths.sort();
    paths
}

/// Removes the indexes of parts beside the index at `index`, which now says all that they do.
pub fn remove_parts(index: &Path) {
    for part in part_paths(index) {
        for path in [DigestCache::path(&part), part] {
            // They are harmless, should they stay.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Known {
    fn of(index: &Path) -> Option<Known> {
        let path = DigestCache::path(index);
        let file = File::open(&path).ok()?;
        let known = Known::read(file, index).ok().flatten();
        if known.is_none() {
            let path = files::escape_path(&path);
            tracing::warn!("the digest cache {path} is damaged and not used");
        }
        known
    }

    /// Reads and checks a cache file; `None` if it is damaged.
    fn read(file: File, index: &Path) -> io::Result<Option<Known>> {
        let frame = MAGIC.len() as u64 + CHECKSUM_BYTES;
        let records = match file.metadata()?.len().checked_sub(frame) {
            Some(bytes) if bytes.is_multiple_of(RECORD_BYTES as u64) => bytes / RECORD_BYTES as u64,
            _ => return Ok(None),
        };
        let mut counting = Numbers::begin(usize::try_from(records).unwrap_or(0));
        let mut hasher = Xxh3Default::new();
        let mut reader = BufReader::new(&file);
        let mut magic = [0; MAGIC.len()];
        reader.read_exact(&mut magic)?;
        hasher.update(&magic);
        for_each(&mut reader, records, |record| {
            hasher.update(record);
            counting.add(hash(record));
        })?;
        let mut checksum = [0; CHECKSUM_BYTES as usize];
        reader.read_exact(&mut checksum)?;
        if hasher.digest().to_le_bytes() != checksum || ![*MAGIC, *OLD_MAGIC].contains(&magic) {
            return Ok(None);
        }
        let mut placing = counting.again();
        reader.seek(SeekFrom::Start(MAGIC.len() as u64))?;
        for_each(&mut reader, records, |record| placing.add(hash(record)))?;
        drop(reader);
        Ok(Some(Known {
            index: index.to_owned(),
            file,
            numbers: placing.finish(),
        }))
    }

    fn get(&self, stamp: &Stamp) -> Option<ImageId> {
        let wanted = stamp_bytes(stamp);
        self.numbers.find(xxh3_64(&wanted)).find_map(|number| {
            let at = MAGIC.len() as u64 + u64::from(number) * RECORD_BYTES as u64;
            let mut record = [0; RECORD_BYTES];
            self.file.read_exact_at(&mut record, at).ok()?;
            record.starts_with(&wanted).then(|| parse(&record).1)
        })
    }
}

fn for_each(
    reader: &mut impl Read,
    records: u64,
    mut visit: impl FnMut(&[u8; RECORD_BYTES]),
) -> io::Result<()> {
    let mut record = [0; RECORD_BYTES];
    for _ in 0..records {
        reader.read_exact(&mut record)?;
        visit(&record);
    }
    Ok(())
}

fn hash(record: &[u8; RECORD_BYTES]) -> u64 {
    xxh3_64(&record[..STAMP_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
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

    fn notes(files: &[(Stamp, ImageId)]) -> Notes {
        let mut notes = DigestCache::default().notes();
        for (stamp, id) in files {
            notes.push(stamp, id).unwrap();
        }
        notes
    }

    #[test]
    fn settled_files_are_remembered_and_fresh_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.digests");
        let (old, fresh) = (Digest::of(b"old"), Digest::of(b"fresh"));
        let mut notes = notes(&[(stamp(1, 900), old), (stamp(2, 999), fresh)]);
        let empty = DigestCache::read(&path);
        empty.update(&path, &mut notes, at(1000)).unwrap();
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
        cache.update(&path, &mut notes, at(2000)).unwrap();
        assert_eq!(DigestCache::read(&path).get(&stamp(2, 999)), Some(fresh));
    }

    #[test]
    fn it_is_written_only_if_it_says_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/x.digests");
        let file = |inode: u64| (stamp(inode, 900), Digest::of(&inode.to_le_bytes()));
        let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
        let update = |files: &[(Stamp, ImageId)]| {
            let cache = DigestCache::read(&path);
            cache.update(&path, &mut notes(files), at(1000)).unwrap();
        };
        update(&[]);
        assert!(!path.exists());
        // A file with two names.
        let all: Vec<_> = (0..3000).chain([7]).map(file).collect();
        update(&all);
        let first = inode();
        let _keeps_the_inode_taken = File::open(&path).unwrap();
        let cache = DigestCache::read(&path);
        assert!(all.iter().all(|(stamp, id)| cache.get(stamp) == Some(*id)));
        let turned: Vec<_> = all.iter().rev().copied().collect();
        update(&turned);
        assert_eq!(inode(), first);
        update(&all[1..]);
        assert_ne!(inode(), first);
        assert_eq!(DigestCache::read(&path).get(&all[0].0), None);
        let unread = DigestCache::unread(&path);
        assert_eq!(unread.get(&all[1].0), None);
        let names = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "notes leave nothing behind");
    }

    #[test]
    fn version_1_is_still_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.digests");
        let (stamp, id) = (stamp(1, 900), Digest::of(b"a"));
        let mut bytes = [&OLD_MAGIC[..], &stamp_bytes(&stamp), &id.0].concat();
        bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(DigestCache::read(&path).get(&stamp), Some(id));
    }

    #[test]
    fn a_damaged_cache_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.digests");
        let mut notes = notes(&[(stamp(1, 900), Digest::of(b"a"))]);
        DigestCache::default()
            .update(&path, &mut notes, at(1000))
            .unwrap();
        let whole = std::fs::read(&path).unwrap();
        let is_used = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            DigestCache::read(&path).known.is_some()
        };
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(!is_used(&bytes), "byte {at}");
            assert!(!is_used(&whole[..at]), "cut at {at}");
        }
        assert!(is_used(&whole));
    }
}
