//! One shard: an immutable Arrow IPC file of rows, checked, mapped and read without a copy.
//!
//! # Format, version 1
//!
//! A shard is an Arrow IPC *file*, uncompressed, little-endian, all buffers aligned to 64 bytes,
//! without nulls, with these columns in this order:
//!
//! | column | type | |
//! |---|---|---|
//! | `id` | `fixed_size_binary[32]` | SHA-256 of the image file's bytes |
//! | `view` | `utf8` | which view of the image, by a name that [`crate::view`] defines; `identity` is the image as it is |
//! | `features` | `fixed_size_list<f32, f16 or u8>[h*w*c]`, extension `arrow.fixed_shape_tensor` | the feature map, channels last always |
//!
//! The extension's metadata MUST be `{"shape":[h,w,c],"dim_names":["h","w","c"]}`.
//! The schema metadata MUST hold `headstart.format` = `features`, `headstart.version` = `1`,
//! `headstart.key` (the [`StoreKey`] as JSON) and `headstart.provenance` ([`Provenance`] as JSON).
//! The footer's metadata MUST hold `headstart.checksums`: a JSON array with one text of 16
//! lowercase hexadecimal digits a record batch, the XXH3-64 (seed 0) of the batch's ids, then its
//! views (each followed by a zero byte), then its features, all as they lie in the file. A reader
//! MUST refuse another version, and MAY check the checksums. It MUST pass over rows of views that
//! it does not know. A record batch and a shard MAY hold any rows of any views, in any order; record
//! batches MUST NOT overlap in the file. The features MUST be of the key's element type. Where the
//! name of a shard ends in 32 hexadecimal digits, they are the XXH3-128 (seed 0) of every batch's
//! ids and checksum as text, in order, and a reader MAY check them.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::StringArray;
use arrow::buffer::{Buffer, ScalarBuffer};
use half::f16;
use xxhash_rust::xxh3::Xxh3Default;

use super::folder::unfit;
use super::layout::{self, Misfit};
use super::{IDENTITY, Provenance, StoreError, StoreKey, map};
use crate::arrow_file::LEAST_BYTES;
use crate::backbone::MapShape;
use crate::digest::{Digest, ImageId};
use crate::files::FileError;

pub(super) const FORMAT: &str = "features";
pub(crate) const PREFIX: &str = "shard-";
pub(crate) const SUFFIX: &str = ".arrow";

