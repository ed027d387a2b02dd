//! What a fetch tells its caller while it works.
//!
//! The caller decides what to print; every event but progress reads as one line.

use std::fmt;
use std::path::PathBuf;

/// One step of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// `ORT_DYLIB_PATH` is set, so nothing is fetched.
    Overridden {
        /// The library it names.
        path: PathBuf,
    },
    /// The library is in place already, so nothing is fetched.
    AlreadyInstalled {
        /// The library.
        path: PathBuf,
    },
    /// Another process is fetching; this one waits for it.
    Waiting {
        /// The folder both want to write.
        folder: PathBuf,
    },
    /// What will be downloaded and where it goes; always before the first byte is asked for.
    Announce {
        /// Version of ONNX Runtime.
        version: String,
        /// The wheel's file name.
        wheel: String,
        /// Bytes to download.
        size_bytes: u64,
        /// Bytes on disk afterwards.
        unpacked_bytes: u64,
        /// The folder to be written.
        destination: PathBuf,
    },
    /// Where the wheel comes from.
    Downloading {
        /// Address or path, without passwords.
        from: String,
    },
    /// How much has come.
    Progress {
        /// Bytes so far.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// An attempt failed and is made again.
    Retry {
        /// Why.
        reason: String,
    },
    /// One index or folder failed and the next is asked.
    NextSource {
        /// Why.
        reason: String,
    },
    /// The library is in place.
    Installed {
        /// The library.
        path: PathBuf,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Overridden { path } => write!(
                f,
                "ORT_DYLIB_PATH names {}, nothing to fetch",
                path.display()
            ),
            Event::AlreadyInstalled { path } => {
                write!(f, "ONNX Runtime is in place: {}", path.display())
            }
            Event::Waiting { folder } => {
                write!(
                    f,
                    "waiting for another process that writes {}",
                    folder.display()
                )
            }
            Event::Announce {
                version,
                wheel,
                size_bytes,
                unpacked_bytes,
                destination,
            } => write!(
                f,
                "ONNX Runtime {version}: downloading {} ({wheel}), {} on disk, into {}",
                megabytes(*size_bytes),
                megabytes(*unpacked_bytes),
                destination.display()
            ),
            Event::Downloading { from } => write!(f, "from {from}"),
            Event::Progress {
                done_bytes,
                total_bytes,
            } => write!(
                f,
                "{} of {}",
                megabytes(*done_bytes),
                megabytes(*total_bytes)
            ),
            Event::Retry { reason } => write!(f, "trying again: {reason}"),
            Event::NextSource { reason } => write!(f, "trying the next source: {reason}"),
            Event::Installed { path } => {
                write!(f, "ONNX Runtime is in place: {}", path.display())
            }
        }
    }
}

/// A size for people, in units of a million bytes.
fn megabytes(bytes: u64) -> String {
    // Rounding to f64 is far below the one digit shown.
    format!("{:.1} MB", bytes as f64 / 1e6)
}
