//! `extractor store` and several writers at once, on the built binary.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{copies, features, json, names, only_store, rows};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::{Value, json};

/// Runs a verb of `store` and returns the JSON result.
fn store(data: &Path, code: i32, verb: &str, args: &[&Path], flags: &[&str]) -> Value {
    let mut command = common::extractor(data);
    command
        .args(["store", verb, "--json"])
        .args(args)
        .args(flags);
    json(&command.assert().code(code).get_output().stdout)
}

fn run(data: &Path, images: &Path, batch_size: usize) -> Value {
    let output = features(data, images, batch_size).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    json(&output.stdout)
}

fn image_files(folder: &Path) -> Vec<PathBuf> {
    let classes = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let classes = classes.filter(|p| p.is_dir());
    let mut files: Vec<_> = classes
        .flat_map(|class| fs::read_dir(class).unwrap())
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    files
}

/// Two extractors at once on one store, of data sets that share half of their images, in other
/// batches, so that their shards never coincide.
#[test]
fn two_writers_lose_and_double_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 60);
    let half = folder.path().join("half/class");
    fs::create_dir_all(&half).unwrap();
    for (i, file) in image_files(&images)
        .iter()
        .enumerate()
        .filter(|(i, _)| i % 2 == 0)
    {
        fs::copy(file, half.join(format!("{i}.jpg"))).unwrap();
    }
    let other = image::RgbImage::from_fn(30, 40, |x, y| image::Rgb([x as u8, y as u8, 9]));
    other.save(half.join("other.png")).unwrap();
    let jobs = [
        (images.as_path(), 3),
        (half.parent().unwrap(), 4),
        (&images, 5),
    ];
    let children = jobs.map(|(images, batch_size)| {
        let mut command = features(&data, images, batch_size);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    });
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(json(&output.stdout)["left"], 0);
    }

    let folder = only_store(&data).unwrap();
    let before = copies(&folder);
    assert_eq!(before.len(), 121);
    let opened = extractor::store::Store::open(&folder).unwrap();
    assert_eq!(opened.len(), 121);
    let seen = |store: &extractor::store::Store| -> Vec<Vec<u32>> {
        let ids = before.keys().map(|id| id.parse().unwrap());
        ids.map(
            |id| match store.features(store.locate(&id, extractor::store::IDENTITY).unwrap()) {
                extractor::store::Features::F32(map) => map.iter().map(|v| v.to_bits()).collect(),
                _ => panic!("not f32"),
            },
        )
        .collect()
    };
    let seen_before = seen(&opened);
    let duplicates: usize = before.values().map(|c| c.len() - 1).sum();
    eprintln!("{duplicates} rows were computed twice");

    // Young as they are, the replaced shards stay for those who read them.
    let first = store(&data, 0, "compact", &[&folder], &[]);
    assert_eq!(first["duplicate_rows"], duplicates);
    assert_eq!(first["removed"]["shards"], 0);
    assert_eq!(
        seen(&extractor::store::Store::open(&folder).unwrap()),
        seen_before
    );
    let second = store(&data, 0, "compact", &[&folder], &["--grace", "0s"]);
    assert!(second["removed"]["shards"].as_u64().unwrap() > 0);
    let after = copies(&folder);
    assert!(
        after.values().all(|copies| copies.len() == 1),
        "one copy of each"
    );
    let after: Vec<_> = after.into_values().map(|mut c| c.remove(0)).collect();
    assert!(after == seen_before);
    assert!(
        names(&folder, "shard-").len() <= jobs.len(),
        "one shard a batch size"
    );
}