/// A feature map in the store's element type, [h * w * c], channels last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Features<'a> {
    /// float32.
    F32(&'a [f32]),
    /// float16.
    F16(&'a [f16]),
    /// 0 to 255.
    U8(&'a [u8]),
}

impl Features<'_> {
    /// Appends the numbers to `to`; exact for each type.
    pub fn widen_into(self, to: &mut Vec<f32>) {
        match self {
            Features::F32(values) => to.extend_from_slice(values),
            Features::F16(values) => to.extend(values.iter().map(|v| v.to_f32())),
            Features::U8(values) => to.extend(values.iter().map(|v| f32::from(*v))),
        }
    }
}

/// A batch's features, one flat array.
#[derive(Debug)]
pub(super) enum Values {
    F32(ScalarBuffer<f32>),
    F16(ScalarBuffer<f16>),
    U8(ScalarBuffer<u8>),
}

/// A record batch, straight in the mapped file. Small, as there is one for every few rows.
#[derive(Debug)]
pub(super) struct Batch {
    pub ids: Buffer,                     // [rows, 32]
    pub views: Option<Box<StringArray>>, // none: `identity` all of them
    pub values: Values,
}

impl Batch {
    fn rows(&self) -> usize {
        self.ids.len() / 32
    }

    fn view(&self, row: usize) -> &str {
        self.views
            .as_ref()
            .map_or(IDENTITY, |views| views.value(row))
    }
}

/// An open shard.
#[derive(Debug)]
pub struct Shard {
    pub(super) path: PathBuf,
    pub(super) key: StoreKey,
    pub(super) provenance: Provenance,
    pub(super) shape: MapShape,
    pub(super) batches: Vec<Batch>,
    pub(super) checksums: Vec<[u8; 16]>, // as text
    pub(super) len_bytes: u64,
}

impl Shard {
    /// Opens and maps a shard after checking its structure: magic, footer, version, key, schema,
    /// every block inside the file, every column as specified, aligned and without nulls.
    ///
    /// # Errors
    /// [`StoreError::Shard`] with what is wrong, [`StoreError::ShardVersion`] for another format;
    /// never a panic, whatever the file holds.
    pub fn open(path: &Path) -> Result<Shard, StoreError> {
        let wrong = |misfit| match misfit {
            Misfit::Damage(reason) => StoreError::Shard {
                path: path.to_owned(),
                reason,
            },
            Misfit::Version(found) => StoreError::ShardVersion {
                path: path.to_owned(),
                found,
            },
        };
        let opening = || FileError::new("open the shard", path);
        if let Some(reason) = unfit(path).map_err(opening())? {
            return Err(wrong(reason.into()));
        }
        let file = File::open(path).map_err(opening())?;
        let length = file.metadata().map_err(FileError::new("read", path))?.len();
        if length < LEAST_BYTES as u64 {
            return Err(wrong(
                format!("{length} bytes are too short for one").into(),
            ));
        }
        // The decoder is strict, but a hostile file must not be able to stop the program.
        let read = |buffer: &Buffer| crate::quietly::catch(|| layout::read(buffer, path));
        map::map_to_look(&file, read)
            .map_err(FileError::new("map the shard", path))?
            .unwrap_or_else(|| Err("its structure is damaged".into()))
            .map_err(wrong)
    }

    /// Checks that its features belong to `key`.
    pub(super) fn must_be_of(&self, key: &StoreKey) -> Result<(), StoreError> {
        match self.key.must_equal(key, &self.path) {
            Err(StoreError::Key {
                path,
                field,
                found,
                expected,
            }) => Err(StoreError::Stray {
                path,
                field,
                found,
                expected,
            }),
            other => other,
        }
    }

    /// The shard's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key its features belong to.
    pub fn key(&self) -> &StoreKey {
        &self.key
    }

    /// How its features were computed.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Shape of its maps.
    pub fn map_shape(&self) -> MapShape {
        self.shape
    }

    /// Size of the file in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Number of record batches.
    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Number of rows of a record batch.
    pub fn rows_in(&self, batch: usize) -> usize {
        self.batches[batch].rows()
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(Batch::rows).sum()
    }

    /// Batch and row of every row.
    pub(super) fn positions(&self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.batches()).flat_map(|batch| (0..self.rows_in(batch)).map(move |row| (batch, row)))
    }

    /// Id of a row.
    pub fn id(&self, batch: usize, row: usize) -> ImageId {
        let (ids, _) = self.batches[batch].ids.as_chunks();
        Digest(ids[row])
    }

    /// View of a row.
    pub fn view(&self, batch: usize, row: usize) -> &str {
        self.batches[batch].view(row)
    }

    /// Feature map of a row.
    pub fn features(&self, batch: usize, row: usize) -> Features<'_> {
        let (from, len) = (row * self.shape.len(), self.shape.len());
        match &self.batches[batch].values {
            Values::F32(values) => Features::F32(&values[from..from + len]),
            Values::F16(values) => Features::F16(&values[from..from + len]),
            Values::U8(values) => Features::U8(&values[from..from + len]),
        }
    }

    /// Digest of its rows, which its writer names it by: of every record batch the ids, then the
    /// checksum.
    pub(super) fn content(&self) -> u128 {
        let mut hasher = Xxh3Default::new();
        for (batch, checksum) in self.batches.iter().zip(&self.checksums) {
            hasher.update(&batch.ids);
            hasher.update(checksum);
        }
        hasher.digest128()
    }

    /// Reads every byte and compares the checksums.
    ///
    /// # Errors
    /// When a record batch is not what was written.
    pub fn verify(&self) -> Result<(), StoreError> {
        (0..self.batches()).try_for_each(|batch| self.verify_batch(batch, |_| Ok(())))
    }

    /// Reads every byte of a record batch and compares its checksum. `on_row` gets the map of each
    /// row, in order, while it is in the processor's cache, so that whoever needs it reads the
    /// disk once. What was made of the maps counts only when this succeeds.
    ///
    /// # Errors
    /// When the batch is not what was written, or the error of `on_row`.
    pub fn verify_batch<E: From<StoreError>>(
        &self,
        batch: usize,
        mut on_row: impl FnMut(Features<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Batch { ids, values, .. } = &self.batches[batch];
        let (bytes, value_bytes) = match values {
            Values::F32(values) => (values.inner(), 4),
            Values::F16(values) => (values.inner(), 2),
            Values::U8(values) => (values.inner(), 1),
        };
        let mut hasher = Xxh3Default::new();
        hash_rows(&mut hasher, ids, self.views(batch));
        for (row, map) in bytes.chunks(self.shape.len() * value_bytes).enumerate() {
            hasher.update(map);
            on_row(self.features(batch, row))?;
        }
        let (found, expected) = (hex(&hasher), &self.checksums[batch]);
        if found.as_bytes() != expected {
            return Err(E::from(StoreError::Shard {
                path: self.path.clone(),
                reason: format!(
                    "record batch {batch} is damaged (checksum {found}, not {})",
                    String::from_utf8_lossy(expected)
                ),
            }));
        }
        Ok(())
    }

    fn views(&self, batch: usize) -> impl Iterator<Item = &str> {
        (0..self.rows_in(batch)).map(move |row| self.view(batch, row))
    }

    /// What is in the shard, without reading its features: the XXH3-128 (seed 0) of its key as
    /// JSON, then, for every record batch, of its ids, its views (each followed by a zero byte)
    /// and its checksum as recorded, 16 digits. As long as this is the same, every row is where
    /// it was, and what was made of the features when their checksums were right is right still.
    pub fn fingerprint(&self) -> u128 {
        let mut hasher = Xxh3Default::new();
        hasher.update(self.key.to_json().as_bytes());
        for (number, batch) in self.batches.iter().enumerate() {
            hash_rows(&mut hasher, &batch.ids, self.views(number));
            hasher.update(&self.checksums[number]);
        }
        hasher.digest128()
    }
}

/// Checksum of a record batch: see the module's format section.
pub(super) fn checksum<'a>(
    ids: &[u8],
    views: impl Iterator<Item = &'a str>,
    features: &[u8],
) -> String {
    let mut hasher = Xxh3Default::new();
    hash_rows(&mut hasher, ids, views);
    hasher.update(features);
    hex(&hasher)
}

fn hash_rows<'a>(hasher: &mut Xxh3Default, ids: &[u8], views: impl Iterator<Item = &'a str>) {
    hasher.update(ids);
    for view in views {
        hasher.update(view.as_bytes());
        hasher.update(&[0]);
    }
}

fn hex(hasher: &Xxh3Default) -> String {
    format!("{:016x}", hasher.digest())
}
