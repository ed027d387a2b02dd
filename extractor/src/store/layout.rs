//! From the bytes of a shard to its parts, everything that [`super::shard`] specifies checked on the
//! way.
//!
//! Must not know where the bytes come from.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, FixedSizeBinaryArray, FixedSizeListArray, Float16Array, Float32Array, StringArray,
    UInt8Array,
};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Schema};
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::{Block, root_as_footer};

use super::shard::{Batch, FORMAT, Shard, Values};
use super::{Dtype, FORMAT_VERSION, IDENTITY, StoreKey};
use crate::backbone::MapShape;

const MAGIC: &[u8; 6] = b"ARROW1";
const TRAILER_BYTES: usize = 10; // footer length and magic

/// Bytes that even an empty one has.
pub(super) const LEAST_BYTES: usize = MAGIC.len() + TRAILER_BYTES;

/// Why bytes are no shard of this format.
#[derive(Debug)]
pub(super) enum Misfit {
    /// They are not what was written.
    Damage(String),
    /// They are a shard of this other version.
    Version(u64),
}

impl<T: Into<String>> From<T> for Misfit {
    fn from(reason: T) -> Misfit {
        Misfit::Damage(reason.into())
    }
}

/// The shard in `buffer`, of at least [`LEAST_BYTES`].
pub(super) fn read(buffer: &Buffer, path: &Path) -> Result<Shard, Misfit> {
    let length = buffer.len();
    if &buffer[..MAGIC.len()] != MAGIC {
        return Err("it does not begin as an Arrow file".into());
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
        return Err("it holds no features".into());
    }
    let (version, key) = (metadata("headstart.version")?, metadata("headstart.key")?);
    if version != FORMAT_VERSION.to_string() {
        return Err(other_version(version, key));
    }
    let key: StoreKey =
        serde_json::from_str(key).map_err(|e| format!("its key is damaged: {e}"))?;
    let provenance = serde_json::from_str(metadata("headstart.provenance")?)
        .map_err(|e| format!("its provenance is damaged: {e}"))?;
    let shape = map_shape(&schema, key.dtype)?;

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

    let blocks: Vec<&Block> = footer.recordBatches().into_iter().flatten().collect();
    must_not_overlap(&blocks, footer_start)?;
    let schema = Arc::new(schema);
    let decoder = FileDecoder::new(schema, footer.version()).with_require_alignment(true);
    let mut batches = Vec::with_capacity(checksums.len());
    for block in blocks {
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
        return Err("it has not one checksum a record batch".into());
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

/// What a shard is that says to be of another version. Its key says the version once more: where
/// that is ours, the other one is damaged.
fn other_version(version: &str, key: &str) -> Misfit {
    let key: serde_json::Value = serde_json::from_str(key).unwrap_or_default();
    match version.parse() {
        Ok(version) if key["format"].as_u64() != Some(u64::from(FORMAT_VERSION)) => {
            Misfit::Version(version)
        }
        _ => format!(
            "its version is {version}, that of its key {}",
            key["format"]
        )
        .into(),
    }
}

/// A footer that lists a block twice would make many rows of few bytes.
fn must_not_overlap(blocks: &[&Block], end: usize) -> Result<(), String> {
    let ranges: Result<Vec<_>, _> = blocks.iter().map(|b| block_range(b, end)).collect();
    let mut ranges = ranges?;
    ranges.sort_unstable();
    match ranges.is_sorted_by(|(from, len), (next, _)| from + len <= *next) {
        true => Ok(()),
        false => Err("two of its record batches overlap".to_owned()),
    }
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
fn map_shape(schema: &Schema, dtype: Dtype) -> Result<MapShape, String> {
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
    let element = match dtype {
        Dtype::F32 => DataType::Float32,
        Dtype::F16 => DataType::Float16,
        Dtype::U8 => DataType::UInt8,
    };
    let [height, width, channels] = tensor.shape;
    let elements = height
        .checked_mul(width)
        .and_then(|n| n.checked_mul(channels));
    match field.data_type() {
        DataType::FixedSizeList(item, _) if *item.data_type() != element => Err(format!(
            "its features are {}, those of its key {dtype}",
            item.data_type()
        )),
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
        DataType::UInt8 => {
            let values = values.as_any().downcast_ref::<UInt8Array>()?;
            Values::U8(values.values().clone())
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
