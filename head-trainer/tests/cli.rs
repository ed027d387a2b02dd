//! The built binary, as a user runs it, on stores of known numbers.

mod common;

use std::fs;

use common::{MadeUp, record, train};
use extractor::store::Dtype;
use predicates::str::contains;
use serde_json::Value;

#[test]
fn a_run_is_reported_and_recorded() {
    let data = tempfile::tempdir().unwrap();
    MadeUp::new(&["Cat", "Dog"], 100).write(data.path());
    train(data.path(), &[])
        .code(0)
        .stdout(contains(
            "train 160, validation 20, test 20 (Cat = 0, Dog = 1)",
        ))
        .stdout(contains("6 trainable parameters"))
        .stdout(contains("7/7"))
        .stdout(contains("test       accuracy"))
        .stdout(contains("The backbone is untrained"));
    let (record, folder) = record(data.path(), &["--solver", "linfa", "--l2", "0.01"]);
    assert_eq!(record["trainable_parameters"], 6);
    assert!(
        record["metrics"]["test"]["accuracy"].as_f64().unwrap() >= 0.8,
        "{record}"
    );
    assert_eq!(record["convergence"]["converged"], true);
    for name in ["run.json", "metrics.csv", "steps.csv", "head.safetensors"] {
        assert!(folder.join(name).is_file(), "{name}");
    }
    let head = head_trainer::run::head(&folder).unwrap();
    assert_eq!(
        (head.linear.channels(), head.classes[1].as_str()),
        (5, "Dog")
    );
}

#[test]
fn the_same_seed_gives_the_same_bits_whatever_the_threads() {
    let data = tempfile::tempdir().unwrap();
    MadeUp::new(&["Cat", "Dog"], 100).write(data.path());
    let head = |args: &[&str]| fs::read(record(data.path(), args).1.join("head.safetensors"));
    let first = head(&["--threads", "1"]).unwrap();
    assert!(first == head(&["--threads", "3"]).unwrap());
    assert!(first != head(&["--seed", "1"]).unwrap());
    let tutorial = &["--protocol", "tutorial", "--steps-per-epoch", "9"];
    assert!(head(tutorial).unwrap() == head(tutorial).unwrap());
}

#[test]
fn the_split_is_made_once_and_reused() {
    let data = tempfile::tempdir().unwrap();
    let mut made_up = MadeUp::new(&["Cat", "Dog"], 50);
    made_up.write(data.path());
    let split = data.path().join("indexes/made-up.split.csv");
    let (first, _) = record(data.path(), &["--split-seed", "4"]);
    let file = fs::read(&split).unwrap();
    let (second, _) = record(data.path(), &["--seed", "9"]);
    assert_eq!(first["key"]["split"], second["key"]["split"]);
    assert_eq!(second["split_plan"]["seed"], 4);
    train(data.path(), &["--split-seed", "5"])
        .code(1)
        .stderr(contains(
            "was made with seed 4, now it is 5 (hint: --resplit)",
        ));
    assert_eq!(fs::read(&split).unwrap(), file);
    record(data.path(), &["--split-seed", "5", "--resplit"]);
    let (again, _) = record(data.path(), &["--resplit"]);
    assert_eq!(
        again["split_plan"]["seed"], 5,
        "the plan is kept until another is asked for"
    );
    assert_ne!(fs::read(&split).unwrap(), file);

    // Renaming changes no side; a new image needs --resplit, or threshold mode.
    made_up.entries[0].path = b"Cat/renamed.jpg".to_vec();
    made_up.write_index(data.path());
    record(data.path(), &[]);
    let new = made_up.add(Some(1));
    made_up.write_index(data.path());
    made_up.write_rows(data.path(), &[new], Dtype::F32);
    train(data.path(), &[])
        .code(1)
        .stderr(contains("1 of 101 images are not in split file"));
    let (resplit, _) = record(data.path(), &["--resplit", "--split-mode", "threshold"]);
    let new = made_up.add(Some(0));
    made_up.write_index(data.path());
    made_up.write_rows(data.path(), &[new], Dtype::F32);
    let before = fs::read_to_string(&split).unwrap();
    let (grown, _) = record(data.path(), &[]);
    assert_ne!(grown["key"]["split"], resplit["key"]["split"]);
    let after = fs::read_to_string(&split).unwrap();
    let moved = before
        .lines()
        .filter(|l| !l.starts_with('#') && !after.contains(l))
        .count();
    assert_eq!(moved, 0, "no image changes its side");
}