#[test]
fn damage_is_named_set_aside_and_computed_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 10);
    run(&data, &images, 4);
    let folder = only_store(&data).unwrap();
    let undisturbed = rows(&folder);
    let sound = store(&data, 0, "verify", &[&folder], &[]);
    assert_eq!(
        (&sound["rows"], &sound["damaged"]),
        (&json!(20), &json!([]))
    );

    let shards = names(&folder, "shard-");
    let spoil = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let path = folder.join(name);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::remove_file(&path).unwrap();
        fs::write(path, bytes).unwrap();
    };
    spoil(&shards[0], &|bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    // A flipped bit is found by reading everything only; a shard cut off stops every verb.
    let damaged = store(&data, 5, "verify", &[&folder], &[]);
    assert_eq!(damaged["damaged"].as_array().unwrap().len(), 1);
    spoil(&shards[1], &|bytes| bytes.truncate(bytes.len() / 2));
    let output = features(&data, &images, 4).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains(&shards[1]) && error.contains("verify --quarantine"),
        "{error}"
    );

    let mut command = common::extractor(&data);
    command
        .args(["store", "verify", "--quarantine"])
        .arg(&folder);
    let assert = command.assert().code(5);
    let assert = assert
        .stderr(contains(&shards[0]))
        .stderr(contains(&shards[1]));
    assert.stdout(contains("set aside 2 files"));
    assert_eq!(names(&folder.join("quarantine"), "shard-").len(), 2);
    store(&data, 0, "verify", &[&folder], &[]);
    let result = run(&data, &images, 4);
    assert_eq!(
        result["counts"],
        json!({"cached": 12, "new": 8, "rejected": 0})
    );
    assert!(rows(&folder) == undisturbed);
}

#[test]
fn a_damaged_store_json_costs_no_row() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 6);
    run(&data, &images, 4);
    let folder = only_store(&data).unwrap();
    let undisturbed = rows(&folder);
    let path = folder.join("store.json");
    let whole = fs::read_to_string(&path).unwrap();
    let value: Value = serde_json::from_str(&whole).unwrap();
    let digest = value["key"]["backbone"].as_str().unwrap();
    let (first, rest) = digest.split_at(1);
    let other = if first == "0" { "1" } else { "0" };
    let mut broken = whole.clone().into_bytes();
    broken[20] ^= 0x80;
    for damaged in [
        b"{".to_vec(),
        broken,
        whole
            .replace(digest, &format!("{other}{rest}"))
            .into_bytes(),
    ] {
        fs::write(&path, damaged).unwrap();
        let verified = store(&data, 5, "verify", &[&folder], &["--quarantine"]);
        assert_eq!(verified["rows"], 12, "{verified}");
        assert_eq!(verified["damaged"].as_array().unwrap().len(), 1);
        let result = run(&data, &images, 3);
        assert_eq!(
            result["counts"],
            json!({"cached": 12, "new": 0, "rejected": 0})
        );
        assert!(rows(&folder) == undisturbed);
        store(&data, 0, "verify", &[&folder], &[]);
    }
    // Another format is no damage.
    let newer = whole.replace("\"format\": 1", "\"format\": 2");
    assert_ne!(newer, whole);
    fs::write(&path, newer).unwrap();
    let mut command = common::extractor(&data);
    command
        .args(["store", "verify", "--quarantine"])
        .arg(&folder);
    command
        .assert()
        .code(1)
        .stderr(contains("has format 2, expected 1"));
    assert!(path.is_file());
}

