//! Data sets made here, opened and indexed.

mod forms;
mod hostile;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::zip::write::SimpleFileOptions;
use arrow::array::{
    Array, ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray, StructArray,
};
use arrow::datatypes::{DataType, Field, Schema};

use super::*;
use crate::digest::Digest;
use crate::index::{DigestCache, Index, IndexError, Indexed};

fn png(n: u8) -> Vec<u8> {
    [b"\x89PNG\r\n\x1a\n", &[n][..]].concat()
}

fn three() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("Cat/1.png", png(1)),
        ("Dog/2.png", png(2)),
        ("readme.txt", b"text".to_vec()),
    ]
}

fn zip_of(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut writer = ::zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in members {
        let options = SimpleFileOptions::default();
        writer.start_file(*name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A tar with names as they are, safe or not.
fn tar_of(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = header(name, ::tar::EntryType::Regular);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append(&header, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn header(name: &str, kind: ::tar::EntryType) -> ::tar::Header {
    let mut header = ::tar::Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(0);
    header.set_cksum();
    header
}

/// Name, bytes, label.
type Row<'a> = (Option<&'a str>, Option<Vec<u8>>, i64);

/// Rows as Hugging Face's `datasets` writes them.
fn parquet_of(rows: &[Row]) -> Vec<u8> {
    let bytes: BinaryArray = rows.iter().map(|row| row.1.as_deref()).collect();
    let names: StringArray = rows.iter().map(|row| row.0).collect();
    let labels: Int64Array = rows.iter().map(|row| Some(row.2)).collect();
    let part = |name: &str, kind| Arc::new(Field::new(name, kind, true));
    let image = StructArray::from(vec![
        (part("bytes", DataType::Binary), Arc::new(bytes) as ArrayRef),
        (part("path", DataType::Utf8), Arc::new(names) as ArrayRef),
    ]);
    let fields = vec![
        Field::new("image", image.data_type().clone(), true),
        Field::new("labels", DataType::Int64, true),
    ];
    let info =
        r#"{"info": {"features": {"labels": {"names": ["Cat", "Dog"], "_type": "ClassLabel"}}}}"#;
    let metadata: std::collections::HashMap<_, _> =
        [("huggingface".to_owned(), info.to_owned())].into();
    let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
    let columns = vec![Arc::new(image) as ArrayRef, Arc::new(labels) as ArrayRef];
    let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

struct Here(tempfile::TempDir);

impl Here {
    fn new() -> Here {
        Here(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn index(path: &Path) -> Result<(DataSet, Indexed), String> {
    let words = |e: &dyn std::error::Error| match e.source() {
        Some(source) => format!("{e}: {source}"),
        None => e.to_string(),
    };
    let data = DataSet::open(path, &Columns::default()).map_err(|e| words(&e))?;
    let cache = DigestCache::default();
    let indexed = Index::of(&data, &cache, || ()).map_err(|e: IndexError| words(&e))?;
    // Whatever is in an index can be read, and is what was digested.
    for entry in indexed.index.iter() {
        assert_eq!(Digest::of(&data.read(entry.path).unwrap()), entry.id);
    }
    Ok((data, indexed))
}

fn lines(indexed: &Indexed) -> Vec<String> {
    let index = &indexed.index;
    let entries = index.iter().map(|e| {
        let label = e.label.map_or("-", |label| &index.classes[label as usize]);
        format!("{} {label}", crate::files::escape(e.path))
    });
    let skipped = indexed.skipped.iter();
    let skipped = skipped.map(|s| format!("{}: {}", crate::files::escape(&s.path), s.reason));
    entries.chain(skipped).collect()
}

fn listed(bytes: &[u8], name: &str) -> Vec<String> {
    let here = Here::new();
    lines(&index(&here.put(name, bytes)).unwrap().1)
}

#[test]
fn one_index_whatever_the_form() {
    let here = Here::new();
    for (path, bytes) in three() {
        here.put(&format!("pets/{path}"), &bytes);
    }
    let folder = index(&here.0.path().join("pets")).unwrap().1;
    let packed: Vec<_> = three();
    let packed: Vec<(String, Vec<u8>)> = packed
        .into_iter()
        .map(|(p, b)| (format!("pets/{p}"), b))
        .collect();
    let packed: Vec<(&str, Vec<u8>)> = packed
        .iter()
        .map(|(p, b)| (p.as_str(), b.clone()))
        .collect();
    let rows = [("Dog/2.png", 2, 1), ("Cat/1.png", 1, 0)]
        .map(|(name, n, label)| (Some(name), Some(png(n)), label));
    for path in [
        here.put("a.zip", &zip_of(&packed)),
        here.put("a.tar", &tar_of(&packed)),
        here.put("a.parquet", &parquet_of(&rows)),
        here.put(
            "pets/a.csv",
            b"file_name,label\nDog/2.png,Dog\nCat/1.png,Cat\n",
        ),
    ] {
        let (_, indexed) = index(&path).unwrap();
        assert_eq!(indexed.index, folder.index, "{path:?}");
        assert_eq!(indexed.skipped, []);
    }
}

#[test]
fn rows_without_names_go_by_number() {
    let row = |name, n: Option<u8>, label| (name, n.map(png), label);
    let rows = [
        row(Some("a.png"), Some(1), 1),
        row(None, Some(2), -1),
        row(None, None, 0),
    ];
    let expected = [
        "00000000 Dog",
        "00000001 -",
        "00000002: the row has no image",
    ];
    assert_eq!(listed(&parquet_of(&rows), "x.parquet"), expected);
    let twice = [
        row(Some("a.png"), Some(1), 1),
        row(Some("a.png"), Some(2), 7),
    ];
    assert_eq!(
        listed(&parquet_of(&twice), "x.parquet"),
        ["00000000 Dog", "00000001 7"]
    );

    let here = Here::new();
    for (name, rows) in [
        ("train-0.parquet", &rows[..2]),
        ("train-1.parquet", &twice[..1]),
    ] {
        here.put(name, &parquet_of(rows));
    }
    let expected = [
        "train-0.parquet/00000000 Dog",
        "train-0.parquet/00000001 -",
        "train-1.parquet/00000000 Dog",
    ];
    for path in ["", "train-*.parquet"] {
        assert_eq!(
            lines(&index(&here.0.path().join(path)).unwrap().1),
            expected,
            "{path}"
        );
    }
}

/// Many blocks, from many threads.
#[test]
fn rows_of_every_block() {
    let rows: Vec<_> = (0..1000_u32)
        .map(|n| (None, Some([&png(0)[..], &n.to_le_bytes()].concat()), 0))
        .collect();
    let here = Here::new();
    let (_, indexed) = index(&here.put("x.parquet", &parquet_of(&rows))).unwrap();
    let ids: Vec<_> = indexed.index.iter().map(|e| e.id).collect();
    let expected: Vec<_> = rows
        .iter()
        .map(|r| Digest::of(r.1.as_ref().unwrap()))
        .collect();
    assert_eq!(ids, expected);
}

#[test]
fn a_manifest_may_list_anything() {
    let here = Here::new();
    here.put("in/1.png", &png(1));
    here.put("up.png", &png(2));
    let absolute = here.0.path().join("up.png");
    let text = format!(
        "path,label\n1.png,a\n1.png,a\n1.png,b\n../up.png,b\n{},\ngone.png,a\nlist.csv,a\n.,a\n",
        absolute.display()
    );
    let found = lines(&index(&here.put("in/list.csv", text.as_bytes())).unwrap().1);
    let absolute = format!("{} -", absolute.display());
    let expected = [
        absolute.as_str(),
        "../up.png b",
        "1.png a",
        "1.png b",
        "gone.png: listed, and there is no such file",
        "line 9: its path is empty",
        "list.csv: not an image, whatever its name says",
    ];
    assert_eq!(found, expected);
    let error = index(&here.put("x.csv", b"path\nnone.png\n"))
        .map(|_| ())
        .unwrap_err();
    assert!(
        error.contains("relative to the manifest's folder"),
        "{error}"
    );
}

/// As long as the archive's stamp is the same, its members are not read again.
#[test]
fn an_unchanged_archive_is_not_read_again() {
    let here = Here::new();
    let path = here.put("x.zip", &zip_of(&three()));
    let (data, first) = index(&path).unwrap();
    let mut wrong = Index::new(first.index.classes.clone());
    let id = Digest::of(b"so that it shows whether the index was asked");
    first
        .index
        .iter()
        .for_each(|e| wrong.push(crate::index::Entry { id, ..e }));
    let previous = here.0.path().join("i.arrow");
    wrong.write(&previous, &path).unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    let Source::Archive(_, stamp) = &data.source else {
        panic!("a .zip is an archive");
    };
    let mut notes = DigestCache::default().notes();
    notes.push(stamp, &wrong.digest()).unwrap();
    DigestCache::default()
        .update(&previous, &mut notes, later)
        .unwrap();
    let cache = DigestCache::read(&previous);
    let again = Index::of(&data, &cache, || ()).unwrap();
    assert_eq!(again.index, wrong);
    assert_eq!((again.ignored, again.empty_classes.len()), (1, 0));

    // Another index lies there now, or the archive is another: it is read.
    first.index.write(&previous, &path).unwrap();
    let again = Index::of(&data, &cache, || ()).unwrap();
    assert_eq!(again.index, first.index);
    wrong.write(&previous, &path).unwrap();
    let changed = here.put("x.zip", &zip_of(&three()[..2]));
    let data = DataSet::open(&changed, &Columns::default()).unwrap();
    let again = Index::of(&data, &cache, || ()).unwrap();
    assert_eq!(again.index, first.index);
}
