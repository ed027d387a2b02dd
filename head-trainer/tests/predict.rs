//! `head-trainer predict`: the built binary with ONNX Runtime. What it says of an image is what the
//! image's cached features say.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::tiny::{Tiny, baseline, with_engine};
use extractor::files::unescape_path;
use extractor::preprocess::{Layout, Preset};
use extractor::store::Dtype;
use head_trainer::run::{self, Predictions, RunRecord};
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use serde_json::Value;

fn predict(data: &Path, run: &Path, args: &[&str]) -> assert_cmd::assert::Assert {
    let mut command = with_engine(data);
    command.arg("predict").arg(run).args(args);
    command.assert()
}

/// The lines of `predict --json`.
fn lines(data: &Path, run: &Path, args: &[&str], code: i32) -> Vec<Value> {
    let assert = predict(data, run, &[args, &["--json"]].concat()).code(code);
    let text = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn logits(line: &Value) -> Vec<u32> {
    let logits = line["logits"].as_array().unwrap().iter();
    logits
        .map(|z| (z.as_f64().unwrap() as f32).to_bits())
        .collect()
}

/// Logits of the run's held-out images, from cached features, by id.
fn cached(run: &Path) -> HashMap<String, Vec<u32>> {
    let predictions = Predictions::read(run).unwrap().unwrap();
    let logits = predictions.logits.iter();
    let bits = logits.map(|z| z.iter().map(|z| z.to_bits()).collect());
    let ids = predictions.ids.iter().map(ToString::to_string);
    ids.zip(bits).collect()
}

/// Checks that the logits of all held-out images are those of their cached features.
fn checked(data: &Path, run: &Path, args: &[&str]) -> Vec<Value> {
    let set = data.join("set");
    let lines = lines(data, run, &[&[set.to_str().unwrap()], args].concat(), 0);
    let cached = cached(run);
    let held_out: Vec<&Value> = lines
        .iter()
        .filter(|line| cached.contains_key(line["id"].as_str().unwrap()))
        .collect();
    assert_eq!(held_out.len(), cached.len());
    assert!(!held_out.is_empty());
    for line in held_out {
        assert_eq!(logits(line), cached[line["id"].as_str().unwrap()], "{line}");
    }
    lines
}

#[test]
fn an_image_gets_the_logits_of_its_cached_features() {
    let three = &["a", "b", "c"][..];
    for (tiny, args) in [
        (Tiny::default(), &["--standardize", "--temperature"][..]),
        (
            Tiny {
                preset: Preset::Caffe,
                layout: Layout::Nhwc,
                dtype: Dtype::F16,
                ..Tiny::default()
            },
            &["--threshold", "youden"],
        ),
        (
            Tiny {
                preset: Preset::Raw,
                classes: three,
                batch: Some(4),
                ..Tiny::default()
            },
            &["--solver", "lbfgs"],
        ),
    ] {
        let data = tempfile::tempdir().unwrap();
        let run = tiny.run(data.path(), args);
        let head = run::head(&run).unwrap();
        let all = checked(data.path(), &run, &["--top", "9"]);
        assert_eq!(all.len(), 20 * tiny.classes.len());
        for line in &all {
            let raw: Vec<f32> = logits(line).into_iter().map(f32::from_bits).collect();
            let class = head.decision.class(&raw) as usize;
            assert_eq!(line["label"], tiny.classes[class]);
            let probability = head.decision.probabilities(&raw)[class];
            assert_eq!(line["probability"].as_f64().unwrap() as f32, probability);
            let top = line["top"].as_array().unwrap();
            assert_eq!(top.len(), tiny.classes.len());
            let sum: f64 = top.iter().map(|c| c["probability"].as_f64().unwrap()).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        }
        // In the order of the paths, and the same whatever else is in a batch.
        let paths: Vec<&str> = all.iter().map(|l| l["path"].as_str().unwrap()).collect();
        assert!(paths.is_sorted());
        let again = checked(data.path(), &run, &["--batch-size", "3", "--threads", "1"]);
        assert_eq!(
            all.iter().map(logits).collect::<Vec<_>>(),
            again.iter().map(logits).collect::<Vec<_>>()
        );
    }
}

#[test]
fn images_come_by_name_by_line_and_in_archives() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let run = Tiny::default().run(data, &[]);
    let path = |name: &str| data.join("set").join(name).to_str().unwrap().to_owned();
    let [cat, dog] = [path("Cat/00.png"), path("Dog/00.png")];
    let by_name = lines(data, &run, &[&dog, &cat], 0);
    assert_eq!(by_name[0]["path"], dog);
    assert_eq!(by_name[1]["path"], cat);

    let mut command = with_engine(data);
    command.arg("predict").arg(&run).args(["--json", "-"]);
    command.write_stdin(format!("{dog}\n\n{cat}"));
    let output = command.assert().code(0).get_output().stdout.clone();
    let by_line: Vec<Value> = serde_json::Deserializer::from_slice(&output)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(by_line, by_name);

    let list = data.join("set/list.csv");
    fs::write(&list, "path\nDog/00.png\nCat/00.png\n").unwrap();
    let mut listed = lines(data, &run, &[list.to_str().unwrap()], 0);
    listed.reverse(); // a manifest's images come in the order of their paths
    assert_eq!(listed, by_name);
}

