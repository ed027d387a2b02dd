//! `predictions.arrow` of a run's folder: what the finished model says of each held-out image.
//!
//! # Format
//!
//! An Arrow IPC file with the columns
//!
//! | column | type | |
//! |---|---|---|
//! | `id` | `fixed_size_binary[32]` | the image's content digest |
//! | `side` | `utf8` | `validation` or `test` |
//! | `label` | `uint32` | number of its class, from 0 |
//! | `logits` | `fixed_size_list<float>[O]` | one for two classes, else K; before the temperature |
//!
//! validation before test, each in ascending order of the ids, and the schema metadata
//! `headstart.format` = `predictions`, `headstart.version` = `1`. A reader MUST refuse another.
//! pandas and polars read it as a Feather file.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    AsArray as _, FixedSizeBinaryArray, FixedSizeListArray, Float32Array, StringArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Float32Type, Schema, UInt32Type};
use arrow::error::ArrowError;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use arrow::record_batch::RecordBatch;
use extractor::digest::{Digest, ImageId};
use extractor::files::FileError;

use super::RunError;
use crate::metrics::Logits;
use crate::split::Side;

const FILE: &str = "predictions.arrow";
const FORMAT: &str = "predictions";
const VERSION: &str = "1";
const BATCH_ROWS: usize = 65_536;

/// Logits of the images of the validation and the test side.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// Ids `[N]`.
    pub ids: Vec<ImageId>,
    /// Sides `[N]`.
    pub sides: Vec<Side>,
    /// Labels `[N]`.
    pub labels: Vec<u32>,
    /// Logits `[N, O]`, before the temperature.
    pub logits: Logits,
}

impl Predictions {
    /// None yet, of a model with `outputs` logits.
    pub fn new(outputs: usize) -> Predictions {
        Predictions {
            ids: Vec::new(),
            sides: Vec::new(),
            labels: Vec::new(),
            logits: Logits::new(Vec::new(), outputs),
        }
    }

    /// Adds a side.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn push_side(&mut self, side: Side, ids: &[ImageId], labels: &[u32], logits: &Logits) {
        assert!(ids.len() == labels.len() && ids.len() == logits.len());
        self.ids.extend(ids);
        self.sides.extend(ids.iter().map(|_| side));
        self.labels.extend(labels);
        let outputs = self.logits.outputs();
        let values = [self.logits.values(), logits.values()].concat();
        self.logits = Logits::new(values, outputs);
    }

    /// Numbers of the images on `side`, their logits and labels.
    pub fn on(&self, side: Side) -> (Vec<usize>, Logits, Vec<u32>) {
        let rows: Vec<usize> = (0..self.ids.len())
            .filter(|&i| self.sides[i] == side)
            .collect();
        let outputs = self.logits.outputs();
        let values = self.logits.values();
        let logits = rows
            .iter()
            .flat_map(|i| &values[i * outputs..(i + 1) * outputs]);
        let logits = Logits::new(logits.copied().collect(), outputs);
        let labels = rows.iter().map(|&i| self.labels[i]).collect();
        (rows, logits, labels)
    }

    /// Writes the file into a folder that nobody reads yet.
    pub(super) fn write(&self, folder: &Path) -> Result<(), RunError> {
        let path = folder.join(FILE);
        let arrow = |source| RunError::Arrow {
            path: path.clone(),
            source,
        };
        let outputs = self.logits.outputs();
        let width = i32::try_from(outputs).expect("a number of classes fits 31 bits");
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        let schema = Arc::new(Schema::new_with_metadata(
            vec![
                Field::new("id", DataType::FixedSizeBinary(32), false),
                Field::new("side", DataType::Utf8, false),
                Field::new("label", DataType::UInt32, false),
                Field::new(
                    "logits",
                    DataType::FixedSizeList(item.clone(), width),
                    false,
                ),
            ],
            HashMap::from([
                ("headstart.format".to_owned(), FORMAT.to_owned()),
                ("headstart.version".to_owned(), VERSION.to_owned()),
            ]),
        ));
        let batch = |rows: Range<usize>| {
            let ids: Vec<u8> = self.ids[rows.clone()].iter().flat_map(|id| id.0).collect();
            let sides = self.sides[rows.clone()].iter().map(|side| side.name());
            let labels = self.labels[rows.clone()].iter().copied();
            let values = self.logits.values()[rows.start * outputs..rows.end * outputs].to_vec();
            let values = Arc::new(Float32Array::from(values));
            RecordBatch::try_new(
                schema.clone(),
                vec![
                    Arc::new(FixedSizeBinaryArray::try_new(32, ids.into(), None)?),
                    Arc::new(StringArray::from_iter_values(sides)),
                    Arc::new(UInt32Array::from_iter_values(labels)),
                    Arc::new(FixedSizeListArray::try_new(
                        item.clone(),
                        width,
                        values,
                        None,
                    )?),
                ],
            )
        };
        let file = File::create_new(&path).map_err(FileError::new("create", &path))?;
        let mut writer = FileWriter::try_new_buffered(&file, &schema).map_err(arrow)?;
        for start in (0..self.ids.len()).step_by(BATCH_ROWS) {
            let rows = start..self.ids.len().min(start + BATCH_ROWS);
            let written = batch(rows).and_then(|batch| writer.write(&batch));
            written.map_err(arrow)?;
        }
        writer.finish().map_err(arrow)?;
        drop(writer);
        Ok(file.sync_all().map_err(FileError::new("write", &path))?)
    }

    /// Reads the file of a run's folder; none if the run has none, as runs of earlier versions.
    ///
    /// # Errors
    /// When it cannot be read or is not what the format says.
    pub fn read(folder: &Path) -> Result<Option<Predictions>, RunError> {
        let path = folder.join(FILE);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(FileError::new("open", &path))?,
        };
        parse(file).map(Some).map_err(|source| RunError::Arrow {
            path: path.clone(),
            source,
        })
    }
}

