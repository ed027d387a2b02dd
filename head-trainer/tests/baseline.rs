//! `head-trainer baseline`: the built binary on drawn pictures.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{head_trainer, test_data};
use extractor::sample::{self, SampleOptions};
use head_trainer::baseline::Baseline;
use head_trainer::run::{Predictions, RunRecord};
use head_trainer::split::Side;
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use serde_json::Value;

/// Folders of a data set of 40 pictures and of everything that is made of it.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let options = SampleOptions {
            per_class: 20,
            ..SampleOptions::new(folder.path().join("images"))
        };
        sample::write(&options, &|_| ()).unwrap();
        Bench { folder }
    }

    fn images(&self) -> PathBuf {
        self.folder.path().join("images")
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, args: &[&str]) -> assert_cmd::Command {
        let mut command = head_trainer(&self.data());
        command.arg("baseline").args(args);
        command
    }

    /// Trains on small pictures; the record and the run's folder.
    fn train(&self, args: &[&str]) -> (Value, PathBuf) {
        let images = self.images();
        let images = images.to_str().unwrap();
        self.json(&[&[images, "--size", "32x33"], args].concat())
    }

    fn json(&self, args: &[&str]) -> (Value, PathBuf) {
        let assert = self.command(&[args, &["--json"]].concat()).assert().code(0);
        let value: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
        let folder = PathBuf::from(value["run"].as_str().unwrap());
        (value["record"].clone(), folder)
    }
}

fn model(run: &Path) -> Vec<u8> {
    fs::read(run.join("baseline.safetensors")).unwrap()
}

#[test]
fn a_run_is_recorded_as_a_heads_is() {
    let bench = Bench::new();
    let (record, folder) = bench.train(&["--epochs", "3", "--batch-size", "8"]);
    assert_eq!(record["key"]["config"]["baseline"]["epochs"], 3);
    assert_eq!(record["history"].as_array().unwrap().len(), 3);
    assert_eq!(record["counts"]["train"], serde_json::json!([16, 16]));
    let total = record["total_parameters"].as_u64().unwrap();
    assert_eq!(
        total - record["trainable_parameters"].as_u64().unwrap(),
        256
    );
    assert!(record["metrics"]["test"]["accuracy"].is_number());
    for file in [
        "metrics.csv",
        "steps.csv",
        "run.json",
        "train",
        "validation",
    ] {
        assert!(folder.join(file).exists(), "{file}");
    }
    let steps = fs::read_to_string(folder.join("steps.csv")).unwrap();
    assert_eq!(steps.lines().count(), 1 + 3 * 4);

    // What the model says of held-out images is what the record counts.
    let baseline = Baseline::load(&folder.join("baseline.safetensors")).unwrap();
    assert_eq!(baseline.classes, ["rings", "stripes"]);
    let record = RunRecord::read(&folder).unwrap();
    let predictions = Predictions::read(&folder).unwrap().unwrap();
    let (rows, logits, labels) = predictions.on(Side::Test);
    assert_eq!(rows.len(), 4);
    let right = logits
        .iter()
        .zip(&labels)
        .filter(|(logits, label)| record.decision.class(logits) == **label);
    let metrics = record.metrics.test.unwrap();
    assert_eq!(right.count() as f64 / 4.0, metrics.accuracy);

    let mut list = head_trainer(&bench.data());
    list.args(["runs", "list"])
        .assert()
        .code(0)
        .stdout(contains("baseline batch_size=8 epochs=3 momentum=0.9"));
}

#[test]
fn the_second_training_reads_no_image() {
    let bench = Bench::new();
    let (_, first) = bench.train(&["--epochs", "2"]);
    let index = fs::read_dir(bench.data().join("indexes")).unwrap();
    let index = index
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "arrow"))
        .unwrap();
    fs::remove_dir_all(bench.images()).unwrap();
    let index = index.to_str().unwrap();
    let args = ["--index", index, "--size", "32x33", "--epochs", "2"];
    for threads in ["1", "3"] {
        let (_, again) = bench.json(&[&args[..], &["--threads", threads]].concat());
        assert_eq!(model(&again), model(&first), "{threads} threads");
    }
    // Of another size there are none.
    bench
        .command(&["--index", index, "--size", "40x40"])
        .assert()
        .code(1)
        .stderr(contains("40 of 40 images have no pixels").and(contains("name the data set")));
}

#[test]
fn a_run_is_repeated_to_the_same_bits() {
    let bench = Bench::new();
    let args = ["--epochs", "2", "--flip", "--crop", "2", "--seed", "3"];
    let (_, first) = bench.train(&args);
    let run = first.to_str().unwrap();
    bench
        .command(&["--repeat", run])
        .assert()
        .code(0)
        .stdout(contains("the baseline is the same, bit for bit"));
    let mut train = head_trainer(&bench.data());
    train
        .args(["train", "--repeat", run])
        .assert()
        .code(1)
        .stderr(contains(
            "is a baseline (hint: head-trainer baseline --repeat",
        ));
    let (_, other) = bench.train(&["--epochs", "2", "--seed", "4"]);
    assert_ne!(model(&other), model(&first));
    let mut diff = head_trainer(&bench.data());
    diff.args(["runs", "diff", run, other.to_str().unwrap()])
        .assert()
        .code(0)
        .stdout(contains("key.config.baseline.seed").and(contains("the baselines differ")));
}

