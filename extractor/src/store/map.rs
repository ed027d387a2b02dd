//! Memory-maps a file: one of the few files with `unsafe`, and all it does.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::sync::Arc;

use arrow::buffer::Buffer;
use memmap2::{Advice, Mmap};

/// Maps the whole of `file` read-only, as an Arrow buffer that keeps the map alive.
///
/// The caller must have checked that the file is not empty.
///
/// # Safety contract with the world
/// The file must not be truncated or changed as long as the buffer lives: its bytes would change
/// under a shared reference, and reading beyond a new end raises SIGBUS. So map nothing but what
/// is never changed once it has its name: published shards, which are so by the store's contract,
/// the index files and the trainer's files of pooled features, by theirs (they are renamed into
/// place whole and never opened for writing again; removing or replacing one is safe, the map keeps
/// it alive), or a file of this process's own that has no name. Whoever overwrites a published file in place breaks this
/// contract.
///
/// # Errors
/// When the operating system cannot map it.
pub fn map(file: &File) -> io::Result<Buffer> {
    mapped(file).map(|map| buffer(Arc::new(map)))
}

/// [`map`] for a file of which little is looked at now, here and there: until `look` returns,
/// the kernel reads just the pages that are touched, where it else reads the 128 kB around each (of
/// a network's file system often more).
///
/// # Errors
/// Those of [`map`].
pub(super) fn map_to_look<T>(file: &File, look: impl FnOnce(&Buffer) -> T) -> io::Result<T> {
    let map = Arc::new(mapped(file)?);
    // Advice changes no result; a system that has none reads more.
    let _ = map.advise(Advice::Random);
    let found = look(&buffer(map.clone()));
    let _ = map.advise(Advice::Normal);
    Ok(found)
}

fn mapped(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is read-only and private to this process's readers; that nobody changes the
    // file is the contract that `map` states.
    unsafe { memmap2::MmapOptions::new().map(file) }
}

fn buffer(map: Arc<Mmap>) -> Buffer {
    struct Shared(Arc<Mmap>);
    impl AsRef<[u8]> for Shared {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    Buffer::from(bytes::Bytes::from_owner(Shared(map)))
}
