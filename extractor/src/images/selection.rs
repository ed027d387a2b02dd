//! Which images of an archive a data set is made of, where that is a rule's choice: recorded beside
//! the archive, so that whoever opens it sees the same images.
//!
//! Must not know where archives come from, nor how an index is stored.
//!
//! # Format, version 1
//!
//! Beside the archive `NAME` a TOML file `NAME.headstart.toml`:
//!
//! | key | |
//! |---|---|
//! | `format` | MUST be 1 |
//! | `size_bytes`, `sha256` | of the archive; a reader MUST refuse an archive of another size |
//! | `source` | address that it came from, without passwords; absent for a local file |
//! | `keep` | the rule: `all` or `jfif` |
//! | `left_out` | the images that the rule leaves out: paths as an index has them, escaped as in [`crate::files::escape`], ascending. A reader goes by this list and MUST refuse a path that the archive lacks |

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3Default;

use super::{Archive, DataSet, InputError, Source};
use crate::decode::has_image_extension;
use crate::digest::Digest;
use crate::files::{FileError, escape, escape_path, unescape, write_atomically};
use crate::transient::io_is_transient;

/// Which images of an archive count.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Every image.
    All,
    /// Those with the bytes JFIF among their first 512, as tensorflow_datasets has it.
    Jfif,
}

/// tensorflow_datasets looks for the mark in what its reader of a zip member has ready at the start,
/// which is as much.
const HEAD_BYTES: usize = 512;

impl std::fmt::Display for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Keep::All => "all",
            Keep::Jfif => "jfif",
        })
    }
}

impl Keep {
    /// Whether an image counts that begins with `head`: its first 512 bytes.
    pub fn keeps(self, head: &[u8]) -> bool {
        match self {
            Keep::All => true,
            Keep::Jfif => head.windows(4).any(|window| window == b"JFIF"),
        }
    }
}

/// What is recorded beside an archive.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    format: u32,
    /// Size of the archive.
    pub size_bytes: u64,
    /// Digest of the archive.
    pub sha256: Digest,
    /// Where it came from.
    pub source: Option<String>,
    /// The rule.
    pub keep: Keep,
    left_out: Vec<String>,
}

const FORMAT: u32 = 1;

impl Selection {
    /// The selection that leaves these paths out of the archive of this digest.
    ///
    /// # Errors
    /// When the archive is not there.
    pub fn new(
        archive: &Path,
        sha256: Digest,
        source: Option<String>,
        keep: Keep,
        left_out: &[Vec<u8>],
    ) -> Result<Selection, FileError> {
        let metadata = fs::metadata(archive).map_err(FileError::new("read", archive))?;
        Ok(Selection {
            format: FORMAT,
            size_bytes: metadata.len(),
            sha256,
            source,
            keep,
            left_out: left_out.iter().map(|path| escape(path)).collect(),
        })
    }

    /// Where the selection of an archive lies.
    pub fn path(archive: &Path) -> PathBuf {
        let mut name = archive.file_name().unwrap_or_default().to_owned();
        name.push(".headstart.toml");
        archive.with_file_name(name)
    }