#[test]
fn a_killed_training_goes_on_to_the_same_bits() {
    let bench = Bench::new();
    let args = ["--epochs", "150", "--batch-size", "8", "--flip"];
    let images = bench.images();
    let mut child = Command::new(env!("CARGO_BIN_EXE_head-trainer"))
        .env("HEADSTART_DATA_DIR", bench.data())
        .arg("baseline")
        .arg(&images)
        .args(["--size", "32x33"])
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let checkpoints = bench.data().join("checkpoints");
    let written = || {
        let entries = fs::read_dir(&checkpoints).into_iter().flatten().flatten();
        let mut names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.any(|name| name.starts_with("baseline-"))
    };
    while !written() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended without a checkpoint"
        );
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let images = images.to_str().unwrap().to_owned();
    let again = [
        &[images.as_str(), "--size", "32x33"],
        &args[..],
        &["--json"],
    ]
    .concat();
    let assert = bench
        .command(&again)
        .assert()
        .code(0)
        .stderr(contains("going on from the checkpoint"));
    let value: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    let resumed = PathBuf::from(value["run"].as_str().unwrap());
    let history = value["record"]["history"].as_array().unwrap();
    assert_eq!(history.len(), 150);
    let epochs: f64 = history.iter().map(|e| e["secs"].as_f64().unwrap()).sum();
    assert!(value["record"]["secs"]["fit"].as_f64().unwrap() >= epochs);
    assert!(!written(), "the checkpoint is removed at the end");

    let (_, whole) = bench.train(&args);
    assert_eq!(model(&resumed), model(&whole));
    let steps = |run: &Path| fs::read(run.join("steps.csv")).unwrap();
    assert_eq!(steps(&resumed), steps(&whole));
}

/// Unless said otherwise, the baseline sees images as large as the head on the same index saw them.
#[test]
fn images_are_as_large_as_the_heads() {
    let bench = Bench::new();
    let (record, folder) = bench.train(&["--epochs", "1"]);
    let index = record["places"]["index"].as_str().unwrap().to_owned();
    let args = ["--index", index.as_str(), "--epochs", "1"];
    // No head yet: 100 x 100, of which there are none.
    let none = bench.command(&args).assert().code(1);
    none.stderr(contains("40 of 40 images have no pixels"));
    // A run of a head whose store says 32 x 33.
    let text = fs::read_to_string(folder.join("run.json")).unwrap();
    let mut head: Value = serde_json::from_str(&text).unwrap();
    head["key"]["config"] = serde_json::json!({
        "solver": { "lbfgs": { "l2": 0.1, "max_iterations": 9, "gradient_tolerance": 1e-4 } },
        "standardize": false,
    });
    let of_head = folder.with_file_name("20990101T000000Z-000000000000");
    fs::create_dir(&of_head).unwrap();
    fs::write(of_head.join("run.json"), head.to_string()).unwrap();
    let (record, again) = bench.json(&args);
    assert_eq!(record["provenance"]["input_size"], "32x33");
    assert_eq!(model(&again), model(&folder));
}

#[test]
fn broken_images_are_named_and_left_out() {
    let bench = Bench::new();
    fs::write(bench.images().join("rings/broken.jpg"), b"\xff\xd8\xff no").unwrap();
    let images = bench.images();
    let args = [images.to_str().unwrap(), "--size", "32x32", "--epochs", "1"];
    for _ in 0..2 {
        bench
            .command(&args)
            .assert()
            .code(3)
            .stderr(contains("rings/broken.jpg").and(contains("1 image skipped")))
            .stdout(contains("left out   1 rejected"));
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let bench = Bench::new();
    let images = bench.images();
    let images = images.to_str().unwrap();
    for (args, message) in [
        (&["--steps-per-epoch", "3"][..], "needs --protocol tutorial"),
        (&["--learning-rate", "-1"], "learning rate is -1"),
        (&["--class-weight", "1,1,1"], "one for each class"),
        (&["--crop", "40", "--size", "32x32"], "crop is 40"),
        (&["--momentum", "1.5"], "momentum is 1.5"),
    ] {
        bench
            .command(&[&[images], args].concat())
            .assert()
            .code(1)
            .stderr(contains(message));
    }
    for args in [&["--size", "8x8"][..], &["--epochs", "0"]] {
        bench.command(&[&[images], args].concat()).assert().code(2);
    }
    bench
        .command(&[])
        .assert()
        .code(1)
        .stderr(contains("no data set is named"));
}

/// Photos: better than chance, and the moving averages are named where they lag.
#[test]
fn photos_are_learnt() {
    let Some(test_data) = test_data() else { return };
    let bench = Bench::new();
    let pets = test_data.join("pets");
    let splits = test_data.join("splits.csv");
    let args = [
        pets.to_str().unwrap(),
        "--split",
        splits.to_str().unwrap(),
        "--size",
        "48x48",
        "--epochs",
        "2",
    ];
    // 60 steps: fewer than Keras's momentum is for.
    let (record, _) = bench.json(&args);
    assert_eq!(record["key"]["config"]["baseline"]["momentum"], 0.9);
    let auc = record["metrics"]["validation"]["roc_auc"].as_f64().unwrap();
    assert!(auc > 0.6, "{auc}");
    bench
        .command(&[&args[..], &["--momentum", "0.99"]].concat())
        .assert()
        .code(0)
        .stderr(contains("--momentum 0.9"));
}
