//! The record of images that lack rows in a store, and why.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use super::folder::unfit;
use super::{StoreError, key};
use crate::digest::{Digest, ImageId};
use crate::files::{FileError, write_atomically};

pub(crate) const PREFIX: &str = "rejected-";
pub(crate) const SUFFIX: &str = ".jsonl";

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
    /// Whether the reason lies in the engine and not in the image, so that another try may succeed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retry: bool,
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

/// Why an image or a view of it has no row.
#[derive(Debug)]
pub(super) struct Reason {
    pub text: String,
    pub retry: bool,
}

/// Reasons by image and view, the latter as in [`Rejected`].
pub(super) type Reasons = HashMap<(ImageId, Option<String>), Reason>;

/// Adds records; a reason that is final is never lost to one that is not.
pub(super) fn add(reasons: &mut Reasons, records: Vec<Rejected>) {
    for record in records {
        let reason = Reason {
            text: record.reason,
            retry: record.retry,
        };
        match reasons.entry((record.id, record.view)) {
            Entry::Vacant(free) => _ = free.insert(reason),
            Entry::Occupied(mut known) if known.get().retry => _ = known.insert(reason),
            Entry::Occupied(_) => {}
        }
    }
}

/// Reads one file of records. A name as [`write`] makes it is checked against what is in the file,
/// which has no other checksum.
pub(super) fn read(path: &Path) -> Result<Vec<Rejected>, StoreError> {
    let wrong = |reason: String| StoreError::Rejected {
        path: path.to_owned(),
        reason,
    };
    if let Some(what) = unfit(path).map_err(FileError::new("read", path))? {
        return Err(wrong(what.to_owned()));
    }
    let bytes = std::fs::read(path).map_err(FileError::new("read", path))?;
    let text = std::str::from_utf8(&bytes).map_err(|e| wrong(e.to_string()))?;
    let parse = |line| serde_json::from_str(line).map_err(|e| wrong(e.to_string()));
    let records = text.lines().map(parse).collect::<Result<_, _>>()?;
    let (named, found) = (digest_in_name(path), Digest::of(&bytes).short());
    match named {
        Some(named) if named != found => Err(wrong(format!(
            "it is not what was written (digest {found}, not {named})"
        ))),
        _ => Ok(records),
    }
}

fn digest_in_name(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    let digest = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let is_digest = digest.len() == 12 && digest.bytes().all(|b| b.is_ascii_hexdigit());
    is_digest.then_some(digest)
}
