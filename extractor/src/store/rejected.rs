//! The record of images that lack rows in a store, and why.

use std::collections::HashMap;
use std::path::Path;

use super::{StoreError, key};
use crate::digest::{Digest, ImageId};
use crate::files::{FileError, write_atomically};

pub(super) const PREFIX: &str = "rejected-";
pub(super) const SUFFIX: &str = ".jsonl";

/// An image that gives no features with this store's key, or not for one of its views.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Rejected {
    /// The image.
    pub id: ImageId,
    /// The view whose features cannot be stored; none if the image has no row at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<String>,
    /// Why, as a lowercase fragment.
    pub reason: String,
}

/// Adds a record of rejected images to the store in `folder`; nothing for none.
///
/// # Errors
/// When the file cannot be written.
pub fn write(folder: &Path, rejected: &[Rejected]) -> Result<(), StoreError> {
    if rejected.is_empty() {
        return Ok(());
    }
    key::must_be_there(folder)?;
    let mut rejected = rejected.to_vec();
    rejected.sort();
    let mut text = String::new();
    for record in &rejected {
        text += &serde_json::to_string(record).expect("an id and a text");
        text.push('\n');
    }
    let name = format!("{PREFIX}{}{SUFFIX}", Digest::of(text.as_bytes()).short());
    write_atomically(&folder.join(name), text.as_bytes())?;
    Ok(())
}

/// Reasons by image and view, the latter as in [`Rejected`].
pub(super) type Reasons = HashMap<(ImageId, Option<String>), String>;

/// Reads all records of the store in `folder`.
pub(super) fn read_all(folder: &Path) -> Result<Reasons, StoreError> {
    let mut all = HashMap::new();
    for path in super::files(folder, PREFIX, SUFFIX)? {
        let records = read(&path)?;
        all.extend(records.into_iter().map(|r| ((r.id, r.view), r.reason)));
    }
    Ok(all)
}

/// Reads one file of records.
pub(super) fn read(path: &Path) -> Result<Vec<Rejected>, StoreError> {
    let bytes = std::fs::read(path).map_err(FileError::new("read", path))?;
    let wrong = |reason: String| StoreError::Rejected {
        path: path.to_owned(),
        reason,
    };
    let text = std::str::from_utf8(&bytes).map_err(|e| wrong(e.to_string()))?;
    let parse = |line| serde_json::from_str(line).map_err(|e| wrong(e.to_string()));
    text.lines().map(parse).collect()
}
