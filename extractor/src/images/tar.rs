//! Tar archives, read in place: with class folders, or in WebDataset's form.
//!
//! Only regular members are read; links and devices are not followed. The archive must not be
//! compressed, since a compressed one has no positions to read at.

use std::io::{self, Read};
use std::panic::AssertUnwindSafe;
use std::path::Path;

use super::archive::{At, Container, MAX_MEMBER_BYTES, combined};
use super::names::Names;
use super::{Archive, Columns, InputError, Source, webdataset};

struct Tar(At);

/// Where a member's bytes are, in one number: the block where they start, and how many there are.
fn place(start: u64, len: u64) -> Option<u64> {
    let block = start / BLOCK;
    // A longer member is refused whatever its length.
    let fits = start.is_multiple_of(BLOCK) && block < 1 << (64 - LENGTH_BITS);
    fits.then(|| block << LENGTH_BITS | len.min(LENGTH_MASK))
}

const BLOCK: u64 = 512;
const LENGTH_BITS: u32 = 29;
const LENGTH_MASK: u64 = (1 << LENGTH_BITS) - 1;
const _: () = assert!(LENGTH_MASK > MAX_MEMBER_BYTES);

impl Container for Tar {
    fn with(
        &self,
        at: u64,
        use_it: &mut dyn FnMut(&mut dyn Read) -> io::Result<()>,
    ) -> io::Result<()> {
        let (start, len) = ((at >> LENGTH_BITS) * BLOCK, at & LENGTH_MASK);
        use_it(&mut self.0.from(start).take(len))
    }
}

/// Opens the archive at `path` and lists its members.
pub(super) fn open(path: &Path, columns: &Columns) -> Result<Source, InputError> {
    let (at, stamp) = At::open(path)?;
    let damaged = |e| InputError::damaged(path, "tar", e);
    let read = crate::quietly::catch(AssertUnwindSafe(|| list(&at)));
    let (mut names, end) = read
        .unwrap_or_else(|| Err(io::Error::other("its structure is damaged")))
        .map_err(damaged)?;
    if at.len < end + BLOCK {
        tracing::warn!(
            "{} has no end marker: it may have been cut between two members",
            crate::files::escape_path(path)
        );
    } else if goes_on(at.from(end)).map_err(damaged)? {
        tracing::warn!(
            "{} goes on behind its end marker, and what is there is not read (hint: were archives \
             joined with cat? tar --concatenate joins them, and tar --ignore-zeros unpacks them)",
            crate::files::escape_path(path)
        );
    }
    names.settle();
    let tar = Tar(at);
    let refused = |reason: String| InputError::refused(path, reason);
    let listing = match webdataset::list(&mut names, &tar, columns).map_err(refused)? {
        Some(listing) => listing,
        None => names.by_folder().map_err(refused)?,
    };
    let stamp = combined(&[(path, stamp)], &listing, "tar");
    Ok(Source::Archive(Archive::new(listing, tar), stamp))
}

/// The members' names, and where the last one ends.
fn list(at: &At) -> io::Result<(Names, u64)> {
    let (mut names, mut last) = (Names::default(), 0);
    let mut archive = ::tar::Archive::new(at.clone());
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let (kind, name) = (entry.header().entry_type(), entry.path_bytes());
        let start = entry.raw_file_position();
        let len = match kind.is_gnu_sparse() {
            true => entry.header().entry_size()?, // without its holes
            false => entry.size(),
        };
        // Whatever its kind: the next header is looked for behind it.
        let end = start.checked_add(len).filter(|&end| end <= at.len);
        let end = end.ok_or_else(|| {
            let name = crate::files::escape(&name);
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file ends within the member {name}"),
            )
        })?;
        last = end.next_multiple_of(BLOCK);
        if kind.is_dir() {
            names.folder(&name);
        } else if kind.is_file() || kind.is_contiguous() {
            let place = place(start, len);
            let place = place.ok_or_else(|| io::Error::other("it is larger than 16 TiB"))?;
            names.file(&name, place);
        } else if kind.is_symlink() || kind.is_hard_link() {
            names.special(&name, "a link");
        } else if kind.is_gnu_sparse() {
            names.special(&name, "a sparse file");
        } else if !kind.is_pax_global_extensions() {
            names.special(&name, "no regular file");
        }
    }
    Ok((names, last))
}

/// Whether anything but zeros comes.
fn goes_on(mut rest: At) -> io::Result<bool> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(false),
            n if buffer[..n].iter().any(|&b| b != 0) => return Ok(true),
            _ => {}
        }
    }
}
