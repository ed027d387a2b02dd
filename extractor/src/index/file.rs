//! Writes and reads the index file that [the parent module](super) specifies.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, BinaryArray, DictionaryArray, FixedSizeBinaryArray, Int32Array, StringArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use arrow::error::ArrowError;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use arrow::record_batch::RecordBatch;

use super::{Digester, Entry, Index, IndexError};
use crate::digest::Digest;
use crate::files::{FileError, Pending, escape_path, unescape_path};
use crate::remote::Location;

const FORMAT: &str = "index";
const VERSION: &str = "1";
const ROOT_KEY: &str = "headstart.root";
const BATCH_ROWS: usize = 4096;

impl Index {
    /// Writes the index to `path`, atomically. `root` is recorded for people.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path, root: &Path) -> Result<(), IndexError> {
        let arrow = |source| IndexError::Arrow {
            path: path.to_owned(),
            source,
        };
        let root = match Location::parse(root) {
            Ok(Location::Remote(url)) => url.to_path(),
            _ => std::path::absolute(root).unwrap_or_else(|_| root.to_owned()),
        };
        let schema = Arc::new(Schema::new_with_metadata(
            vec![
                Field::new("id", DataType::FixedSizeBinary(32), false),
                Field::new("path", DataType::Binary, false),
                Field::new_dictionary("label", DataType::Int32, DataType::Utf8, true),
            ],
            HashMap::from([
                ("headstart.format".to_owned(), FORMAT.to_owned()),
                ("headstart.version".to_owned(), VERSION.to_owned()),
                (ROOT_KEY.to_owned(), escape_path(&root)),
                ("headstart.digest".to_owned(), self.digest().to_string()),
            ]),
        ));
        let names = Arc::new(StringArray::from_iter_values(&self.classes));
        let batch = |rows: Range<usize>| {
            let ids: Vec<u8> = self.ids[rows.clone()].iter().flat_map(|id| id.0).collect();
            let ids = FixedSizeBinaryArray::try_new(32, ids.into(), None)?;
            let paths = rows.clone().map(|i| self.paths.get(i));
            let paths = BinaryArray::from_iter_values(paths);
            let codes: Int32Array = rows
                .map(|i| self.entry(i).label.map(|l| l as i32))
                .collect();
            let labels = DictionaryArray::<Int32Type>::try_new(codes, names.clone())?;
            let columns = vec![
                Arc::new(ids) as _,
                Arc::new(paths) as _,
                Arc::new(labels) as _,
            ];
            RecordBatch::try_new(schema.clone(), columns)
        };

        let mut pending = Pending::new(path)?;
        let mut writer = FileWriter::try_new_buffered(pending.file(), &schema).map_err(arrow)?;
        // An index without an image has a record batch, too: the classes are in it.
        for start in (0..self.len().max(1)).step_by(BATCH_ROWS) {
            let rows = start..self.len().min(start + BATCH_ROWS);
            let written = batch(rows).and_then(|batch| writer.write(&batch));
            written.map_err(arrow)?;
        }
        writer.finish().map_err(arrow)?;
        drop(writer);
        pending.publish()?;
        Ok(())
    }

    /// Reads an index and checks it against its own digest.
    ///
    /// # Errors
    /// When the file cannot be read, is no index, is of another version or is damaged.
    pub fn read(path: &Path) -> Result<Index, IndexError> {
        let mut index = Index::default();
        let read = Index::visit(path, |classes, entry| {
            if index.classes.len() != classes.len() {
                index.classes = classes.to_vec();
            }
            index.push(*entry);
        });
        read.map(|_| index)
    }

    /// Where the data set lay that the index file at `path` was made of, as it was recorded; none
    /// if the file does not say.
    ///
    /// # Errors
    /// When the file cannot be opened or is no Arrow file.
    pub fn recorded_root(path: &Path) -> Result<Option<PathBuf>, IndexError> {
        let file = File::open(path).map_err(FileError::new("open the index", path))?;
        let read = || FileReader::try_new_buffered(file, None).map(|reader| reader.schema());
        let schema = crate::quietly::catch(AssertUnwindSafe(read))
            .unwrap_or_else(|| Err(ArrowError::IpcError("its structure is damaged".to_owned())))
            .map_err(|source| IndexError::Arrow {
                path: path.to_owned(),
                source,
            })?;
        let root = schema.metadata().get(ROOT_KEY);
        Ok(root.and_then(|root| unescape_path(root)))
    }

    /// Gives `each` all classes and an entry, entry by entry, and returns the index's digest. Only
    /// once that is there, what was given is known to be right.
    ///
    /// # Errors
    /// As [`Index::read`].
    pub(super) fn visit(
        path: &Path,
        each: impl FnMut(&[String], &Entry),
    ) -> Result<Digest, IndexError> {
        let wrong = |reason: String| IndexError::NotAnIndex {
            path: path.to_owned(),
            reason,
        };
        let file = File::open(path).map_err(FileError::new("open the index", path))?;
        crate::quietly::catch(AssertUnwindSafe(|| parse(file, each)))
            .unwrap_or_else(|| Err("its structure is damaged".to_owned()))
            .map_err(wrong)
    }
}

