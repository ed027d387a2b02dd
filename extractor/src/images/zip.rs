//! Zip archives, read in place.
//!
//! Stored and deflated members are read; a member that is encrypted or packed otherwise is named
//! and skipped. Archives whose members share bytes (zip bombs of that kind) are refused whole.
//! Without shared bytes a deflated member is at most 1,032 times as large as its part of the file,
//! and each is bounded on its own, so there is no bound on the sum.

use std::io::{self, Read};
use std::panic::AssertUnwindSafe;
use std::path::Path;

use ::zip::result::ZipError;
use ::zip::{CompressionMethod, ZipArchive};

use super::archive::{At, Container, combined};
use super::names::Names;
use super::{Archive, InputError, Source};

struct Zip(ZipArchive<At>);

impl Container for Zip {
    fn with(
        &self,
        at: u64,
        use_it: &mut dyn FnMut(&mut dyn Read) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut archive = self.0.clone(); // shares the file and the directory
        let entry = archive.by_index_data(at as usize)?;
        let unread = |why: String| {
            let hint = "hint: unpack the archive and name the folder";
            Err(io::Error::other(format!("{why} ({hint})")))
        };
        if entry.encrypted() {
            return unread("encrypted".to_owned());
        }
        let method = entry.compression();
        if !matches!(
            method,
            CompressionMethod::Stored | CompressionMethod::Deflated
        ) {
            return unread(format!("packed by a method that is not read, {method}"));
        }
        use_it(&mut archive.by_index(at as usize)?)
    }
}

/// Opens the archive at `path` and lists its members.
pub(super) fn open(path: &Path) -> Result<Source, InputError> {
    let (at, stamp) = At::open(path)?;
    let opened = crate::quietly::catch(AssertUnwindSafe(|| ZipArchive::new(at))).unwrap_or(Err(
        ZipError::InvalidArchive("its structure is damaged".into()),
    ));
    let archive = opened.map_err(|e| InputError::damaged(path, "zip", e))?;
    let mut names = Names::default();
    let mut places = Vec::with_capacity(archive.len());
    for i in 0..archive.len() {
        let member = archive
            .by_index_data(i)
            .map_err(|e| InputError::damaged(path, "zip", e))?;
        let decoded = member.name().ok();
        let name = decoded.as_ref().map_or(member.name_raw(), |n| n.as_bytes());
        if member.is_dir() {
            names.folder(name);
        } else if member.is_symlink() {
            names.special(name, "a symbolic link");
        } else {
            names.file(name, i as u64);
        }
        let start = member.header_start();
        let header = 30 + member.name_raw().len() as u64;
        let end = start
            .saturating_add(header)
            .saturating_add(member.compressed_size());
        places.push((start, end));
    }
    places.sort_unstable();
    let overlap = places.windows(2).any(|pair| pair[0].1 > pair[1].0);
    let directory = archive.central_directory_start();
    if overlap || places.last().is_some_and(|&(_, end)| end > directory) {
        return Err(InputError::refused(
            path,
            "is refused: its members share bytes, as in a zip bomb, or reach behind its end \
             (hint: if you trust it, unpack it and name the folder)",
        ));
    }
    names.settle();
    names.strip_common_folders();
    let listing = names
        .by_folder()
        .map_err(|reason| InputError::refused(path, reason))?;
    let stamp = combined(&[(path, stamp)], &listing, "zip");
    Ok(Source::Archive(Archive::new(listing, Zip(archive)), stamp))
}
