//! Where a data set's images are: in a folder, in an object store, listed by a manifest, or inside
//! an archive.
//!
//! [`DataSet::open`] tells the kinds apart and lists the images; [`Images`] reads them. Archives are
//! read in place and never unpacked. Must not know what is in an image's bytes, nor how an index is
//! stored.

mod archive;
mod columns;
mod csv;
mod dealt;
mod error;
mod folder;
mod kind;
mod listing;
mod names;
mod parquet;
mod prefix;
mod selection;
mod tar;
mod webdataset;
mod zip;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::decode::has_image_extension;
use crate::files;
use crate::paths::Paths;
use crate::transient::Unreadable;
use crate::walk::{self, Skipped, Stamp};
pub(crate) use archive::Archive;
pub use archive::MAX_MEMBER_BYTES;
pub use columns::Columns;
use columns::{IMAGE_FLAG, LABEL_FLAG, PATH_FLAG};
pub use dealt::Dealt;
pub use error::InputError;
pub use folder::Folder;
use kind::Kind;
pub use kind::canonical;
pub(crate) use listing::{Listing, Member, compare_paths};
pub use prefix::Prefix;
pub use selection::{Keep, LeftOut, Selection};

/// The bytes of one image file; borrowed where they lie in memory anyway.
pub type ImageBytes<'a> = Cow<'a, [u8]>;

/// A data set's images by path. Read from many threads at once.
pub trait Images: Sync {
    /// The bytes of the image file that an index calls `path`.
    ///
    /// # Errors
    /// Why they cannot be had.
    fn read(&self, path: &[u8]) -> Result<ImageBytes<'_>, Unreadable>;

    /// Reads some images at once that are asked for next, where that is faster than one by one.
    fn read_ahead(&self, _paths: &[&[u8]]) {}

    /// Whether no image can be read any more, for a reason that is not an image's.
    fn has_failed(&self) -> bool {
        false
    }
}

/// A data set as a person names it: a folder, a manifest or an archive.
#[derive(Debug)]
pub struct DataSet {
    /// What was named, a URL included.
    pub path: PathBuf,
    /// Before it was looked at: what was changed shortly before may be changed again without its
    /// stamp telling.
    pub opened: SystemTime,
    /// What the selection beside it leaves out, if there is one.
    pub left_out: Option<LeftOut>,
    pub(crate) source: Source,
}

/// What a data set turned out to be.
#[derive(Debug)]
pub(crate) enum Source {
    /// A folder with one sub-folder a class; listed by the walk.
    Folder(Folder),
    /// Files that a manifest lists.
    Files(Folder, Listing),
    /// Files below a URL in an object store.
    Prefix(Box<Prefix>),
    /// Members of an archive or rows of Parquet files. The stamp says whether it is still the same.
    Archive(Archive, Stamp),
}

impl DataSet {
    /// Opens what `path` names and lists its images, without those that the [`Selection`] beside it
    /// leaves out; no image is read yet.
    ///
    /// # Errors
    /// When it is none of the kinds, damaged or hostile, a manifest lacks a column, or the selection
    /// is not one of this file.
    pub fn open(path: &Path, columns: &Columns) -> Result<DataSet, InputError> {
        let mut data = DataSet::open_whole(path, columns)?;
        if path.is_file()
            && let Some(selection) = Selection::beside(path)?
        {
            selection.apply(path, &mut data.source)?;
            data.left_out = Some(LeftOut::of(&selection));
        }
        Ok(data)
    }

    /// [`DataSet::open`], whatever selection lies beside it.
    ///
    /// # Errors
    /// As [`DataSet::open`].
    pub fn open_whole(path: &Path, columns: &Columns) -> Result<DataSet, InputError> {
        let opened = SystemTime::now();
        let kind = Kind::of(path)?;
        let (means, what): (&[&str], _) = match kind {
            Kind::Folder => (&[], "is a folder, which has no columns"),
            Kind::Zip => (&[], "is a zip archive, which has no columns"),
            Kind::Tar => (&[LABEL_FLAG], "is a tar archive, which has no columns"),
            Kind::Csv { .. } => (
                &[PATH_FLAG, LABEL_FLAG],
                "is text, which has no column of images",
            ),
            Kind::Parquet(_) => (&[PATH_FLAG, IMAGE_FLAG, LABEL_FLAG], ""),
        };
        if let Some(flag) = columns.given_but(means) {
            return Err(InputError::refused(
                path,
                format!("{what}, so {flag} means nothing"),
            ));
        }
        let source = match kind {
            Kind::Folder => Source::Folder(Folder::new(path)),
            Kind::Csv { tabs } => {
                let listing = csv::list(path, tabs, columns)?;
                Source::Files(Folder::new(files::folder_of(path)), listing)
            }
            Kind::Zip => zip::open(path)?,
            Kind::Tar => tar::open(path, columns)?,
            Kind::Parquet(shards) => parquet::open(path, shards, columns)?,
        };
        Ok(DataSet {
            path: path.to_owned(),
            opened,
            left_out: None,
            source,
        })
    }
}

/// What a data set lists, before any image was looked at.
#[derive(Debug)]
pub struct Listed {
    /// Paths as an index has them, ascending; files of a folder that are no images included.
    pub paths: Arc<Paths>,
    /// What is refused, with the reason.
    pub skipped: Vec<Skipped>,
}

impl DataSet {
    /// The paths that [`Images::read`] takes. A folder is walked now.
    ///
    /// # Errors
    /// When a folder or an object store cannot be walked.
    pub fn list(&self) -> Result<Listed, InputError> {
        let (paths, skipped) = match &self.source {
            Source::Folder(_) => {
                let walk = walk::walk(&self.path)?;
                (Arc::new(walk.files), walk.skipped)
            }
            Source::Prefix(prefix) => {
                let (walk, _) = prefix.take_walk()?;
                (Arc::new(walk.files), walk.skipped)
            }
            Source::Files(_, listing) => (listing.paths.clone(), listing.skipped.clone()),
            Source::Archive(archive, _) => {
                let listing = &archive.listing;
                (listing.paths.clone(), listing.skipped.clone())
            }
        };
        Ok(Listed { paths, skipped })
    }

    /// Whether it is a manifest: its paths are relative to the folder that it lies in.
    pub fn is_manifest(&self) -> bool {
        matches!(self.source, Source::Files(..))
    }

    /// Whether the file that an index calls `path` claims to be an image, by its name or by being
    /// listed as one: what does not, and is none, is clutter.
    pub fn claims(&self, path: &[u8]) -> bool {
        match &self.source {
            Source::Folder(_) | Source::Prefix(_) => has_image_extension(path),
            Source::Files(..) => true,
            Source::Archive(archive, _) => {
                let member = archive.listing.find(path);
                member.is_some_and(|member| archive.claims(member))
            }
        }
    }
}

impl Images for DataSet {
    fn read(&self, path: &[u8]) -> Result<ImageBytes<'_>, Unreadable> {
        match &self.source {
            Source::Folder(folder) | Source::Files(folder, _) => folder.read(path),
            Source::Prefix(prefix) => prefix.read(path),
            Source::Archive(archive, _) => archive.read(path),
        }
    }

    fn read_ahead(&self, paths: &[&[u8]]) {
        if let Source::Prefix(prefix) = &self.source {
            prefix.read_ahead(paths);
        }
    }

    fn has_failed(&self) -> bool {
        matches!(&self.source, Source::Prefix(prefix) if prefix.has_failed())
    }
}

#[cfg(test)]
mod tests;
