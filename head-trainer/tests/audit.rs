//! `head-trainer audit`: the built binary on stores of known numbers with planted faults.

mod common;

use std::fs;
use std::path::Path;

use common::{MadeUp, SHAPE, head_trainer, made_up_store};
use extractor::store::writer::SHARD_BYTES;
use extractor::store::{Dtype, IDENTITY, ShardWriter, key};
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use serde_json::{Value, json};

/// `head-trainer audit ARGS` on the index of [`MadeUp`].
fn audit(data: &Path, args: &[&str]) -> assert_cmd::assert::Assert {
    let mut command = head_trainer(data);
    command
        .args(["audit", "--index"])
        .arg(data.join("indexes/made-up.arrow"))
        .args(args);
    command.assert()
}

fn answer(data: &Path, args: &[&str]) -> Value {
    let assert = audit(data, &[args, &["--json"]].concat()).code(0);
    serde_json::from_slice(&assert.get_output().stdout).unwrap()
}

/// Rows of a table, by column.
fn table(folder: &Path, name: &str) -> Vec<Value> {
    let mut reader = csv::Reader::from_path(folder.join(name)).unwrap();
    let columns = reader.headers().unwrap().clone();
    let rows = reader.records().map(|record| {
        let record = record.unwrap();
        let cells = columns.iter().zip(record.iter());
        Value::Object(cells.map(|(k, v)| (k.to_owned(), json!(v))).collect())
    });
    rows.collect()
}

/// 100 cats and 100 dogs, of which 10, 20 and 150 have the other's label; 200 is a dog that looks
/// like cat 7, 201 a cat that looks like cat 3; cat 5 is there twice, cat 6 once more as a dog.
fn planted(data: &Path) {
    let mut made_up = MadeUp::new(&["Cat", "Dog"], 100);
    assert_eq!(made_up.add(Some(1)), 200);
    assert_eq!(made_up.add(Some(0)), 201);
    let (json, provenance) = made_up_store(Dtype::F32);
    let folder = key::create(&data.join("features"), &json).unwrap();
    let mut writer = ShardWriter::new(&folder, &json.key, &provenance, SHAPE, SHARD_BYTES);
    for (i, entry) in made_up.entries.iter().enumerate() {
        let like = [7, 3].get(i.wrapping_sub(200)).copied().unwrap_or(i);
        let mut map = made_up.map(like, IDENTITY);
        map.iter_mut()
            .filter(|_| like != i)
            .for_each(|x| *x *= 1.01);
        writer.write(&[(entry.id, IDENTITY)], map).unwrap();
    }
    writer.finish().unwrap();
    for (i, label) in [(10, 1), (20, 1), (150, 0)] {
        made_up.entries[i].label = Some(label);
    }
    made_up.entries[20].path = b"Dog/new\nline.jpg".to_vec();
    for (i, path, label) in [(5, "Cat/again.jpg", 0), (6, "Dog/again.jpg", 1)] {
        let mut copy = made_up.entries[i].clone();
        (copy.path, copy.label) = (path.as_bytes().to_vec(), Some(label));
        made_up.entries.push(copy);
    }
    made_up.write_index(data);
}

