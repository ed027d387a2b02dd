//! Reads every byte of a store, says what is damaged, and sets it aside.
//!
//! Nothing is repaired: what is set aside is computed anew by the next run. Must not know which
//! rows anybody needs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{Shard, StoreError, StoreKey, files, key, rejected, shard};
use crate::files::{FileError, create_folder, sync_folder};

/// The sub-folder for what was set aside. Nothing in it belongs to the store.
pub const QUARANTINE: &str = "quarantine";

/// A file that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
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
}

/// Reads every byte of the store in `folder`: its `store.json`, the structure, key and checksums
/// of every shard, the records of rejected images. `on_shard` is called with each one's size.
///
/// # Errors
/// When something cannot be read for a reason that is not its own, such as a lack of permission.
pub fn verify(folder: &Path, on_shard: &(dyn Fn(u64) + Sync)) -> Result<Verified, StoreError> {
    let mut verified = Verified::default();
    let mut damage = |path: PathBuf, reason: String| verified.damaged.push(Damage { path, reason });
    let key = match key::read(folder) {
        Ok(json) => Some(json.key),
        Err(StoreError::NotAStore { reason, .. }) => {
            damage(folder.join(key::STORE_JSON), reason);
            None
        }
        Err(other) => return Err(other),
    };
    let paths = files(folder, shard::PREFIX, shard::SUFFIX)?;
    let looked: Vec<_> = paths
        .par_iter()
        .map(|path| {
            let looked = look(path);
            on_shard(looked.as_ref().map_or(0, Shard::len_bytes));
            looked
        })
        .collect();
    let mut sound = Vec::new();
    for (path, looked) in paths.iter().zip(looked) {
        match looked {
            Ok(shard) => sound.push(shard),
            // Without a reason it was replaced since it was listed.
            Err(e) => {
                if let Some(reason) = reason(e)? {
                    damage(path.clone(), reason);
                }
            }
        }
    }
    // The folder's name has a digest of the key: where a shard fits it and `store.json` does not,
    // it is `store.json` that changed, and not every shard.
    let name = folder.canonicalize();
    let name = name.as_deref().unwrap_or(folder).file_name();
    let fits_name = |key: &StoreKey| name == Some(key.folder(Path::new("")).as_os_str());
    let named = sound.iter().map(Shard::key).find(|key| fits_name(key));
    let key = match (key, named.cloned()) {
        (Some(key), Some(named)) if !fits_name(&key) => {
            if let Err(StoreError::Key { field, found, .. }) = key.must_equal(&named, folder) {
                let reason =
                    format!("its {field} is {found}, which does not fit the folder's name");
                damage(folder.join(key::STORE_JSON), reason);
            }
            Some(named)
        }
        (key, named) => key.or(named),
    };
    if let Some(key) = key {
        let mut strangers = Vec::new();
        sound.retain(|shard| match shard.key().must_equal(&key, shard.path()) {
            Ok(()) => true,
            Err(e) => {
                strangers.push((shard.path().to_owned(), e));
                false
            }
        });
        for (path, e) in strangers {
            if let Some(reason) = reason(e)? {
                damage(path, reason);
            }
        }
    }
    // Whatever most shards have is what the store has.
    let mut shapes: BTreeMap<String, usize> = BTreeMap::new();
    for shard in &sound {
        *shapes.entry(shard.map_shape().to_string()).or_default() += 1;
    }
    let usual = shapes.iter().max_by_key(|(_, n)| **n).map(|(s, _)| s);
    sound.retain(|shard| {
        let shape = shard.map_shape().to_string();
        let fits = usual == Some(&shape);
        if !fits {
            let reason = format!("its maps are {shape}, those of the other shards differ");
            damage(shard.path().to_owned(), reason);
        }
        fits
    });
    for path in files(folder, rejected::PREFIX, rejected::SUFFIX)? {
        if let Err(e) = rejected::read(&path)
            && let Some(reason) = reason(e)?
        {
            damage(path, reason);
        }
    }
    verified.shards = sound.len();
    verified.rows = sound.iter().map(Shard::rows).sum();
    verified.bytes = sound.iter().map(Shard::len_bytes).sum();
    verified.damaged.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(verified)
}

fn look(path: &Path) -> Result<Shard, StoreError> {
    // A bad sector is an error when it is read, and a signal that ends the program when it is
    // touched in a map: so everything is read once before it is mapped.
    read_through(path).map_err(FileError::new("read", path))?;
    let shard = Shard::open(path)?;
    shard.verify()?;
    Ok(shard)
}

fn read_through(path: &Path) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Why a file is damaged; none if it is gone.
fn reason(error: StoreError) -> Result<Option<String>, StoreError> {
    match error {
        StoreError::Shard { reason, .. } | StoreError::Rejected { reason, .. } => Ok(Some(reason)),
        StoreError::Key {
            field,
            found,
            expected,
            ..
        } => Ok(Some(format!("its {field} is {found}, not {expected}"))),
        StoreError::File(e) => match e.source.raw_os_error() {
            Some(libc::EIO | libc::EISDIR | libc::ENODEV) => Ok(Some(e.source.to_string())),
            Some(libc::ENOENT) => Ok(None),
            _ => Err(StoreError::File(e)),
        },
        other => Err(other),
    }
}

/// Moves damaged files into the store's sub-folder [`QUARANTINE`]; returns where they are now.
///
/// # Errors
/// When one cannot be moved.
pub fn quarantine(folder: &Path, damaged: &[Damage]) -> Result<Vec<PathBuf>, StoreError> {
    let mut moved = Vec::new();
    let aside = folder.join(QUARANTINE);
    for Damage { path, .. } in damaged {
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
