//! Why a data set cannot be opened.

use std::io;
use std::path::{Path, PathBuf};

use crate::remote::RemoteError;
use crate::walk::WalkError;

/// The data set cannot be opened or listed.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It is not there or may not be read.
    #[error("cannot read the data set {}", crate::files::escape_path(path))]
    Io {
        /// What was named.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// A reader of its format fails.
    #[error(
        "{} cannot be read as a {format} file (hint: {hint})",
        crate::files::escape_path(path)
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// CSV, zip, tar or Parquet.
        format: &'static str,
        /// What to do.
        hint: &'static str,
        /// The reader's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A folder cannot be walked.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// It lies in an object store, which fails.
    #[error("cannot read the data set")]
    Remote(#[from] RemoteError),
    /// It can be read, and is refused.
    #[error("{} {reason}", crate::files::escape_path(path))]
    Refused {
        /// What was named.
        path: PathBuf,
        /// Goes on where the path ends.
        reason: String,
    },
}

/// What usually helps with a file that cannot be read as what it is.
pub(super) const INCOMPLETE: &str = "it is damaged or was not copied completely; fetch it again";

impl InputError {
    pub(crate) fn refused(path: &Path, reason: impl Into<String>) -> InputError {
        InputError::Refused {
            path: path.to_owned(),
            reason: reason.into(),
        }
    }

    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> InputError {
        let path = path.to_owned();
        |source| InputError::Io { path, source }
    }

    pub(super) fn damaged(
        path: &Path,
        format: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> InputError {
        InputError::Damaged {
            path: path.to_owned(),
            format,
            hint: INCOMPLETE,
            source: source.into(),
        }
    }
}
