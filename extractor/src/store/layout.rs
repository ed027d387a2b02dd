//! From the bytes of a shard to its parts, everything that [`super::shard`] specifies checked on the
//! way.
//!
//! Must not know where the bytes come from.

use std::path::Path;

use arrow::array::{
    Array, FixedSizeBinaryArray, FixedSizeListArray, Float16Array, Float32Array, StringArray,
    UInt8Array,
};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Schema};

use super::shard::{Batch, FORMAT, Shard, Values};
use super::{Dtype, FORMAT_VERSION, IDENTITY, StoreKey};
use crate::arrow_file::ArrowFile;
use crate::backbone::MapShape;

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

/// The shard in `buffer`.
pub(super) fn read(buffer: &Buffer, path: &Path) -> Result<Shard, Misfit> {
    let file = ArrowFile::open(buffer)?;
    let schema = &file.schema;

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
    let shape = map_shape(schema, key.dtype)?;

    let checksums = file
        .footer_metadata("headstart.checksums")
        .ok_or("its footer lacks the checksums")?;
    let checksums: Vec<&str> =
        serde_json::from_str(checksums).map_err(|e| format!("its checksums are damaged: {e}"))?;
    let checksums: Result<Vec<[u8; 16]>, _> = checksums
        .iter()
        .map(|text| text.as_bytes().try_into())
        .collect();
    let checksums = checksums.map_err(|_| "its checksums are damaged")?;

    let mut batches = Vec::with_capacity(checksums.len());
    for batch in file.batches(true)? {
        let batch = columns(&batch?, shape)
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
        len_bytes: buffer.len() as u64,
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
