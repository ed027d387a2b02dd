//! The index of a data set: which images there are (id), where (path) and what they show (label).
//!
//! The index is separate from the feature store: the store knows rows by id alone, so images can
//! be renamed, moved and relabelled without any feature being computed again. Must not know of
//! backbones, features or splits.
//!
//! # Format, version 1
//!
//! An index is one Arrow IPC *file* (little-endian) with these columns, in this order:
//!
//! | column | type | |
//! |---|---|---|
//! | `id` | `fixed_size_binary[32]`, not null | SHA-256 of the image file's bytes |
//! | `path` | `binary`, not null | path relative to the root, the file system's own bytes, `/` between components |
//! | `label` | `dictionary<int32, utf8>`, nullable | class; the dictionary MUST be the sorted list of all classes, so that the code is the label number; null for an unlabelled image |
//!
//! The schema metadata MUST hold `headstart.format` = `index`, `headstart.version` = `1`,
//! `headstart.root` (the absolute root folder, escaped as in [`crate::files::escape`]; for people)
//! and `headstart.digest` ([`Index::digest`]). Rows MUST be in the order of the walk: ascending by
//! path components. One id MAY occur more than once. A reader MUST refuse another version.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
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
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::decode::{self, Kind};
use crate::digest::{Digest, ImageId};
use crate::files::{FileError, Pending};
use crate::walk::{self, Skipped, WalkError};

const FORMAT: &str = "index";
const VERSION: &str = "1";

/// One image of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Digest of the file's bytes.
    pub id: ImageId,
    /// Path relative to the root, lossless.
    pub path: Vec<u8>,
    /// Number of the class in [`Index::classes`], if it has one.
    pub label: Option<u32>,
}

/// The images of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Class names in ascending order; the position is the label number (Cat = 0, Dog = 1).
    pub classes: Vec<String>,
    /// One entry an image file, ascending by path.
    pub entries: Vec<Entry>,
}

/// What indexing a folder found besides the index.
#[derive(Debug)]
pub struct Indexed {
    /// The index.
    pub index: Index,
    /// Files that claim to be images and cannot be, with the reason.
    pub skipped: Vec<Skipped>,
    /// Class folders without a single image.
    pub empty_classes: Vec<String>,
    /// Files that are no images and do not claim to be, hidden files, pipes and the like.
    pub ignored: usize,
}

/// The index cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The folder of images cannot be walked.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// The index file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder has no image at all.
    #[error("no image in {} (hint: expected one folder a class, such as Cat/1.jpg and Dog/1.jpg)", .0.display())]
    NoImages(PathBuf),
    /// The file is no index, or damaged.
    #[error("{} is not an index of this project: {reason} (hint: write it again with extractor index DIR)", path.display())]
    NotAnIndex {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Arrow's reader or writer failed.
    #[error("cannot read or write the index {}", path.display())]
    Arrow {
        /// The file.
        path: PathBuf,
        /// Arrow's error.
        #[source]
        source: ArrowError,
    },
}

impl Index {
    /// Indexes the folder `root`: walks it, recognises images by content and digests them in
    /// parallel. `on_file` is called once for every file looked at.
    ///
    /// # Errors
    /// When the folder cannot be walked or holds no image.
    pub fn of_folder(root: &Path, on_file: impl Fn() + Sync) -> Result<Indexed, IndexError> {
        let walk = walk::walk(root)?;
        let looked: Vec<Look> = walk
            .files
            .par_iter()
            .map(|file| {
                let look = look(
                    &root.join(std::ffi::OsStr::from_bytes(&file.path)),
                    &file.path,
                );
                on_file();
                look
            })
            .collect();

        let mut skipped = walk.skipped;
        let mut ignored = walk.ignored;
        let mut images = Vec::new();
        for (file, look) in walk.files.into_iter().zip(looked) {
            match look {
                Look::Image(id) => images.push((id, file.path, file.class)),
                Look::Clutter => ignored += 1,
                Look::Broken(reason) => skipped.push(Skipped {
                    path: file.path,
                    reason,
                }),
            }
        }
        if images.is_empty() && skipped.is_empty() {
            return Err(IndexError::NoImages(root.to_owned()));
        }
        skipped.sort_by(|a, b| a.path.cmp(&b.path));

        // Classes without images get no label number, so that two classes stay two classes.
        let mut used = vec![false; walk.classes.len()];
        for class in images.iter().filter_map(|(_, _, class)| *class) {
            used[class as usize] = true;
        }
        let mut numbers = vec![0; used.len()];
        let (mut classes, mut empty_classes) = (Vec::new(), Vec::new());
        for (i, name) in walk.classes.into_iter().enumerate() {
            numbers[i] = classes.len() as u32;
            if used[i] {
                &mut classes
            } else {
                &mut empty_classes
            }
            .push(name);
        }
        let entries = images
            .into_iter()
            .map(|(id, path, class)| Entry {
                id,
                path,
                label: class.map(|c| numbers[c as usize]),
            })
            .collect();
        Ok(Indexed {
            index: Index { classes, entries },
            skipped,
            empty_classes,
            ignored,
        })
    }

