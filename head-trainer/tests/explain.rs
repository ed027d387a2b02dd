//! `head-trainer explain`: the built binary on stores of known numbers, with and without the
//! pictures, and on real photos.

mod common;
#[path = "explain/refused.rs"]
mod refused;

use std::fs;
use std::path::{Path, PathBuf};

use common::{MadeUp, SHAPE, head_trainer, made_up_store, record};
use extractor::decode::{Exif, RgbImage, decode_rgb8};
use extractor::digest::Digest;
use extractor::index::Index;
use extractor::store::writer::SHARD_BYTES;
use extractor::store::{Dtype, IDENTITY, ShardWriter, key};
use half::f16;
use head_trainer::explain::{Ground, png, thumbnail};
use head_trainer::run;
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use serde_json::Value;

/// `head-trainer explain RUN ARGS`.
fn explain(data: &Path, run: &Path, args: &[&str]) -> assert_cmd::assert::Assert {
    let mut command = head_trainer(data);
    command.arg("explain").arg(run).args(args);
    command.assert()
}

fn json(data: &Path, run: &Path, args: &[&str], code: i32) -> Value {
    let assert = explain(data, run, &[args, &["--json"]].concat()).code(code);
    serde_json::from_slice(&assert.get_output().stdout).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    let numbers = value.as_array().unwrap().iter();
    numbers.map(|x| x.as_f64().unwrap()).collect()
}

/// The values of an image's map, row by row.
fn map(image: &Value) -> Vec<f64> {
    image["map"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(numbers)
        .collect()
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} is not {b}");
}

/// Checks that the map of an image makes its logit, and returns the logit.
fn checked_logit(image: &Value) -> f64 {
    let number = |name: &str| image[name].as_f64().unwrap();
    let map = map(image);
    close(map.iter().sum::<f64>() / map.len() as f64, number("mean"));
    close(number("mean") + number("bias"), number("logit"));
    number("logit")
}

fn picture(path: &str) -> RgbImage {
    decode_rgb8(&fs::read(path).unwrap()).unwrap()
}

/// Images with a file each below `data/set`, 40 x 20 pixels, all grey but for a pixel.
fn pictured(data: &Path, classes: &[&str], images: u64) -> MadeUp {
    let mut made_up = MadeUp::new(classes, images);
    for (n, entry) in made_up.entries.iter_mut().enumerate() {
        let mut image = RgbImage {
            width: 40,
            height: 20,
            pixels: vec![128; 40 * 20 * 3],
        };
        image.pixels[n] = 0;
        let bytes = png(&image).unwrap();
        entry.id = Digest::of(&bytes);
        let file = data
            .join("set")
            .join(String::from_utf8(entry.path.clone()).unwrap());
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
    made_up.write(data);
    let index = data.join("indexes/made-up.arrow");
    made_up.index().write(&index, &data.join("set")).unwrap();
    made_up
}

#[test]
fn the_map_is_the_heads_weights_at_each_position() {
    for (classes, dtype, args) in [
        (&["Cat", "Dog"][..], Dtype::F32, &["--standardize"][..]),
        (&["Cat", "Dog"], Dtype::F16, &["--temperature"]),
        (
            &["a", "b", "c"],
            Dtype::F32,
            &["--solver", "lbfgs", "--standardize"],
        ),
        (&["a", "b", "c"], Dtype::F16, &[]),
    ] {
        let data = tempfile::tempdir().unwrap();
        let data = data.path();
        let made_up = MadeUp::new(classes, 40);
        let all: Vec<usize> = (0..made_up.entries.len()).collect();
        made_up.write_index(data);
        made_up.write_rows(data, &all, dtype);
        let (_, run) = record(data, args);
        let head = run::head(&run).unwrap();
        let id = made_up.entries[3].id.to_string();
        for class in [None, Some(0), Some(1)] {
            let name = class.map(|class: usize| classes[class]);
            let args = name.map_or(vec![], |name| vec!["--class", name]);
            let args = [&args[..], &[&id]].concat();
            let answer = json(data, &run, &args, 0);
            let image = &answer["images"][0];
            assert_eq!(image["id"], id);
            assert_eq!(image["path"], format!("{}/0003.jpg", classes[0]));
            assert_eq!(image["label"], classes[0]);
            assert_eq!(answer["classes"].as_array().unwrap().len(), classes.len());
            let probabilities = numbers(&image["probabilities"]);
            close(probabilities.iter().sum(), 1.0);
            let best = (0..classes.len())
                .max_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b]))
                .unwrap();
            assert_eq!(image["predicted"], classes[best]);
            let usual = if classes.len() == 2 { 1 } else { best };
            let class = class.unwrap_or(usual);
            assert_eq!(image["class"], classes[class]);

            let (output, sign) = match (classes.len(), class) {
                (2, 0) => (0, -1.0),
                (2, _) => (0, 1.0),
                (_, class) => (class, 1.0),
            };
            let (weights_c, bias) = head.linear.units().nth(output).unwrap();
            let features_hwc = made_up.map(3, IDENTITY).into_iter().map(|x| match dtype {
                Dtype::F32 => x,
                Dtype::F16 => f16::from_f32(x).to_f32(),
                Dtype::U8 => unreachable!("no store of features"),
            });
            let features_hwc: Vec<f32> = features_hwc.collect();
            let map = map(image);
            assert_eq!(map.len(), SHAPE.height * SHAPE.width);
            for (found, position_c) in map.iter().zip(features_hwc.chunks(SHAPE.channels)) {
                let products = weights_c.iter().zip(position_c);
                let sum: f64 = products.map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                close(*found, sign * sum);
            }
            close(image["bias"].as_f64().unwrap(), sign * f64::from(bias));
            let logit = checked_logit(image);
            if classes.len() == 2 {
                let logit = sign * logit / head.decision.temperature;
                close(probabilities[1], 1.0 / (1.0 + (-logit).exp()));
            }
        }
    }
}

