//! `head-trainer sweep`: which stores are compared, on which images, and the command that trains
//! the chosen head.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::sweeps::{l2, made_up, record, sweep};
use common::{MadeUp, SHAPE, made_up_store};
use extractor::digest::Digest;
use extractor::store::writer::SHARD_BYTES;
use extractor::store::{Dtype, IDENTITY, Rejected, ShardWriter, rejected};
use head_trainer::dataset::{Dataset, SplitSource, WantedViews};
use head_trainer::solver::lbfgs::Lbfgs;
use head_trainer::solver::{FitConfig, MinimumConfig, SolverConfig};
use head_trainer::split::Side;
use head_trainer::sweep::folds::{Parts, TrainSide, folds};
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use serde_json::{Value, json};

/// The newest run below `data`: `run.json`, and the bytes of the head.
fn newest_run(data: &Path) -> (Value, Vec<u8>) {
    let folders = fs::read_dir(data.join("runs")).unwrap();
    let time = |folder: &PathBuf| {
        fs::metadata(folder.join("run.json"))
            .unwrap()
            .modified()
            .unwrap()
    };
    let folder = folders.map(|f| f.unwrap().path()).max_by_key(time).unwrap();
    let json = fs::read(folder.join("run.json")).unwrap();
    let head = fs::read(folder.join("head.safetensors")).unwrap();
    (serde_json::from_slice(&json).unwrap(), head)
}

#[test]
fn the_line_that_is_printed_trains_the_chosen_head() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().join("it's a folder");
    let made_up = MadeUp::new(&["Cat", "Dog"], 40);
    made_up.write_index(&data);
    let all: Vec<usize> = (0..80).collect();
    let views = [IDENTITY, "hflip", "crop-1", "crop-2"];
    made_up.write_views(&data, &all, &views, Dtype::F32);
    made_up.write_rows(&data, &all, Dtype::F16);
    let mut split = "path,split\n".to_owned();
    for (i, entry) in made_up.entries.iter().enumerate() {
        let path = String::from_utf8(entry.path.clone()).unwrap();
        split += &format!("{path},{}\n", ["train", "train", "val", "test"][i % 4]);
    }
    let split_file = data.join("my split.csv");
    fs::write(&split_file, split).unwrap();
    let split_file = split_file.to_str().unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_head-trainer"));
    let path = std::env::join_paths(
        [binary.parent().unwrap().to_owned()]
            .into_iter()
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    )
    .unwrap();
    for args in [
        &["--dtype", "f16", "--l2", "1e-5..10:5"][..],
        &["--all-stores", "--l2", "0.03,3", "--one-standard-error"],
        &[
            "--views",
            "identity,crop:2",
            "--l2",
            "0.1,1",
            "--standardize",
            "--class-weight",
            "1,2.5",
        ],
        &[
            "--views",
            "hflip",
            "--l2",
            "1",
            "--max-iterations",
            "5",
            "--gradient-tolerance",
            "1e-7",
        ],
        &["--solver", "linfa", "--dtype", "f16", "--l2", "0.3"],
        &["--split", split_file, "--dtype", "f16", "--l2", "1e-3,1e3"],
        &[
            "--solver",
            "adam",
            "--seeds",
            "2",
            "--seed",
            "9",
            "--epochs",
            "2,3",
            "--learning-rate",
            "0.003,0.01",
            "--l2",
            "0,1e-7",
            "--batch-size",
            "16",
            "--class-weight",
            "balanced",
            "--split-seed",
            "4",
            "--resplit",
        ],
    ] {
        let assert = sweep(&data, args).code(0);
        let text = String::from_utf8(assert.get_output().stdout.clone()).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("train it   "));
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(line.unwrap()).env("PATH", &path);
        shell.env_remove("HEADSTART_DATA_DIR");
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{line:?} {output:?}");
        let (run, head) = newest_run(&data);

        let args: Vec<&str> = args.iter().copied().filter(|a| *a != "--resplit").collect();
        let (again, _) = record(&data, &[&args[..], &["--train"]].concat());
        assert_eq!(again["train_command"].as_str(), line);
        let rank = again["chosen_rank"].as_u64().unwrap() as usize;
        let chosen = &again["candidates"][rank - 1];
        assert_eq!(run["key"]["config"], chosen["config"], "{line:?}");
        assert_eq!(run["key"]["store_key"], chosen["store_key"]);
        assert_eq!(run["key"]["split"], again["split_digest"]);
        assert_eq!(run["key"]["index"], again["index_digest"]);
        let (by_sweep, head_by_sweep) = newest_run(&data);
        assert_eq!(run["digest"], by_sweep["digest"], "{line:?}");
        assert_eq!(run["metrics"], by_sweep["metrics"]);
        assert_eq!(head, head_by_sweep);
    }
}

