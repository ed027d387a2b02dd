//! What can be wrong with a split file, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::Side;
use super::file::VERSION;
use super::table::TableError;

/// Why a split file was not written, read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SplitFileError {
    /// It was not read.
    #[error("cannot read split file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file was not written.
    #[error(transparent)]
    File(#[from] extractor::files::FileError),
    /// It has another format.
    #[error("split file {} has format {found}, expected {VERSION} (hint: --resplit)", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: String,
    },
    /// Its own header is damaged.
    #[error("split file {}: its header has no proper line `{expected}` (hint: --resplit)", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The line that should be there.
        expected: &'static str,
    },
    /// Its table is damaged or of an unknown form.
    #[error("split file {} cannot be used", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: TableError,
    },
    /// Two index entries of one image are on two sides.
    #[error(
        "split file {}: {first} is {first_side} and {second} is {second_side}, but they are the \
         same image (hint: put both on one side)",
        path.display()
    )]
    AcrossSides {
        /// The file.
        path: PathBuf,
        /// One path of the image.
        first: String,
        /// Its side.
        first_side: Side,
        /// Another path of the image.
        second: String,
        /// Its side.
        second_side: Side,
    },
    /// Images without a side.
    #[error(
        "{count} of {total} images are not in split file {}: {} (hint: {})",
        path.display(),
        examples.join(", "),
        if *own {
            "--resplit draws all sides anew; --resplit --split-mode threshold does it once and for \
             all, images keep their sides as the set grows; with make: HEAD_ARGS=\"--resplit ...\""
        } else {
            "it must name every image, by id or by its path below the folder of images"
        }
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// Images without a side.
        count: usize,
        /// Images in the index.
        total: usize,
        /// Paths of the first of them.
        examples: Vec<String>,
        /// Whether this program made the file.
        own: bool,
    },
    /// It was made for something else.
    #[error(
        "split file {} was made with {what} {found}, now it is {expected} (hint: --resplit)",
        path.display()
    )]
    Other {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What the file has.
        found: String,
        /// What was asked for.
        expected: String,
    },
}
