//! `head-trainer runs` and `train --repeat`: the built binary on stores of known numbers.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{MadeUp, head_trainer, record, train};
use extractor::store::Dtype;
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::{contains, starts_with};
use serde_json::Value;

/// `head-trainer runs ARGS`.
fn runs(data: &Path, args: &[&str]) -> assert_cmd::assert::Assert {
    head_trainer(data).arg("runs").args(args).assert()
}

fn json(data: &Path, args: &[&str]) -> Value {
    let assert = runs(data, &[args, &["--json"]].concat()).code(0);
    serde_json::from_slice(&assert.get_output().stdout).unwrap()
}

fn made_up(images: u64) -> (tempfile::TempDir, MadeUp) {
    let data = tempfile::tempdir().unwrap();
    let made_up = MadeUp::new(&["Cat", "Dog"], images);
    made_up.write(data.path());
    (data, made_up)
}

fn name(run: &Path) -> &str {
    run.file_name().unwrap().to_str().unwrap()
}

/// The runs of a JSON answer, in order.
fn folders(answer: &Value) -> Vec<PathBuf> {
    let runs = answer.as_array().unwrap().iter();
    runs.map(|run| PathBuf::from(run["run"].as_str().unwrap()))
        .collect()
}

#[test]
fn runs_are_listed_and_the_best_is_found() {
    let (data, _) = made_up(100);
    let data = data.path();
    runs(data, &["list"]).code(0).stdout(contains("no runs in"));
    runs(data, &["best"])
        .code(1)
        .stderr(contains("no run with a validation side"));
    let (_, weak) = record(data, &["--epochs", "1", "--learning-rate", "0.00001"]);
    let (_, strong) = record(data, &["--epochs", "200", "--learning-rate", "0.01"]);
    let (_, middle) = record(data, &["--solver", "lbfgs", "--standardize", "--l2", "1"]);
    runs(data, &["list"])
        .code(0)
        .stdout(starts_with("run "))
        .stdout(contains(
            "adam epochs=1 learning_rate=0.00001  made-up   unit    identity",
        ))
        .stdout(contains("lbfgs l2=1.0 standardize"))
        .stdout(contains("val acc").and(contains("test acc").not()))
        .stdout(contains("different index/split").not());
    runs(data, &["list", "--test"])
        .code(0)
        .stdout(contains("test acc"));

    // Within a second the names decide.
    let mut by_time = vec![weak.clone(), strong.clone(), middle.clone()];
    by_time.sort_by_key(|folder| {
        let record = fs::read(Path::new(folder).join("run.json")).unwrap();
        let record: Value = serde_json::from_slice(&record).unwrap();
        (record["created_utc"].to_string(), folder.clone())
    });
    let listed = json(data, &["list"]);
    assert_eq!(folders(&listed["runs"]), by_time);
    assert_eq!(listed["runs"][0]["metrics"].get("test"), None);
    let loss = |run: &Value| run["metrics"]["validation"]["loss"].as_f64().unwrap();
    let sorted = json(data, &["list", "--sort", "val-loss"]);
    let sorted = sorted["runs"].as_array().unwrap();
    assert!(sorted.is_sorted_by(|a, b| loss(a) >= loss(b)));
    let best = json(data, &["best", "--by", "val-loss"]);
    assert_eq!(best["best"][0]["run"], sorted[2]["run"]);
    assert_eq!(best["best"][0]["among"], 3);
    let accurate = json(data, &["list", "--sort", "val-accuracy"]);
    let best = json(data, &["best"]);
    assert_eq!(best["best"][0]["run"], accurate["runs"][2]["run"]);
    assert_ne!(best["best"][0]["run"], weak.to_str().unwrap());
    runs(data, &["best"])
        .code(0)
        .stdout(starts_with("best of    3 runs on index "));
    runs(data, &["list", "--sort", "test-loss"]).code(2);
    train(data, &["--protocol", "tutorial", "--steps-per-epoch", "9"]).code(0);
    runs(data, &["list"])
        .code(0)
        .stdout(contains("adam tutorial steps_per_epoch=9  "));
}

