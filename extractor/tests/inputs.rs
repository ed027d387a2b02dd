//! The built binary on data sets that are no folders: the same images in every form.

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field};
use predicates::str::contains;

use common::{json, rows};

/// Path below the folder, and bytes; ascending.
type Files = Vec<(String, Vec<u8>)>;

/// Six images a class, real ones where they are, and a text file.
fn images(folder: &Path) -> Files {
    match common::test_data() {
        Some(data) => {
            for class in ["Cat", "Dog"] {
                fs::create_dir_all(folder.join(class)).unwrap();
                let mut paths: Vec<_> = fs::read_dir(data.join("pets").join(class))
                    .unwrap()
                    .map(|entry| entry.unwrap().path())
                    .collect();
                paths.sort();
                for path in paths.iter().take(6) {
                    fs::copy(path, folder.join(class).join(path.file_name().unwrap())).unwrap();
                }
            }
        }
        None => common::sample(folder, 6),
    }
    let mut files = Files::new();
    for class in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        for path in fs::read_dir(class).into_iter().flatten() {
            let path = path.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
            files.push((name.to_owned(), fs::read(&path).unwrap()));
        }
    }
    files.sort();
    assert_eq!(files.len(), 12);
    files
}

fn class(path: &str) -> &str {
    path.split('/').next().unwrap()
}

fn write_zip(path: &Path, files: &Files) {
    let mut writer = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default();
    let stored = options.compression_method(zip::CompressionMethod::Stored);
    for (i, (name, bytes)) in files.iter().enumerate() {
        let options = if i % 2 == 0 { options } else { stored };
        writer
            .start_file(format!("PetImages/{name}"), options)
            .unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.start_file("readme[1].txt", options).unwrap();
    writer.write_all(b"not an image").unwrap();
    writer.finish().unwrap();
}

fn write_tar(path: &Path, members: impl Iterator<Item = (String, Vec<u8>)>) {
    let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder.finish().unwrap();
}

fn write_parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// `image: struct<bytes, path>` and `label`, in another order than the folder's.
fn write_hugging_face(path: &Path, files: &Files) {
    let files = || files.iter().rev();
    let bytes = BinaryArray::from_iter_values(files().map(|(_, bytes)| bytes));
    let names = StringArray::from_iter_values(files().map(|(name, _)| name));
    let labels = StringArray::from_iter_values(files().map(|(name, _)| class(name)));
    let part = |name: &str, kind| Arc::new(Field::new(name, kind, true));
    let image = StructArray::from(vec![
        (part("bytes", DataType::Binary), Arc::new(bytes) as ArrayRef),
        (part("path", DataType::Utf8), Arc::new(names) as ArrayRef),
    ]);
    write_parquet(
        path,
        vec![("image", Arc::new(image)), ("label", Arc::new(labels))],
    );
}

/// The same data set in every form, by the form's name.
fn forms(folder: &Path) -> Vec<(&'static str, PathBuf)> {
    let root = folder.join("PetImages");
    let files = images(&root);
    let at = |name: &str| folder.join(name);
    write_zip(&at("pets.zip"), &files);
    write_tar(&at("pets.tar"), files.iter().cloned());
    let keyed = files.iter().flat_map(|(name, bytes)| {
        let (key, extension) = name.rsplit_once('.').unwrap();
        let key = key.replace('/', "-");
        let label = class(name).as_bytes().to_vec();
        [
            (format!("s/{key}.{extension}"), bytes.clone()),
            (format!("s/{key}.cls"), label),
        ]
    });
    write_tar(&at("webdataset.tar"), keyed);
    let lines = files
        .iter()
        .map(|(name, _)| format!("{},{name}\n", class(name)));
    let lines: String = lines.collect();
    fs::write(root.join("pets.csv"), format!("label,file_name\n{lines}")).unwrap();
    write_hugging_face(&at("pets.parquet"), &files);
    let paths = StringArray::from_iter_values(files.iter().map(|(name, _)| name));
    let labels = StringArray::from_iter_values(files.iter().map(|(name, _)| class(name)));
    let columns: Vec<(&str, ArrayRef)> =
        vec![("path", Arc::new(paths)), ("label", Arc::new(labels))];
    write_parquet(&root.join("paths.parquet"), columns);
    vec![
        ("folder", root.clone()),
        ("zip", at("pets.zip")),
        ("tar", at("pets.tar")),
        ("WebDataset", at("webdataset.tar")),
        ("CSV", root.join("pets.csv")),
        ("Parquet", at("pets.parquet")),
        ("Parquet of paths", root.join("paths.parquet")),
    ]
}

#[test]
fn a_data_set_moved_between_forms_stays_cached() {
    let folder = tempfile::tempdir().unwrap();
    let forms = forms(folder.path());
    let backbone = common::tiny_backbone(folder.path());
    let data = folder.path().join("data");
    let mut computed = None;
    let mut digest = None;
    for (form, path) in &forms {
        let mut command = common::features_with(&backbone, &data, path, 4);
        if computed.is_some() {
            // What is cached needs no engine.
            command.env("ORT_DYLIB_PATH", "/nonexistent/libonnxruntime.so");
        }
        let output = command.output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{form}: {words}");
        let result = json(&output.stdout);
        let (cached, new) = if computed.is_some() { (12, 0) } else { (0, 12) };
        let expected = serde_json::json!({"cached": cached, "new": new, "rejected": 0});
        assert_eq!(result["counts"], expected, "{form}");
        // The paths are the same, too, but for the keys of a WebDataset.
        if *form != "WebDataset" {
            let first = digest.get_or_insert(result["index_digest"].clone());
            assert_eq!(*first, result["index_digest"], "{form}");
        }
        let here = rows(result["store"].as_str().unwrap());
        assert_eq!(*computed.get_or_insert(here.clone()), here, "{form}");
    }

    // And every form can be the first one: the same rows, bit by bit.
    for (form, path) in &forms[1..] {
        let data = folder.path().join(form);
        let output = common::features_with(&backbone, &data, path, 4)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{form}");
        let result = json(&output.stdout);
        assert_eq!(result["counts"]["new"], 12, "{form}");
        assert_eq!(
            Some(rows(result["store"].as_str().unwrap())),
            computed,
            "{form}"
        );
    }
}

#[test]
fn index_names_the_classes_of_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let mut classes = None;
    for (form, path) in forms(folder.path()) {
        let data = folder.path().join("data");
        let mut command = common::extractor(&data);
        let assert = command
            .args(["index", "--json"])
            .arg(&path)
            .assert()
            .code(0);
        let result = json(&assert.get_output().stdout);
        let first = classes.get_or_insert(result["classes"].clone());
        assert_eq!(*first, result["classes"], "{form}");
    }
}