#[test]
fn pictures_show_where_and_are_found_by_file_path_or_id() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let made_up = pictured(data, &["Cat", "Dog"], 40);
    let (_, run) = record(data, &["--epochs", "100", "--learning-rate", "0.05"]);
    let file = data.join("elsewhere.bin");
    fs::copy(data.join("set/Cat/0002.jpg"), &file).unwrap();
    let id = made_up.entries[1].id.to_string();
    let names = [
        "Cat/0000.jpg",
        &id[..12],
        file.to_str().unwrap(),
        &id,
        "Dog/0045.jpg",
    ];
    let answer = json(data, &run, &names, 0);
    let images = answer["images"].as_array().unwrap();
    // The image that was named twice is there once.
    let paths: Vec<&str> = images.iter().map(|i| i["path"].as_str().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "Cat/0000.jpg",
            "Cat/0001.jpg",
            "Cat/0002.jpg",
            "Dog/0045.jpg"
        ]
    );
    let folder = Path::new(answer["explained"].as_str().unwrap());
    assert_eq!(folder.parent(), Some(&*data.join("explained")));
    assert_eq!(fs::read_dir(folder).unwrap().count(), images.len() + 1);
    let kept: Value =
        serde_json::from_slice(&fs::read(folder.join("explain.json")).unwrap()).unwrap();
    assert_eq!(kept["images"][0]["map"], images[0]["map"]);
    for image in images {
        checked_logit(image);
        assert_eq!(image["over_image"], true);
        let drawn = picture(image["picture"].as_str().unwrap());
        assert_eq!((drawn.width, drawn.height), (40, 20));
        // The corners are the map's: what speaks for the dog is orange, for the cat blue.
        let map = map(image);
        let bias = image["bias"].as_f64().unwrap();
        let limit = image["scale"][1].as_f64().unwrap();
        for (position, corner) in [(0, 40), (1, 39), (2, 19 * 40), (3, 20 * 40 - 1)] {
            let value = (map[position] + bias) / limit;
            let [red, _, blue] = [0, 1, 2].map(|c| f64::from(drawn.pixels[corner * 3 + c]));
            assert!(value.abs() <= 1.0 + 1e-6, "{value}");
            if value.abs() > 0.2 {
                assert_eq!(red > blue, value > 0.0, "{position} {value} {red} {blue}");
            }
        }
    }
    // The map of the other class is drawn in the same colours.
    let cat = json(data, &run, &["Cat/0000.jpg", "--class", "Cat"], 0);
    let (cat, dog) = (&cat["images"][0], &images[0]);
    close(checked_logit(cat), -checked_logit(dog));
    let drawn = |image: &Value| picture(image["picture"].as_str().unwrap());
    assert_eq!(drawn(cat), drawn(dog));

    let out = data.join("out");
    let args = [
        "Cat/0000.jpg",
        "--size",
        "10",
        "--out",
        out.to_str().unwrap(),
    ];
    explain(data, &run, &args)
        .code(0)
        .stdout(contains("blue speaks for Cat, orange for Dog"))
        .stdout(contains("Cat/0000.jpg  Cat    "))
        .stderr("");
    let small = drawn(&json(data, &run, &args, 0)["images"][0]);
    assert_eq!((small.width, small.height), (10, 5));

    // The data set moved, then another picture took an image's place.
    let moved = data.join("moved");
    fs::rename(data.join("set"), &moved).unwrap();
    let alone = explain(data, &run, &["Dog/0045.jpg", "--json"])
        .code(0)
        .stderr(contains("Dog/0045.jpg: the map is drawn alone").and(contains("with --data")));
    let alone: Value = serde_json::from_slice(&alone.get_output().stdout).unwrap();
    assert_eq!(alone["images"][0]["map"], images[3]["map"]);
    assert_eq!(alone["images"][0]["over_image"], false);
    // In the shape of the backbone's input, 8 x 8.
    assert_eq!(drawn(&alone["images"][0]).width, 512);
    assert_eq!(drawn(&alone["images"][0]).height, 512);
    explain(
        data,
        &run,
        &["Dog/0045.jpg", "Cat/0000.jpg", "Cat/0001.jpg"],
    )
    .code(0)
    .stderr(contains("Dog/0045.jpg and 2 more: the map is drawn alone"));
    let there = ["Dog/0045.jpg", "--data", moved.to_str().unwrap()];
    let found = json(data, &run, &there, 0);
    assert_eq!(drawn(&found["images"][0]), drawn(&images[3]));
    fs::copy(moved.join("Cat/0000.jpg"), moved.join("Dog/0045.jpg")).unwrap();
    explain(data, &run, &there)
        .code(0)
        .stderr(contains("has changed since it was indexed"));
}