#[test]
fn a_split_of_ones_own() {
    let data = tempfile::tempdir().unwrap();
    let made_up = MadeUp::new(&["Cat", "Dog"], 10);
    made_up.write(data.path());
    let mut text = "class,file,splitA\n".to_owned();
    for (i, entry) in made_up.entries.iter().enumerate() {
        let path = String::from_utf8(entry.path.clone()).unwrap();
        let side = ["train", "train", "train", "val", "test"][i % 5];
        text += &format!("{},{side}\n", path.replace('/', ","));
    }
    let split = data.path().join("mine.csv");
    fs::write(&split, &text).unwrap();
    let split = split.to_str().unwrap();
    let (record, _) = record(data.path(), &["--split", split]);
    assert_eq!(record["counts"]["train"], serde_json::json!([6, 6]));
    assert_eq!(record["counts"]["test"], serde_json::json!([2, 2]));
    assert_eq!(record["split_plan"], Value::Null);

    fs::write(split, text.replace("val", "vla")).unwrap();
    train(data.path(), &["--split", split])
        .code(1)
        .stderr(contains("vla"));
    train(data.path(), &["--split", split, "--resplit"]).code(2);
}

#[test]
fn what_does_not_belong_is_left_out_and_counted() {
    let data = tempfile::tempdir().unwrap();
    let mut made_up = MadeUp::new(&["Cat", "Dog"], 20);
    made_up.write(data.path());
    made_up.add(None); // without a label, and without features
    let mut twin = made_up.entries[0].clone(); // an image with two labels
    twin.label = Some(1);
    twin.path = b"Dog/twin.jpg".to_vec();
    made_up.entries.push(twin);
    let mut copy = made_up.entries[5].clone(); // the same image twice, one label
    copy.path = b"Cat/copy.jpg".to_vec();
    made_up.entries.push(copy);
    let broken = made_up.add(Some(1)); // rejected when features were computed
    let id = made_up.entries[broken].id;
    made_up.write_index(data.path());
    let store = fs::read_dir(data.path().join("features"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let record = extractor::store::Rejected {
        id,
        view: None,
        reason: "broken".to_owned(),
        retry: false,
    };
    extractor::store::rejected::write(&store.path(), &[record]).unwrap();
    train(data.path(), &[])
        .code(0)
        .stdout(contains(
            "left out   1 rejected, 1 with two labels, 1 without a label",
        ))
        .stdout(contains("train 31, validation 4, test 4"));
}

#[test]
fn what_cannot_work_is_one_clear_line() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    common::head_trainer(data)
        .args(["train", "--index", "nowhere.arrow"])
        .assert()
        .code(1)
        .stderr(contains(
            "there is no index nowhere.arrow (hint: run make features",
        ));
    let mut made_up = MadeUp::new(&["Cat", "Dog"], 20);
    made_up.write_index(data);
    train(data, &[])
        .code(1)
        .stderr(contains("no feature store in"));
    let some: Vec<usize> = (0..30).collect();
    made_up.write_rows(data, &some, Dtype::F32);
    train(data, &[])
        .code(1)
        .stderr(contains("10 of 40 images have no features"));
    made_up.write(data);
    let all: Vec<usize> = (0..40).collect();
    made_up.write_rows(data, &all, Dtype::F16);
    // Where two stores fit, the usual one is taken, as `extractor features` makes it.
    let (f32, _) = record(data, &[]);
    let (f16, _) = record(data, &["--dtype", "f16"]);
    assert_eq!(f32["provenance"]["dtype"], "f32");
    assert_eq!(f16["provenance"]["dtype"], "f16");
    assert_ne!(f32["key"]["store_key"], f16["key"]["store_key"]);
    train(data, &["--epochs", "4294967295"]).code(2);
    let caffe = &["--dtype", "f16", "--preset", "caffe"];
    train(data, caffe)
        .code(1)
        .stderr(contains("is with preset caffe of f16"));
    train(data, &["--max-iterations", "1"])
        .code(1)
        .stderr(contains("--max-iterations needs --solver lbfgs or linfa"));
    let zero = &["--dtype", "f16", "--epochs", "0"];
    train(data, zero)
        .code(1)
        .stderr(contains("epochs is 0, expected from 1 to 1,000,000"));
    train(data, &["--solver", "svm"]).code(2);

    let shard = fs::read_dir(data.join("features"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.to_str().unwrap().contains("f16"))
        .and_then(|p| {
            fs::read_dir(p)
                .unwrap()
                .map(|e| e.unwrap().path())
                .find(|p| p.extension().is_some_and(|e| e == "arrow"))
        })
        .unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    let middle = bytes.len() / 4;
    bytes[middle..middle + 64].fill(0x11);
    fs::write(&shard, bytes).unwrap();
    // Pooled features that are there are used; anew, the shard is read and the damage counts.
    fs::remove_dir_all(data.join("pooled")).unwrap();
    train(data, &["--dtype", "f16"])
        .code(1)
        .stderr(contains("cannot be used"));

    made_up.classes.push("Emu".to_owned());
    made_up.add(Some(2));
    made_up.write_index(data);
    train(data, &["--dtype", "f32"])
        .code(1)
        .stderr(contains("1 of 41 images are not in split file"));
}
