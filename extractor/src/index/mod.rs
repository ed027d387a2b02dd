//! The index of a data set: which images there are (id), where (path) and what they show (label).
//!
//! The index is separate from the feature store: the store knows rows by id alone, so images can
//! be renamed, moved and relabelled without any feature being computed again. Must not know of
//! backbones, features or splits.
//!
//! # Format, version 1
//!
//! An index is one Arrow IPC *file* (little-endian) with these columns, in this order:
//!
//! | column | type | |
//! |---|---|---|
//! | `id` | `fixed_size_binary[32]`, not null | SHA-256 of the image file's bytes |
//! | `path` | `binary`, not null | path relative to the root, the file system's own bytes, `/` between components |
//! | `label` | `dictionary<int32, utf8>`, nullable | class; the dictionary MUST be the sorted list of all classes, so that the code is the label number; null for an unlabelled image |
//!
//! The schema metadata MUST hold `headstart.format` = `index`, `headstart.version` = `1`,
//! `headstart.root` (the absolute root folder, escaped as in [`crate::files::escape`]; for people)
//! and `headstart.digest` ([`Index::digest`]). Rows MUST be in the order of the walk: ascending by
//! path components. One id MAY occur more than once. A reader MUST refuse another version.

mod cache;
mod file;
mod folder;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

use arrow::error::ArrowError;
use sha2::{Digest as _, Sha256};

use crate::digest::{Digest, ImageId};
use crate::files::FileError;
use crate::walk::WalkError;
pub use cache::DigestCache;
pub use folder::Indexed;

/// One image of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Digest of the file's bytes.
    pub id: ImageId,
    /// Path relative to the root, lossless.
    pub path: Vec<u8>,
    /// Number of the class in [`Index::classes`], if it has one.
    pub label: Option<u32>,
}

/// The images of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Class names in ascending order; the position is the label number (Cat = 0, Dog = 1).
    pub classes: Vec<String>,
    /// One entry an image file, ascending by path.
    pub entries: Vec<Entry>,
}

/// The index cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The folder of images cannot be walked.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// The index file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder has no image at all.
    #[error("no image in {} (hint: expected one folder a class, such as Cat/1.jpg and Dog/1.jpg)", .0.display())]
    NoImages(PathBuf),
    /// The file is no index, or damaged.
    #[error("{} is not an index of this project: {reason} (hint: write it again with extractor index DIR)", path.display())]
    NotAnIndex {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Arrow's reader or writer failed.
    #[error("cannot read or write the index {}", path.display())]
    Arrow {
        /// The file.
        path: PathBuf,
        /// Arrow's error.
        #[source]
        source: ArrowError,
    },
}

impl Index {
    /// Digest of what the index says: every (id, path, class name) in order. The same data set
    /// gives the same digest wherever it lies.
    pub fn digest(&self) -> Digest {
        let mut hasher = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(b"headstart index 1");
        for entry in &self.entries {
            field(&entry.id.0);
            field(&entry.path);
            match entry.label {
                Some(label) => field(self.classes[label as usize].as_bytes()),
                None => field(&[0xff]), // no UTF-8 text, so no class can be called that
            }
        }
        Digest(hasher.finalize().into())
    }

    /// Number of entries a class, in the order of [`Index::classes`].
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for label in self.entries.iter().filter_map(|e| e.label) {
            counts[label as usize] += 1;
        }
        counts
    }

    /// Positions of the first entry of every id, in index order.
    pub fn unique(&self) -> Vec<usize> {
        let mut seen = HashSet::with_capacity(self.entries.len());
        (0..self.entries.len())
            .filter(|&i| seen.insert(self.entries[i].id))
            .collect()
    }

    /// Ids that occur with more than one label, with all their entries. A copy without a label
    /// contradicts nothing.
    pub fn label_conflicts(&self) -> BTreeMap<ImageId, Vec<&Entry>> {
        let mut first: HashMap<ImageId, u32> = HashMap::new();
        let mut conflicts = BTreeMap::new();
        for entry in &self.entries {
            if let Some(label) = entry.label
                && *first.entry(entry.id).or_insert(label) != label
            {
                conflicts.insert(entry.id, Vec::new());
            }
        }
        for entry in &self.entries {
            if let Some(entries) = conflicts.get_mut(&entry.id) {
                entries.push(entry);
            }
        }
        conflicts
    }
}

#[cfg(test)]
mod tests;
