//! Image files that lie as files: in a folder, or wherever a manifest says.
//!
//! Must not know who listed them.

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{ImageBytes, Images};
use crate::transient::Unreadable;

/// Image files in a folder.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The image files below `root`; paths are relative to it. An absolute path stands for itself.
    pub fn new(root: &Path) -> Folder {
        Folder {
            root: root.to_owned(),
        }
    }

    /// Where the file that an index calls `path` lies.
    pub fn locate(&self, path: &[u8]) -> PathBuf {
        self.root.join(std::ffi::OsStr::from_bytes(path))
    }
}

impl Images for Folder {
    fn read(&self, path: &[u8]) -> Result<ImageBytes<'_>, Unreadable> {
        match std::fs::read(self.locate(path)) {
            Ok(bytes) => Ok(Cow::Owned(bytes)),
            Err(e) => Err(Unreadable::of(&e)),
        }
    }
}
