//! Memory-maps a file: one of the few files with `unsafe`, and all it does.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use arrow::buffer::Buffer;

/// Maps the whole of `file` read-only, as an Arrow buffer that keeps the map alive.
///
/// The caller must have checked that the file is not empty.
///
/// # Safety contract with the world
/// The file must not be truncated or changed as long as the buffer lives: its bytes would change
/// under a shared reference, and reading beyond a new end raises SIGBUS. So map nothing but what
/// is never changed once it has its name: published shards, which are so by the store's contract,
/// and the trainer's files of pooled features, by theirs (they are renamed into place whole and
/// never opened for writing again; removing one is safe, the map keeps it alive), or a file of
/// this process's own that has no name. Whoever overwrites a published file in place breaks this
/// contract.
///
/// # Errors
/// When the operating system cannot map it.
pub fn map(file: &File) -> io::Result<Buffer> {
    // SAFETY: the map is read-only and private to this process's readers; that nobody changes the
    // file is the contract stated above.
    let map = unsafe { memmap2::MmapOptions::new().map(file)? };
    Ok(Buffer::from(bytes::Bytes::from_owner(map)))
}