#[test]
fn heads_are_judged_by_the_images_as_they_are() {
    let data = tempfile::tempdir().unwrap();
    let made_up = MadeUp::new(&["Cat", "Dog"], 30);
    let index = made_up.write_index(data.path());
    let all: Vec<usize> = (0..60).collect();
    let store = made_up.write_views(data.path(), &all, &[IDENTITY, "hflip"], Dtype::F32);
    let (record, _) = record(
        data.path(),
        &["--views", "hflip", "--l2", "0.5", "--folds", "3"],
    );
    let split = SplitSource::Given(index.with_extension("split.csv"));
    let views = WantedViews::Only("hflip".parse().unwrap());
    let dataset = Dataset::load(&store, &index, &split, &views).unwrap();
    let side = TrainSide {
        images: dataset.rows_on(Side::Train),
        rows: dataset.train_rows().to_vec(),
        starts: dataset.train_starts().to_vec(),
    };
    assert!(side.rows.iter().all(|row| !side.images.contains(row)));
    let of_images = |i: &u32| (dataset.ids[*i as usize], dataset.labels_n[*i as usize]);
    let (ids, labels): (Vec<_>, Vec<_>) = side.images.iter().map(of_images).unzip();
    let parts = Parts::of_folds(side, folds(&ids, &labels, 3, 0), 3).unwrap();
    let sweep_data = head_trainer::sweep::Data {
        rows: dataset.pooled.rows(),
        labels_n: &dataset.labels_n,
        classes: 2,
        parts: &parts,
    };
    let config = FitConfig::new(SolverConfig::Lbfgs(Lbfgs(MinimumConfig {
        l2: 0.5,
        ..MinimumConfig::default()
    })));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let outcomes = head_trainer::sweep::run(sweep_data, &[config], &stop, &|| {}).unwrap();
    let scored = outcomes[0].result.as_ref().unwrap();
    assert_eq!(record["candidates"][0]["scores"], json!(scored.scores));
}

#[test]
fn stores_are_compared_on_the_images_that_all_have() {
    let (data, made_up) = made_up();
    let data = data.path();
    let all: Vec<usize> = (0..made_up.entries.len()).collect();
    let args = ["--l2", "0.1,1", "--dtype", "f32"];
    let (alone, _) = record(data, &args);
    let sides = fs::read_to_string(data.join("indexes/made-up.split.csv")).unwrap();
    let is_train = |i: &usize| {
        let id = made_up.entries[*i].id.to_string();
        sides
            .lines()
            .any(|line| line.starts_with(&id) && line.ends_with(",train"))
    };
    let broken = *all.iter().find(|i| is_train(i)).unwrap();
    let others: Vec<usize> = all.iter().copied().filter(|i| *i != broken).collect();
    let halves = made_up.write_rows(data, &others, Dtype::F16);
    let cut = Rejected {
        id: made_up.entries[broken].id,
        view: None,
        reason: "cut".to_owned(),
        retry: false,
    };
    rejected::write(&halves, &[cut]).unwrap();

    let args = ["--l2", "0.1,1", "--all-stores"];
    sweep(data, &args)
        .code(0)
        .stderr(contains("1 image that some stores lack").and(contains("on the 95 that all have")))
        .stdout(contains("backbone  preset  dtype"));
    let (both, _) = record(data, &args);
    assert_eq!(both["images"]["left_out"], 1);
    let trained = both["images"]["train"].as_array().unwrap();
    assert_eq!(trained.iter().map(|n| n.as_u64().unwrap()).sum::<u64>(), 95);
    let candidates = both["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 4);
    let losses = |record: &Value, dtype: &str| {
        let candidates = record["candidates"].as_array().unwrap().iter();
        let of_store = candidates.filter(|c| c["dtype"] == dtype && l2(c) == 1.0);
        let scores = of_store.flat_map(|c| c["scores"].as_array().unwrap().clone());
        let losses = scores.map(|s| s["loss"].as_f64().unwrap());
        losses.collect::<Vec<f64>>()
    };
    let (f32s, f16s) = (losses(&both, "f32"), losses(&both, "f16"));
    assert_eq!(f32s.len(), 5);
    // The same images in the same folds: nothing but rounding is between the stores.
    for (a, b) in f32s.iter().zip(&f16s) {
        assert!((a - b).abs() < 1e-3, "{f32s:?} {f16s:?}");
    }
    let far = f32s.iter().zip(losses(&alone, "f32"));
    assert!(far.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) > 1e-3);
}