#[test]
fn inspect_says_what_is_there_and_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 6);
    let index = run(&data, &images, 4)["index"].as_str().unwrap().to_owned();
    let index = Path::new(&index);
    let root = data.join("features");
    let all = store(
        &data,
        0,
        "inspect",
        &[&root, Path::new("--index"), index],
        &[],
    );
    assert_eq!(
        (&all["images"], &all["index"]["done"]),
        (&json!(12), &json!(12))
    );
    assert_eq!(all["key"]["preset"], "unit");
    assert_eq!(all["provenances"].as_array().unwrap().len(), 1);
    assert_eq!(all["provenances"][0]["amount"]["rows"], 12);

    // A broken image is known to have no row; a new one is missing.
    let mut classes = fs::read_dir(&images).unwrap().map(|e| e.unwrap().path());
    let class = classes.find(|p| p.is_dir()).unwrap();
    let whole = fs::read(&image_files(&images)[0]).unwrap();
    fs::write(class.join("cut.jpg"), &whole[..whole.len() / 2]).unwrap();
    assert_eq!(
        features(&data, &images, 4).output().unwrap().status.code(),
        Some(3)
    );
    let broken = store(
        &data,
        3,
        "inspect",
        &[&root, Path::new("--index"), index],
        &[],
    );
    assert_eq!(broken["rejected"].as_array().unwrap().len(), 1);
    assert_eq!(broken["index"]["rejected"].as_array().unwrap().len(), 1);
    let new = image::RgbImage::from_fn(30, 40, |x, y| image::Rgb([x as u8, y as u8, 9]));
    new.save(class.join("new.png")).unwrap();
    common::extractor(&data)
        .arg("index")
        .arg(&images)
        .assert()
        .code(0);
    let mut command = common::extractor(&data);
    command
        .args(["store", "inspect", "--index"])
        .arg(index)
        .arg(&root);
    let assert = command.assert().code(4);
    let assert = assert.stdout(contains("14 images: 12 done, 1 rejected, 1 missing"));
    assert
        .stdout(contains("/new.png"))
        .stdout(contains("cut.jpg: broken JPEG"));
    // The store alone has nothing to be complete for.
    store(&data, 0, "inspect", &[&root], &[]);
}

#[test]
fn gc_drops_what_no_index_needs() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 10);
    let full = run(&data, &images, 4)["index"].as_str().unwrap().to_owned();
    let part = folder.path().join("part/class");
    fs::create_dir_all(&part).unwrap();
    for (i, file) in image_files(&images).iter().enumerate().take(7) {
        fs::copy(file, part.join(format!("{i}.jpg"))).unwrap();
    }
    let part = run(&data, part.parent().unwrap(), 4);
    assert_eq!(
        part["counts"],
        json!({"cached": 7, "new": 0, "rejected": 0})
    );
    let part = part["index"].as_str().unwrap();
    let store_folder = only_store(&data).unwrap();
    let before = rows(&store_folder);
    fs::write(store_folder.join(".tmp-killed"), b"half").unwrap();

    let gc = |code: i32, flags: &[&str]| store(&data, code, "gc", &[&store_folder], flags);
    assert_eq!(gc(0, &["--keep", &full, part])["dropped_images"], 0);
    let mut command = common::extractor(&data);
    command
        .args(["store", "gc"])
        .arg(&store_folder)
        .args(["--keep", part]);
    let assert = command.assert().code(0).stderr(contains("is not kept"));
    assert
        .stdout(contains("unneeded  13 images"))
        .stdout(contains("nothing was changed"));
    let young = gc(0, &["--keep", part, "--yes"]);
    assert_eq!(
        (&young["removed"]["shards"], &young["written"]),
        (&json!(0), &json!([]))
    );
    assert_eq!(young["dropped_images"], 0);
    assert!(rows(&store_folder) == before, "what is young stays");
    let mut command = common::extractor(&data);
    command
        .args(["store", "gc", "--yes"])
        .arg(&store_folder)
        .args(["--keep", part]);
    command.assert().code(0).stdout(
        contains("dropped   0 images\n")
            .and(contains("removed   0 shards"))
            .and(contains("younger than the grace period")),
    );
    gc(0, &["--keep", part, "--grace", "0s"]);
    assert!(rows(&store_folder) == before, "without --yes all stays");

    let done = gc(0, &["--keep", part, "--grace", "0s", "--yes"]);
    assert_eq!(
        (&done["kept_images"], &done["dropped_images"]),
        (&json!(7), &json!(13))
    );
    let after = rows(&store_folder);
    assert!(after.len() == 7 && after.iter().all(|(id, bits)| before[id] == *bits));
    assert!(names(&store_folder, ".tmp-").is_empty());

    for args in [
        &["--yes"][..],
        &["--keep"],
        &["--keep", part, "--grace", "soon"],
    ] {
        let mut command = common::extractor(&data);
        command
            .args(["store", "gc"])
            .arg(&store_folder)
            .args(args)
            .assert()
            .code(2);
    }
}

