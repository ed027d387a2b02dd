//! Views on the built binary: cached one by one, the same rows however they come about, mirrored
//! files, signals between the views of an image, the store's verbs.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use common::{json, names, only_store};
use extractor::digest::Digest;
use extractor::store::{Features, Store};
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::{Value, json};

/// Image and view -> features as bits.
type Rows = BTreeMap<(String, String), Vec<u32>>;

/// Every row of a store, each there once.
fn rows(folder: impl AsRef<Path>) -> Rows {
    let store = Store::open(folder.as_ref()).unwrap();
    store.shards().iter().for_each(|s| s.verify().unwrap());
    let stored: usize = store.shards().iter().map(|s| s.rows()).sum();
    assert_eq!(stored, store.len(), "no row twice");
    let row = |(id, view, at): (Digest, &str, _)| match store.features(at) {
        Features::F32(map) => {
            let bits = map.iter().map(|v| v.to_bits()).collect();
            ((id.to_string(), view.to_owned()), bits)
        }
        _ => panic!("not f32"),
    };
    store.iter().map(row).collect()
}

struct Bench {
    folder: tempfile::TempDir,
    backbone: PathBuf,
}

impl Bench {
    /// A sample set of `per_class` images a class and a small backbone.
    fn new(per_class: usize) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        common::sample(&folder.path().join("images"), per_class);
        let backbone = common::tiny_backbone(folder.path());
        Bench { folder, backbone }
    }

    fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, data: &str, batch_size: usize, views: &[&str]) -> Command {
        let images = self.folder.path().join("images");
        let data = self.data(data);
        let mut command = common::features_with(&self.backbone, &data, &images, batch_size);
        command.args(views);
        command
    }

    fn run(&self, data: &str, batch_size: usize, views: &[&str]) -> Value {
        let output = self.command(data, batch_size, views).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        json(&output.stdout)
    }

    fn rows(&self, data: &str) -> Rows {
        rows(only_store(&self.data(data)).unwrap())
    }
}

const ALL: &[&str] = &["--views", "identity,hflip,crop:3"];

#[test]
fn a_view_more_computes_only_that_view() {
    let bench = Bench::new(5);
    let counts = |cached: u32, new: u32| json!({"cached": cached, "new": new, "rejected": 0});
    let first = bench.run("a", 8, &[]);
    assert_eq!(
        (&first["counts"], &first["views"]),
        (&counts(0, 10), &json!(["identity"]))
    );
    let identity = bench.rows("a");
    // identity is always among the views.
    let second = bench.run("a", 8, &["--views", "hflip"]);
    assert_eq!(second["views"], json!(["identity", "hflip"]));
    assert_eq!(second["counts"], counts(0, 10));
    assert_eq!(second["rows"], json!({"cached": 10, "new": 10}));
    bench.run("a", 8, &["--views", "crop:2"]);
    let fourth = bench.run("a", 8, ALL);
    assert_eq!(
        fourth["rows"],
        json!({"cached": 40, "new": 10}),
        "crop-3 alone"
    );
    let fifth = bench.run("a", 8, ALL);
    assert_eq!(fifth["counts"], counts(10, 0));
    assert_eq!(fifth["engine"], Value::Null, "nothing was to be done");
    assert_eq!(bench.run("a", 8, &[])["counts"], counts(10, 0));

    let step_by_step = bench.rows("a");
    assert_eq!(step_by_step.len(), 50);
    assert!(
        identity
            .iter()
            .all(|(row, bits)| step_by_step[row] == *bits)
    );
    // All at once, in batches that cut through the images: the same bits.
    let once = bench.run("b", 3, ALL);
    assert_eq!(once["counts"], counts(0, 10));
    assert!(bench.rows("b") == step_by_step);
    let different = |a: &str, b: &str| {
        let of = |view: &str| {
            let rows = step_by_step.iter().filter(|((_, v), _)| v == view);
            rows.map(|(_, bits)| bits.clone()).collect::<Vec<_>>()
        };
        of(a).iter().zip(of(b)).all(|(a, b)| *a != b)
    };
    assert!(different("identity", "hflip") && different("crop-1", "crop-2"));
}

/// A PNG keeps its pixels, so the mirror image of a mirrored file is the file.
#[test]
fn the_mirror_image_of_a_mirrored_file_is_the_file() {
    let bench = Bench::new(1);
    let class = bench.folder.path().join("images/pairs");
    fs::create_dir(&class).unwrap();
    let picture = image::RgbImage::from_fn(37, 23, |x, y| image::Rgb([x as u8, y as u8, 90]));
    let mirrored = image::imageops::flip_horizontal(&picture);
    let save = |picture: &image::RgbImage, name: &str| {
        let path = class.join(name);
        picture.save(&path).unwrap();
        Digest::of_file(&path).unwrap().to_string()
    };
    let (a, b) = (save(&picture, "a.png"), save(&mirrored, "b.png"));
    bench.run("data", 4, &["--views", "hflip"]);
    let rows = bench.rows("data");
    let row = |id: &str, view: &str| &rows[&(id.to_owned(), view.to_owned())];
    assert_eq!(row(&a, "identity"), row(&b, "hflip"));
    assert_eq!(row(&b, "identity"), row(&a, "hflip"));
    assert_ne!(row(&a, "identity"), row(&b, "identity"));
}

