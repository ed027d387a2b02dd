//! Local copies of a store's objects, file by file.
//!
//! Must not know how a copy is made.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::stores::{Damage, is_of_store};
use super::{Object, RemoteError, Url};
use crate::files::{FileError, TEMPORARY_PREFIX, is_gone, sync_folder};
use crate::store::{StoreError, verify};

/// Makes a file of an object.
pub(super) type Fetch<'a> = &'a (dyn Fn(&Url, &Object, &Path) -> Result<(), RemoteError> + Sync);

/// Whether a store's file is to be read: shards and records never change.
pub(super) fn is_missing(folder: &Path, object: &Object) -> bool {
    let length = || fs::metadata(folder.join(&object.name)).map(|found| found.len());
    is_of_store(&object.name) && !length().is_ok_and(|length| length == object.size)
}

/// Removes copies of objects that are gone.
pub(super) fn drop_gone(folder: &Path, objects: &[Object]) -> Result<(), RemoteError> {
    let reading = || FileError::new("read the folder", folder);
    let there: HashSet<&str> = objects.iter().map(|o| &o.name[..]).collect();
    for entry in fs::read_dir(folder).map_err(reading())? {
        let path = entry.map_err(reading())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if is_of_store(&name) && !there.contains(&*name) {
            match fs::remove_file(&path) {
                Err(e) if !is_gone(&e) => return Err(FileError::new("remove", &path)(e).into()),
                _ => {}
            }
        }
    }
    Ok(())
}

/// What became of copying.
#[derive(Default)]
pub(super) struct Copied {
    /// What is not what its name says.
    pub damaged: Vec<Damage>,
    /// Whether a listed object was gone.
    pub vanished: bool,
    failed: Option<RemoteError>,
}

/// Fetches objects into `folder`, some at once, each under a temporary name first.
pub(super) fn copy_all(
    store: &Url,
    folder: &Path,
    objects: &[&Object],
    at_once: usize,
    fetch: Fetch,
) -> Result<Copied, RemoteError> {
    if objects.is_empty() {
        return Ok(Copied::default());
    }
    // In a folder of its own a file has its final name, which says what must be in it.
    let under_way = tempfile::Builder::new()
        .prefix(TEMPORARY_PREFIX)
        .tempdir_in(folder)
        .map_err(FileError::new("create a temporary folder in", folder))?;
    let copied = Mutex::new(Copied::default());
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let Some(object) = objects.get(next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            let url = store.join(&object.name);
            let path = under_way.path().join(&object.name);
            let outcome = fetch(&url, object, &path).and_then(|()| {
                let target = folder.join(&object.name);
                let renamed = fs::rename(&path, &target);
                Ok(renamed.map_err(FileError::new("write", &target))?)
            });
            let Err(error) = outcome else {
                continue;
            };
            let _ = fs::remove_file(&path);
            let mut copied = copied.lock().expect("no copier panics");
            match damage(error) {
                Ok(None) => copied.vanished = true,
                Ok(Some(reason)) => copied.damaged.push((url, reason)),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    copied.failed.get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(objects.len()) {
            scope.spawn(work);
        }
    });
    let mut copied = copied.into_inner().expect("no copier panics");
    match copied.failed.take() {
        Some(error) => Err(error),
        None => {
            sync_folder(folder)?;
            copied.damaged.sort_by_key(|(url, _)| url.to_string());
            Ok(copied)
        }
    }
}

/// Why an object is damaged; none if it is gone.
fn damage(error: RemoteError) -> Result<Option<String>, RemoteError> {
    match error {
        RemoteError::NotFound(_) => Ok(None),
        RemoteError::Store(error @ StoreError::Shard { .. }) => Ok(verify::reason(error)?),
        other => Err(other),
    }
}
