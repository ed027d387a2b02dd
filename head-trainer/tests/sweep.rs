//! `head-trainer sweep`: the built binary on stores of known numbers.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::head_trainer;
use common::sweeps::{l2, made_up, record, sweep};
use extractor::digest::Digest;
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use serde_json::{Value, json};

#[test]
fn penalties_are_ranked_and_written() {
    let (data, _) = made_up();
    let data = data.path();
    let args = ["--l2", "1e-3..1e3:7", "--folds", "4"];
    sweep(data, &args)
        .code(0)
        .stdout(contains("rank  solver"))
        .stdout(contains("chosen").and(contains("4 folds of the training side")))
        .stdout(contains("train it   head-trainer train --data-dir "));
    let (record, folder) = record(data, &args);
    let candidates = record["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 7);
    let losses: Vec<f64> = candidates
        .iter()
        .map(|c| c["loss"]["mean"].as_f64().unwrap())
        .collect();
    assert!(losses.is_sorted(), "{losses:?}");
    for candidate in candidates {
        assert_eq!(candidate["scores"].as_array().unwrap().len(), 4);
        assert!(candidate["loss"]["standard_error"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(record["chosen_rank"], 1);
    let json: Value =
        serde_json::from_slice(&fs::read(folder.join("sweep.json")).unwrap()).unwrap();
    assert_eq!(json, record);
    assert_eq!(record["format"], 2);
    assert_eq!(record["judging"], json!({"folds": {"count": 4, "seed": 0}}));
    assert_eq!(record["images"], json!({"train": [48, 48], "left_out": 0}));
    let store = &record["stores"][0];
    assert_eq!(store["views"], json!(["identity"]));
    let provenance = &store["provenance"];
    assert_eq!(
        provenance["backbone_digest"],
        Digest::of(b"made up").to_string()
    );
    assert!(provenance["features_computed_by"].is_string());
    assert_eq!(
        record["versions"]["head-trainer"],
        env!("CARGO_PKG_VERSION")
    );
    let mut csv = csv::Reader::from_path(folder.join("sweep.csv")).unwrap();
    let header = csv.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|h| h == name).unwrap();
    let rows: Vec<csv::StringRecord> = csv.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 7);
    for (name, value) in [
        ("rank", "1"),
        ("chosen", "true"),
        ("dtype", "f32"),
        ("views", "identity"),
        ("solver", "lbfgs"),
        ("class_weight", "none"),
        ("batch_size", ""),
        ("max_iterations", "1000"),
        ("failure", ""),
    ] {
        assert_eq!(&rows[0][column(name)], value, "{name}");
    }
    // The penalties span six decades, both ends as they were written.
    let mut penalties: Vec<f64> = candidates.iter().map(l2).collect();
    penalties.sort_by(f64::total_cmp);
    assert_eq!((penalties[0], penalties[6]), (1e-3, 1e3));
}

#[test]
fn threads_change_no_number() {
    let (data, _) = made_up();
    let scores = |threads: &str| {
        let args = [
            "--l2",
            "0.01,0.1",
            "--solver",
            "lbfgs,adam",
            "--threads",
            threads,
        ];
        let (mut record, _) = record(data.path(), &args);
        for candidate in record["candidates"].as_array_mut().unwrap() {
            candidate["secs"] = 0.into();
        }
        record["candidates"].clone()
    };
    assert_eq!(scores("1"), scores("3"));
}

#[test]
fn one_standard_error_prefers_the_stronger_penalty() {
    let (data, _) = made_up();
    let args = ["--l2", "1e-4..1:9"];
    let (best, _) = record(data.path(), &args);
    let (simple, _) = record(
        data.path(),
        &[&args[..], &["--one-standard-error"]].concat(),
    );
    let chosen = |record: &Value| {
        let rank = record["chosen_rank"].as_u64().unwrap() as usize;
        record["candidates"][rank - 1].clone()
    };
    let (best, simple) = (chosen(&best), chosen(&simple));
    assert!(l2(&simple) > l2(&best), "{simple} {best}");
    let within = |c: &Value| c["loss"]["mean"].as_f64().unwrap();
    let error = best["loss"]["standard_error"].as_f64().unwrap();
    assert!(within(&simple) <= within(&best) + error);
}

#[test]
fn adam_with_seeds_and_a_run_of_the_best() {
    let (data, _) = made_up();
    let data = data.path();
    let args = [
        "--solver",
        "adam",
        "--epochs",
        "2,30",
        "--learning-rate",
        "0.001,0.05",
        "--seeds",
        "3",
        "--seed",
        "5",
        "--by",
        "accuracy",
        "--train",
    ];
    let (record, folder) = record(data, &args);
    let written = fs::read(folder.join("sweep.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&written).unwrap(), record);
    let candidates = record["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 4);
    assert_eq!(record["judged_on"], "the validation side, 3 seeds from 5");
    let run = record["run"]["folder"].as_str().unwrap();
    let trained: Value =
        serde_json::from_slice(&fs::read(Path::new(run).join("run.json")).unwrap()).unwrap();
    assert_eq!(trained["key"]["config"], candidates[0]["config"]);
    // The run has the sweep's first seed: its validation accuracy is that score.
    assert_eq!(
        trained["metrics"]["validation"]["accuracy"],
        candidates[0]["scores"][0]["accuracy"]
    );
}

#[test]
fn a_candidate_that_diverges_does_not_end_the_sweep() {
    let (data, _) = made_up();
    let data = data.path();
    let adam = ["--solver", "adam", "--learning-rate"];
    let args = [&adam[..], &["2e38,0.01,3e38", "--top", "1"]].concat();
    let (both, folder) = record(data, &args);
    let candidates = both["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 3);
    assert_eq!(candidates[0]["rank"], 1);
    for failed in &candidates[1..] {
        assert_eq!(failed["rank"], Value::Null);
        assert!(failed["failure"].as_str().unwrap().starts_with("part 1: "));
        assert_eq!(failed.get("loss"), None);
    }
    let csv = fs::read_to_string(folder.join("sweep.csv")).unwrap();
    assert_eq!(
        csv.lines().filter(|line| line.contains("part 1: ")).count(),
        2
    );
    sweep(data, &args)
        .code(0)
        .stdout(
            contains("  failed: part 1: ")
                .count(1)
                .and(contains("... 1 more in sweep.csv")),
        )
        .stderr(contains("2 candidates failed, the first on part 1: "));
    sweep(data, &[&adam[..], &["3e38"]].concat())
        .code(1)
        .stderr(contains("every candidate failed, the first on part 1: "));
}

#[test]
fn a_signal_leaves_nothing_half_done() {
    let (data, _) = made_up();
    let data = data.path();
    let mut child = Command::new(env!("CARGO_BIN_EXE_head-trainer"))
        .args(["sweep", "--solver", "adam", "--epochs", "20", "--train"])
        .args([
            "--learning-rate",
            "1e-5..1e-1:10000",
            "--folds",
            "90",
            "--index",
        ])
        .arg(data.join("indexes/made-up.arrow"))
        .env("HEADSTART_DATA_DIR", data)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let count = |of: &str| fs::read_dir(data.join(of)).map_or(0, Iterator::count);
    while count("sweeps") == 0 {
        assert_eq!(child.try_wait().unwrap(), None, "it ends by itself");
        std::thread::sleep(Duration::from_millis(5));
    }
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!((count("sweeps"), count("runs")), (0, 0));
}

#[test]
fn what_makes_no_sense_is_refused_before_features_are_read() {
    let (data, _) = made_up();
    for (args, message) in [
        (&["--epochs", "3"][..], "--epochs needs --solver adam"),
        (&["--seeds", "3"], "--seeds needs --solver adam alone"),
        (&["--l2", "-1"], "l2 is -1"),
        (&["--all-stores", "--dtype", "f16"], "no feature store"),
        (&["--folds", "97"], "fewer --folds"),
        (&["--class-weight", "1,2,3"], "one for each class"),
        (
            &["--solver", "adam", "--seeds", "1", "--one-standard-error"],
            "--seeds 1 has none",
        ),
    ] {
        sweep(data.path(), args).code(1).stderr(contains(message));
    }
    let leftovers = fs::read_dir(data.path().join("sweeps")).unwrap().count();
    assert_eq!(leftovers, 0);
    for args in [&["--l2", "1..2"][..], &["--folds", "1"], &["--runs", "x"]] {
        sweep(data.path(), args).code(2);
    }
    head_trainer(data.path())
        .arg("sweep")
        .assert()
        .code(1)
        .stderr(contains("no data set is named"));
}
