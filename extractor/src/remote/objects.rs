//! Single files in an object store, and their local copies: indexes, archives, manifests.
//!
//! A copy is used again as long as the object's size, time and ETag are as they were. Must not know
//! what is in a file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Client, Object, RemoteError, Url, cache_folder};
use crate::files::{FileError, Pending, write_atomically};

/// Where the copy of the object at `url` lies, if there is one.
pub fn place(url: &Url, data_dir: &Path) -> PathBuf {
    cache_folder(data_dir, url).join(url.name())
}

/// Brings the object at `url` to its place, unless it is there unchanged, and returns that.
///
/// # Errors
/// When there is no such object, or the server or the disk fails.
pub fn bring(client: &Client, url: &Url, data_dir: &Path) -> Result<PathBuf, RemoteError> {
    let object = client.head(url)?;
    let path = place(url, data_dir);
    bring_to(client, url, &object, &path)?;
    Ok(path)
}

/// Brings an object to `path`, unless it is there unchanged.
///
/// # Errors
/// When it is gone, or the server or the disk fails.
pub fn bring_to(
    client: &Client,
    url: &Url,
    object: &Object,
    path: &Path,
) -> Result<(), RemoteError> {
    let (stamp_path, stamp) = (stamp_path(path), stamp(object));
    let length = fs::metadata(path).map(|found| found.len());
    if length.is_ok_and(|length| length == object.size)
        && fs::read_to_string(&stamp_path).is_ok_and(|there| there == stamp)
    {
        return Ok(());
    }
    let mut pending = Pending::new(path)?;
    let file: &File = pending.file();
    client.download(url, object, file, &|_| {})?;
    // In this order, so that no stamp ever tells of another file.
    let _ = fs::remove_file(&stamp_path);
    pending.publish()?;
    Ok(write_atomically(&stamp_path, stamp.as_bytes())?)
}

/// Uploads the file at `path` in place of the object at `url`, if there is such a file.
///
/// # Errors
/// When the server or the disk fails.
pub fn publish(client: &Client, path: &Path, url: &Url) -> Result<(), RemoteError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(FileError::new("read", path)(e).into()),
    };
    client.put(url, Bytes::from(bytes))?;
    let object = client.head(url)?;
    Ok(write_atomically(
        &stamp_path(path),
        stamp(&object).as_bytes(),
    )?)
}

fn stamp_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".stamp");
    path.with_file_name(name)
}

fn stamp(object: &Object) -> String {
    let Object {
        size,
        modified_nanos,
        etag,
        ..
    } = object;
    format!("{size} {modified_nanos} {etag}\n")
}
