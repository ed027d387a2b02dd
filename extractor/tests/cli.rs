//! The built binary, as a user runs it.

mod common;

use std::fs;
use std::path::Path;

use predicates::prelude::*;
use predicates::str::contains;

use common::{json, rows};

/// Runs `features` on `images` with the small backbone and returns the JSON result.
fn features(data: &Path, images: &Path, code: i32, more: &[&str]) -> serde_json::Value {
    let mut command = common::extractor(data);
    command.args([
        "features",
        "--json",
        "--ep",
        "cpu",
        "--batch-size",
        "8",
        "--backbone",
    ]);
    command.arg(common::small_backbone()).arg(images).args(more);
    json(&command.assert().code(code).get_output().stdout)
}

#[test]
fn features_are_computed_once() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 10);
    let first = features(&data, &images, 0, &[]);
    assert_eq!(first["counts"]["new"], 20);
    assert_eq!(first["map_shape"], serde_json::json!([1, 1, 2048]));
    assert_eq!(first["provider"], "CPU");
    let store = first["store"].as_str().unwrap();
    let computed = rows(store);

    // A second run needs no engine: it works where there is no ONNX Runtime at all.
    let second = common::extractor(&data)
        .env("ORT_DYLIB_PATH", "/nonexistent/libonnxruntime.so")
        .args(["features", "--json", "--backbone"])
        .arg(common::small_backbone())
        .arg(&images)
        .assert()
        .code(0);
    let second = json(&second.get_output().stdout);
    assert_eq!(
        second["counts"],
        serde_json::json!({"cached": 20, "new": 0, "rejected": 0})
    );

    // Renamed, moved and relabelled images are still the same images; a new one is computed.
    let classes: Vec<_> = fs::read_dir(&images)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_dir())
        .collect();
    let one = fs::read_dir(&classes[0])
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    fs::rename(&one, classes[1].join("moved.jpg")).unwrap();
    fs::rename(&classes[0], images.join("renamed")).unwrap();
    let picture = image::RgbImage::from_fn(30, 40, |x, y| image::Rgb([x as u8, y as u8, 9]));
    picture.save(classes[1].join("new.png")).unwrap();
    let third = features(&data, &images, 0, &[]);
    assert_eq!(
        third["counts"],
        serde_json::json!({"cached": 20, "new": 1, "rejected": 0})
    );

    // However the rows came about, they are the same bits.
    let again = features(
        &folder.path().join("other"),
        &images,
        0,
        &["--threads", "1"],
    );
    let all = rows(again["store"].as_str().unwrap());
    assert_eq!(all.len(), 21);
    assert_eq!(rows(store), all);
    assert!(computed.iter().all(|(id, bits)| all[id] == *bits));
}

#[test]
fn a_dry_run_says_what_is_left_and_computes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (images, data) = (folder.path().join("pets"), folder.path().join("data"));
    common::sample(&images, 4);
    let dry = features(
        &data,
        &images,
        0,
        &["--dry-run", "--views", "identity,hflip"],
    );
    assert_eq!([&dry["left"], &dry["counts"]["new"]], [8, 0]);
    assert_eq!(dry["dry_run"], true);
    assert_eq!(dry["engine"], serde_json::Value::Null);
    assert!(!data.join("features").exists());
    assert_eq!(features(&data, &images, 0, &[])["counts"]["new"], 8);
    // One row more of each image.
    let mut command = common::features(&data, &images, 8);
    command.args(["--dry-run", "--views", "identity,hflip"]);
    let dry = json(&command.output().unwrap().stdout);
    assert_eq!([&dry["rows"]["cached"], &dry["left"]], [8, 8]);
    assert_eq!(features(&data, &images, 0, &["--dry-run"])["left"], 0);
}

#[test]
fn f16_is_f32_rounded() {
    use extractor::store::{Features, IDENTITY, Store};
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 3);
    let f32 = features(&data, &images, 0, &[]);
    let f16 = features(&data, &images, 0, &["--dtype", "f16"]);
    assert_ne!(f32["store"], f16["store"]);
    let store = Store::open(Path::new(f16["store"].as_str().unwrap())).unwrap();
    for (id, bits) in rows(f32["store"].as_str().unwrap()) {
        let row = store.locate(&id.parse().unwrap(), IDENTITY).unwrap();
        let Features::F16(values) = store.features(row) else {
            panic!("not f16")
        };
        let rounded = bits.iter().map(|b| half::f16::from_f32(f32::from_bits(*b)));
        assert!(rounded.eq(values.iter().copied()));
    }
}

