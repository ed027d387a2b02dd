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
//! | `path` | `binary`, not null | path relative to the root (the folder of images or of the manifest, or the archive), the file system's own bytes, `/` between components; absolute for a file that a manifest names from elsewhere |
//! | `label` | `dictionary<int32, utf8>`, nullable | class; the dictionary MUST be the sorted list of all classes, so that the code is the label number; null for an unlabelled image |
//!
//! The schema metadata MUST hold `headstart.format` = `index`, `headstart.version` = `1`,
//! `headstart.root` (the absolute root folder, escaped as in [`crate::files::escape`])
//! and `headstart.digest` ([`Index::digest`]). Rows MUST be in the order of the walk: ascending by
//! path components, in any number of record batches. One id MAY occur more than once. A reader MUST refuse another
//! version. A writer MUST give the file its name when it is complete, and MUST NOT change it then: it is
//! memory-mapped.

mod cache;
mod file;
mod folder;
mod listed;
mod notes;
mod prefix;
mod rows;
mod spool;

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrow::error::ArrowError;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::digest::{Digest, ImageId};
use crate::files::FileError;
use crate::images::InputError;
use crate::walk::WalkError;
pub use cache::{DigestCache, part_path, remove_parts};
pub use folder::{Indexed, identify};
pub use notes::Notes;
use rows::Rows;

/// One image of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Digest of the file's bytes.
    pub id: ImageId,
    /// Path relative to the root, lossless.
    pub path: &'a [u8],
    /// Number of the class in [`Index::classes`], if it has one.
    pub label: Option<u32>,
}

/// The images of a data set: one entry an image file, ascending by path.
///
/// While one is made of a data set, an entry takes its path's bytes and 8 bytes more, and 4 more where
/// images do not lie in the order of their paths: ids are in a temporary file. One that was
/// read, or written with [`Index::kept_in`], stays in its file, which is mapped: data sets of many
/// millions fit. A clone takes no memory.
#[derive(Debug, Clone, Default)]
pub struct Index {
    /// Class names in ascending order; the position is the label number (Cat = 0, Dog = 1).
    pub classes: Vec<String>,
    rows: Rows,
}

impl PartialEq for Index {
    fn eq(&self, other: &Index) -> bool {
        self.classes == other.classes && self.iter().eq(other.iter())
    }
}

impl Eq for Index {}

/// The index cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The folder of images cannot be walked.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// The data set cannot be opened or listed.
    #[error(transparent)]
    Input(#[from] InputError),
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
    /// An index without images.
    pub fn new(classes: Vec<String>) -> Index {
        Index {
            classes,
            ..Index::default()
        }
    }

    /// Adds an entry.
    ///
    /// # Panics
    /// When the label is not the number of a class.
    pub fn push(&mut self, entry: Entry) {
        let is_class = |label| (label as usize) < self.classes.len();
        assert!(entry.label.is_none_or(is_class), "a class has a name");
        self.rows.held().push(&entry);
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry at a position.
    ///
    /// # Panics
    /// When there is none.
    pub fn entry(&self, position: usize) -> Entry<'_> {
        self.rows.entry(position)
    }

    /// The id of the entry at a position.
    ///
    /// # Panics
    /// When there is none.
    pub fn id(&self, position: usize) -> &ImageId {
        self.rows.id(position)
    }

    /// All entries, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Entry<'_>> + DoubleEndedIterator + Clone {
        (0..self.len()).map(|i| self.entry(i))
    }

    /// Digest of what the index says: every (id, path, class name) in order. The same data set
    /// gives the same digest wherever it lies.
    pub fn digest(&self) -> Digest {
        if let Rows::Filed(filed) = &self.rows {
            return filed.digest;
        }
        let mut digester = Digester::new();
        for entry in self.iter() {
            digester.add(&entry, &self.classes);
        }
        digester.finish()
    }

    /// Number of entries a class, in the order of [`Index::classes`].
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for label in self.iter().filter_map(|e| e.label) {
            counts[label as usize] += 1;
        }
        counts
    }

    /// Positions of the first entry of every id, in index order.
    pub fn unique(&self) -> impl Iterator<Item = u32> + use<> {
        let mut copies = Vec::new();
        self.for_each_id(|positions| copies.extend_from_slice(&positions[1..]));
        copies.sort_unstable();
        let mut copies = copies.into_iter().peekable();
        self.positions()
            .filter(move |position| copies.next_if_eq(position).is_none())
    }

    /// Ids that occur with more than one label, with all their entries. A copy without a label
    /// contradicts nothing.
    pub fn label_conflicts(&self) -> BTreeMap<ImageId, Vec<Entry<'_>>> {
        let mut conflicts = BTreeMap::new();
        self.for_each_id(|positions| {
            let entries = || positions.iter().map(|i| self.entry(*i as usize));
            let mut labels = entries().filter_map(|entry| entry.label);
            let first = labels.next();
            if labels.any(|label| Some(label) != first) {
                conflicts.insert(*self.id(positions[0] as usize), entries().collect());
            }
        });
        conflicts
    }

    fn positions(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.len()).expect("a position fits 32 bits")
    }

    /// Calls `visit` once an id with the positions of its entries; both ascending. In sixteen
    /// passes, one a first digit, so that it takes next to no memory.
    fn for_each_id(&self, mut visit: impl FnMut(&[u32])) {
        let id = |position: u32| self.id(position as usize);
        let mut positions = Vec::new();
        for digit in 0..16 {
            let ids = self.positions().zip(self.rows.ids());
            let ids = ids.filter(|(_, id)| id.0[0] >> 4 == digit);
            // By the first bytes, which lie together; next to never by all, which do not.
            let first = |id: &ImageId| u64::from_be_bytes(*id.0.first_chunk().expect("32 bytes"));
            let mut keyed: Vec<(u64, u32)> = ids.map(|(i, id)| (first(id), i)).collect();
            keyed.par_sort_unstable_by(|a, b| {
                let by_id = || id(a.1).cmp(id(b.1)).then(a.1.cmp(&b.1));
                a.0.cmp(&b.0).then_with(by_id)
            });
            for same in keyed.chunk_by(|a, b| a.0 == b.0 && id(a.1) == id(b.1)) {
                positions.clear();
                positions.extend(same.iter().map(|(_, position)| *position));
                visit(&positions);
            }
        }
    }
}

/// Makes [`Index::digest`] entry by entry.
struct Digester(Sha256);

impl Digester {
    fn new() -> Digester {
        let mut digester = Digester(Sha256::new());
        digester.field(b"headstart index 1");
        digester
    }

    fn add(&mut self, entry: &Entry, classes: &[String]) {
        self.field(&entry.id.0);
        self.field(entry.path);
        match entry.label {
            Some(label) => self.field(classes[label as usize].as_bytes()),
            None => self.field(&[0xff]), // no UTF-8 text, so no class can be called that
        }
    }

    fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests;
