//! Reads a Parquet file's labels and names: columns that are small beside the images.
//!
//! Text is read value by value; numbers through Arrow, which knows them all.

use arrow::array::{Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::basic::Type;

use super::Trouble;
use super::pages::{Column, Limits, Pages};
use crate::images::archive::At;
use crate::images::columns::MAX_LABEL_BYTES;

const LIMITS: Limits = Limits {
    page_bytes: 128 << 20,
    dictionary_bytes: 32 << 20,
};
/// Linux allows no longer path.
const MAX_NAME_BYTES: usize = 4096;
/// Numbers that are decoded at once.
const BATCH_ROWS: usize = 1024;
/// The longest number of fixed length, such as a decimal one.
const MAX_NUMBER_BYTES: i32 = 32;

/// Gives each row's name, or nothing.
pub(super) fn names(
    at: &At,
    metadata: &ArrowReaderMetadata,
    leaf: usize,
    mut each: impl FnMut(Option<&[u8]>),
) -> Result<(), Trouble> {
    texts(at, metadata, leaf, MAX_NAME_BYTES, |name| {
        each(name);
        Ok(())
    })
}

/// Gives each row's label as a class name: text as it is, numbers by the names that Hugging Face's
/// metadata give them, or else as digits. A null, an empty text, NaN and -1 (Hugging Face's
/// "unknown") are no label.
pub(super) fn labels(
    at: &At,
    metadata: &ArrowReaderMetadata,
    leaf: usize,
    mut each: impl FnMut(Option<&str>),
) -> Result<(), Trouble> {
    let column = metadata.parquet_schema().column(leaf);
    let names = class_names(metadata, &column.path().parts()[0]);
    let mut label = |text: Option<&str>| {
        let text = text.map(str::trim).filter(|t| !t.is_empty());
        each(match (text, &names) {
            (Some("-1"), Some(_)) | (None, _) => None,
            (Some(text), Some(names)) => {
                let name = text.parse().ok().and_then(|i: usize| names.get(i));
                Some(name.map_or(text, String::as_str))
            }
            (Some(text), None) => Some(text),
        });
    };
    if column.physical_type() != Type::BYTE_ARRAY {
        return numbers(at, metadata, leaf, label);
    }
    texts(at, metadata, leaf, MAX_LABEL_BYTES, |text| {
        let text = text.map(std::str::from_utf8).transpose();
        label(text.map_err(|_| "has a label that is not UTF-8".to_owned())?);
        Ok(())
    })
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

fn texts(
    at: &At,
    metadata: &ArrowReaderMetadata,
    leaf: usize,
    max_bytes: usize,
    mut each: impl FnMut(Option<&[u8]>) -> Result<(), String>,
) -> Result<(), Trouble> {
    let column = metadata.parquet_schema().column(leaf);
    let refused = |reason: String| {
        let name = crate::files::escape(column.path().string().as_bytes());
        Trouble::Refused(format!("{reason}, in the column `{name}`"))
    };
    let mut row = 0;
    for (number, group) in metadata.metadata().row_groups().iter().enumerate() {
        let mut values = Column::open(at, metadata.metadata(), number, leaf, LIMITS)?;
        for _ in 0..group.num_rows() {
            let value = values.next()?;
            let text = value.as_ref().map(|value| value.data());
            if text.is_some_and(|text| text.len() > max_bytes) {
                return Err(refused(format!(
                    "has in row {row} a text of more than {max_bytes} bytes"
                )));
            }
            each(text).map_err(refused)?;
            row += 1;
        }
    }
    Ok(())
}

fn numbers(
    at: &At,
    metadata: &ArrowReaderMetadata,
    leaf: usize,
    mut each: impl FnMut(Option<&str>),
) -> Result<(), Trouble> {
    let kind = metadata.parquet_schema().column(leaf);
    let long = kind.physical_type() == Type::FIXED_LEN_BYTE_ARRAY;
    if kind.max_rep_level() > 0 || (long && kind.type_length() > MAX_NUMBER_BYTES) {
        let reason = "has a column of labels that is neither text nor numbers";
        return Err(Trouble::Refused(reason.to_owned()));
    }
    let pages = Pages {
        at: at.clone(),
        limits: LIMITS,
    };
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(pages, metadata.clone())
        .with_projection(ProjectionMask::leaves(metadata.parquet_schema(), [leaf]))
        .with_batch_size(BATCH_ROWS)
        .build()?;
    for batch in reader {
        let batch = batch?;
        let column = batch.column(0);
        let texts = cast(column, &DataType::Utf8)?;
        let texts = texts.as_any().downcast_ref::<StringArray>();
        let texts = texts.ok_or_else(|| ArrowError::CastError("not text".to_owned()))?;
        let floating = column.data_type().is_floating();
        for text in texts {
            each(text.filter(|text| !floating || *text != "NaN"));
        }
    }
    Ok(())
}
