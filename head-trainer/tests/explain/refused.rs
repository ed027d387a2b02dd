//! What cannot be explained is named, with the remedy.

use std::fs;
use std::path::Path;

use extractor::store::{Dtype, IDENTITY};
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use serde_json::Value;

use super::common::record;
use super::{explain, pictured};

#[test]
fn what_cannot_be_explained_is_named() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let mut made_up = pictured(data, &["Cat", "Dog"], 30);
    let (_, run) = record(data, &[]);
    let unknown = data.join("unknown.png");
    fs::write(&unknown, b"another image").unwrap();
    let unknown = unknown.to_str().unwrap();
    let features = |reason: &str| {
        contains(format!("{unknown}: {reason}")).and(contains("hint: run make features"))
    };
    explain(data, &run, &[unknown])
        .code(1)
        .stderr(features("has no features in "))
        .stdout("");
    let left = fs::read_dir(data.join("explained")).unwrap().count();
    assert_eq!(left, 0, "nothing is left of it");
    let some = explain(
        data,
        &run,
        &[unknown, "Cat/0000.jpg", "Cat/none.jpg", "--json"],
    )
    .code(3)
    .stderr(features("has no features in "))
    .stderr(contains("Cat/none.jpg: no such file, no path in the index"))
    .stderr(contains("2 images skipped, each named above"));
    let some: Value = serde_json::from_slice(&some.get_output().stdout).unwrap();
    assert_eq!(some["images"].as_array().unwrap().len(), 1);
    assert_eq!(some["skipped"][0]["image"], "Cat/none.jpg");
    // One digit is the beginning of several of 60 ids, surely.
    let digits = "0123456789abcdef".chars().map(|digit| digit.to_string());
    let several = digits.map(|digit| {
        let assert = explain(data, &run, &[&digit]);
        String::from_utf8_lossy(&assert.get_output().stderr).contains("the ids of ")
    });
    assert!(several.filter(|several| *several).count() > 2);

    explain(data, &run, &[]).code(2).stderr(contains("IMAGE"));
    explain(data, &run, &["Cat/0000.jpg", "--side", "test"]).code(2);
    explain(data, &run, &["Cat/0000.jpg", "--size", "0"]).code(2);
    explain(data, &run, &["Cat/0000.jpg", "--class", "Cow"])
        .code(1)
        .stderr(contains("no class is called Cow (there are: Cat, Dog)"));
    explain(data, Path::new("nothing"), &["Cat/0000.jpg"])
        .code(1)
        .stderr(contains("no run is nothing"));

    // The index and the store are not what they were.
    let index = data.join("indexes/made-up.arrow");
    let old = data.join("old.arrow");
    fs::copy(&index, &old).unwrap();
    made_up.add(Some(0));
    made_up.write_index(data);
    explain(data, &run, &["Cat/0000.jpg"]).code(1).stderr(
        contains("cannot explain ")
            .and(contains("the index "))
            .and(contains("it had "))
            .and(contains("with --index")),
    );
    let old = ["--index", old.to_str().unwrap()];
    let args = [&["Cat/0000.jpg"][..], &old].concat();
    explain(data, &run, &args).code(0);
    let other = data.join("other");
    fs::create_dir(&other).unwrap();
    let f16 = made_up.write_rows(&other, &[0], Dtype::F16);
    explain(
        data,
        &run,
        &[&args[..], &["--store", f16.to_str().unwrap()]].concat(),
    )
    .code(1)
    .stderr(contains("the feature store ").and(contains("with --store")));
    fs::rename(data.join("features"), data.join("moved")).unwrap();
    explain(data, &run, &args)
        .code(1)
        .stderr(contains("its feature store ").and(contains("with --store")));
    let moved = data.join("moved");
    let args = [&args[..], &["--store", moved.to_str().unwrap()]].concat();
    explain(data, &run, &args).code(0);

    // A damaged map explains nothing.
    let store = fs::read_dir(&moved)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let shard = fs::read_dir(store).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        path.extension()
            .is_some_and(|e| e == "arrow")
            .then_some(path)
    });
    damage(&shard.unwrap(), &made_up.map(0, IDENTITY));
    explain(data, &run, &args)
        .code(1)
        .stderr(contains("is damaged"));
    fs::remove_file(run.join("head.safetensors")).unwrap();
    explain(data, &run, &args)
        .code(1)
        .stderr(contains("it has no head to explain"));
}

/// Changes a byte of the map in a shard.
fn damage(shard: &Path, map: &[f32]) {
    let mut bytes = fs::read(shard).unwrap();
    let values: Vec<u8> = map.iter().flat_map(|x| x.to_le_bytes()).collect();
    let at = bytes
        .windows(values.len())
        .position(|w| w == values)
        .unwrap();
    bytes[at] ^= 1;
    fs::write(shard, bytes).unwrap();
}
