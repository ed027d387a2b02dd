use std::path::Path;

use super::*;
use crate::images::{Columns, DataSet};
use crate::part::Part;
use crate::walk::Stamp;

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
    Index::of_folder(folder(files).path(), &DigestCache::default(), || ()).unwrap()
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
    let labels: Vec<_> = indexed.index.iter().map(|e| e.label).collect();
    assert_eq!(labels, [Some(0), Some(0), Some(1), None]);
    assert_eq!(indexed.index.entry(2).id, Digest::of(&png(1)));
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
    assert_eq!(indexed.index.len(), 1);
}

#[test]
fn no_image_at_all_is_an_error() {
    let root = folder(&[("Cat/a.txt", b"x")]);
    let error = Index::of_folder(root.path(), &DigestCache::default(), || ()).unwrap_err();
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
    let unique: Vec<_> = indexed.index.unique().collect();
    assert_eq!(unique, [0, 1, 3], "1.png, both.png, 3.png");
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
    let indexed = Index::of_folder(root.path(), &DigestCache::default(), || ()).unwrap();
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

#[test]
fn a_cached_digest_is_used_only_while_the_file_is_the_same() {
    let root = folder(&[("Cat/1.png", &png(1)), ("Cat/2.png", &png(2))]);
    let file = root.path().join("x.digests");
    // As if the files had been written long ago.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    let wrong = Digest::of(b"so that it shows whether the cache was asked");
    let mut notes = DigestCache::default().notes();
    for path in ["Cat/1.png", "Cat/2.png"] {
        let metadata = std::fs::metadata(root.path().join(path)).unwrap();
        notes.push(&Stamp::of(&metadata), &wrong).unwrap();
    }
    let nothing = DigestCache::default();
    nothing.update(&file, &mut notes, later).unwrap();
    let cache = DigestCache::read(&file);
    let cached = Index::of_folder(root.path(), &cache, || ()).unwrap();
    assert!(cached.index.iter().all(|e| e.id == wrong));

    std::fs::write(root.path().join("Cat/1.png"), png(9)).unwrap();
    let changed = Index::of_folder(root.path(), &cache, || ()).unwrap();
    let ids: Vec<_> = changed.index.iter().map(|e| e.id).collect();
    assert_eq!(ids, [Digest::of(&png(9)), wrong]);
}

#[test]
fn a_copy_without_a_label_contradicts_nothing() {
    let indexed = index(&[
        ("Cat/1.png", &png(1)),
        ("loose.png", &png(1)),
        ("Dog/2.png", &png(2)),
    ]);
    assert!(indexed.index.label_conflicts().is_empty());
}

/// More files than are looked at together, and more rows than a record batch has.
#[test]
fn many_files_among_clutter() {
    let root = tempfile::tempdir().unwrap();
    for class in ["Cat", "Dog", "Readme"] {
        std::fs::create_dir(root.path().join(class)).unwrap();
    }
    let mut expected = Vec::new();
    for i in 0..9_000_u32 {
        let class = ["Cat", "Dog"][(i % 2) as usize];
        let path = format!("{class}/{i}");
        let bytes = match i % 7 == 3 {
            true => b"clutter".to_vec(),
            false => [PNG, &(i / 3).to_le_bytes()].concat(),
        };
        std::fs::write(root.path().join(&path), &bytes).unwrap();
        if i % 7 != 3 {
            expected.push((path.into_bytes(), Digest::of(&bytes), Some(i % 2)));
        }
    }
    std::fs::write(root.path().join("Readme/a.txt"), b"clutter").unwrap();
    expected.sort();
    let indexed = Index::of_folder(root.path(), &DigestCache::default(), || ()).unwrap();
    let index = indexed.index;
    let found = index.iter().map(|e| (e.path.to_vec(), e.id, e.label));
    assert!(found.eq(expected.iter().cloned()));
    assert_eq!(indexed.empty_classes, ["Readme"]);
    assert_eq!(indexed.ignored, 9_000 - expected.len() + 1);
    let file = root.path().join("index.arrow");
    index.write(&file, root.path()).unwrap();
    assert_eq!(Index::read(&file).unwrap(), index);

    // Against the plain way.
    let mut seen = std::collections::BTreeMap::new();
    let mut firsts = Vec::new();
    for (position, (_, id, label)) in (0..).zip(&expected) {
        let labels: &mut std::collections::BTreeSet<_> = seen.entry(*id).or_insert_with(|| {
            firsts.push(position);
            Default::default()
        });
        labels.insert(*label);
    }
    assert!(index.unique().eq(firsts));
    let conflicts = index.label_conflicts();
    let contradicted = seen.iter().filter(|(_, labels)| labels.len() > 1);
    assert!(conflicts.keys().eq(contradicted.map(|(id, _)| id)));
    assert!(conflicts.len() > 1000);
}

/// Whatever is wrong with the file, reading it is an error or gives the same index.
#[test]
fn a_damaged_index_never_panics() {
    let root = folder(&[
        ("Cat/1.png", &png(1)),
        ("Dog/2.png", &png(2)),
        ("3.png", &png(3)),
    ]);
    let written = Index::of_folder(root.path(), &DigestCache::default(), || ())
        .unwrap()
        .index;
    let file = root.path().join("index.arrow");
    written.write(&file, root.path()).unwrap();
    let whole = std::fs::read(&file).unwrap();
    let damaged = root.path().join("damaged.arrow");
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] = bytes[at].wrapping_add(0x55);
        std::fs::write(&damaged, &bytes).unwrap();
        if let Ok(read) = Index::read(&damaged) {
            assert_eq!(read, written, "byte {at}");
        }
    }
}

