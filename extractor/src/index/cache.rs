//! The digest cache: which file, unchanged since when, has which digest, so that indexing a large
//! data set again reads no image.
//!
//! A file is trusted to be unchanged when device, inode, size, modification time and change time
//! are all as they were (as git does it). A file that was modified or changed in the last two
//! seconds before it was looked at is not recorded: a later change in the same tick of the clock
//! could not be told apart ("racily clean", in git's words). The cache is an aid and never an
//! authority: it is thrown away when it is damaged, and `--rehash` ignores it.
//!
//! Records stay in their files: in memory is a table of record numbers (6 to 11 bytes a file), and
//! a look-up reads the one record that it needs.
//!
//! # Format, version 2
//!
//! Beside the index, `NAME.digests`: the 16 bytes `headstart-dig-2\n`, then for each file 72 bytes:
//! device, inode, size (u64), modification and change time in nanoseconds since 1970 (i64), all
//! little-endian, and the digest (32 bytes); in any order, and a file that has several names MAY
//! occur several times; then the XXH3-64 of all that (u64). Version 1, `headstart-dig-1\n`, was the
//! same in ascending order, each file once; it is still read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hashbrown::HashTable;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use crate::digest::{Digest, ImageId};
use crate::files::{self, FileError, Pending};
use crate::walk::Stamp;

const MAGIC: &[u8; 16] = b"headstart-dig-2\n";
const OLD_MAGIC: &[u8; 16] = b"headstart-dig-1\n";
const STAMP_BYTES: usize = 40;
const RECORD_BYTES: usize = 72;
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
}

/// A cache file that was found whole.
#[derive(Debug)]
struct Known {
    file: File,
    numbers: HashTable<u32>, // of records, by their stamps
}

impl DigestCache {
    /// Where the cache of the index at `index` lies.
    pub fn path(index: &Path) -> PathBuf {
        index.with_extension("digests")
    }

    /// Reads the cache at `path`. One that is missing or damaged is empty.
    pub fn read(path: &Path) -> DigestCache {
        let known = File::open(path).ok().and_then(|file| {
            let known = Known::read(file).ok().flatten();
            if known.is_none() {
                let path = path.display();
                tracing::warn!("the digest cache {path} is damaged and not used");
            }
            known
        });
        DigestCache {
            known,
            ..DigestCache::unread(path)
        }
    }

    /// A cache at `path` that knows nothing, whatever lies there.
    pub fn unread(path: &Path) -> DigestCache {
        DigestCache {
            folder: Some(files::folder_of(path).to_owned()),
            known: None,
        }
    }

    /// The digest of the file with this stamp, if it is known.
    pub fn get(&self, stamp: &Stamp) -> Option<ImageId> {
        self.known.as_ref()?.get(stamp)
    }

    /// Where to note down what the next cache is made of.
    pub fn notes(&self) -> Notes {
        Notes {
            folder: self.folder.clone().unwrap_or_else(std::env::temp_dir),
            spool: None,
        }
    }