#[test]
fn runs_on_different_data_are_kept_apart() {
    let (data, mut made_up) = made_up(50);
    let data = data.path();
    let (_, first) = record(data, &[]);
    let (_, second) = record(data, &["--seed", "1"]);
    made_up.entries[0].path = b"Cat/renamed.jpg".to_vec();
    let index = made_up.write_index(data);
    let (other, third) = record(data, &[]);
    let note = "2 different index/split";
    runs(data, &["list"]).code(0).stdout(contains(note));
    let best = runs(data, &["best"]).code(0).stderr(contains(note));
    let stdout = String::from_utf8_lossy(&best.get_output().stdout).into_owned();
    assert_eq!(stdout.matches("best of ").count(), 2, "{stdout}");
    let of_index = |index: &str| folders(&json(data, &["list", "--index", index])["runs"]);
    let digest = other["key"]["index"].as_str().unwrap();
    assert_eq!(of_index(&digest[..9]), std::slice::from_ref(&third));
    assert_eq!(
        of_index(index.to_str().unwrap()),
        std::slice::from_ref(&third)
    );
    assert!(of_index("fffffffffff").is_empty());
    runs(data, &["list", "--index", "nowhere.arrow"])
        .code(1)
        .stderr(contains("neither"));
    let like = json(data, &["list", "--like", name(&first)]);
    let mut expected = [first.clone(), second];
    expected.sort();
    assert_eq!(folders(&like["runs"]), expected);
    runs(data, &["best", "--like", name(&first)])
        .code(0)
        .stderr("")
        .stdout(starts_with("best of    2 runs"));
    runs(data, &["diff", name(&first), name(&third)])
        .code(0)
        .stderr(contains("on different index/split"))
        .stdout(contains("key.index"));
}

#[test]
fn a_run_is_meant_by_folder_name_or_beginning() {
    let (data, _) = made_up(20);
    let data = data.path();
    let (first, folder) = record(data, &[]);
    let digest = first["digest"].as_str().unwrap();
    let time = name(&folder).split('-').next().unwrap();
    let whole = [
        folder.to_str().unwrap(),
        name(&folder),
        time,
        &digest[..5],
        digest,
    ];
    for wanted in whole {
        assert_eq!(
            json(data, &["show", wanted])["run"],
            folder.to_str().unwrap(),
            "{wanted}"
        );
    }
    let (_, again) = record(data, &[]);
    runs(data, &["show", digest])
        .code(1)
        .stderr(contains(format!("several runs are {digest}: ")).and(contains(name(&again))));
    // A whole name is meant even where another one begins with it.
    assert_eq!(
        json(data, &["show", name(&folder)])["run"],
        folder.to_str().unwrap()
    );
    runs(data, &["show", "nothing"])
        .code(1)
        .stderr(contains("no run is nothing, in "));

    // Elsewhere, by --runs; before or after the verb.
    let there = data.join("runs");
    let there = there.to_str().unwrap();
    let empty = data.join("empty");
    runs(&empty, &["show", name(&folder)]).code(1);
    runs(&empty, &["show", name(&folder), "--runs", there]).code(0);
    runs(&empty, &["--runs", there, "show", name(&folder)]).code(0);
}

#[test]
fn a_run_is_shown_whole() {
    let (data, _) = made_up(50);
    let (shown, folder) = record(data.path(), &["--epochs", "3"]);
    runs(data.path(), &["show", name(&folder)])
        .code(0)
        .stdout(starts_with(format!("run      {}\n", folder.display())))
        .stdout(contains(shown["digest"].as_str().unwrap()))
        .stdout(contains("key.config.solver.adam.epochs").and(contains("places.store")))
        .stdout(contains("    3/3  "))
        .stdout(contains("metrics.test.confusion.1"))
        .stdout(contains("versions.head-trainer"));
    assert_eq!(json(data.path(), &["show", name(&folder)])["record"], shown);
}