/// The EXIF mode is part of the key: it has a store of its own, in which an image with a noted
/// orientation has other features and an image without has the same.
#[test]
fn exif_modes_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 3);
    let plain = walk_one(&images);
    let jpeg = fs::read(&plain).unwrap();
    let quarter_turn = b"\xff\xe1\0\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\
        \x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let turned = [&jpeg[..2], quarter_turn, &jpeg[2..]].concat();
    fs::write(&plain, &turned).unwrap();
    let ignored = features(&data, &images, 0, &[]);
    let applied = features(&data, &images, 0, &["--exif", "apply"]);
    assert_eq!(ignored["key"]["exif"], "ignore");
    assert_eq!(applied["key"]["exif"], "apply");
    assert_eq!(applied["counts"]["new"], 6);
    let rows = |result: &serde_json::Value| rows(result["store"].as_str().unwrap());
    let (ignored, applied) = (rows(&ignored), rows(&applied));
    let turned = extractor::digest::Digest::of(&turned).to_string();
    for (id, bits) in &ignored {
        assert_eq!(applied[id] == *bits, *id != turned, "{id}");
    }
}

#[test]
fn broken_images_are_named_counted_and_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 3);
    let class = images.join("broken\nclass");
    fs::create_dir(&class).unwrap();
    let whole = fs::read(walk_one(&images)).unwrap();
    fs::write(class.join("cut.jpg"), &whole[..whole.len() / 2]).unwrap();
    fs::write(class.join("empty.jpg"), b"").unwrap();
    fs::write(class.join("page.jpg"), b"<html>").unwrap();
    let run = |strict: bool| {
        let mut command = common::extractor(&data);
        command.args(["features", "--ep", "cpu", "--batch-size", "8", "--backbone"]);
        command.arg(common::small_backbone()).arg(&images);
        if strict {
            command.arg("--strict");
        }
        command.assert()
    };
    run(true).code(1).stderr(contains("--strict stops here"));
    for _ in 0..2 {
        run(false)
            .code(3)
            .stderr(contains("broken\\nclass/cut.jpg: broken JPEG"))
            .stderr(contains("broken\\nclass/empty.jpg: empty file"))
            .stderr(contains("broken\\nclass/page.jpg: not an image"))
            .stderr(contains("3 images skipped"))
            .stdout(contains("rejected 1)"));
    }
}

fn walk_one(images: &Path) -> std::path::PathBuf {
    let class = fs::read_dir(images)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.is_dir());
    fs::read_dir(class.unwrap())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path()
}

#[test]
fn what_cannot_work_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 1);
    let fails = |args: &[&str], backbone: &Path, library: Option<&str>, expected: &str| {
        let mut command = common::extractor(&data);
        if let Some(library) = library {
            command.env("ORT_DYLIB_PATH", library);
        }
        command
            .args(["features", "--quiet", "--backbone"])
            .arg(backbone)
            .args(args);
        command
            .assert()
            .code(1)
            .stderr(contains(expected))
            .stderr(predicate::function(|text: &str| {
                text.lines().filter(|l| !l.starts_with(" WARN")).count() == 1
            }));
    };
    let images_arg = images.to_str().unwrap();
    let small = fs::read(common::small_backbone()).unwrap();
    let described = |name: &str, bytes: &[u8], toml: Option<&str>| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        if let Some(toml) = toml {
            fs::write(path.with_extension("toml"), toml).unwrap();
        }
        path
    };

    let missing = folder.path().join("no.onnx");
    fails(
        &[images_arg],
        &missing,
        None,
        "no.onnx (hint: make backbone",
    );
    let text = described("text.onnx", b"<html>", None);
    fails(
        &[images_arg],
        &text,
        None,
        "text.onnx: it is not an ONNX model",
    );
    let bare = described("bare.onnx", &small, None);
    fails(
        &[images_arg],
        &bare,
        None,
        "give --preset unit|caffe|imagenet",
    );
    let typo = described("typo.onnx", &small, Some("presett = \"unit\""));
    fails(
        &[images_arg],
        &typo,
        None,
        "typo.toml is wrong: unknown field `presett`",
    );
    let other = described(
        "other.onnx",
        &small,
        Some("preset = \"unit\"\nfeature_tensor = \"x\""),
    );
    fails(
        &[images_arg],
        &other,
        None,
        "it has no output x, but features [?, 1, 1, 2048]",
    );

    let fine = common::small_backbone();
    fails(&["/nonexistent/pets"], fine, None, "/nonexistent/pets");
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fails(&[empty.to_str().unwrap()], fine, None, "no image in");
    let size = &[images_arg, "--input-size", "64x64"];
    fails(
        size,
        fine,
        None,
        "its input is 32x32, not the 64x64 asked for",
    );
    fails(
        &[images_arg, "--ep", "cuda"],
        fine,
        None,
        "CUDA execution provider cannot be used",
    );
    fails(
        &[images_arg],
        fine,
        Some("/nonexistent/lib.so"),
        "/nonexistent/lib.so",
    );
    let not_a_library = described("lib.so", b"not a library", None);
    let not_a_library = not_a_library.to_str().unwrap();
    fails(
        &[images_arg],
        fine,
        Some(not_a_library),
        "hint: extractor runtime fetch",
    );
    let file = folder.path().join("a-file");
    fs::write(&file, b"").unwrap();
    let store = file.join("store");
    fails(
        &[images_arg, "--store", store.to_str().unwrap()],
        fine,
        None,
        "a-file",
    );
}