#[test]
fn pictures_come_from_manifests_and_are_turned_as_the_store_says() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let mut made_up = MadeUp::new(&["Cat", "Dog"], 20);
    // 40 x 20 pixels, and an orientation by which the picture is upright once it is turned.
    let image = RgbImage {
        width: 40,
        height: 20,
        pixels: vec![128; 40 * 20 * 3],
    };
    let jpeg = thumbnail(Ground::Picture(&image), None, 40).unwrap();
    let tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let length = ((2 + 6 + tiff.len()) as u16).to_be_bytes();
    let app1 = [b"\xff\xe1", &length[..], b"Exif\0\0", tiff].concat();
    let turned = [&jpeg[..2], &app1, &jpeg[2..]].concat();
    fs::write(data.join("turned.jpg"), &turned).unwrap();
    fs::write(data.join("list.csv"), "where,label\nturned.jpg,Cat\n").unwrap();
    made_up.entries[0].id = Digest::of(&turned);
    made_up.entries[0].path = b"turned.jpg".to_vec();
    let index = data.join("indexes/made-up.arrow");
    made_up
        .index()
        .write(&index, &data.join("list.csv"))
        .unwrap();
    for (exif, expected) in [(Exif::Ignore, (40, 20)), (Exif::Apply, (20, 40))] {
        let (mut json_of, provenance) = made_up_store(Dtype::F32);
        json_of.key.exif = exif;
        let folder = key::create(&data.join(exif.to_string()), &json_of).unwrap();
        let mut writer = ShardWriter::new(&folder, &json_of.key, &provenance, SHAPE, SHARD_BYTES);
        for (i, entry) in made_up.entries.iter().enumerate() {
            let map = made_up.map(i, IDENTITY);
            writer.write(&[(entry.id, IDENTITY)], map).unwrap();
        }
        writer.finish().unwrap();
        let (_, run) = record(data, &["--store", folder.to_str().unwrap()]);
        let args = ["turned.jpg", "--path-column", "where"];
        let answer = json(data, &run, &args, 0);
        assert_eq!(answer["images"][0]["over_image"], true);
        let drawn = picture(answer["images"][0]["picture"].as_str().unwrap());
        assert_eq!((drawn.width, drawn.height), expected);
        // The column has no usual name.
        explain(data, &run, &["turned.jpg"])
            .code(0)
            .stderr(contains("the map is drawn alone"));
    }
}