fn parse(file: File) -> Result<Predictions, ArrowError> {
    let wrong = |what: &str| ArrowError::SchemaError(format!("{what} (hint: train again)"));
    let reader = FileReader::try_new_buffered(file, None)?;
    let schema = reader.schema();
    let says = |key: &str, expected: &str| {
        schema.metadata().get(key).map(String::as_str) == Some(expected)
    };
    if !says("headstart.format", FORMAT) || !says("headstart.version", VERSION) {
        return Err(wrong("it is no table of predictions of version 1"));
    }
    let outputs = match schema.field_with_name("logits")?.data_type() {
        DataType::FixedSizeList(_, width @ 1..) => *width as usize,
        _ => return Err(wrong("its column logits is no list")),
    };
    let mut found = Predictions::new(outputs);
    let mut values = Vec::new();
    for batch in reader {
        let batch = batch?;
        read_batch(&batch, &mut found, &mut values)
            .ok_or_else(|| wrong("its columns are not those of predictions"))?;
    }
    found.logits = Logits::new(values, outputs);
    Ok(found)
}

/// Appends a batch's rows; `None` if the columns are not as specified.
fn read_batch(batch: &RecordBatch, found: &mut Predictions, values: &mut Vec<f32>) -> Option<()> {
    let ids = batch.column_by_name("id")?.as_fixed_size_binary_opt()?;
    let sides = batch.column_by_name("side")?.as_string_opt::<i32>()?;
    let labels = batch
        .column_by_name("label")?
        .as_primitive_opt::<UInt32Type>()?;
    let logits = batch.column_by_name("logits")?.as_fixed_size_list_opt()?;
    let numbers = logits.values().as_primitive_opt::<Float32Type>()?;
    for id in ids.iter() {
        found.ids.push(Digest(id?.try_into().ok()?));
    }
    for side in sides.iter() {
        let named = |one: &Side| Some(one.name()) == side;
        found.sides.push(Side::ALL.into_iter().find(named)?);
    }
    found.labels.extend(labels.values());
    // A list may begin in the middle of its values.
    let width = logits.value_length() as usize;
    let start = logits.value_offset_at(0);
    values.extend(
        numbers
            .values()
            .get(start..start + width * batch.num_rows())?,
    );
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(outputs: usize) -> Predictions {
        let ids: Vec<ImageId> = (0..5_u8).map(|i| Digest::of(&[i])).collect();
        let logits = |n: usize| {
            let values = (0..n * outputs).map(|i| i as f32 - 2.5).collect();
            Logits::new(values, outputs)
        };
        let mut all = Predictions::new(outputs);
        all.push_side(Side::Validation, &ids[..2], &[1, 0], &logits(2));
        all.push_side(Side::Test, &ids[2..], &[0, 1, 1], &logits(3));
        all
    }

    #[test]
    fn they_read_back() {
        for outputs in [1, 3] {
            let folder = tempfile::tempdir().unwrap();
            assert_eq!(Predictions::read(folder.path()).unwrap(), None);
            let all = example(outputs);
            all.write(folder.path()).unwrap();
            assert_eq!(
                Predictions::read(folder.path()).unwrap().as_ref(),
                Some(&all)
            );
            let (rows, logits, labels) = all.on(Side::Test);
            assert_eq!((rows, labels), (vec![2, 3, 4], vec![0, 1, 1]));
            assert_eq!((logits.len(), logits.values()[0]), (3, -2.5));
            assert_eq!(all.on(Side::Train).0, [0_usize; 0]);
        }
    }

    #[test]
    fn nobody_was_held_out() {
        let folder = tempfile::tempdir().unwrap();
        let none = Predictions::new(1);
        none.write(folder.path()).unwrap();
        assert_eq!(Predictions::read(folder.path()).unwrap(), Some(none));
    }

    #[test]
    fn damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "nonsense").unwrap();
        let error = Predictions::read(folder.path()).unwrap_err();
        assert!(error.to_string().contains(FILE), "{error}");
    }
}
