//! The record of images that have no row in a store, and why.

use std::collections::HashMap;
use std::path::Path;

use super::StoreError;
use crate::digest::{Digest, ImageId};
use crate::files::{FileError, write_atomically};

/// An image that gives no features with this store's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Rejected {
    /// The image.
    pub id: ImageId,
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
    let mut rejected = rejected.to_vec();
    rejected.sort();
    let mut text = String::new();
    for record in &rejected {
        text += &serde_json::to_string(record).expect("an id and a text");
        text.push('\n');
    }
    let name = format!("rejected-{}.jsonl", Digest::of(text.as_bytes()).short());
    write_atomically(&folder.join(name), text.as_bytes())?;
    Ok(())
}

/// Reads all records of the store in `folder`.
pub(super) fn read_all(folder: &Path) -> Result<HashMap<ImageId, String>, StoreError> {
    let mut all = HashMap::new();
    for path in super::files(folder, "rejected-", ".jsonl")? {
        let text = std::fs::read_to_string(&path).map_err(FileError::new("read", &path))?;
        for line in text.lines() {
            let record: Rejected =
                serde_json::from_str(line).map_err(|e| StoreError::NotAStore {
                    path: path.clone(),
                    reason: format!("a record of a rejected image is damaged: {e}"),
                })?;
            all.insert(record.id, record.reason);
        }
    }
    Ok(all)
}