#[test]
fn stopped_between_the_views_of_an_image_it_goes_on_with_the_others() {
    let bench = Bench::new(60);
    bench.run("undisturbed", 3, ALL);
    let expected = bench.rows("undisturbed");
    assert_eq!(expected.len(), 600);
    let data = bench.data("data");
    let shards = || only_store(&data).map_or(0, |store| names(&store, "shard-").len());
    let mut cut_through = 0;
    for signal in ["INT", "KILL", "TERM", "KILL", "INT"] {
        let before = shards();
        let mut command = bench.command("data", 3, ALL);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        while shards() <= before && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_micros(300));
        }
        let kill = format!("kill -{signal} {}", child.id());
        let _ = Command::new("sh").args(["-c", &kill]).output().unwrap();
        let output = child.wait_with_output().unwrap();
        let kept = bench.rows("data");
        assert!(kept.iter().all(|(row, bits)| expected[row] == *bits));
        let mut images: BTreeMap<&str, usize> = BTreeMap::new();
        kept.keys()
            .for_each(|(id, _)| *images.entry(id).or_default() += 1);
        let partly = images.values().filter(|views| **views < 5).count();
        cut_through += partly;
        if signal != "KILL" && !output.status.success() {
            // What is left is counted in images; an image is done with its last view.
            let result = json(&output.stdout);
            let number = |value: &Value| value.as_u64().unwrap() as usize;
            let counts = &result["counts"];
            let done = number(&counts["cached"]) + number(&counts["new"]);
            assert_eq!(done + number(&result["left"]), 120, "{result}");
            assert_eq!(done, images.len() - partly, "{result}");
        }
    }
    eprintln!("{cut_through} times an image lacked some views");
    bench.run("data", 3, ALL);
    assert!(bench.rows("data") == expected);
}

#[test]
fn the_stores_verbs_know_views() {
    let bench = Bench::new(6);
    let index = bench.run("data", 4, &["--views", "identity,hflip,crop:2"])["index"].clone();
    let index = index.as_str().unwrap();
    let store = only_store(&bench.data("data")).unwrap();
    let verb = |code: i32, verb: &str, args: &[&str]| {
        let mut command = common::extractor(&bench.data("data"));
        command.args(["store", verb]).arg(&store).args(args);
        command.assert().code(code)
    };
    let value = |code: i32, name: &str, args: &[&str]| {
        let assert = verb(code, name, &[args, &["--json"]].concat());
        json(&assert.get_output().stdout)
    };
    let inspected = value(0, "inspect", &["--index", index]);
    assert_eq!(
        (&inspected["images"], &inspected["rows"]),
        (&json!(12), &json!(48))
    );
    let views = json!({"identity": 12, "hflip": 12, "crop-1": 12, "crop-2": 12});
    assert_eq!(inspected["views"], views);
    verb(0, "inspect", &[])
        .stdout(contains("rows      48 of 12 images"))
        .stdout(contains(
            "views     identity 12 rows, hflip 12 rows, crop-1 to crop-2 12 rows each\n",
        ));
    verb(0, "inspect", &["--index", index, "--views", "crop:2"]).stdout(contains(
        "12 images with the views identity, crop-1 to crop-2: 12 done, 0 rejected, 0 missing",
    ));
    verb(4, "inspect", &["--index", index, "--views", "hflip,crop:4"])
        .stdout(contains("0 done, 0 rejected, 12 missing"))
        .stdout(contains(".jpg: crop-3 to crop-4"));
    let missing = value(4, "inspect", &["--index", index, "--views", "crop:4"]);
    assert_eq!(missing["index"]["missing_rows"], 24);
    verb(2, "inspect", &["--index", index, "--views", "crop"]);

    // Compacting keeps every view; collecting keeps or drops an image with all of them.
    let before = bench.rows("data");
    verb(0, "compact", &["--grace", "0s"]);
    assert!(bench.rows("data") == before);
    let part = bench.folder.path().join("part");
    common::sample(&part, 2);
    let indexed = common::extractor(&bench.data("data"))
        .args(["index", "--json"])
        .arg(&part)
        .assert()
        .code(0);
    let part = json(&indexed.get_output().stdout)["index"].clone();
    let part = part.as_str().unwrap();
    let collected = value(0, "gc", &["--keep", part, "--grace", "0s", "--yes"]);
    assert_eq!(
        (&collected["kept_images"], &collected["dropped_images"]),
        (&json!(4), &json!(8))
    );
    let after = bench.rows("data");
    assert_eq!(after.len(), 16, "four views of four images");
    assert!(after.iter().all(|(row, bits)| before[row] == *bits));
}

#[test]
fn views_that_are_none_are_one_clear_line() {
    let bench = Bench::new(1);
    for (views, message) in [
        (
            "vflip",
            "`vflip` is no view (hint: a list such as identity,hflip,crop:4)",
        ),
        ("crop:0", "`crop:0` does not say how many crops, 1 to 1000"),
        ("crop:1001", "`crop:1001` does not say how many crops"),
        ("hflip,hflip", "`hflip` is there twice"),
    ] {
        let output = bench
            .command("data", 4, &["--views", views])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(message), "{error}");
    }
    assert!(!bench.data("data").exists());
    let mut command: assert_cmd::Command = bench.command("data", 4, ALL).into();
    let text = command.assert().code(0);
    text.stdout(contains(
        "\"views\":[\"identity\",\"hflip\",\"crop-1\",\"crop-2\",\"crop-3\"]",
    ))
    .stderr(contains("error").not());
}