#[test]
fn planted_faults_are_found() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    planted(data);
    let found = answer(data, &["--similarity", "0.99999"]);
    let folder = Path::new(found["audit"].as_str().unwrap());
    assert_eq!(folder.parent(), Some(&*data.join("audits")));

    // Four labels are wrong: those that were swapped, and that of the cat's twin.
    let errors = table(folder, "label_errors.csv");
    let mut worst: Vec<&str> = errors[..4]
        .iter()
        .map(|e| e["path"].as_str().unwrap())
        .collect();
    worst.sort_unstable();
    assert_eq!(
        worst,
        [
            "Cat/0010.jpg",
            "Dog/0150.jpg",
            "Dog/0200.jpg",
            "Dog/new\\nline.jpg"
        ]
    );
    for (at, error) in errors[..4].iter().enumerate() {
        assert_eq!(error["rank"], (at + 1).to_string());
        assert_eq!(error["confident"], "true");
        let suggested = if error["path"] == "Dog/0150.jpg" {
            "Dog"
        } else {
            "Cat"
        };
        assert_eq!(error["suggested"], suggested, "{error}");
        assert_ne!(error["given"], error["suggested"]);
        let number = |name: &str| -> f64 { error[name].as_str().unwrap().parse().unwrap() };
        let margin = number("given_probability") - number("suggested_probability");
        assert!((number("score") - margin).abs() < 1e-6);
    }
    assert!(errors.len() < 20, "{}", errors.len());
    assert_eq!(found["counts"]["label_errors"], errors.len());
    assert_eq!(found["label_errors"][0]["path"], errors[0]["path"]);
    assert_eq!(found["images"], 201);
    assert_eq!(found["judged"], 201);
    let estimated = found["counts"]["estimated_label_errors"].as_f64().unwrap();
    assert!((3.0..20.0).contains(&estimated), "{estimated}");

    // Two pairs look alike; the sides are those of the split file.
    let near = table(folder, "near_duplicates.csv");
    let mut pairs: Vec<[&str; 2]> = near
        .iter()
        .map(|p| ["path_a", "path_b"].map(|path| p[path].as_str().unwrap()))
        .collect();
    pairs.iter_mut().for_each(|pair| pair.sort_unstable());
    pairs.sort_unstable();
    let expected = [
        ["Cat/0003.jpg", "Cat/0201.jpg"],
        ["Cat/0007.jpg", "Dog/0200.jpg"],
    ];
    assert_eq!(pairs, expected);
    let split = fs::read_to_string(data.join("indexes/made-up.split.csv")).unwrap();
    for pair in &near {
        assert!(pair["similarity"].as_str().unwrap().parse::<f32>().unwrap() > 0.99999);
        for end in ["a", "b"] {
            let of = |name: &str| pair[format!("{name}_{end}")].as_str().unwrap().to_owned();
            assert!(split.contains(&format!("{},{}", of("id"), of("side"))));
        }
        assert_eq!(
            pair["crosses_split"],
            (pair["side_a"] != pair["side_b"]).to_string()
        );
        assert_eq!(
            pair["labels_differ"],
            (pair["label_a"] != pair["label_b"]).to_string()
        );
    }
    assert_eq!(found["counts"]["near_duplicates"], 2);
    assert_eq!(found["counts"]["near_duplicates_differing"], 1);

    // Two images have two paths, one of them two labels, which come first.
    let exact = table(folder, "exact_duplicates.csv");
    let cells = ["path", "label", "copies", "labels_differ"];
    let rows: Vec<[&str; 4]> = exact
        .iter()
        .map(|row| cells.map(|name| row[name].as_str().unwrap()))
        .collect();
    let expected = [
        ["Cat/0006.jpg", "Cat", "2", "true"],
        ["Dog/again.jpg", "Dog", "2", "true"],
        ["Cat/0005.jpg", "Cat", "2", "false"],
        ["Cat/again.jpg", "Cat", "2", "false"],
    ];
    assert_eq!(rows, expected);
    assert_eq!(exact[0]["side"], "", "it takes no part");
    assert_ne!(exact[2]["side"], "");
    assert_eq!(found["counts"]["exact_duplicates"], 2);
    assert_eq!(found["counts"]["exact_duplicates_differing"], 1);
}

#[test]
fn people_read_it_in_lines() {
    let data = tempfile::tempdir().unwrap();
    planted(data.path());
    audit(data.path(), &["--similarity", "0.99999", "--top", "4"])
        .code(0)
        .stdout(contains("images      201 of 2 classes"))
        .stdout(contains("look alike  2 pairs: "))
        .stdout(contains(
            "copies      2 images under several paths, 1 with two labels",
        ))
        .stdout(contains("Dog/new\\nline.jpg"))
        .stdout(contains("   4  ").and(contains("   5  ").not()))
        .stdout(contains("The backbone is untrained"));
    audit(data.path(), &["--top", "0", "--l2", "1"])
        .code(0)
        .stdout(contains("heads       l2 1; accuracy "))
        .stdout(contains("labels that are probably wrong").not());
}

#[test]
fn the_tables_are_the_same_bytes_whatever_the_threads() {
    let data = tempfile::tempdir().unwrap();
    planted(data.path());
    let tables = |name: &str, args: &[&str]| {
        let folder = data.path().join(name);
        let out = ["--out", folder.to_str().unwrap()];
        audit(data.path(), &[&out, args].concat()).code(0);
        let names = ["label_errors", "near_duplicates", "exact_duplicates"];
        names.map(|name| fs::read(folder.join(name).with_extension("csv")).unwrap())
    };
    let one = tables("one", &["--threads", "1"]);
    assert!(tables("three", &["--threads", "3"]) == one);
    // More of what looks alike changes nothing in the labels; another seed does.
    let more = tables("more", &["--similarity", "0.9"]);
    assert!(more[0] == one[0] && more[1].len() > one[1].len());
    assert!(tables("seed", &["--seed", "1"])[0] != one[0]);
    assert!(!data.path().join("audits").exists());
}

#[test]
fn what_cannot_work_is_one_clear_line() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    planted(data);
    for (args, line) in [
        (
            ["--folds", "1"],
            "folds is 1, expected a number from 2 to 1000",
        ),
        (
            ["--similarity", "1.5"],
            "similarity is 1.5, expected above 0",
        ),
        (
            ["--similarity", "NaN"],
            "similarity is NaN, expected above 0",
        ),
        (
            ["--l2", "-1"],
            "l2 is -1, expected zero or a positive number",
        ),
        (["--views", "hflip"], "an audit looks at images as they are"),
    ] {
        audit(data, &args).code(1).stderr(contains(line));
    }
    audit(data, &["--top", "some"]).code(2);
    assert!(!data.join("audits").exists());
    head_trainer(data)
        .args(["audit", "--index", "nowhere.arrow"])
        .assert()
        .code(1)
        .stderr(contains("there is no index nowhere.arrow"));
    // A class of which there is one image, and no other class to compare it with.
    let made_up = MadeUp::new(&["Cat", "Dog"], 1);
    made_up.write_index(data);
    audit(data, &[]).code(1).stderr(contains(
        "the images outside fold 1 cannot be trained on: all training images",
    ));
    let left = fs::read_dir(data.join("audits")).unwrap().count();
    assert_eq!(left, 0, "nothing is left of it");
}
