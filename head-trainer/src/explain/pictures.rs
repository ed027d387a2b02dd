//! The pictures behind the rows of a store: read from wherever the index's data set lies, decoded
//! as they were when their features were computed.
//!
//! A picture may be gone while its features are there; that is no error before it is asked for.

use std::path::{Path, PathBuf};

use extractor::decode::{DecodeError, Exif, RgbImage, decode_oriented};
use extractor::digest::{Digest, ImageId};
use extractor::files::{escape, escape_path};
use extractor::images::{Columns, DataSet, Images, InputError};
use extractor::index::{Index, IndexError};
use extractor::remote::Location;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// The index does not say where its data set lies.
    #[error(
        "the index {} does not say where the images lie (hint: say it with --data)",
        escape_path(.0)
    )]
    Nowhere(PathBuf),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The data set is not there, or cannot be read.
    #[error(
        "cannot open the data set {} (hint: say with --data where it lies now)",
        escape_path(place)
    )]
    DataSet {
        /// Where it should be.
        place: PathBuf,
        /// Why it cannot be opened.
        source: Box<InputError>,
    },
    /// The data set has no such image by now.
    #[error("cannot read {} in {}: {reason}", escape(path), escape_path(place))]
    Read {
        /// What the index calls it.
        path: Vec<u8>,
        /// The data set.
        place: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is another image by now.
    #[error(
        "{} in {} has changed since it was indexed",
        escape(path),
        escape_path(place)
    )]
    Changed {
        /// What the index calls it.
        path: Vec<u8>,
        /// The data set.
        place: PathBuf,
    },
    /// The index has no path for it.
    #[error("the index has no such image")]
    Unknown,
    /// It cannot be decoded.
    #[error("cannot decode it")]
    Decode(#[from] DecodeError),
}

/// Where the pictures of an index are.
#[derive(Debug)]
pub struct Pictures {
    place: PathBuf,
    data: DataSet,
    exif: Exif,
}

impl Pictures {
    /// The data set of the index file `index`, at `place` or, for None, where it was when it was
    /// indexed. Images are turned as `exif` says, which is in the store's key. What lies in an object
    /// store is read from there, archives being brought in below `data_dir`; without that folder
    /// no server is asked.
    ///
    /// # Errors
    /// When it is not there or cannot be opened.
    pub fn open(
        index: &Path,
        place: Option<&Path>,
        columns: &Columns,
        exif: Exif,
        data_dir: Option<&Path>,
    ) -> Result<Pictures, PictureError> {
        let place = match place {
            Some(place) => place.to_owned(),
            None => Index::recorded_root(index)?
                .ok_or_else(|| PictureError::Nowhere(index.to_owned()))?,
        };
        let opened = match data_dir {
            Some(data_dir) => DataSet::open_at(&place, columns, data_dir),
            None => Location::local(&place, "what pictures are taken from here")
                .map_err(InputError::from)
                .and_then(|place| DataSet::open(&place, columns)),
        };
        match opened {
            Ok(data) => Ok(Pictures { place, data, exif }),
            Err(e) => Err(PictureError::DataSet {
                place,
                source: Box::new(e),
            }),
        }
    }

    /// The image `id`, which the index has under `paths`: the first of them that is still it.
    ///
    /// # Errors
    /// When none is; that of the last one.
    pub fn picture<'a>(
        &self,
        id: &ImageId,
        paths: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<RgbImage, PictureError> {
        let mut failed = PictureError::Unknown;
        for path in paths {
            let place = || self.place.clone();
            let path_of = || path.to_vec();
            failed = match self.data.read(path) {
                Ok(bytes) if Digest::of(&bytes) == *id => {
                    return Ok(decode_oriented(&bytes, self.exif)?);
                }
                Ok(_) => PictureError::Changed {
                    path: path_of(),
                    place: place(),
                },
                Err(why) => PictureError::Read {
                    path: path_of(),
                    place: place(),
                    reason: why.reason,
                },
            };
        }
        Err(failed)
    }
}
