//! Reads every byte of a store, says what is damaged, and sets it aside.
//!
//! Nothing is repaired: what is set aside is computed anew by the next run. Must not know which
//! rows anybody needs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::folder::unfit;
use super::{Shard, StoreError, StoreKey, files, has_rows, key, rejected, shard, writer};
use crate::files::{FileError, create_folder, is_gone, sync_folder};

/// The sub-folder for what was set aside. Nothing in it belongs to the store.
pub const QUARANTINE: &str = "quarantine";

/// Is told how many bytes were read.
pub type OnBytes<'a> = &'a (dyn Fn(u64) + Sync);

/// A file that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
    /// The file that was looked at; none if there is no file.
    seen: Option<Stamp>,
}

/// What tells a file from another one that took its name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64), // seconds, nanoseconds
}

impl Stamp {
    fn of(path: &Path) -> Option<Stamp> {
        let found = fs::symlink_metadata(path).ok()?;
        Some(Stamp {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    }
}

/// What verifying found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// Sound shards.
    pub shards: usize,
    /// Their rows.
    pub rows: usize,
    /// Their size.
    pub bytes: u64,
    /// Damaged files of any kind, by name.
    pub damaged: Vec<Damage>,
    /// Shards of another version of the format, and which: nothing is known of what is in them, so
    /// they are no damage.
    pub other_version: Vec<(PathBuf, u64)>,
    /// Listed files that were gone before they were read: replaced by another process.
    pub vanished: usize,
}

/// Bytes of the shards of the store in `folder`.
///
/// # Errors
/// When the folder cannot be read.
pub fn bytes_to_read(folder: &Path) -> Result<u64, StoreError> {
    let paths = files(folder, shard::PREFIX, shard::SUFFIX)?;
    let found = paths.iter().flat_map(fs::metadata);
    Ok(found.filter(|m| m.is_file()).map(|m| m.len()).sum())
}

/// Reads every byte of the store in `folder`: its `store.json`, the structure, key and checksums
/// of every shard, the records of rejected images. `on_bytes` is told how many bytes of shards
/// were read since it was called last.
///
/// # Errors
/// When something cannot be read for a reason that is not its own, such as a lack of permission.
pub fn verify(folder: &Path, on_bytes: OnBytes) -> Result<Verified, StoreError> {
    let mut verified = Verified::default();
    let json = folder.join(key::STORE_JSON);
    let stamp = Stamp::of(&json);
    let mut damage = |path: PathBuf, reason: String, seen: Option<Stamp>| {
        verified.damaged.push(Damage { path, reason, seen });
    };
    let key = match key::read(folder) {
        Ok(json) => Some(json.key),
        Err(StoreError::NotAStore { reason, .. }) => {
            damage(json.clone(), reason, stamp.clone());
            None
        }
        Err(StoreError::None(_)) if folder.is_dir() && has_rows(folder)? => {
            damage(json.clone(), "it is not there".to_owned(), None);
            None
        }
        Err(other) => return Err(other),
    };
    let paths = files(folder, shard::PREFIX, shard::SUFFIX)?;
    let looked: Vec<_> = paths
        .par_iter()
        .map(|path| (Stamp::of(path), look(path, on_bytes)))
        .collect();
    let mut sound = Vec::new();
    for (path, (stamp, looked)) in paths.iter().zip(looked) {
        match looked {
            Ok(shard) => sound.push((shard, stamp)),
            Err(StoreError::ShardVersion { path, found }) => {
                verified.other_version.push((path, found));
            }
            Err(e) => match reason(e)? {
                Some(reason) => damage(path.clone(), reason, stamp),
                None => verified.vanished += 1,
            },
        }
    }
    // The folder's name has a digest of the key: where a shard fits it and `store.json` does not,
    // it is `store.json` that changed, and not every shard.
    let name = folder.canonicalize();
    let name = name.as_deref().unwrap_or(folder).file_name();
    let fits_name = |key: &StoreKey| name == Some(key.folder(Path::new("")).as_os_str());
    let named = sound
        .iter()
        .map(|(s, _)| s.key())
        .find(|key| fits_name(key));
    let key = match (key, named.cloned()) {
        (Some(key), Some(named)) if !fits_name(&key) => {
            if let Err(StoreError::Key { field, found, .. }) = key.must_equal(&named, folder) {
                let reason =
                    format!("its {field} is {found}, which does not fit the folder's name");
                damage(json, reason, stamp);
            }
            Some(named)
        }
        (key, named) => key.or(named),
    };
    if let Some(key) = key {
        let mut strangers = Vec::new();
        sound.retain(|(shard, stamp)| match shard.must_be_of(&key) {
            Ok(()) => true,
            Err(e) => {
                strangers.push((shard.path().to_owned(), e, stamp.clone()));
                false
            }
        });
        for (path, e, stamp) in strangers {
            if let Some(reason) = reason(e)? {
                damage(path, reason, stamp);
            }
        }
    }
    // Whatever most shards have is what the store has.
    let mut shapes: BTreeMap<String, usize> = BTreeMap::new();
    for (shard, _) in &sound {
        *shapes.entry(shard.map_shape().to_string()).or_default() += 1;
    }
    let usual = shapes.iter().max_by_key(|(_, n)| **n).map(|(s, _)| s);
    sound.retain(|(shard, stamp)| {
        let shape = shard.map_shape().to_string();
        let fits = usual == Some(&shape);
        if !fits {
            let reason = format!("its maps are {shape}, those of the other shards differ");
            damage(shard.path().to_owned(), reason, stamp.clone());
        }
        fits
    });
    for path in files(folder, rejected::PREFIX, rejected::SUFFIX)? {
        let stamp = Stamp::of(&path);
        if let Err(e) = rejected::read(&path) {
            match reason(e)? {
                Some(reason) => damage(path, reason, stamp),
                None => verified.vanished += 1,
            }
        }
    }
    verified.shards = sound.len();
    verified.rows = sound.iter().map(|(s, _)| s.rows()).sum();
    verified.bytes = sound.iter().map(|(s, _)| s.len_bytes()).sum();
    verified.damaged.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(verified)
}

/// Reads a shard and checks everything that can be checked of it alone.
pub(crate) fn look(path: &Path, on_bytes: OnBytes) -> Result<Shard, StoreError> {
    let reading = || FileError::new("read the shard", path);
    if unfit(path).map_err(reading())?.is_none() {
        read_through(path, on_bytes).map_err(reading())?;
    }
    let shard = Shard::open(path)?;
    shard.verify()?;
    must_fit_name(&shard)?;
    Ok(shard)
}

/// Checks the digest in a shard's name, if it has one: of its ids and recorded checksums, without
/// reading a feature.
pub(crate) fn must_fit_name(shard: &Shard) -> Result<(), StoreError> {
    match writer::content_in_name(shard.path()) {
        Some(named) if named != shard.content() => Err(StoreError::Shard {
            path: shard.path().to_owned(),
            reason: "its name is that of other rows".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Reads an open shard anew, by its name, and checks that it is sound and of the same rows.
pub(super) fn must_be_sound(shard: &Shard) -> Result<(), StoreError> {
    let path = shard.path();
    let now = look(path, &|_| {})?;
    if now.content() == shard.content() {
        return Ok(());
    }
    Err(StoreError::Shard {
        path: path.to_owned(),
        reason: "its rows are others than when it was opened".to_owned(),
    })
}

/// A bad sector is an error when it is read, and a signal that ends the program when it is touched
/// in a map: so everything is read once before it is trusted to the map.
fn read_through(path: &Path, on_bytes: OnBytes) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => on_bytes(read as u64),
        }
    }
}

/// Why a file is damaged; none if it is gone, as it was replaced since it was listed.
pub(crate) fn reason(error: StoreError) -> Result<Option<String>, StoreError> {
    match error {
        StoreError::Shard { reason, .. } | StoreError::Rejected { reason, .. } => Ok(Some(reason)),
        StoreError::Stray {
            field,
            found,
            expected,
            ..
        } => Ok(Some(format!("its {field} is {found}, not {expected}"))),
        StoreError::File(e) if is_gone(&e.source) => Ok(None),
        StoreError::File(e) => match e.source.raw_os_error() {
            Some(libc::EIO | libc::EISDIR | libc::ENODEV) => Ok(Some(e.source.to_string())),
            _ => Err(StoreError::File(e)),
        },
        other => Err(other),
    }
}

/// Moves damaged files into the store's sub-folder [`QUARANTINE`]; returns where they are now. What
/// took a damaged file's name since it was looked at stays.
///
/// # Errors
/// When one cannot be moved.
pub fn quarantine(folder: &Path, damaged: &[Damage]) -> Result<Vec<PathBuf>, StoreError> {
    let mut moved = Vec::new();
    let aside = folder.join(QUARANTINE);
    for Damage { path, seen, .. } in damaged {
        if seen.is_none() {
            continue; // there is no file
        }
        create_folder(&aside)?;
        let name = path.file_name().unwrap_or_default();
        let mut target = aside.join(name);
        for n in 1.. {
            if target.symlink_metadata().is_err() {
                break;
            }
            let mut numbered = name.to_owned();
            numbered.push(format!(".{n}"));
            target = aside.join(numbered);
        }
        if Stamp::of(path) != *seen {
            continue;
        }
        match fs::rename(path, &target) {
            Ok(()) => moved.push(target),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {} // somebody else did
            Err(e) => return Err(FileError::new("set aside", path)(e).into()),
        }
    }
    if !moved.is_empty() {
        sync_folder(&aside)?;
        sync_folder(folder)?;
    }
    Ok(moved)
}