#[test]
fn only_what_differs_is_told() {
    let (data, _) = made_up(50);
    let data = data.path();
    let (_, a) = record(data, &[]);
    let (_, b) = record(data, &["--seed", "1", "--epochs", "9"]);
    let (_, same) = record(data, &[]);
    let (a, b, same) = (
        a.to_str().unwrap(),
        b.to_str().unwrap(),
        same.to_str().unwrap(),
    );
    let diff = json(data, &["diff", a, b]);
    let made_of: Vec<&String> = diff["made_of"].as_object().unwrap().keys().collect();
    assert_eq!(
        made_of,
        [
            "key.config.solver.adam.epochs",
            "key.config.solver.adam.seed"
        ]
    );
    assert_eq!(
        diff["made_of"]["key.config.solver.adam.epochs"],
        serde_json::json!([7, 9])
    );
    assert_eq!(diff["same_head"], false);
    let results = diff["results"].as_object().unwrap();
    assert!(results.contains_key("metrics.validation.loss"));
    assert!(
        !results
            .keys()
            .any(|field| field.starts_with("metrics.test"))
    );
    runs(data, &["diff", a, b])
        .code(0)
        .stderr("")
        .stdout(contains("key.config.solver.adam.seed    0  1"))
        .stdout(contains("metrics.train.loss"))
        .stdout(contains("metrics.test").not());
    runs(data, &["diff", "--test", a, b])
        .code(0)
        .stdout(contains("metrics.test.loss"));
    runs(data, &["diff", a, same]).code(0).stdout(contains(
        "made of the same\n\nthe heads are the same, bit for bit\n",
    ));
    // Solvers have other settings each; what one run lacks is a dash.
    let (_, lbfgs) = record(data, &["--solver", "lbfgs"]);
    runs(data, &["diff", a, lbfgs.to_str().unwrap()])
        .code(0)
        .stdout(contains("key.config.solver.lbfgs.l2"))
        .stdout(contains("convergence.converged"));
}

#[test]
fn a_bad_record_is_named_and_passed_over() {
    let (data, _) = made_up(20);
    let data = data.path();
    let (_, good) = record(data, &[]);
    for (name, text) in [("bad", "{"), ("future", r#"{"format": 9}"#)] {
        let folder = data.join("runs").join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("run.json"), text).unwrap();
    }
    fs::create_dir(data.join("runs/.draft-x")).unwrap();
    for verb in ["list", "best"] {
        runs(data, &[verb])
            .code(0)
            .stdout(contains(name(&good)))
            .stderr(contains("bad/run.json is no record of a run").and(contains("has format 9")));
    }
    runs(data, &["show", "future"])
        .code(1)
        .stderr(contains("has format 9, expected"));
}

/// `head-trainer train --repeat RUN ARGS`.
fn repeat(data: &Path, run: &Path, args: &[&str]) -> assert_cmd::assert::Assert {
    let mut command = head_trainer(data);
    command
        .args(["train", "--repeat"])
        .arg(run)
        .args(args)
        .assert()
}

#[test]
fn a_repeated_run_gives_the_same_bits() {
    let (data, made_up) = made_up(50);
    let data = data.path();
    let all: Vec<usize> = (0..made_up.entries.len()).collect();
    made_up.write_views(data, &all, &["hflip", "crop-1"], Dtype::F32);
    let head = |run: &Path| fs::read(run.join("head.safetensors")).unwrap();
    for args in [
        &["--seed", "5", "--epochs", "3", "--split-seed", "3"][..],
        &[
            "--protocol",
            "tutorial",
            "--steps-per-epoch",
            "9",
            "--views",
            "identity",
        ],
        &["--solver", "lbfgs", "--standardize"],
        &["--solver", "linfa", "--views", "identity,hflip"],
    ] {
        let (old, old_folder) = record(data, args);
        let assert = repeat(data, &old_folder, &["--json", "--threads", "1"]).code(0);
        let value: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
        let folder = PathBuf::from(value["run"].as_str().unwrap());
        assert_ne!(folder, old_folder);
        assert!(head(&folder) == head(&old_folder), "{args:?}");
        assert_eq!(value["repeats"]["same_head"], true);
        assert_eq!(value["repeats"]["run"], old_folder.to_str().unwrap());
        for field in ["digest", "key", "metrics", "counts", "split_plan", "places"] {
            assert_eq!(value["record"][field], old[field], "{field}");
        }
        let steps = |run: &Path| fs::read(run.join("steps.csv")).unwrap();
        assert!(steps(&folder) == steps(&old_folder));
        repeat(data, Path::new(name(&folder)), &[])
            .code(0)
            .stdout(contains("the head is the same, bit for bit"));
    }
}

