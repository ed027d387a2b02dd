//! Training on views: which rows are trained on, validated on and recorded.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::{MadeUp, SHAPE, record, train};
use extractor::store::{Dtype, IDENTITY, Rejected, rejected};
use head_trainer::dataset::{Dataset, SplitSource, WantedViews};
use head_trainer::metrics::evaluate;
use head_trainer::split::Side;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::json;

const VIEWS: [&str; 4] = [IDENTITY, "hflip", "crop-1", "crop-2"];

/// Two classes of 50 images, the given views of each in the store.
fn made_up(data: &Path, views: &[&str]) -> MadeUp {
    let made_up = MadeUp::new(&["Cat", "Dog"], 50);
    made_up.write_index(data);
    let all: Vec<usize> = (0..100).collect();
    made_up.write_views(data, &all, views, Dtype::F32);
    made_up
}

fn load(data: &Path, made_up: &MadeUp, views: &str) -> Dataset {
    let index = made_up.write_index(data);
    let split = SplitSource::Own {
        path: data.join("split.csv"),
        mode: None,
        seed: None,
        fractions: None,
        resplit: false,
    };
    let store = extractor::store::find(&data.join("features"))
        .unwrap()
        .remove(0);
    let views: WantedViews = views.parse().unwrap();
    Dataset::load(&store, &index, &split, &views).unwrap()
}

/// A map's mean over its positions, as the pooling adds it.
fn pooled(map_hwc: &[f32]) -> Vec<f32> {
    let mut mean = [0.0_f32; SHAPE.channels];
    for position in map_hwc.chunks(SHAPE.channels) {
        mean.iter_mut().zip(position).for_each(|(sum, x)| *sum += x);
    }
    mean.iter().map(|sum| sum / 4.0).collect()
}

#[test]
fn all_views_of_an_image_are_on_its_side() {
    let data = tempfile::tempdir().unwrap();
    let mut made_up = made_up(data.path(), &VIEWS);
    // One image under two names has one side, too.
    let mut copy = made_up.entries[3].clone();
    copy.path = b"Cat/copy.jpg".to_vec();
    made_up.entries.push(copy);
    let dataset = load(data.path(), &made_up, "all");
    let rows = dataset.pooled.rows();
    let entry = |image: usize| {
        let id = dataset.ids[image];
        made_up.entries.iter().position(|e| e.id == id).unwrap()
    };
    // Validation and test: the images' own rows, each the identity of its image.
    let mut sides = Vec::new();
    for side in [Side::Validation, Side::Test] {
        for row in dataset.rows_on(side) {
            let map = made_up.map(entry(row as usize), IDENTITY);
            assert_eq!(rows.row(row), pooled(&map));
            sides.push(row as usize);
        }
    }
    assert_eq!(sides.len(), 20);
    // Training: all views of the training images and nothing of any other.
    let train = dataset.rows_on(Side::Train);
    assert_eq!((train.len(), rows.count()), (80, 100 + 80 * 3));
    let starts = dataset.train_starts();
    assert_eq!(starts.len(), 81);
    let mut seen = BTreeSet::new();
    for (i, &image) in train.iter().enumerate() {
        let of_image = &dataset.train_rows()[starts[i] as usize..starts[i + 1] as usize];
        assert_eq!(of_image.len(), 4);
        for (&row, view) in of_image.iter().zip(VIEWS) {
            assert_eq!(
                rows.row(row),
                pooled(&made_up.map(entry(image as usize), view))
            );
            let labels = &dataset.labels_n;
            assert_eq!(labels[row as usize], labels[image as usize]);
            assert!(seen.insert(row));
        }
    }
    let others: BTreeSet<u32> = sides.iter().map(|i| *i as u32).collect();
    assert!(seen.is_disjoint(&others) && seen.len() + others.len() == rows.count());
}

