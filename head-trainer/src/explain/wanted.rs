//! Which image a person means: a file, a path that the index has, or the beginning of an id.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use extractor::digest::{Digest, ImageId};
use extractor::files::{FileError, counted, escape};
use extractor::index::Index;
use extractor::store::Store;

/// Ids that a message names before it stops.
const EXAMPLES: usize = 3;

/// An image that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The image.
    pub id: ImageId,
    /// What it was called: the index's path, or the file.
    pub path: Option<Vec<u8>>,
    /// The file, if one was named.
    pub file: Option<PathBuf>,
}

/// No image is meant, or several are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WantedError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Nothing of that name.
    #[error(
        "no such file, no path in the index and not the beginning of an id (hint: head-trainer \
         explain RUN --mistakes 5 shows what paths look like)"
    )]
    None,
    /// An id's beginning that several have.
    #[error("the beginning of the ids of {}: {} (hint: give more digits)", counted(*.count, "image"), examples.join(", "))]
    Several {
        /// How many.
        count: usize,
        /// Some of them.
        examples: Vec<String>,
    },
}

/// The image that `text` means. A file on the disk is known by its bytes, wherever it lies and
/// whatever it is called; else `text` is a path that the index has, as it is or as it is shown; or
/// else the beginning of the id of one image of the index or the store.
///
/// # Errors
/// When it means none or several, or the file cannot be read.
pub fn find(text: &Path, index: &Index, store: &Store) -> Result<Wanted, WantedError> {
    let bytes = text.as_os_str().as_bytes();
    if text.is_file() {
        let id = Digest::of_file(text).map_err(FileError::new("read", text))?;
        return Ok(Wanted {
            path: first_path(index, &id).or_else(|| Some(bytes.to_vec())),
            file: Some(text.to_owned()),
            id,
        });
    }
    let is_path = |path: &[u8]| path == bytes || escape(path).as_bytes() == bytes;
    if let Some(entry) = index.iter().find(|entry| is_path(entry.path)) {
        return Ok(Wanted {
            id: entry.id,
            path: Some(entry.path.to_vec()),
            file: None,
        });
    }
    let hex = text.to_string_lossy().to_ascii_lowercase();
    if hex.is_empty() || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(WantedError::None);
    }
    let ids = index.iter().map(|entry| entry.id);
    let ids = ids.chain(store.iter().map(|(id, ..)| id));
    let fitting: BTreeSet<ImageId> = ids.filter(|id| begins(id, &hex)).collect();
    match fitting.len() {
        0 => Err(WantedError::None),
        1 => {
            let id = *fitting.first().expect("one");
            let path = first_path(index, &id);
            let file = None;
            Ok(Wanted { id, path, file })
        }
        count => Err(WantedError::Several {
            count,
            examples: fitting.iter().take(EXAMPLES).map(Digest::short).collect(),
        }),
    }
}

/// The first path that the index has for an image.
pub fn first_path(index: &Index, id: &ImageId) -> Option<Vec<u8>> {
    let mut entries = index.iter();
    let first = entries.find(|entry| entry.id == *id);
    first.map(|entry| entry.path.to_vec())
}

/// Whether the digits of an id begin so, without making a text of each of a million ids.
fn begins(id: &ImageId, hex: &str) -> bool {
    let digits = id.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    hex.len() <= 64
        && hex
            .bytes()
            .zip(digits)
            .all(|(wanted, digit)| (wanted as char).to_digit(16) == Some(digit.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_of_an_id() {
        let id = Digest::of(b"abc"); // ba7816bf...
        for (hex, expected) in [("b", true), ("ba78", true), ("ba79", false), ("a", false)] {
            assert_eq!(begins(&id, hex), expected, "{hex}");
        }
        let whole = id.to_string();
        assert!(begins(&id, &whole));
        assert!(!begins(&id, &(whole + "0")));
    }
}