#[test]
fn an_index_says_where_its_data_set_lay() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("index.arrow");
    let root = std::path::Path::new(std::ffi::OsStr::from_bytes(b"/pets \\\n\xe9"));
    Index::new(vec![]).write(&file, root).unwrap();
    assert_eq!(Index::recorded_root(&file).unwrap().as_deref(), Some(root));
    std::fs::write(&file, b"ARROW1 and nothing else").unwrap();
    let error = Index::recorded_root(&file).unwrap_err();
    assert!(error.to_string().contains("index.arrow"), "{error}");
}

#[test]
fn the_caches_of_parts_spare_the_whole_the_reading() {
    let files: Vec<String> = (0..40).map(|i| format!("Cat/{i}.png")).collect();
    let named: Vec<(&str, Vec<u8>)> = files
        .iter()
        .zip(0..)
        .map(|(f, i)| (&f[..], png(i)))
        .collect();
    let named: Vec<(&str, &[u8])> = named.iter().map(|(f, bytes)| (*f, &bytes[..])).collect();
    let root = folder(&named);
    let data = DataSet::open(root.path(), &Columns::default()).unwrap();
    let indexes = tempfile::tempdir().unwrap();
    let whole = indexes.path().join("x.arrow");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    let wrong = Digest::of(b"so that it shows whether the caches were asked");
    let mut count = 0;
    for number in 0..3 {
        let part = Part::new(number, 3).unwrap();
        let path = part_path(&whole, part);
        assert!(!DigestCache::path(&path).exists());
        let looked = std::sync::atomic::AtomicUsize::new(0);
        let indexed = Index::of_part(&data, part, &DigestCache::read(&path), || {
            looked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        })
        .unwrap();
        assert_eq!(looked.into_inner(), indexed.index.len(), "no other file");
        assert!(indexed.index.len() > 3);
        count += indexed.index.len();
        let mut notes = DigestCache::default().notes();
        for entry in indexed.index.iter() {
            let path = root.path().join(std::str::from_utf8(entry.path).unwrap());
            let stamp = Stamp::of(&std::fs::metadata(path).unwrap());
            notes.push(&stamp, &wrong).unwrap();
        }
        indexed.index.write(&path, root.path()).unwrap();
        DigestCache::default()
            .update(&path, &mut notes, later)
            .unwrap();
    }
    assert_eq!(count, files.len());
    // Neither another index's part nor what only looks like one.
    for other in [
        "y.part-0-of-3.arrow",
        "x.part-3-of-3.arrow",
        "x.part-a.arrow",
    ] {
        std::fs::write(indexes.path().join(other), b"").unwrap();
    }
    let indexed = Index::of(&data, &DigestCache::read(&whole), || ()).unwrap();
    assert!(indexed.index.iter().all(|entry| entry.id == wrong));
    remove_parts(&whole);
    assert_eq!(std::fs::read_dir(indexes.path()).unwrap().count(), 3);
    let indexed = Index::of(&data, &DigestCache::read(&whole), || ()).unwrap();
    assert!(indexed.index.iter().all(|entry| entry.id != wrong));
}
