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
//! | `features` | `fixed_size_list<f32 or f16>[h*w*c]`, extension `arrow.fixed_shape_tensor` | the feature map, channels last always |
//!
//! The extension's metadata MUST be `{"shape":[h,w,c],"dim_names":["h","w","c"]}`.
//! The schema metadata MUST hold `headstart.format` = `features`, `headstart.version` = `1`,
//! `headstart.key` (the [`StoreKey`] as JSON) and `headstart.provenance` ([`Provenance`] as JSON).
//! The footer's metadata MUST hold `headstart.checksums`: a JSON array with one text of 16
//! lowercase hexadecimal digits a record batch, the XXH3-64 (seed 0) of the batch's ids, then its
//! views (each followed by a zero byte), then its features, all as they lie in the file. A reader
//! MUST refuse another version, and MAY check the checksums. It MUST pass over rows of views that
//! it does not know. A record batch and a shard MAY hold any rows of any views, in any order.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, FixedSizeBinaryArray, FixedSizeListArray, Float16Array, Float32Array, StringArray,
};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{DataType, Schema};
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::{Block, root_as_footer};
use half::f16;
use xxhash_rust::xxh3::Xxh3Default;

use super::{FORMAT_VERSION, IDENTITY, Provenance, StoreError, StoreKey, map};
use crate::backbone::MapShape;
use crate::digest::{Digest, ImageId};
use crate::files::FileError;

pub(super) const FORMAT: &str = "features";
pub(super) const PREFIX: &str = "shard-";
pub(super) const SUFFIX: &str = ".arrow";
const MAGIC: &[u8; 6] = b"ARROW1";
const TRAILER_BYTES: usize = 10; // footer length and magic