    /// Digest of what the index says: every (id, path, class name) in order. The same data set
    /// gives the same digest wherever it lies.
    pub fn digest(&self) -> Digest {
        let mut hasher = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(b"headstart index 1");
        for entry in &self.entries {
            field(&entry.id.0);
            field(&entry.path);
            match entry.label {
                Some(label) => field(self.classes[label as usize].as_bytes()),
                None => field(&[0xff]), // no UTF-8 text, so no class can be called that
            }
        }
        Digest(hasher.finalize().into())
    }

    /// Number of entries a class, in the order of [`Index::classes`].
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for label in self.entries.iter().filter_map(|e| e.label) {
            counts[label as usize] += 1;
        }
        counts
    }

    /// Positions of the first entry of every id, in index order.
    pub fn unique(&self) -> Vec<usize> {
        let mut seen = std::collections::HashSet::with_capacity(self.entries.len());
        (0..self.entries.len())
            .filter(|&i| seen.insert(self.entries[i].id))
            .collect()
    }

    /// Ids that occur with more than one label, with all their paths.
    pub fn label_conflicts(&self) -> BTreeMap<ImageId, Vec<&Entry>> {
        let mut first: HashMap<ImageId, Option<u32>> = HashMap::new();
        let mut conflicts = BTreeMap::new();
        for entry in &self.entries {
            if *first.entry(entry.id).or_insert(entry.label) != entry.label {
                conflicts.insert(entry.id, Vec::new());
            }
        }
        for entry in &self.entries {
            if let Some(entries) = conflicts.get_mut(&entry.id) {
                entries.push(entry);
            }
        }
        conflicts
    }

    /// Writes the index to `path`, atomically. `root` is recorded for people.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path, root: &Path) -> Result<(), IndexError> {
        let arrow = |source| IndexError::Arrow {
            path: path.to_owned(),
            source,
        };
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        let schema = Arc::new(Schema::new_with_metadata(
            vec![
                Field::new("id", DataType::FixedSizeBinary(32), false),
                Field::new("path", DataType::Binary, false),
                Field::new_dictionary("label", DataType::Int32, DataType::Utf8, true),
            ],
            HashMap::from([
                ("headstart.format".to_owned(), FORMAT.to_owned()),
                ("headstart.version".to_owned(), VERSION.to_owned()),
                (
                    "headstart.root".to_owned(),
                    crate::files::escape_path(&root),
                ),
                ("headstart.digest".to_owned(), self.digest().to_string()),
            ]),
        ));
        let ids: Vec<u8> = self.entries.iter().flat_map(|e| e.id.0).collect();
        let ids = FixedSizeBinaryArray::try_new(32, ids.into(), None).map_err(arrow)?;
        let paths = BinaryArray::from_iter_values(self.entries.iter().map(|e| &e.path));
        let codes: Int32Array = self
            .entries
            .iter()
            .map(|e| e.label.map(|l| l as i32))
            .collect();
        let names = Arc::new(StringArray::from_iter_values(&self.classes));
        let labels = DictionaryArray::<Int32Type>::try_new(codes, names).map_err(arrow)?;
        let columns = vec![
            Arc::new(ids) as _,
            Arc::new(paths) as _,
            Arc::new(labels) as _,
        ];
        let batch = RecordBatch::try_new(schema.clone(), columns).map_err(arrow)?;

        let mut pending = Pending::new(path)?;
        let mut writer = FileWriter::try_new_buffered(pending.file(), &schema).map_err(arrow)?;
        writer.write(&batch).map_err(arrow)?;
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
        let wrong = |reason: String| IndexError::NotAnIndex {
            path: path.to_owned(),
            reason,
        };
        let file = File::open(path).map_err(FileError::new("open the index", path))?;
        let reader = FileReader::try_new_buffered(file, None).map_err(|e| wrong(e.to_string()))?;
        let metadata = reader.schema().metadata().clone();
        let get = |key: &str| metadata.get(key).map(String::as_str).unwrap_or_default();
        if get("headstart.format") != FORMAT {
            return Err(wrong("its metadata does not say so".to_owned()));
        }
        if get("headstart.version") != VERSION {
            let version = get("headstart.version");
            return Err(wrong(format!(
                "it has version {version}, expected {VERSION}"
            )));
        }
        let mut index = Index {
            classes: Vec::new(),
            entries: Vec::new(),
        };
        for batch in reader {
            let batch = batch.map_err(|e| wrong(e.to_string()))?;
            index
                .append(&batch)
                .ok_or_else(|| wrong("its columns are not those of an index".to_owned()))?;
        }
        if index.digest().to_string() != get("headstart.digest") {
            return Err(wrong("its content does not match its digest".to_owned()));
        }
        Ok(index)
    }

    /// Appends a batch's rows; `None` if the columns are not as specified.
    fn append(&mut self, batch: &RecordBatch) -> Option<()> {
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
        self.classes = names.iter().flatten().map(str::to_owned).collect();
        for i in 0..batch.num_rows() {
            let label = match labels.key(i) {
                Some(code) if code < self.classes.len() => Some(code as u32),
                Some(_) => return None,
                None => None,
            };
            self.entries.push(Entry {
                id: Digest(ids.value(i).try_into().ok()?),
                path: paths.value(i).to_vec(),
                label,
            });
        }
        Some(())
    }
}