#[test]
fn the_most_confident_mistakes_come_first() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let mut made_up = MadeUp::new(&["a", "b", "c"], 60);
    made_up.write(data);
    // Some labels are wrong: the features, which are there, are those of the right ones.
    for i in (0..180).step_by(10) {
        made_up.entries[i].label = Some((made_up.entries[i].label.unwrap() + 1) % 3);
    }
    made_up.write_index(data);
    let (record, run) = record(data, &["--epochs", "100", "--learning-rate", "0.05"]);
    for (side, flags) in [
        ("validation", &["--mistakes", "1000"][..]),
        ("train", &["--mistakes", "1000", "--side", "train"]),
    ] {
        let metrics = &record["metrics"][side];
        let confusion = metrics["confusion"].as_array().unwrap().iter();
        let wrong: f64 = confusion
            .enumerate()
            .flat_map(|(label, row)| {
                let row = numbers(row).into_iter().enumerate();
                row.filter(move |(k, _)| *k != label).map(|(_, n)| n)
            })
            .sum();
        let answer = json(data, &run, flags, 0);
        let images = answer["images"].as_array().unwrap();
        assert_eq!(images.len() as f64, wrong, "{side}");
        assert!(wrong > 0.0);
        let confidence = |image: &Value| {
            assert_ne!(image["label"], image["predicted"]);
            assert_eq!(image["class"], image["predicted"]);
            checked_logit(image);
            numbers(&image["probabilities"])
                .into_iter()
                .fold(0.0, f64::max)
        };
        let confidences: Vec<f64> = images.iter().map(confidence).collect();
        assert!(confidences.is_sorted_by(|a, b| a >= b), "{confidences:?}");
    }
    let all = json(data, &run, &["--mistakes", "1000"], 0);
    let worst = json(data, &run, &["--mistakes", "1", "a/0001.jpg"], 0);
    let paths = |answer: &Value, n: usize| answer["images"][n]["path"].clone();
    assert_eq!(paths(&worst, 0), "a/0001.jpg");
    assert_eq!(paths(&worst, 1), paths(&all, 0));
    assert_eq!(worst["images"].as_array().unwrap().len(), 2);
}

/// Real photos through a real backbone.
#[test]
fn maps_of_real_photos_make_their_logits() {
    let Some(test_data) = common::test_data() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (data, pets) = (folder.path(), folder.path().join("pets"));
    for class in ["Cat", "Dog"] {
        fs::create_dir_all(pets.join(class)).unwrap();
        let mut files: Vec<PathBuf> = fs::read_dir(test_data.join("pets").join(class))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        for file in &files[..60] {
            fs::copy(file, pets.join(class).join(file.file_name().unwrap())).unwrap();
        }
    }
    let model = test_data.join("models/mobilenetv2_100.onnx");
    let (_, index) = common::extract(&pets, &model, data);
    for args in [
        &["--epochs", "20"][..],
        &["--solver", "lbfgs", "--standardize", "--l2", "0.01"],
    ] {
        let index_flag = ["--index", index.to_str().unwrap(), "--json"];
        let mut command = head_trainer(data);
        command.arg("train").args(index_flag).args(args);
        let trained = command.assert().code(0);
        let trained: Value = serde_json::from_slice(&trained.get_output().stdout).unwrap();
        let run = Path::new(trained["run"].as_str().unwrap());
        let all = Index::read(&index).unwrap();
        let paths: Vec<String> = all
            .iter()
            .map(|entry| String::from_utf8(entry.path.to_vec()).unwrap())
            .collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let answer = json(data, run, &paths, 0);
        let images = answer["images"].as_array().unwrap();
        assert_eq!(images.len(), 120);
        let mut right = 0;
        for image in images {
            checked_logit(image);
            assert_eq!(map(image).len(), 16);
            assert_eq!(image["over_image"], true);
            let drawn = picture(image["picture"].as_str().unwrap());
            assert_eq!((drawn.width, drawn.height), (180, 180));
            right += usize::from(image["label"] == image["predicted"]);
        }
        assert!(right > 100, "{right} of 120");
        let worst = images.iter().map(|image| {
            let number = |name: &str| image[name].as_f64().unwrap();
            let (made, logit) = (number("mean") + number("bias"), number("logit"));
            (made - logit).abs() / logit.abs().max(1.0)
        });
        println!(
            "{args:?}: {right} of 120 right; mean + bias misses the logit by {:.1e} at most",
            worst.fold(0.0, f64::max)
        );
    }
}
