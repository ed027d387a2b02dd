//! What an indexing notes down for the next digest cache: a record a file, as the cache has them,
//! in a file of its own rather than in memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::PathBuf;

use crate::digest::{Digest, ImageId};
use crate::files::{self, FileError};
use crate::walk::Stamp;

pub(super) const STAMP_BYTES: usize = 40;
pub(super) const RECORD_BYTES: usize = 72;

/// Stamps and digests of files that were looked at, in a file without a name, which is gone when
/// the process is.
#[derive(Debug)]
pub struct Notes {
    folder: PathBuf,
    spool: Option<BufWriter<File>>,
}

impl Notes {
    /// Notes in a file in `folder`, once there are any.
    pub(super) fn new(folder: PathBuf) -> Notes {
        Notes {
            folder,
            spool: None,
        }
    }

    /// Adds a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, stamp: &Stamp, id: &ImageId) -> Result<(), FileError> {
        let spool = match &mut self.spool {
            Some(spool) => spool,
            none => {
                files::create_folder(&self.folder)?;
                let file = tempfile::tempfile_in(&self.folder);
                let file = file.map_err(FileError::new("create a temporary file in", &self.folder));
                none.insert(BufWriter::new(file?))
            }
        };
        let written = spool.write_all(&stamp_bytes(stamp));
        let written = written.and_then(|()| spool.write_all(&id.0));
        written.map_err(FileError::new("write a temporary file in", &self.folder))
    }

    /// Calls `visit` with every record.
    pub(super) fn for_each(
        &mut self,
        mut visit: impl FnMut(&[u8; RECORD_BYTES]) -> io::Result<()>,
    ) -> Result<(), FileError> {
        let Some(spool) = &mut self.spool else {
            return Ok(());
        };
        let mut visit_all = || {
            spool.rewind()?; // writes what is still in memory first
            let mut reader = BufReader::new(spool.get_ref());
            let mut record = [0; RECORD_BYTES];
            while !reader.fill_buf()?.is_empty() {
                reader.read_exact(&mut record)?;
                visit(&record)?;
            }
            Ok(())
        };
        visit_all().map_err(FileError::new("copy a temporary file in", &self.folder))
    }
}

pub(super) fn stamp_bytes(stamp: &Stamp) -> [u8; STAMP_BYTES] {
    let words = [
        stamp.device.to_le_bytes(),
        stamp.inode.to_le_bytes(),
        stamp.size_bytes.to_le_bytes(),
        stamp.modified_nanos.to_le_bytes(),
        stamp.changed_nanos.to_le_bytes(),
    ];
    words
        .as_flattened()
        .try_into()
        .expect("five words of eight bytes")
}

pub(super) fn parse(record: &[u8; RECORD_BYTES]) -> (Stamp, ImageId) {
    let (words, _) = record.as_chunks::<8>();
    let stamp = Stamp {
        device: u64::from_le_bytes(words[0]),
        inode: u64::from_le_bytes(words[1]),
        size_bytes: u64::from_le_bytes(words[2]),
        modified_nanos: i64::from_le_bytes(words[3]),
        changed_nanos: i64::from_le_bytes(words[4]),
    };
    let id = record[STAMP_BYTES..].try_into();
    (stamp, Digest(id.expect("32 bytes of 72")))
}
