//! One writer of a folder at a time, among processes that ask.
//!
//! Must not know what is written.

use std::fs::{self, File};
use std::path::Path;

/// Holds off other writers of the same folder for as long as it lives.
pub(crate) struct Lock {
    /// Absent where the file system has no locks; renaming keeps writers apart even then.
    held: Option<File>,
}

impl Lock {
    /// Waits for the lock on an existing folder; calls `waiting` first if somebody has it.
    pub(crate) fn take(folder: &Path, waiting: impl FnOnce()) -> Lock {
        let Ok(file) = File::open(folder) else {
            return Lock { held: None };
        };
        let taken = match file.try_lock() {
            Ok(()) => true,
            Err(fs::TryLockError::WouldBlock) => {
                waiting();
                file.lock().is_ok()
            }
            Err(fs::TryLockError::Error(_)) => false,
        };
        Lock {
            held: taken.then_some(file),
        }
    }

    /// Whether no other writer is at work.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }
}