#[test]
fn what_is_broken_is_named_and_the_rest_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let run = Tiny::default().run(data, &[]);
    let set = data.join("set");
    let whole = fs::read(set.join("Dog/03.png")).unwrap();
    fs::write(set.join("Dog/half.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(set.join("Dog/notes.txt"), "no image").unwrap();
    fs::write(set.join("Dog/text.jpg"), "no image").unwrap();
    let assert = predict(
        data,
        &run,
        &[set.join("Dog").to_str().unwrap(), "nowhere.png"],
    )
    .code(3)
    .stderr(contains("Dog/half.png: broken image"))
    .stderr(contains(
        "Dog/text.jpg: not an image, whatever its name says",
    ))
    .stderr(contains("nowhere.png: no such file\n"))
    .stderr(contains("notes.txt").not())
    .stderr(contains("3 images skipped"));
    let text = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
    assert_eq!(text.lines().count(), 20);
    predict(data, &run, &["nowhere.png"])
        .code(1)
        .stdout("")
        .stderr(contains("nothing could be said of 1 image, named above"));
    let empty = data.join("empty");
    fs::create_dir(&empty).unwrap();
    predict(data, &run, &[empty.to_str().unwrap()])
        .code(1)
        .stderr(contains("there is no image"));
}

#[test]
fn csv_has_a_header() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let run = Tiny::default().run(data, &[]);
    let set = data.join("set/Cat");
    let assert = predict(data, &run, &[set.to_str().unwrap(), "--csv", "--top", "1"]).code(0);
    let output = assert.get_output().stdout.clone();
    let mut reader = csv::Reader::from_reader(&output[..]);
    let header = [
        "path",
        "id",
        "label",
        "probability",
        "label_1",
        "probability_1",
    ];
    assert_eq!(reader.headers().unwrap(), &header[..]);
    let rows: Vec<_> = reader.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 20);
    assert!(unescape_path(&rows[0][0]).unwrap().is_file());
    assert_eq!(rows[0][3], rows[0][5]);
}

#[test]
fn the_backbone_may_move_and_must_be_the_same() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let tiny = Tiny::default();
    let run = tiny.run(data, &[]);
    let image = data.join("set/Cat/00.png");
    let image = image.to_str().unwrap();
    let before = lines(data, &run, &[image], 0);
    fs::remove_dir_all(data.join("elsewhere")).unwrap();
    predict(data, &run, &[image])
        .code(1)
        .stderr(contains("its backbone tiny").and(contains("--backbone FILE")));
    // Found by its digest, without its description.
    let moved = tiny.write_backbone(&data.join("new"));
    fs::remove_file(moved.with_extension("toml")).unwrap();
    let file = moved.to_str().unwrap();
    assert_eq!(lines(data, &run, &[image, "--backbone", file], 0), before);
    fs::create_dir_all(data.join("backbones")).unwrap();
    fs::rename(&moved, data.join("backbones/renamed.onnx")).unwrap();
    assert_eq!(lines(data, &run, &[image], 0), before);
    // The store may go: the run has its key. A run without needs it.
    fs::rename(data.join("features"), data.join("moved")).unwrap();
    assert_eq!(lines(data, &run, &[image], 0), before);
    let mut record = RunRecord::read(&run).unwrap();
    record.store = None;
    fs::write(run.join("run.json"), serde_json::to_vec(&record).unwrap()).unwrap();
    predict(data, &run, &[image])
        .code(1)
        .stderr(contains("feature store").and(contains("--store")));
    let store: PathBuf = data.join("moved");
    let args = [image, "--store", store.to_str().unwrap()];
    assert_eq!(lines(data, &run, &args, 0), before);

    let other = Tiny { opset: 15, ..tiny };
    let other = other.write_backbone(&data.join("other"));
    let other = ["--backbone", other.to_str().unwrap()];
    predict(data, &run, &[&args[..], &other].concat())
        .code(1)
        .stderr(contains("has digest"));
}

#[test]
fn a_baseline_predicts_as_it_was_judged() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    Tiny::default().run(data, &[]);
    checked(data, &baseline(data), &[]);
}