enum Look {
    Image(ImageId),
    Clutter,
    Broken(String),
}

/// Recognises a file by content and digests it. What neither is an image nor has an image's
/// extension is clutter.
fn look(path: &Path, relative: &[u8]) -> Look {
    let claims = decode::has_image_extension(relative);
    let mut head = Vec::with_capacity(64);
    let read = File::open(path).and_then(|mut file| {
        (&mut file).take(64).read_to_end(&mut head)?;
        match decode::recognise(&head) {
            Kind::Supported(_) => Digest::of_reader((&head[..]).chain(file)).map(Some),
            _ => Ok(None),
        }
    });
    match read {
        Ok(Some(id)) => Look::Image(id),
        Ok(None) => match decode::recognise(&head) {
            Kind::Unsupported(name) => Look::Broken(format!(
                "{name} images are not supported (hint: convert it to JPEG or PNG)"
            )),
            _ if !claims => Look::Clutter,
            _ if head.is_empty() => Look::Broken("empty file".to_owned()),
            _ => Look::Broken("not an image, whatever its name says".to_owned()),
        },
        Err(e) if claims => Look::Broken(walk::describe(&e)),
        Err(_) => Look::Clutter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        root
    }

    fn png(n: u8) -> Vec<u8> {
        [PNG, &[n]].concat()
    }

    fn index(files: &[(&str, &[u8])]) -> Indexed {
        Index::of_folder(folder(files).path(), || ()).unwrap()
    }

    #[test]
    fn labels_follow_the_sorted_class_folders() {
        let indexed = index(&[
            ("Dog/1.jpg", &png(1)),
            ("Cat/2.png", &png(2)),
            ("Cat/no_extension", &png(3)),
            ("Bird/readme.txt", b"no image"),
            ("loose.png", &png(4)),
        ]);
        assert_eq!(indexed.index.classes, ["Cat", "Dog"]);
        assert_eq!(indexed.index.class_counts(), [2, 1]);
        assert_eq!(indexed.empty_classes, ["Bird"]);
        assert_eq!((indexed.skipped.len(), indexed.ignored), (0, 1));
        let labels: Vec<_> = indexed.index.entries.iter().map(|e| e.label).collect();
        assert_eq!(labels, [Some(0), Some(0), Some(1), None]);
        assert_eq!(indexed.index.entries[2].id, Digest::of(&png(1)));
    }

    #[test]
    fn what_claims_to_be_an_image_and_is_none_is_reported() {
        let indexed = index(&[
            ("Cat/empty.jpg", b""),
            ("Cat/page.JPG", b"<html>"),
            ("Cat/scan.tif", b"II*\0 and so on"),
            ("Cat/Thumbs.db", b"clutter"),
            ("Cat/.hidden.jpg", b"x"),
            ("Cat/fine.jpg", &png(1)),
        ]);
        let skipped: Vec<_> = indexed
            .skipped
            .iter()
            .map(|s| format!("{}: {}", crate::files::escape(&s.path), s.reason))
            .collect();
        let expected = [
            "Cat/empty.jpg: empty file",
            "Cat/page.JPG: not an image, whatever its name says",
            "Cat/scan.tif: TIFF images are not supported (hint: convert it to JPEG or PNG)",
        ];
        assert_eq!(skipped, expected);
        assert_eq!(indexed.index.entries.len(), 1);
    }

    #[test]
    fn no_image_at_all_is_an_error() {
        let root = folder(&[("Cat/a.txt", b"x")]);
        let error = Index::of_folder(root.path(), || ()).unwrap_err();
        assert!(matches!(error, IndexError::NoImages(_)), "{error}");
    }

    #[test]
    fn twins_and_label_conflicts() {
        let indexed = index(&[
            ("Cat/1.png", &png(1)),
            ("Cat/copy.png", &png(1)),
            ("Cat/both.png", &png(2)),
            ("Dog/both.png", &png(2)),
            ("Dog/3.png", &png(3)),
        ]);
        assert_eq!(indexed.index.unique(), [0, 1, 3], "1.png, both.png, 3.png");
        let conflicts = indexed.index.label_conflicts();
        assert_eq!(conflicts.keys().collect::<Vec<_>>(), [&Digest::of(&png(2))]);
        assert_eq!(conflicts[&Digest::of(&png(2))].len(), 2);
    }

    #[test]
    fn written_and_read_and_refused_when_damaged() {
        use std::os::unix::ffi::OsStrExt;
        let root = folder(&[
            ("Cat/1.png", &png(1)),
            ("Dog/2.png", &png(2)),
            ("3.png", &png(3)),
        ]);
        let odd = std::ffi::OsStr::from_bytes(b"Cat/latin1_\xe9\n.png");
        std::fs::write(root.path().join(odd), png(4)).unwrap();
        let indexed = Index::of_folder(root.path(), || ()).unwrap();
        let file = root.path().join("index.arrow");
        indexed.index.write(&file, root.path()).unwrap();
        assert_eq!(Index::read(&file).unwrap(), indexed.index);

        let mut bytes = std::fs::read(&file).unwrap();
        let at = bytes.windows(9).position(|w| w == b"Dog/2.png").unwrap();
        bytes[at] = b'F';
        std::fs::write(&file, bytes).unwrap();
        assert!(matches!(
            Index::read(&file),
            Err(IndexError::NotAnIndex { .. })
        ));
        std::fs::write(&file, b"ARROW1").unwrap();
        assert!(matches!(
            Index::read(&file),
            Err(IndexError::NotAnIndex { .. })
        ));
    }

    #[test]
    fn the_digest_does_not_depend_on_the_place() {
        let files: [(&str, &[u8]); 2] = [("Cat/1.png", &png(1)), ("Dog/2.png", &png(2))];
        let (a, b) = (index(&files).index, index(&files).index);
        assert_eq!(a.digest(), b.digest());
        let moved = index(&[("Dog/1.png", &png(1)), ("Cat/2.png", &png(2))]).index;
        assert_ne!(a.digest(), moved.digest());
    }

    /// The golden index of version 1 stays readable.
    #[test]
    fn golden_index() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/index-v1.arrow");
        let indexed = index(&[
            ("Cat/1.png", &png(1)),
            ("Dog/2.png", &png(2)),
            ("3.png", &png(3)),
        ]);
        if std::env::var_os("HEADSTART_WRITE_GOLDEN").is_some() {
            indexed
                .index
                .write(Path::new(golden), Path::new("/data/pets"))
                .unwrap();
        }
        assert_eq!(Index::read(Path::new(golden)).unwrap(), indexed.index);
    }
}