/// A feature map in the store's element type, [h * w * c], channels last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Features<'a> {
    /// float32.
    F32(&'a [f32]),
    /// float16.
    F16(&'a [f16]),
}

/// A batch's features, one flat array.
#[derive(Debug)]
enum Values {
    F32(ScalarBuffer<f32>),
    F16(ScalarBuffer<f16>),
}

/// A record batch, straight in the mapped file. Small, as there is one for every few rows.
#[derive(Debug)]
struct Batch {
    ids: Buffer,                     // [rows, 32]
    views: Option<Box<StringArray>>, // none: `identity` all of them
    values: Values,
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
    path: PathBuf,
    key: StoreKey,
    provenance: Provenance,
    shape: MapShape,
    batches: Vec<Batch>,
    checksums: Vec<[u8; 16]>, // as text
    len_bytes: u64,
}

impl Shard {
    /// Opens and maps a shard after checking its structure: magic, footer, version, key, schema,
    /// every block inside the file, every column as specified, aligned and without nulls.
    ///
    /// # Errors
    /// [`StoreError::Shard`] with what is wrong; never a panic, whatever the file holds.
    pub fn open(path: &Path) -> Result<Shard, StoreError> {
        let file = File::open(path).map_err(FileError::new("open the shard", path))?;
        let length = file.metadata().map_err(FileError::new("read", path))?.len();
        let wrong = |reason: String| StoreError::Shard {
            path: path.to_owned(),
            reason,
        };
        if length < (MAGIC.len() + TRAILER_BYTES) as u64 {
            return Err(wrong(format!("{length} bytes are too short for one")));
        }
        let buffer = map::map(&file).map_err(FileError::new("map the shard", path))?;
        // The decoder is strict, but a hostile file must not be able to stop the program.
        crate::quietly::catch(|| read(&buffer, path))
            .unwrap_or_else(|| Err("its structure is damaged".to_owned()))
            .map_err(wrong)
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
        }
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

fn read(buffer: &Buffer, path: &Path) -> Result<Shard, String> {
    let length = buffer.len();
    if &buffer[..MAGIC.len()] != MAGIC {
        return Err("it does not begin as an Arrow file".to_owned());
    }
    let trailer_start = length - TRAILER_BYTES;
    let trailer = buffer[trailer_start..].try_into().expect("ten bytes");
    let footer_length = read_footer_length(trailer)
        .map_err(|_| "it does not end as an Arrow file (cut off?)".to_owned())?;
    let footer_start = trailer_start
        .checked_sub(footer_length)
        .ok_or("its footer is longer than the file")?;
    let footer = root_as_footer(&buffer[footer_start..trailer_start])
        .map_err(|e| format!("its footer is damaged: {e}"))?;
    let schema = footer.schema().ok_or("it has no schema")?;
    let schema = try_fb_to_schema(schema).map_err(|e| format!("its schema is damaged: {e}"))?;

    let metadata = |key: &str| {
        let value = schema.metadata().get(key);
        value
            .map(String::as_str)
            .ok_or(format!("its metadata lacks {key}"))
    };
    if metadata("headstart.format")? != FORMAT {
        return Err("it holds no features".to_owned());
    }
    let version = metadata("headstart.version")?;
    if version != FORMAT_VERSION.to_string() {
        return Err(format!(
            "it has format {version}, expected {FORMAT_VERSION}"
        ));
    }
    let key: StoreKey = serde_json::from_str(metadata("headstart.key")?)
        .map_err(|e| format!("its key is damaged: {e}"))?;
    let provenance = serde_json::from_str(metadata("headstart.provenance")?)
        .map_err(|e| format!("its provenance is damaged: {e}"))?;
    let shape = map_shape(&schema)?;

    let checksums = footer
        .custom_metadata()
        .and_then(|all| {
            all.iter()
                .find(|kv| kv.key() == Some("headstart.checksums"))
        })
        .and_then(|kv| kv.value())
        .ok_or("its footer lacks the checksums")?;
    let checksums: Vec<&str> =
        serde_json::from_str(checksums).map_err(|e| format!("its checksums are damaged: {e}"))?;
    let checksums: Result<Vec<[u8; 16]>, _> = checksums
        .iter()
        .map(|text| text.as_bytes().try_into())
        .collect();
    let checksums = checksums.map_err(|_| "its checksums are damaged")?;

    let schema = Arc::new(schema);
    let decoder = FileDecoder::new(schema, footer.version()).with_require_alignment(true);
    let mut batches = Vec::with_capacity(checksums.len());
    for block in footer.recordBatches().into_iter().flatten() {
        let (from, len) = block_range(block, footer_start)?;
        let data = buffer.slice_with_length(from, len);
        let batch = decoder
            .read_record_batch(block, &data)
            .map_err(|e| format!("record batch {}: {e}", batches.len()))?
            .ok_or("it has an empty block")?;
        let batch = columns(&batch, shape)
            .ok_or_else(|| format!("record batch {} has other columns", batches.len()))?;
        batches.push(batch);
    }
    if checksums.len() != batches.len() {
        return Err("it has not one checksum a record batch".to_owned());
    }
    Ok(Shard {
        path: path.to_owned(),
        key,
        provenance,
        shape,
        batches,
        checksums,
        len_bytes: length as u64,
    })
}

fn block_range(block: &Block, end: usize) -> Result<(usize, usize), String> {
    let range = || {
        let from = usize::try_from(block.offset()).ok()?;
        let metadata = usize::try_from(block.metaDataLength()).ok()?;
        let body = usize::try_from(block.bodyLength()).ok()?;
        let len = metadata.checked_add(body)?;
        (from.checked_add(len)? <= end).then_some((from, len))
    };
    range().ok_or_else(|| "a record batch lies outside the file".to_owned())
}

/// The tensor shape in the schema, checked against the list's length.
fn map_shape(schema: &Schema) -> Result<MapShape, String> {
    #[derive(serde::Deserialize)]
    struct Tensor {
        shape: [usize; 3],
        dim_names: Option<[String; 3]>,
    }
    let field = schema
        .field_with_name("features")
        .map_err(|_| "it has no column features")?;
    let metadata = field.metadata();
    if metadata.get("ARROW:extension:name").map(String::as_str) != Some("arrow.fixed_shape_tensor")
    {
        return Err("its features are no arrow.fixed_shape_tensor".to_owned());
    }
    let tensor = metadata
        .get("ARROW:extension:metadata")
        .map(String::as_str)
        .unwrap_or_default();
    let tensor: Tensor =
        serde_json::from_str(tensor).map_err(|e| format!("its tensor shape is damaged: {e}"))?;
    if tensor
        .dim_names
        .is_none_or(|names| names != ["h", "w", "c"])
    {
        return Err("its tensor's axes are not h, w, c".to_owned());
    }
    let [height, width, channels] = tensor.shape;
    let elements = height
        .checked_mul(width)
        .and_then(|n| n.checked_mul(channels));
    match field.data_type() {
        DataType::FixedSizeList(_, n) if elements == usize::try_from(*n).ok() && *n > 0 => {
            Ok(MapShape {
                height,
                width,
                channels,
            })
        }
        _ => Err("its tensor shape does not fit its list length".to_owned()),
    }
}

fn columns(batch: &arrow::record_batch::RecordBatch, shape: MapShape) -> Option<Batch> {
    let no_nulls = batch.columns().iter().all(|c| c.null_count() == 0);
    let ids = batch
        .column_by_name("id")?
        .as_any()
        .downcast_ref::<FixedSizeBinaryArray>()?;
    let views = batch
        .column_by_name("view")?
        .as_any()
        .downcast_ref::<StringArray>()?;
    let features = batch
        .column_by_name("features")?
        .as_any()
        .downcast_ref::<FixedSizeListArray>()?;
    let values = features.values();
    if !no_nulls || ids.value_length() != 32 || values.null_count() > 0 {
        return None;
    }
    if values.len() != batch.num_rows() * shape.len() {
        return None;
    }
    let values = match values.data_type() {
        DataType::Float32 => {
            let values = values.as_any().downcast_ref::<Float32Array>()?;
            Values::F32(values.values().clone())
        }
        DataType::Float16 => {
            let values = values.as_any().downcast_ref::<Float16Array>()?;
            Values::F16(values.values().clone())
        }
        _ => return None,
    };
    let all_identity = views.iter().flatten().all(|view| view == IDENTITY);
    Some(Batch {
        ids: ids.values().slice_with_length(0, ids.len() * 32),
        views: (!all_identity).then(|| Box::new(views.clone())),
        values,
    })
}