#[test]
fn a_hostile_member_is_skipped_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = images(&folder.path().join("PetImages"));
    files.push(("../../evil.jpg".to_owned(), files[0].1.clone()));
    let zip = folder.path().join("evil.zip");
    write_zip(&zip, &files);
    let data = folder.path().join("data");
    let index = |more: &[&str]| {
        let mut command = common::extractor(&data);
        command.args(["index", "--json"]).args(more).arg(&zip);
        command.assert()
    };
    let assert = index(&[]).code(3).stderr(contains("../../evil.jpg: "));
    let result = json(&assert.get_output().stdout);
    assert_eq!(
        (&result["images"], &result["skipped"]),
        (&12.into(), &1.into())
    );
    index(&["--strict"])
        .code(1)
        .stderr(contains("--strict stops here"));
}

#[test]
fn what_is_no_data_set_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    for (path, words) in [
        (file("pets.tar.gz", b"\x1f\x8b\x08\0"), "gunzip -k "),
        (file("cut.zip", b"PK\x03\x04 and no more"), "fetch it again"),
        (file("pets.zip", b"<html>404"), "pets.zip"),
        (file("a.csv", b"x,y\n1,2\n"), "--path-column"),
        (
            file("b.csv", b"path,label\ngone.jpg,Cat\n"),
            "relative to the manifest's folder",
        ),
        (file("c.csv", b"path,label\na.jpg,Cat\nb.jpg\n"), "line: 3"),
        (
            file("cat.jpg", b"\xff\xd8\xff\xe0"),
            "name its data set's folder",
        ),
        (file("x.parquet", b"PAR1 and no more"), "fetch it again"),
        (folder.path().join("none"), "cannot find the data set"),
    ] {
        let mut command = common::extractor(&data);
        let assert = command.arg("index").arg(&path).assert().code(1);
        assert.stderr(contains(words));
    }
}

#[test]
fn a_manifest_has_one_index_however_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("pets");
    let files = images(&root);
    // Absolute paths below the manifest's folder are relative in the index.
    let lines = files.iter().map(|(name, _)| root.join(name));
    let lines: String = lines.map(|path| format!("{}\n", path.display())).collect();
    fs::write(root.join("pets.csv"), format!("path\n{lines}")).unwrap();
    let paths = StringArray::from_iter_values(lines.lines());
    write_parquet(
        &root.join("pets.parquet"),
        vec![("path", Arc::new(paths) as ArrayRef)],
    );
    let data = folder.path().join("data");
    let mut digest = None;
    for name in [
        "pets.csv",
        "./pets.csv",
        "pets.parquet",
        "../pets/pets.parquet",
    ] {
        let mut command = common::extractor(&data);
        command.current_dir(&root).args(["index", "--json", name]);
        let assert = command.assert().code(0);
        let result = json(&assert.get_output().stdout);
        let first = digest.get_or_insert(result["digest"].clone());
        assert_eq!(*first, result["digest"], "{name}");
    }
}

#[test]
fn what_lies_behind_a_tar_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let files = images(&folder.path().join("pets"));
    let part = |name: &str, files: &[(String, Vec<u8>)]| {
        let path = folder.path().join(name);
        write_tar(&path, files.iter().cloned());
        fs::read(path).unwrap()
    };
    let joined = [part("a.tar", &files[..6]), part("b.tar", &files[6..])].concat();
    let path = folder.path().join("joined.tar");
    fs::write(&path, joined).unwrap();
    let mut command = common::extractor(&folder.path().join("data"));
    let assert = command
        .args(["index", "--json"])
        .arg(&path)
        .assert()
        .code(0);
    assert.stderr(contains("tar --concatenate"));
}
