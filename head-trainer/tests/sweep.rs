//! `head-trainer sweep`: the built binary on stores of known numbers.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{MadeUp, head_trainer};
use extractor::store::Dtype;
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use serde_json::Value;

fn made_up() -> (tempfile::TempDir, MadeUp) {
    let data = tempfile::tempdir().unwrap();
    let made_up = MadeUp::new(&["Cat", "Dog"], 60);
    made_up.write(data.path());
    (data, made_up)
}

fn sweep(data: &Path, args: &[&str]) -> assert_cmd::assert::Assert {
    let mut command = head_trainer(data);
    command
        .args(["sweep", "--index"])
        .arg(data.join("indexes/made-up.arrow"))
        .args(args);
    command.assert()
}

/// The record of a sweep that succeeds, and its folder.
fn record(data: &Path, args: &[&str]) -> (Value, PathBuf) {
    let assert = sweep(data, &[args, &["--json"]].concat()).code(0);
    let result: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    let folder = PathBuf::from(result["sweep"].as_str().unwrap());
    (result["record"].clone(), folder)
}

fn l2(candidate: &Value) -> f64 {
    candidate["config"]["solver"]["lbfgs"]["l2"]
        .as_f64()
        .unwrap()
}

#[test]
fn penalties_are_ranked_and_written() {
    let (data, _) = made_up();
    let data = data.path();
    let args = ["--l2", "1e-3..1e3:7", "--folds", "4"];
    sweep(data, &args)
        .code(0)
        .stdout(contains("rank  solver"))
        .stdout(contains("chosen").and(contains("4 folds of the training side")))
        .stdout(contains(
            "train it   head-trainer train ... --solver lbfgs --l2 ",
        ));
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
    let mut csv = csv::Reader::from_path(folder.join("sweep.csv")).unwrap();
    let rows: Vec<csv::StringRecord> = csv.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 7);
    assert_eq!(
        (&rows[0][0], &rows[0][1], &rows[0][4]),
        ("1", "true", "lbfgs")
    );
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
fn stores_are_compared() {
    let (data, made_up) = made_up();
    let all: Vec<usize> = (0..made_up.entries.len()).collect();
    made_up.write_rows(data.path(), &all, Dtype::F16);
    let (record, _) = record(data.path(), &["--l2", "0.1,1", "--all-stores"]);
    let candidates = record["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 4);
    let mut stores: Vec<&str> = candidates
        .iter()
        .map(|c| c["store"].as_str().unwrap())
        .collect();
    stores.sort_unstable();
    stores.dedup();
    assert_eq!(stores.len(), 2);
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
    ] {
        sweep(data.path(), args).code(1).stderr(contains(message));
    }
    for args in [&["--l2", "1..2"][..], &["--folds", "1"], &["--runs", "x"]] {
        sweep(data.path(), args).code(2);
    }
    head_trainer(data.path())
        .arg("sweep")
        .assert()
        .code(1)
        .stderr(contains("no data set is named"));
}
