//! Writes and reads the index file that [the parent module](super) specifies.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, AsArray, BinaryArray, DictionaryArray, FixedSizeBinaryArray, Int32Array, StringArray,
};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use arrow::error::ArrowError;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use arrow::record_batch::RecordBatch;

use super::rows::{Batch, Filed, Held, Rows};
use super::{Digester, Entry, Index, IndexError};
use crate::arrow_file::{ArrowFile, LEAST_BYTES};
use crate::digest::Digest;
use crate::files::{FileError, Pending, escape_path, unescape_path};
use crate::remote::Location;
use crate::store::map;

const FORMAT: &str = "index";
const VERSION: &str = "1";
const ROOT_KEY: &str = "headstart.root";
const DIGEST_KEY: &str = "headstart.digest";
const BATCH_ROWS: usize = 4096;

impl Index {
    /// Writes the index to `path`, atomically. `root` is recorded for people.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path, root: &Path) -> Result<(), IndexError> {
        self.publish(path, root, |_, _| ())
    }

    /// [`Index::write`]; the index that is returned is the same and stays in the file, which must not
    /// be written to any more, so that this one's memory is free.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kept_in(self, path: &Path, root: &Path) -> Result<Index, IndexError> {
        let filed = self.publish(path, root, |file, digest| {
            // A file system that maps no files costs memory.
            let mapped = map::map(file).ok()?;
            let Parsed {
                classes, batches, ..
            } = Parsed::of(&mapped).ok()?;
            let rows = Rows::Filed(Filed::of(&batches, digest)?);
            Some(Index { classes, rows })
        })?;
        Ok(filed.unwrap_or(self))
    }

    /// Writes the index, gives the file and its digest to `then`, and gives the file its name.
    fn publish<T>(
        &self,
        path: &Path,
        root: &Path,
        then: impl FnOnce(&File, Digest) -> T,
    ) -> Result<T, IndexError> {
        let arrow = |source| IndexError::Arrow {
            path: path.to_owned(),
            source,
        };
        let root = match Location::parse(root) {
            Ok(Location::Remote(url)) => url.to_path(),
            _ => std::path::absolute(root).unwrap_or_else(|_| root.to_owned()),
        };
        let digest = self.digest();
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
                (DIGEST_KEY.to_owned(), digest.to_string()),
            ]),
        ));
        let names = Arc::new(StringArray::from_iter_values(&self.classes));
        let batch = |rows: Range<usize>| {
            let ids: Vec<u8> = rows.clone().flat_map(|i| self.id(i).0).collect();
            let ids = FixedSizeBinaryArray::try_new(32, ids.into(), None)?;
            let paths = rows.clone().map(|i| self.entry(i).path);
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
        let then = then(pending.file(), digest);
        pending.publish()?;
        Ok(then)
    }

    /// Reads an index and checks it against its own digest. It stays in its file, which must not be
    /// changed in place as long as the index is in use, if that is as this program writes it.
    ///
    /// # Errors
    /// When the file cannot be read, is no index, is of another version or is damaged.
    pub fn read(path: &Path) -> Result<Index, IndexError> {
        let wrong = |reason: String| IndexError::NotAnIndex {
            path: path.to_owned(),
            reason,
        };
        let open = || FileError::new("open the index", path);
        let mut file = File::open(path).map_err(open())?;
        let length = file.metadata().map_err(open())?.len();
        if length < LEAST_BYTES as u64 {
            return Err(wrong(format!("{length} bytes are too short for one")));
        }
        let buffer = match map::map(&file) {
            Ok(mapped) => mapped,
            // A pipe, or a file system that maps no files.
            Err(_) => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).map_err(open())?;
                bytes.into()
            }
        };
        crate::quietly::catch(AssertUnwindSafe(|| Parsed::of(&buffer)?.index()))
            .unwrap_or_else(|| Err("its structure is damaged".to_owned()))
            .map_err(wrong)
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
}

/// An index file's content, not compared with its digest yet.
struct Parsed {
    classes: Vec<String>,
    batches: Vec<Batch>,
    /// The digest that it records.
    digest: String,
}

impl Parsed {
    /// Parses the file in `buffer`; the error says what is wrong with it.
    fn of(buffer: &Buffer) -> Result<Parsed, String> {
        let file = ArrowFile::open(buffer)?;
        let metadata = file.schema.metadata();
        let get = |key: &str| metadata.get(key).map(String::as_str).unwrap_or_default();
        if get("headstart.format") != FORMAT {
            return Err("its metadata does not say so".to_owned());
        }
        if get("headstart.version") != VERSION {
            let version = get("headstart.version");
            return Err(format!("it has version {version}, expected {VERSION}"));
        }
        let mut classes = None;
        let mut batches = Vec::new();
        for batch in file.batches(false)? {
            let batch = columns(&batch?, &mut classes);
            batches.push(batch.ok_or("its columns are not those of an index")?);
        }
        Ok(Parsed {
            classes: classes.unwrap_or_default(),
            batches,
            digest: get(DIGEST_KEY).to_owned(),
        })
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let batches = self.batches.iter();
        batches.flat_map(|batch| (0..batch.len()).map(|row| batch.entry(row)))
    }

    /// The index, if its content is that of its digest.
    fn index(self) -> Result<Index, String> {
        let mut digester = Digester::new();
        self.entries()
            .for_each(|entry| digester.add(&entry, &self.classes));
        let digest = digester.finish();
        if digest.to_string() != self.digest {
            return Err("its content does not match its digest".to_owned());
        }
        let rows = match Filed::of(&self.batches, digest) {
            Some(filed) => Rows::Filed(filed),
            None => {
                let mut held = Held::default();
                self.entries().for_each(|entry| held.push(&entry));
                Rows::Held(held)
            }
        };
        let classes = self.classes;
        Ok(Index { classes, rows })
    }
}

/// A record batch's columns; `None` if they are not as specified, or its classes are not those
/// before it.
fn columns(batch: &RecordBatch, classes: &mut Option<Vec<String>>) -> Option<Batch> {
    let ids = batch.column_by_name("id")?.as_fixed_size_binary_opt()?;
    let paths = batch.column_by_name("path")?.as_binary_opt::<i32>()?;
    let labels = batch.column_by_name("label")?;
    let labels = labels.as_dictionary_opt::<Int32Type>()?;
    let names = labels.values().as_string_opt::<i32>()?;
    let names = || names.iter().flatten();
    let classes = classes.get_or_insert_with(|| names().map(str::to_owned).collect());
    let is_class = |code: usize| code < classes.len();
    let fits = names().eq(classes.iter().map(String::as_str))
        && ids.value_length() == 32
        && labels.keys_iter().flatten().all(is_class);
    fits.then(|| Batch {
        ids: ids.values().slice_with_length(0, ids.len() * 32),
        paths: paths.clone(),
        labels: labels.keys().clone(),
    })
}
