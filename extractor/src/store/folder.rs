//! Stores in a folder, and files in a store.
//!
//! Must not know what is in a file.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::verify::QUARANTINE;
use super::{StoreError, key, shard};
use crate::files::FileError;

/// The stores below `root`, or `root` itself if it is a store. A folder of shards without a
/// `store.json` is one, too: a damaged one. What was set aside is none.
///
/// # Errors
/// When `root` cannot be read or holds no store.
pub fn find(root: &Path) -> Result<Vec<PathBuf>, StoreError> {
    if is_store(root) {
        return Ok(vec![root.to_owned()]);
    }
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(StoreError::None(root.to_owned()));
        }
        Err(e) => return Err(FileError::new("read the folder", root)(e).into()),
    };
    let mut stores: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_none_or(|name| name != QUARANTINE))
        .filter(|path| is_store(path))
        .collect();
    stores.sort();
    if stores.is_empty() {
        return Err(StoreError::None(root.to_owned()));
    }
    Ok(stores)
}

fn is_store(folder: &Path) -> bool {
    // A link is followed, so that nothing else than a file or a folder is ever opened.
    folder.join(key::STORE_JSON).is_file()
        || (folder.is_dir() && has_rows(folder).is_ok_and(|has_rows| has_rows))
}

/// Whether the store in `folder` has any shard.
///
/// # Errors
/// When the folder cannot be read.
pub fn has_rows(folder: &Path) -> Result<bool, StoreError> {
    Ok(!files(folder, shard::PREFIX, shard::SUFFIX)?.is_empty())
}

/// What in `folder` has a name of the given beginning and end, sorted; whether it is a file,
/// [`unfit`] says.
pub(super) fn files(folder: &Path, prefix: &str, suffix: &str) -> Result<Vec<PathBuf>, StoreError> {
    let error = |e| FileError::new("read the folder", folder)(e);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(prefix) && name.ends_with(suffix) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Why a name must not be opened as a file: opening a pipe would wait for ever. Nothing for a file.
///
/// # Errors
/// When it cannot be looked at, as it is gone.
pub(super) fn unfit(path: &Path) -> io::Result<Option<&'static str>> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(None),
        Ok(found) if found.is_dir() => Ok(Some("it is a folder")),
        Ok(_) => Ok(Some("it is no regular file")),
        Err(e) if e.kind() == ErrorKind::NotFound && fs::symlink_metadata(path).is_ok() => {
            Ok(Some("it is a link to what is not there"))
        }
        Err(e) => Err(e),
    }
}
