//! The ids that an indexing finds, one after the other: few in memory, many in a file of their own,
//! which is mapped when all are there.
//!
//! Must not know whose ids they are.

use std::io::{BufWriter, Read, Seek, Write};
use std::path::PathBuf;

use arrow::buffer::Buffer;
use tempfile::{SpooledData, SpooledTempFile};

use crate::digest::ImageId;
use crate::files::{self, FileError};
use crate::store::map;

/// More are written to a file.
const IN_MEMORY_BYTES: usize = 1 << 20;

/// Ids in the order in which they are found.
pub(super) struct Spool {
    folder: PathBuf,
    out: BufWriter<SpooledTempFile>,
    count: u32,
}

impl Spool {
    /// No ids yet; a file of them is in `folder` and has no name, so that it is gone when the process
    /// is.
    pub fn new(folder: PathBuf) -> Spool {
        Spool {
            out: BufWriter::new(tempfile::spooled_tempfile_in(IN_MEMORY_BYTES, &folder)),
            folder,
            count: 0,
        }
    }

    /// Adds an id and returns its number.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, id: &ImageId) -> Result<u32, FileError> {
        let number = self.count;
        self.count = number.checked_add(1).expect("fewer than 2^32 images");
        if number == 0 {
            files::create_folder(&self.folder)?;
        }
        let written = self.out.write_all(&id.0);
        written.map_err(FileError::new("write a temporary file in", &self.folder))?;
        Ok(number)
    }

    /// How many ids there are.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// The ids, 32 bytes each.
    ///
    /// # Errors
    /// When they cannot be written or read.
    pub fn finish(self) -> Result<Buffer, FileError> {
        let finish = || {
            let spooled = self.out.into_inner().map_err(|e| e.into_error())?;
            let mut file = match spooled.into_inner() {
                SpooledData::InMemory(ids) => return Ok(Buffer::from(ids.into_inner())),
                SpooledData::OnDisk(file) => file,
            };
            map::map(&file).or_else(|_| {
                // A file system that maps no files.
                let mut ids = Vec::new();
                file.rewind()?;
                file.read_to_end(&mut ids)?;
                Ok(Buffer::from(ids))
            })
        };
        finish().map_err(FileError::new("read a temporary file in", &self.folder))
    }
}