/// What of an index was read.
#[derive(Default)]
struct Reading {
    classes: Option<Vec<String>>,
    digester: Option<Digester>,
}

impl Reading {
    /// Gives `each` a batch's rows; `None` if the columns are not as specified.
    fn batch(
        &mut self,
        batch: &RecordBatch,
        each: &mut impl FnMut(&[String], &Entry),
    ) -> Option<()> {
        let ids = batch
            .column_by_name("id")?
            .as_any()
            .downcast_ref::<FixedSizeBinaryArray>()?;
        let paths = batch
            .column_by_name("path")?
            .as_any()
            .downcast_ref::<BinaryArray>()?;
        let labels = batch.column_by_name("label")?.as_any();
        let labels = labels.downcast_ref::<DictionaryArray<Int32Type>>()?;
        let names = labels.values().as_any().downcast_ref::<StringArray>()?;
        let names = || names.iter().flatten();
        let classes = self
            .classes
            .get_or_insert_with(|| names().map(str::to_owned).collect());
        if !names().eq(classes.iter().map(String::as_str)) {
            return None;
        }
        let digester = self.digester.get_or_insert_with(Digester::new);
        for i in 0..batch.num_rows() {
            let label = match labels.key(i) {
                Some(code) if code < classes.len() => Some(code as u32),
                Some(_) => return None,
                None => None,
            };
            let entry = Entry {
                id: Digest(ids.value(i).try_into().ok()?),
                path: paths.value(i),
                label,
            };
            digester.add(&entry, classes);
            each(classes, &entry);
        }
        Some(())
    }
}

/// Reads and checks an index; the error says what is wrong with it.
fn parse(file: File, mut each: impl FnMut(&[String], &Entry)) -> Result<Digest, String> {
    let reader = FileReader::try_new_buffered(file, None).map_err(|e| e.to_string())?;
    let metadata = reader.schema().metadata().clone();
    let get = |key: &str| metadata.get(key).map(String::as_str).unwrap_or_default();
    if get("headstart.format") != FORMAT {
        return Err("its metadata does not say so".to_owned());
    }
    if get("headstart.version") != VERSION {
        let version = get("headstart.version");
        return Err(format!("it has version {version}, expected {VERSION}"));
    }
    let mut reading = Reading::default();
    for batch in reader {
        let batch = batch.map_err(|e| e.to_string())?;
        reading
            .batch(&batch, &mut each)
            .ok_or("its columns are not those of an index")?;
    }
    let digester = reading.digester.unwrap_or_else(Digester::new);
    let digest = digester.finish();
    if digest.to_string() != get("headstart.digest") {
        return Err("its content does not match its digest".to_owned());
    }
    Ok(digest)
}
