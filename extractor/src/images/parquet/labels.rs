//! Reads a Parquet file's labels and names: columns that are small beside the images.

use arrow::array::{Array, StringArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;

use crate::images::archive::At;

const BATCH_ROWS: usize = 8192;

/// A column that names images, or nothing.
pub(super) fn texts(
    at: &At,
    metadata: &ArrowReaderMetadata,
    leaf: usize,
) -> Result<Vec<Option<Vec<u8>>>, ParquetError> {
    let mut all = Vec::new();
    read(at, metadata, leaf, |text| {
        all.push(text.map(|t| t.as_bytes().to_vec()))
    })?;
    Ok(all)
}

/// The column of labels as class names: text as it is, numbers by the names that Hugging Face's
/// metadata give them, or else as digits. A null, an empty text and -1 (Hugging Face's "unknown")
/// are no label.
pub(super) fn labels(
    at: &At,
    metadata: &ArrowReaderMetadata,
    leaf: usize,
) -> Result<Vec<Option<String>>, ParquetError> {
    let column = metadata.parquet_schema().column(leaf);
    let names = class_names(metadata, &column.path().parts()[0]);
    let mut all = Vec::new();
    read(at, metadata, leaf, |text| {
        let text = text.map(str::trim).filter(|t| !t.is_empty());
        all.push(match (text, &names) {
            (Some("-1"), Some(_)) | (None, _) => None,
            (Some(text), Some(names)) => {
                let name = text.parse().ok().and_then(|i: usize| names.get(i));
                Some(name.cloned().unwrap_or_else(|| text.to_owned()))
            }
            (Some(text), None) => Some(text.to_owned()),
        });
    })?;
    Ok(all)
}

/// `info.features.COLUMN.names` of the file's or the schema's `huggingface` metadata.
fn class_names(metadata: &ArrowReaderMetadata, column: &str) -> Option<Vec<String>> {
    let own = metadata.metadata().file_metadata().key_value_metadata();
    let own = own.and_then(|all| all.iter().find(|e| e.key == "huggingface")?.value.as_ref());
    let text = own.or_else(|| metadata.schema().metadata().get("huggingface"))?;
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let names = value
        .get("info")?
        .get("features")?
        .get(column)?
        .get("names")?;
    serde_json::from_value(names.clone()).ok()
}

fn read(
    at: &At,
    metadata: &ArrowReaderMetadata,
    leaf: usize,
    mut each: impl FnMut(Option<&str>),
) -> Result<(), ParquetError> {
    let mask = ProjectionMask::leaves(metadata.parquet_schema(), [leaf]);
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(at.clone(), metadata.clone())
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS)
        .build()?;
    for batch in reader {
        let batch = batch?;
        let mut column = batch.column(0).clone();
        // The name within struct<bytes, path>.
        if let Some(parts) = column.as_any().downcast_ref::<StructArray>() {
            let own = parts.column(0).clone();
            let nulls = parts.nulls().cloned();
            let masked = own.to_data().into_builder();
            let both =
                arrow::buffer::NullBuffer::union(nulls.as_ref(), own.logical_nulls().as_ref());
            column = arrow::array::make_array(masked.nulls(both).build()?);
        }
        let texts = cast(&column, &DataType::Utf8)?;
        let texts = texts.as_any().downcast_ref::<StringArray>();
        let texts = texts.ok_or_else(|| ArrowError::CastError("not text".to_owned()))?;
        texts.iter().for_each(&mut each);
    }
    Ok(())
}