#[test]
fn a_store_that_lacks_images_is_passed_over() {
    let (data, made_up) = made_up();
    let data = data.path();
    let some: Vec<usize> = (0..100).collect();
    let halves = made_up.write_rows(data, &some, Dtype::F16);
    let args = ["--l2", "0.1,1", "--all-stores"];
    let assert = sweep(data, &args).code(0);
    let warned = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(warned.contains("passed over: 20 of 120 images"), "{warned}");
    assert!(warned.contains(halves.to_str().unwrap()), "{warned}");
    let (record, _) = record(data, &args);
    assert_eq!(record["candidates"].as_array().unwrap().len(), 2);
    assert_eq!(record["passed_over"][0]["store"], halves.to_str().unwrap());
    sweep(data, &["--l2", "1", "--dtype", "f16"]).code(1);
    sweep(data, &["--l2", "1", "--dtype", "f16", "--all-stores"])
        .code(1)
        .stderr(contains(
            "none of the feature stores can be used: 20 of 120",
        ));
}

#[test]
fn all_stores_are_checked_before_the_first_training() {
    let (data, made_up) = made_up();
    let data = data.path();
    let (json, provenance) = made_up_store(Dtype::F16);
    let folder = extractor::store::key::create(&data.join("features"), &json).unwrap();
    let mut writer = ShardWriter::new(&folder, &json.key, &provenance, SHAPE, SHARD_BYTES);
    for (i, entry) in made_up.entries.iter().enumerate() {
        let map = match i % 7 {
            3 => vec![f32::INFINITY; SHAPE.len()],
            _ => made_up.map(i, IDENTITY),
        };
        writer.write(&[(entry.id, IDENTITY)], map).unwrap();
    }
    writer.finish().unwrap();
    // So long that it would not end, if it began.
    let args = ["--solver", "adam", "--epochs", "1000000", "--all-stores"];
    sweep(data, &args)
        .code(1)
        .stderr(contains(format!("cannot sweep over {}", folder.display())));
    let left = fs::read_dir(data.join("sweeps")).unwrap().count();
    assert_eq!(left, 0);
}

/// Looks at the process from outside: at most one store is mapped. One look may see both sides of a
/// change; two in a row do not.
#[cfg(target_os = "linux")]
#[test]
fn one_store_at_a_time_is_mapped() {
    use std::collections::BTreeSet;
    use std::process::Stdio;

    let (data, made_up) = made_up();
    let data = data.path();
    for number in 0..4_u8 {
        let (mut json, provenance) = made_up_store(Dtype::F32);
        json.key.backbone = Digest::of(&[number]);
        let folder = extractor::store::key::create(&data.join("features"), &json).unwrap();
        let mut writer = ShardWriter::new(&folder, &json.key, &provenance, SHAPE, SHARD_BYTES);
        for (i, entry) in made_up.entries.iter().enumerate() {
            let rows = [(entry.id, IDENTITY)];
            writer.write(&rows, made_up.map(i, IDENTITY)).unwrap();
        }
        writer.finish().unwrap();
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_head-trainer"))
        .args([
            "sweep",
            "--all-stores",
            "--solver",
            "adam",
            "--epochs",
            "10000",
            "--index",
        ])
        .arg(data.join("indexes/made-up.arrow"))
        .env("HEADSTART_DATA_DIR", data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut seen, mut before) = (BTreeSet::new(), 0);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        // Empty once the process has ended.
        let maps = fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap_or_default();
        let sidecars = maps.lines().filter(|line| line.ends_with(".pooled"));
        let paths = sidecars.filter_map(|line| line.split_whitespace().last());
        let stores: BTreeSet<PathBuf> = paths
            .map(|p| Path::new(p).parent().unwrap().to_owned())
            .collect();
        assert!(stores.len().min(before) <= 1, "{stores:?}");
        before = stores.len();
        seen.extend(stores);
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    assert!(status.success());
    assert!(seen.len() > 1, "nothing was looked at: {seen:?}");
}
