//! What each form may hold, and what is refused in it.

use ::parquet::basic::{Compression, Encoding, ZstdLevel};
use ::parquet::file::properties::WriterProperties;
use arrow::array::{Float64Array, LargeStringArray};

use super::*;

fn written(columns: Vec<(&str, ArrayRef)>, properties: WriterProperties) -> Vec<u8> {
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn texts(texts: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(LargeStringArray::from_iter_values(texts))
}

fn opened(path: &Path, columns: &Columns) -> Result<DataSet, String> {
    DataSet::open(path, columns).map_err(|e| match std::error::Error::source(&e) {
        Some(source) => format!("{e}: {source}"),
        None => e.to_string(),
    })
}

fn error_of(path: &Path, columns: &Columns) -> String {
    opened(path, columns).map(|_| ()).unwrap_err()
}

fn labelled_by(name: &str) -> Columns {
    Columns {
        label_column: Some(name.to_owned()),
        ..Columns::default()
    }
}

#[test]
fn a_row_may_take_less_than_a_byte() {
    let here = Here::new();
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let properties = WriterProperties::builder()
        .set_compression(zstd)
        .set_dictionary_enabled(false)
        .set_encoding(Encoding::DELTA_BYTE_ARRAY)
        .build();
    let names = (0..25_000).map(|i| format!("train/{i:05}.jpg"));
    let labels = (0..25_000).map(|i| ["cat", "dog"][i / 12_500].to_owned());
    let bytes = written(
        vec![("path", texts(names)), ("label", texts(labels))],
        properties,
    );
    assert!(bytes.len() < 25_000, "{}", bytes.len());
    let data = opened(&here.put("x.parquet", &bytes), &Columns::default()).unwrap();
    let Source::Files(_, listing) = &data.source else {
        panic!("they are files");
    };
    assert_eq!(listing.len(), 25_000);
    assert_eq!(listing.classes, ["cat", "dog"]);
    assert_eq!((listing.labels[0], listing.labels[24_999]), (0, 1));
}

#[test]
fn long_texts_and_large_pages_are_refused() {
    let here = Here::new();
    let rows = |name: usize, label: usize, more: usize| {
        let names = (0..4).map(move |i| format!("{i}{}", "n".repeat(name)));
        let labels = (0..4).map(move |i| format!("{i}{}", "l".repeat(label)));
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_dictionary_page_size_limit(more)
            .build();
        written(
            vec![("path", texts(names)), ("label", texts(labels))],
            properties,
        )
    };
    assert!(
        opened(
            &here.put("x.parquet", &rows(4095, 999, 1)),
            &Columns::default()
        )
        .is_ok()
    );
    for (bytes, words) in [
        (
            rows(4096, 1, 1),
            "row 0 a text of more than 4096 bytes, in the column `path`",
        ),
        (
            rows(1, 1000, 1),
            "row 0 a text of more than 1000 bytes, in the column `label`",
        ),
        (rows(10 << 20, 1, 1 << 30), "larger than the limit"),
    ] {
        let error = error_of(&here.put("x.parquet", &bytes), &Columns::default());
        assert!(error.contains(words), "{error}");
    }
}

/// Rows in another order than their names, looked at as they lie and indexed by name.
#[test]
fn the_order_of_rows_and_of_names_may_differ() {
    let rows: Vec<_> = (0..3000_u32)
        .map(|i| {
            let shuffled = i * 1009 % 3000;
            let bytes = [&png(0)[..], &shuffled.to_le_bytes()].concat();
            (format!("{shuffled:04}.png"), bytes)
        })
        .collect();
    let rows: Vec<Row> = rows
        .iter()
        .map(|(name, bytes)| (Some(name.as_str()), Some(bytes.clone()), 0))
        .collect();
    let here = Here::new();
    let (_, indexed) = index(&here.put("x.parquet", &parquet_of(&rows))).unwrap();
    for (i, entry) in indexed.index.iter().enumerate() {
        assert_eq!(entry.path, format!("{i:04}.png").as_bytes());
        let bytes = [&png(0)[..], &(i as u32).to_le_bytes()].concat();
        assert_eq!(entry.id, Digest::of(&bytes));
    }
}

#[test]
fn odd_parquet() {
    let here = Here::new();
    // Numbers as labels, one of which is none.
    let plain = || WriterProperties::builder().build();
    let labels = Arc::new(Float64Array::from(vec![Some(1.0), Some(f64::NAN), None]));
    let names = || texts(["a.png", "b.png", "c.png"].map(str::to_owned).into_iter());
    for name in ["a.png", "b.png", "c.png"] {
        here.put(name, &png(name.as_bytes()[0]));
    }
    let bytes = written(
        vec![("path", names()), ("label", labels as ArrayRef)],
        plain(),
    );
    let found = lines(&index(&here.put("x.parquet", &bytes)).unwrap().1);
    assert_eq!(found, ["a.png 1.0", "b.png -", "c.png -"]);

    // Packed by what is not built in: the codec follows the column's name in the footer.
    let mut bytes = written(vec![("path", names())], plain());
    let at = bytes.windows(6).rposition(|w| w == b"path\x15\0").unwrap();
    bytes[at + 5] = 8;
    let error = error_of(&here.put("x.parquet", &bytes), &Columns::default());
    assert!(
        error.contains("brotli") && error.contains("zstd"),
        "{error}"
    );

    // Hugging Face's form with the images left outside.
    let rows = [(Some("b.png"), None, 1), (Some("a.png"), None, 0)];
    let found = listed_in(&here, &parquet_of(&rows));
    assert_eq!(found, ["a.png Cat", "b.png Dog"]);
}

fn listed_in(here: &Here, bytes: &[u8]) -> Vec<String> {
    lines(&index(&here.put("x.parquet", bytes)).unwrap().1)
}

/// The same archive has other paths with other options, so its stamp is another.
#[test]
fn what_decides_what_a_path_means_is_in_the_stamp() {
    let here = Here::new();
    let members = [
        ("Pets/Cat/1.png", png(1)),
        ("Pets/Cat/1.json", br#"{"kind": "x"}"#.to_vec()),
        ("Pets/Dog/2.png", png(2)),
    ];
    let path = here.put("x.tar", &tar_of(&members));
    let stamp = |columns: &Columns| match opened(&path, columns).unwrap().source {
        Source::Archive(archive, stamp) => (archive.listing.member(0).path.to_vec(), stamp),
        _ => panic!("a .tar is an archive"),
    };
    let (folders, kinds) = (stamp(&Columns::default()), stamp(&labelled_by("kind")));
    assert_eq!(folders.0, b"Cat/1.json");
    assert_eq!(kinds.0, b"Pets/Cat/1.png");
    assert_ne!(folders.1, kinds.1);
    assert_eq!(folders, stamp(&Columns::default()));
}

#[test]
fn flags_that_mean_nothing_are_refused() {
    let here = Here::new();
    let tar = here.put("x.tar", &tar_of(&three()));
    let csv = here.put("x.csv", b"path\na.png\n");
    let name = || Some("label".to_owned());
    let path_column = Columns {
        path_column: name(),
        ..Columns::default()
    };
    let image_column = Columns {
        image_column: name(),
        ..Columns::default()
    };
    for (path, columns, words) in [
        (&tar, &path_column, "--path-column means nothing"),
        (&tar, &image_column, "--image-column means nothing"),
        (&tar, &labelled_by("label"), "has no label `label`"),
        (&csv, &image_column, "--image-column means nothing"),
    ] {
        let error = error_of(path, columns);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn no_header_of_a_tar_hides_the_rest() {
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut link = header("Cat/link", ::tar::EntryType::Symlink);
    link.set_link_name("/etc/passwd").unwrap();
    link.set_size(1 << 40);
    link.set_cksum();
    builder.append(&link, std::io::empty()).unwrap();
    let mut bytes = builder.into_inner().unwrap();
    bytes.truncate(512);
    bytes.extend(tar_of(&three()));
    let here = Here::new();
    let error = error_of(&here.put("x.tar", &bytes), &Columns::default());
    assert!(error.contains("ends within the member Cat/link"), "{error}");
}

/// Nobody may look into a folder, or a link goes round: that is no missing file.
#[test]
fn files_that_cannot_be_reached_are_named() {
    let here = Here::new();
    std::os::unix::fs::symlink("loop.png", here.0.path().join("loop.png")).unwrap();
    let found = lines(&index(&here.put("x.csv", b"path\nloop.png\n")).unwrap().1);
    assert_eq!(found, ["loop.png: symbolic link loop"]);
}
