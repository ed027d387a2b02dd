//! Where the bytes of a data set's images are.
//!
//! Must not know what is in the bytes, nor of labels.

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The bytes of one image file; borrowed where they lie in memory anyway.
pub type ImageBytes<'a> = Cow<'a, [u8]>;

/// A data set's images by path. Read from many threads at once.
pub trait Images: Sync {
    /// The bytes of the image file that an index calls `path`.
    ///
    /// # Errors
    /// Why they cannot be had, as a lowercase fragment.
    fn read(&self, path: &[u8]) -> Result<ImageBytes<'_>, String>;
}

/// Image files in a folder.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The image files below `root`; paths are relative to it.
    pub fn new(root: &Path) -> Folder {
        Folder {
            root: root.to_owned(),
        }
    }
}

impl Images for Folder {
    fn read(&self, path: &[u8]) -> Result<ImageBytes<'_>, String> {
        let path = self.root.join(std::ffi::OsStr::from_bytes(path));
        match std::fs::read(path) {
            Ok(bytes) => Ok(Cow::Owned(bytes)),
            Err(e) => Err(crate::walk::describe(&e)),
        }
    }
}