/// A disk that is full (here: a limit on the size of a file) ends the run with one line, publishes
/// nothing half, and the next run completes the store.
#[test]
fn a_full_disk_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 20);
    let shell = format!(
        "trap '' XFSZ; ulimit -f 100; exec '{}' features --ep cpu --batch-size 8 --backbone '{}' '{}'",
        env!("CARGO_BIN_EXE_extractor"),
        common::small_backbone().display(),
        images.display()
    );
    assert_cmd::Command::new("sh")
        .args(["-c", &shell])
        .env("ORT_DYLIB_PATH", common::library())
        .env("HEADSTART_DATA_DIR", &data)
        .assert()
        .code(1)
        .stderr(contains("error: cannot write a shard in"));
    let store = fs::read_dir(data.join("features"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let names: Vec<_> = fs::read_dir(&store)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["store.json"], "nothing half is left");
    assert_eq!(features(&data, &images, 0, &[])["counts"]["new"], 40);
}

#[test]
fn the_index_is_written_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 4);
    fs::create_dir(images.join("empty")).unwrap();
    let assert = common::extractor(&data)
        .args(["index", "--json"])
        .arg(&images)
        .assert()
        .code(0)
        .stderr(contains("class folder empty has no image"));
    let result = json(&assert.get_output().stdout);
    assert_eq!(
        (&result["images"], &result["unique"]),
        (&8.into(), &8.into())
    );
    let index = extractor::index::Index::read(Path::new(result["index"].as_str().unwrap()));
    assert_eq!(index.unwrap().len(), 8);
}

#[test]
fn wrong_usage_exits_2() {
    let data = tempfile::tempdir().unwrap();
    for args in [
        &["features"][..],
        &["nonsense"],
        &["features", "x", "--ep", "tpu"],
        &["features", "x", "--backbone", "y", "--exif", "turn"],
        &[],
    ] {
        common::extractor(data.path()).args(args).assert().code(2);
    }
}

/// A run that fails before anything is computed leaves no store behind for a trainer to trip over.
#[test]
fn a_failed_run_leaves_no_empty_store() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 1);
    common::extractor(&data)
        .env("ORT_DYLIB_PATH", common::small_backbone())
        .args(["features", "--backbone"])
        .arg(common::small_backbone())
        .arg(&images)
        .assert()
        .code(1);
    assert!(!data.join("features").exists());
}

#[test]
fn folders_that_are_no_classes_are_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images.join("train"), 1);
    common::sample(&images.join("validation"), 2);
    let warns = |dir: &Path, expected: &str| {
        let mut command = common::extractor(&data);
        command.args(["features", "--ep", "cpu", "--batch-size", "8", "--backbone"]);
        command.arg(common::small_backbone()).arg(dir);
        command.assert().code(0).stderr(contains(expected));
    };
    warns(&images, "look like a split, not like classes");
    fs::remove_dir_all(images.join("validation")).unwrap();
    fs::rename(images.join("train"), images.join("inner")).unwrap();
    warns(&images, "found 1 class, and a head tells two or more apart");
}

/// A signal ends the run after the batch in flight, what is complete is kept, and going on from
/// there gives the same bits as a run without interruption.
#[test]
fn a_signal_keeps_what_is_complete() {
    use std::process::{Command, Stdio};
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 100);
    let mut child = Command::new(env!("CARGO_BIN_EXE_extractor"))
        .args([
            "features",
            "--json",
            "--ep",
            "cpu",
            "--batch-size",
            "8",
            "--backbone",
        ])
        .arg(common::small_backbone())
        .arg(&images)
        .env("ORT_DYLIB_PATH", common::library())
        .env("HEADSTART_DATA_DIR", &data)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The store's folder appears when the engine is open and extraction begins.
    while !data.join("features").exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let pid = child.id().to_string();
    Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    // A machine fast enough to be done first has nothing to interrupt.
    let code = output.status.code().unwrap();
    assert!(code == 143 || code == 0, "exit {code}");
    let first = if code == 143 && output.stdout.is_empty() {
        0
    } else {
        json(&output.stdout)["counts"]["new"].as_u64().unwrap()
    };
    let rest = features(&data, &images, 0, &[]);
    assert_eq!(rest["counts"]["cached"], first);
    assert_eq!(rest["counts"]["new"], 200 - first);
    let whole = features(&folder.path().join("other"), &images, 0, &[]);
    assert!(rows(rest["store"].as_str().unwrap()) == rows(whole["store"].as_str().unwrap()));
}