#[test]
fn what_has_changed_is_named_before_a_run_is_repeated() {
    let (data, mut made_up) = made_up(50);
    let data = data.path();
    let (_, run) = record(data, &[]);
    let split = data.join("indexes/made-up.split.csv");
    let index = data.join("indexes/made-up.arrow");
    let kept = (fs::read(&split).unwrap(), fs::read(&index).unwrap());
    let count = || fs::read_dir(data.join("runs")).unwrap().count();
    let before = count();

    let text = String::from_utf8(kept.0.clone()).unwrap();
    fs::write(&split, text.replacen(",train", ",test", 1)).unwrap();
    repeat(data, &run, &[]).code(1).stderr(
        contains("cannot repeat ")
            .and(contains("the split "))
            .and(contains("the index ").not()),
    );
    // Names all that has changed, and writes no split.
    made_up.add(Some(0));
    made_up.write_index(data);
    let changed = fs::read(&split).unwrap();
    repeat(data, &run, &[]).code(1).stderr(
        contains("the index ")
            .and(contains("the split "))
            .and(contains("it had ")),
    );
    assert_eq!(fs::read(&split).unwrap(), changed);
    fs::remove_file(&split).unwrap();
    repeat(data, &run, &[])
        .code(1)
        .stderr(contains("its split ").and(contains("with --split")));
    assert!(!split.exists());
    assert_eq!(count(), before);

    // Things may lie elsewhere; another store is not the run's.
    let (there, store) = (data.join("there"), data.join("features"));
    fs::create_dir(&there).unwrap();
    fs::write(there.join("a.csv"), &kept.0).unwrap();
    fs::write(there.join("b.arrow"), &kept.1).unwrap();
    fs::rename(&store, there.join("stores")).unwrap();
    let path = |name: &str| there.join(name).to_str().unwrap().to_owned();
    let (a, b, stores) = (path("a.csv"), path("b.arrow"), path("stores"));
    let places = ["--split", &a, "--index", &b];
    repeat(data, &run, &places)
        .code(1)
        .stderr(contains("its feature store "));
    let places = [&places[..], &["--store", &stores]].concat();
    repeat(data, &run, &places)
        .code(0)
        .stdout(contains("bit for bit"));
    let all: Vec<usize> = (0..100).collect();
    let other = made_up.write_rows(data, &all, Dtype::F16);
    let places = [
        "--split",
        &a,
        "--index",
        &b,
        "--store",
        other.to_str().unwrap(),
    ];
    repeat(data, &run, &places)
        .code(1)
        .stderr(contains("the feature store "));

    // Whatever changes a result is the run's own.
    for flag in [
        &["--seed", "1"][..],
        &["--solver", "lbfgs"],
        &["--views", "all"],
        &["--resplit"],
    ] {
        repeat(data, &run, flag).code(2);
    }
    repeat(data, Path::new("nothing"), &[])
        .code(1)
        .stderr(contains("no run is nothing"));
}

#[test]
fn another_head_is_not_passed_off_as_the_same() {
    let (data, _) = made_up(50);
    let data = data.path();
    let (_, run) = record(data, &[]);
    let head = run.join("head.safetensors");
    let mut bytes = fs::read(&head).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&head, bytes).unwrap();
    repeat(data, &run, &[])
        .code(1)
        .stdout(contains("the head is another"))
        .stderr(contains("bit for bit (hint: head-trainer runs diff"));
    fs::remove_file(&head).unwrap();
    repeat(data, &run, &[]).code(0).stderr(contains(
        "has no model that this one could be compared with",
    ));
}

#[test]
fn event_files_lie_where_tensorboard_looks() {
    let (data, _) = made_up(20);
    let (_, run) = record(data.path(), &[]);
    for side in ["train", "validation"] {
        let files: Vec<_> = fs::read_dir(run.join(side)).unwrap().collect();
        let [Ok(file)] = &files[..] else {
            panic!("one event file in {side}");
        };
        let name = file.file_name().into_string().unwrap();
        assert!(name.starts_with("events.out.tfevents.") && name.ends_with(".headstart.v2"));
    }
}