    /// Writes it beside the archive.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, archive: &Path) -> Result<(), FileError> {
        let text = toml::to_string(self).expect("a selection is plain TOML");
        write_atomically(&Selection::path(archive), text.as_bytes())
    }

    /// The selection beside an archive, if there is one.
    ///
    /// # Errors
    /// When it cannot be read, or is one of another archive.
    pub fn beside(archive: &Path) -> Result<Option<Selection>, InputError> {
        // Beside the archive itself, whatever links lead to it.
        let Ok(archive) = archive.canonicalize() else {
            return Ok(None);
        };
        let path = Selection::path(&archive);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(InputError::io(&path)(e)),
        };
        let hint = "hint: remove it, or run extractor fetch again, which writes it anew";
        let selection: Selection = toml::from_str(&text).map_err(|e| {
            let reason = e.message().replace('\n', " ");
            InputError::refused(&path, format!("is no selection: {reason} ({hint})"))
        })?;
        if selection.format != FORMAT {
            let format = selection.format;
            return Err(InputError::refused(
                &path,
                format!("has format {format}, expected {FORMAT} ({hint})"),
            ));
        }
        let metadata = fs::metadata(&archive).map_err(InputError::io(&archive))?;
        if metadata.len() != selection.size_bytes {
            let name = escape_path(&archive);
            return Err(InputError::refused(
                &path,
                format!("was made for another file than {name} is now ({hint})"),
            ));
        }
        Ok(Some(selection))
    }

    /// Leaves out of `source` what is to be left out.
    pub(super) fn apply(&self, archive: &Path, source: &mut Source) -> Result<(), InputError> {
        if self.left_out.is_empty() {
            return Ok(());
        }
        let refused = |reason: &str| Err(InputError::refused(&Selection::path(archive), reason));
        let paths: Option<HashSet<Vec<u8>>> =
            self.left_out.iter().map(|path| unescape(path)).collect();
        let (Some(paths), Source::Archive(archive, stamp)) = (paths, source) else {
            return refused("leaves out what cannot be in it");
        };
        if archive.leave_out(&paths) != paths.len() {
            return refused(
                "leaves out images that are not in it (hint: run extractor fetch again, which writes \
                 it anew)",
            );
        }
        // Another selection is another data set.
        let mut hasher = Xxh3Default::new();
        for path in &self.left_out {
            hasher.update(path.as_bytes());
            hasher.update(b"\n");
        }
        stamp.inode ^= hasher.digest();
        Ok(())
    }
}

/// What was left out of a data set by the selection beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftOut {
    /// The rule.
    pub keep: Keep,
    /// Images.
    pub images: usize,
}

impl LeftOut {
    pub(super) fn of(selection: &Selection) -> LeftOut {
        LeftOut {
            keep: selection.keep,
            images: selection.left_out.len(),
        }
    }
}

/// Members whose beginnings are read at once.
const CHUNK: usize = 1024;

impl DataSet {
    /// Files and members that claim to be images; for folders, which were not walked yet, none.
    pub fn images_listed(&self) -> usize {
        let claims = |path: &&[u8]| has_image_extension(path);
        match &self.source {
            Source::Folder(_) | Source::Prefix(_) => 0,
            Source::Files(_, listing) => listing.len(),
            Source::Archive(archive, _) => archive.listing.paths.iter().filter(claims).count(),
        }
    }

    /// The images of this archive that `keep` does not keep, ascending. One that cannot be read stays,
    /// and will be named when it is needed. `on_image` is called once an image.
    ///
    /// # Errors
    /// When this is no archive, or its file cannot be read just now.
    pub fn left_out_by(
        &self,
        keep: Keep,
        on_image: impl Fn() + Sync,
    ) -> Result<Vec<Vec<u8>>, InputError> {
        if keep == Keep::All {
            return Ok(Vec::new());
        }
        let Source::Archive(archive, _) = &self.source else {
            return Err(InputError::refused(
                &self.path,
                format!("is no archive, so there is nothing to keep by the rule {keep}"),
            ));
        };
        let listing = &archive.listing;
        let mut left_out = Vec::new();
        for piece in listing.as_they_lie() {
            for chunk in piece.chunks(CHUNK) {
                let found: Vec<io::Result<bool>> = chunk
                    .par_iter()
                    .map(|&position| {
                        let kept = is_kept(archive, position as usize, keep);
                        on_image();
                        kept
                    })
                    .collect();
                for (position, kept) in chunk.iter().zip(found) {
                    match kept {
                        Ok(true) => {}
                        Ok(false) => left_out.push(*position as usize),
                        Err(e) if io_is_transient(&e) => return Err(InputError::io(&self.path)(e)),
                        Err(_) => {}
                    }
                }
            }
        }
        left_out.sort_unstable();
        let path = |position: usize| listing.member(position).path.to_vec();
        Ok(left_out.into_iter().map(path).collect())
    }
}

fn is_kept(archive: &Archive, position: usize, keep: Keep) -> io::Result<bool> {
    let member = archive.listing.member(position);
    // What claims to be no image is not left out but clutter.
    if !archive.claims(member) {
        return Ok(true);
    }
    archive.with(member, |reader| {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        reader.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
        Ok(keep.keeps(&head))
    })
}