    /// Writes the cache of the files in `notes` to `path`, unless it would say what this one says.
    /// `started` is when the first of them was looked at: files changed shortly before are left
    /// out.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn update(
        &self,
        path: &Path,
        notes: &mut Notes,
        started: SystemTime,
    ) -> Result<(), FileError> {
        let now = started
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let now_nanos = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);

        let (mut count, mut same) = (0, true);
        notes.for_each(|record| {
            let (stamp, id) = parse(record);
            if settled(&stamp, now_nanos) {
                count += 1;
                same = same && self.get(&stamp) == Some(id);
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

impl Known {
    /// Reads and checks a cache file; `None` if it is damaged.
    fn read(file: File) -> io::Result<Option<Known>> {
        let frame = MAGIC.len() as u64 + CHECKSUM_BYTES;
        let records = match file.metadata()?.len().checked_sub(frame) {
            Some(bytes) if bytes.is_multiple_of(RECORD_BYTES as u64) => bytes / RECORD_BYTES as u64,
            _ => return Ok(None),
        };
        let Ok(records) = u32::try_from(records) else {
            return Ok(None);
        };
        let mut reader = BufReader::new(&file);
        let mut hasher = Xxh3Default::new();
        let mut magic = [0; MAGIC.len()];
        reader.read_exact(&mut magic)?;
        hasher.update(&magic);
        let mut numbers = HashTable::with_capacity(records as usize);
        for number in 0..records {
            let mut record = [0; RECORD_BYTES];
            reader.read_exact(&mut record)?;
            hasher.update(&record);
            let rehash = |_: &u32| unreachable!("there is room for all");
            numbers.insert_unique(xxh3_64(&record[..STAMP_BYTES]), number, rehash);
        }
        let mut checksum = [0; CHECKSUM_BYTES as usize];
        reader.read_exact(&mut checksum)?;
        let whole =
            hasher.digest().to_le_bytes() == checksum && [*MAGIC, *OLD_MAGIC].contains(&magic);
        Ok(whole.then_some(Known { file, numbers }))
    }

    fn get(&self, stamp: &Stamp) -> Option<ImageId> {
        let wanted = stamp_bytes(stamp);
        let mut record = [0; RECORD_BYTES];
        let is = |number: &u32| {
            let at = MAGIC.len() as u64 + u64::from(*number) * RECORD_BYTES as u64;
            self.file.read_exact_at(&mut record, at).is_ok() && record[..STAMP_BYTES] == wanted
        };
        self.numbers.find(xxh3_64(&wanted), is)?;
        Some(parse(&record).1)
    }
}

/// Stamps and digests of files that were looked at, in a file without a name, which is gone when
/// the process is.
#[derive(Debug)]
pub struct Notes {
    folder: PathBuf,
    spool: Option<BufWriter<File>>,
}

impl Notes {
    /// Adds a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, stamp: &Stamp, id: &ImageId) -> Result<(), FileError> {
        let spool = match &mut self.spool {
            Some(spool) => spool,
            none => {
                files::create_folder(&self.folder)?;
                let file = tempfile::tempfile_in(&self.folder);
                let file = file.map_err(FileError::new("create a temporary file in", &self.folder));
                none.insert(BufWriter::new(file?))
            }
        };
        let written = spool.write_all(&stamp_bytes(stamp));
        let written = written.and_then(|()| spool.write_all(&id.0));
        written.map_err(FileError::new("write a temporary file in", &self.folder))
    }

    /// Calls `visit` with every record.
    fn for_each(
        &mut self,
        mut visit: impl FnMut(&[u8; RECORD_BYTES]) -> io::Result<()>,
    ) -> Result<(), FileError> {
        let Some(spool) = &mut self.spool else {
            return Ok(());
        };
        let mut visit_all = || {
            spool.rewind()?; // writes what is still in memory first
            let mut reader = BufReader::new(spool.get_ref());
            let mut record = [0; RECORD_BYTES];
            while !reader.fill_buf()?.is_empty() {
                reader.read_exact(&mut record)?;
                visit(&record)?;
            }
            Ok(())
        };
        visit_all().map_err(FileError::new("copy a temporary file in", &self.folder))
    }
}

fn stamp_bytes(stamp: &Stamp) -> [u8; STAMP_BYTES] {
    let words = [
        stamp.device.to_le_bytes(),
        stamp.inode.to_le_bytes(),
        stamp.size_bytes.to_le_bytes(),
        stamp.modified_nanos.to_le_bytes(),
        stamp.changed_nanos.to_le_bytes(),
    ];
    words
        .as_flattened()
        .try_into()
        .expect("five words of eight bytes")
}

fn parse(record: &[u8; RECORD_BYTES]) -> (Stamp, ImageId) {
    let (words, _) = record.as_chunks::<8>();
    let stamp = Stamp {
        device: u64::from_le_bytes(words[0]),
        inode: u64::from_le_bytes(words[1]),
        size_bytes: u64::from_le_bytes(words[2]),
        modified_nanos: i64::from_le_bytes(words[3]),
        changed_nanos: i64::from_le_bytes(words[4]),
    };
    let id = record[STAMP_BYTES..].try_into();
    (stamp, Digest(id.expect("32 bytes of 72")))
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
