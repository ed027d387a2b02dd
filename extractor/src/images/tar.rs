//! Tar archives, read in place: with class folders, or in WebDataset's form.
//!
//! Only regular members are read; links and devices are not followed. The archive must not be
//! compressed, since a compressed one has no positions to read at.

use std::io::{self, Read};
use std::panic::AssertUnwindSafe;
use std::path::Path;

use super::archive::{At, Container, combined};
use super::names::Names;
use super::{Archive, Columns, InputError, Source, webdataset};

struct Tar {
    at: At,
    /// Start and length of each regular member's bytes.
    places: Vec<(u64, u64)>,
}

impl Container for Tar {
    fn with(
        &self,
        at: u64,
        use_it: &mut dyn FnMut(&mut dyn Read) -> io::Result<()>,
    ) -> io::Result<()> {
        let (start, len) = self.places[at as usize];
        use_it(&mut self.at.from(start).take(len))
    }
}

/// Opens the archive at `path` and lists its members.
pub(super) fn open(path: &Path, columns: &Columns) -> Result<Source, InputError> {
    let (at, stamp) = At::open(path)?;
    let read = crate::quietly::catch(AssertUnwindSafe(|| list(&at)));
    let (mut names, places, end) = read
        .unwrap_or_else(|| Err(io::Error::other("its structure is damaged")))
        .map_err(|e| InputError::damaged(path, "tar", e))?;
    if at.len < end + 512 {
        tracing::warn!(
            "{} has no end marker: it may have been cut between two members",
            crate::files::escape_path(path)
        );
    }
    let tar = Tar { at, places };
    let refused = |reason: String| InputError::refused(path, reason);
    let listing = match webdataset::list(&mut names, &tar, columns) {
        Some(listing) => listing,
        None => {
            if let Some(flag) = columns.given() {
                return Err(refused(format!(
                    "has no labels in .json members for {flag}"
                )));
            }
            names.by_folder().map_err(refused)?
        }
    };
    let stamp = combined(&[(path, stamp)], "tar");
    Ok(Source::Archive(Archive::new(listing, tar), stamp))
}

type Listed = (Names, Vec<(u64, u64)>, u64);

/// The members' names, where their bytes are, and where the last one ends.
fn list(at: &At) -> io::Result<Listed> {
    let (mut names, mut places, mut last) = (Names::default(), Vec::new(), 0);
    let mut archive = ::tar::Archive::new(at.clone());
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let (kind, name) = (entry.header().entry_type(), entry.path_bytes());
        let (start, len) = (entry.raw_file_position(), entry.size());
        if kind.is_dir() {
            names.folder(&name);
        } else if kind.is_file() || kind.is_contiguous() {
            let end = start.checked_add(len).filter(|&end| end <= at.len);
            end.ok_or_else(|| {
                let name = crate::files::escape(&name);
                io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("the file ends within the member {name}"),
                )
            })?;
            last = start + len.next_multiple_of(512);
            names.file(&name, places.len() as u64);
            places.push((start, len));
        } else if kind.is_symlink() || kind.is_hard_link() {
            names.special(&name, "a link");
        } else if kind.is_gnu_sparse() {
            names.special(&name, "a sparse file");
        } else if !kind.is_pax_global_extensions() {
            names.special(&name, "no regular file");
        }
    }
    Ok((names, places, last))
}
