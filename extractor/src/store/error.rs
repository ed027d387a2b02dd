//! What can be wrong with a store, and what to do about it.

use std::path::{Path, PathBuf};

use arrow::error::ArrowError;

use super::{FORMAT_VERSION, Removed};
use crate::files::{FileError, escape_path, grouped, is_gone, printable};

/// The store cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A shard is damaged or not of this format.
    #[error(
        "shard {} cannot be used: {} (hint: extractor store verify --quarantine sets \
             damaged shards aside; the next make features computes only their rows anew)",
        escape_path(path),
        printable(reason)
    )]
    Shard {
        /// The shard.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A shard is of another version of the format: not damaged, but not for this program.
    #[error(
        "shard {} has format {found}, expected {FORMAT_VERSION} (hint: use the program that \
             wrote it, or move it to another folder)",
        escape_path(path)
    )]
    ShardVersion {
        /// The shard.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// A shard belongs to another store.
    #[error(
        "shard {} has {field} {}, expected {}: it is of another store (hint: move it there, or \
             let extractor store verify --quarantine set it aside)",
        escape_path(path),
        printable(found),
        printable(expected)
    )]
    Stray {
        /// The shard.
        path: PathBuf,
        /// The key's field that differs.
        field: &'static str,
        /// What is there.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A record of rejected images is damaged.
    #[error(
        "the record of rejected images {} cannot be used: {} (hint: extractor store \
             verify --quarantine sets it aside; the next make features writes it anew)",
        escape_path(path),
        printable(reason)
    )]
    Rejected {
        /// The record.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Arrow's writer failed for another reason than the disk's.
    #[error("cannot write a shard in {}", escape_path(path))]
    Write {
        /// The store.
        path: PathBuf,
        /// Arrow's error.
        #[source]
        source: ArrowError,
    },
    /// The folder is no store of this format.
    #[error(
        "{} is no feature store of format {FORMAT_VERSION}: {} (hint: if its store.json is \
             damaged, extractor store verify --quarantine sets it aside; the next make features \
             writes it anew)",
        escape_path(path),
        printable(reason)
    )]
    NotAStore {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The folder holds shards and no `store.json`.
    #[error("the feature store {} has lost its store.json (hint: run make features with the \
             backbone it was made with; that writes the file anew and keeps every row)",
             escape_path(.0))]
    Headless(PathBuf),
    /// The store is of another format: not damaged, but not for this program.
    #[error(
        "feature store {} has format {found}, expected {FORMAT_VERSION} (hint: use the program \
             that wrote it, or another folder)",
        escape_path(path)
    )]
    Version {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// There is no store where one was expected.
    #[error("no feature store in {} (hint: run make features)", escape_path(.0))]
    None(PathBuf),
    /// The store is not where it was when the run began.
    #[error("the feature store {} is gone while it is written to (hint: was its disk unmounted? \
             run the same command again when it is back; what was published is kept)",
             escape_path(.0))]
    Gone(PathBuf),
    /// A key field differs from what is expected.
    #[error(
        "feature store {} has {field} {}, expected {}",
        escape_path(path),
        printable(found),
        printable(expected)
    )]
    Key {
        /// The store.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What is there.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// None of the rows would be kept: more likely a wrong index than what was meant.
    #[error("no image of the indexes to keep has a row in the feature store {}, so that all of its \
             {} images would go (hint: name the indexes that were made with this store; to get rid \
             of the whole store, remove its folder)", escape_path(path), grouped(*images as u64))]
    NothingKept {
        /// The store.
        path: PathBuf,
        /// Images with a row.
        images: usize,
    },
    /// Something failed after shards or temporary files had been removed.
    #[error("stopped after removing {} shards and {} temporary files ({} bytes)",
            grouped(removed.shards as u64), grouped(removed.temporary as u64), grouped(removed.bytes))]
    Stopped {
        /// What was removed.
        removed: Removed,
        /// Why it stopped.
        source: Box<StoreError>,
    },
}

impl StoreError {
    /// Whether a listed file is not there any more.
    pub(super) fn is_vanished(&self) -> bool {
        matches!(self, StoreError::File(e) if is_gone(&e.source))
    }

    /// Arrow's error when a shard is written in `folder`; the disk's own is said as that.
    pub(super) fn write(folder: &Path, source: ArrowError) -> StoreError {
        match source {
            ArrowError::IoError(_, e) => FileError::new("write a shard in", folder)(e).into(),
            source => StoreError::Write {
                path: folder.to_owned(),
                source,
            },
        }
    }
}