#[test]
fn the_views_in_the_store_are_used_and_recorded() {
    let data = tempfile::tempdir().unwrap();
    let made_up = made_up(data.path(), &VIEWS);
    train(data.path(), &[])
        .code(0)
        .stdout(contains("train 80, validation 10, test 10"))
        .stdout(contains(
            "views      train identity, hflip, crop-1 to crop-2 (320 rows); validation and test identity",
        ));
    let heads = |args: &[&str]| {
        let (record, folder) = record(data.path(), args);
        (record, fs::read(folder.join("head.safetensors")).unwrap())
    };
    let (all, all_head) = heads(&["--threads", "1"]);
    assert_eq!(all["key"]["views"], json!(VIEWS));
    assert_eq!(all["counts"]["train"], json!([40, 40]));
    let (same, same_head) = heads(&["--threads", "3", "--views", "identity,hflip,crop:2"]);
    assert_eq!(same["digest"], all["digest"]);
    assert!(
        same_head == all_head,
        "the same bits for any number of threads"
    );
    let (other, other_head) = heads(&["--views", "crop:2"]);
    assert_eq!(other["key"]["views"], json!(["crop-1", "crop-2"]));
    assert_ne!(other["digest"], all["digest"]);
    assert!(other_head != all_head);
    for args in [
        &["--protocol", "tutorial", "--steps-per-epoch", "9"][..],
        &["--standardize"],
        &["--solver", "linfa"],
    ] {
        let (_, head) = heads(args);
        assert!(head == heads(args).1, "{args:?}");
        assert!(
            head != heads(&[args, &["--views", "identity"]].concat()).1,
            "{args:?}"
        );
    }

    // What is reported is of the identity rows, training side included.
    let (record, folder) = record(data.path(), &[]);
    let head = head_trainer::run::head(&folder).unwrap();
    let dataset = load(data.path(), &made_up, "identity");
    let rows = dataset.pooled.rows();
    assert_eq!(rows.count(), 100);
    for (side, name) in Side::ALL.iter().zip(["train", "validation", "test"]) {
        let rows_of = dataset.rows_on(*side);
        let metrics = evaluate(&head.linear, rows, &dataset.labels_n, &rows_of).unwrap();
        let recorded = &record["metrics"][name];
        assert_eq!(recorded["loss"].as_f64(), Some(metrics.loss), "{name}");
    }
}

#[test]
fn with_identity_alone_a_run_is_what_it_was_without_views() {
    let (plain, views) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    made_up(plain.path(), &[IDENTITY]);
    made_up(views.path(), &VIEWS);
    for args in [
        &[][..],
        &["--standardize"],
        &["--solver", "linfa"],
        &["--protocol", "tutorial", "--steps-per-epoch", "9"],
    ] {
        let (first, a) = record(plain.path(), args);
        let (second, b) = record(views.path(), &[args, &["--views", "identity"]].concat());
        assert_eq!(first["digest"], second["digest"]);
        assert_eq!(first["key"].get("views"), None);
        let steps = |folder: &Path| fs::read(folder.join("steps.csv")).unwrap();
        assert!(steps(&a) == steps(&b));
        let head = |folder: &Path| head_trainer::run::head(folder).unwrap().linear;
        assert_eq!(head(&a), head(&b));
        assert_eq!(first["metrics"], second["metrics"]);
    }
}

#[test]
fn a_view_that_some_training_images_lack_is_never_used_silently() {
    let data = tempfile::tempdir().unwrap();
    let made_up = made_up(data.path(), &[IDENTITY, "hflip"]);
    let some: Vec<usize> = (0..60).collect();
    made_up.write_views(data.path(), &some, &["crop-1"], Dtype::F32);
    train(data.path(), &["--views", "identity,crop:1"])
        .code(1)
        .stderr(contains(
            " of 80 training images have no row of the view crop-1 in ",
        ))
        .stderr(contains("hint: run make features FEATURES_ARGS="));
    train(data.path(), &["--views", "identity,hflip,crop:2"])
        .code(1)
        .stderr(contains("view crop-1"));
    train(data.path(), &[])
        .code(0)
        .stderr(contains("not used: crop-1, as up to "))
        .stdout(contains("train identity, hflip (160 rows)"));
    for bad in ["vflip", "crop:0", "hflip,hflip", ""] {
        train(data.path(), &["--views", bad]).code(2);
    }
}

#[test]
fn an_image_whose_view_cannot_be_stored_takes_part_with_the_others() {
    let data = tempfile::tempdir().unwrap();
    let made_up = made_up(data.path(), &[IDENTITY, "hflip"]);
    let dataset = load(data.path(), &made_up, "all");
    let trained = dataset.ids[dataset.rows_on(Side::Train)[7] as usize];
    let all_but_one: Vec<usize> = (0..100)
        .filter(|i| made_up.entries[*i].id != trained)
        .collect();
    made_up.write_views(data.path(), &all_but_one, &["crop-1"], Dtype::F32);
    let record = Rejected {
        id: trained,
        view: Some("crop-1".to_owned()),
        reason: "too large".to_owned(),
        retry: false,
    };
    rejected::write(dataset.store.folder(), &[record]).unwrap();
    train(data.path(), &[])
        .code(0)
        .stderr(contains(
            "the features of 1 training image cannot be stored in some views",
        ))
        .stdout(contains("identity, hflip, crop-1 (239 rows)"))
        .stdout(contains("left out").not());
    train(data.path(), &["--views", "crop:1"])
        .code(0)
        .stdout(contains("train crop-1 (80 rows)"));
}