/// An index of other images, kept by mistake, must not cost the store.
#[test]
fn gc_with_a_wrong_index_drops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 3);
    let index = run(&data, &images, 4)["index"].as_str().unwrap().to_owned();
    let others = folder.path().join("others/class");
    fs::create_dir_all(&others).unwrap();
    let other = image::RgbImage::from_fn(30, 40, |x, y| image::Rgb([x as u8, y as u8, 9]));
    other.save(others.join("other.png")).unwrap();
    let wrong = folder.path().join("wrong.arrow");
    let mut command = common::extractor(&data);
    command
        .args(["index", "--index"])
        .arg(&wrong)
        .arg(others.parent().unwrap());
    command.assert().code(0);
    let store_folder = only_store(&data).unwrap();
    let before = rows(&store_folder);
    let gc = |flags: &[&str]| {
        let mut command = common::extractor(&data);
        command.args(["store", "gc", "--grace", "0s"]);
        command.arg(&store_folder).arg("--keep").arg(&wrong);
        command.args(flags).assert()
    };
    let wrong_name = wrong.to_str().unwrap();
    gc(&[])
        .code(0)
        .stderr(
            contains(format!("no image of the index {wrong_name} has a row"))
                .and(contains(format!("the index {index} is not kept"))),
        )
        .stdout(contains("unneeded  6 images"));
    gc(&["--yes"]).code(1).stderr(
        contains("so that all of its 6 images would go").and(contains(
            "(hint: name the indexes that were made with this store",
        )),
    );
    assert!(rows(&store_folder) == before);
    gc(&[&index, "--yes"])
        .code(0)
        .stderr(contains("has a row in this store").and(contains("is not kept").not()));
    assert!(rows(&store_folder) == before);
}

#[test]
fn a_lost_store_json_is_said_and_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    common::sample(&images, 3);
    run(&data, &images, 4);
    let store_folder = only_store(&data).unwrap();
    let root = data.join("features");
    let quarantine = store_folder.join("quarantine");
    fs::create_dir(&quarantine).unwrap();
    fs::rename(
        store_folder.join("store.json"),
        quarantine.join("store.json"),
    )
    .unwrap();
    for path in [&root, &store_folder] {
        let mut command = common::extractor(&data);
        command.args(["store", "inspect"]).arg(path);
        command.assert().code(1).stderr(
            contains("has lost its store.json (hint: run make features")
                .and(contains(store_folder.to_str().unwrap())),
        );
        let verified = store(&data, 5, "verify", &[path], &["--quarantine"]);
        assert_eq!(verified["rows"], 6);
        assert_eq!(verified["damaged"][0]["reason"], "it is not there");
        assert_eq!(verified["quarantined"], json!([]));
    }
    assert_eq!(run(&data, &images, 4)["counts"]["cached"], 6);
    store(&data, 0, "verify", &[&root], &[]);
}

#[test]
fn a_store_is_named_or_the_only_one() {
    let folder = tempfile::tempdir().unwrap();
    let (data, images) = (folder.path().join("data"), folder.path().join("images"));
    let root = data.join("features");
    let inspect = || {
        let mut command = common::extractor(&data);
        command.args(["store", "inspect"]).arg(&root);
        command.assert()
    };
    inspect().code(1).stderr(contains("no feature store in"));
    common::sample(&images, 1);
    run(&data, &images, 4);
    inspect().code(0);
    let mut command = features(&data, &images, 4);
    assert!(
        command
            .args(["--dtype", "f16"])
            .output()
            .unwrap()
            .status
            .success()
    );
    inspect()
        .code(1)
        .stderr(contains("holds 2 stores (hint: name one of them: "));
}
