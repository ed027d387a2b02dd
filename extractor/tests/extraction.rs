//! The pipeline of an extraction on the built binary: sessions, optimised models that are kept, where the
//! time goes; and, when asked for, how fast decoding is by itself.

mod common;

use std::fs;
use std::path::Path;
use std::time::Instant;

use common::{json, rows};
use extractor::decode::decode_rgb8;
use extractor::preprocess::{Layout, Preprocessor, Preset};
use rayon::prelude::*;

/// However many sessions share the threads, and whether the model was optimised now or before, the rows
/// are the same bits.
#[test]
fn sessions_and_kept_optimised_models_do_not_change_a_bit() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    common::sample(&images, 20);
    let backbone = common::tiny_backbone(folder.path());
    let optimized = backbone.with_extension("optimized");
    let run = |data: &str, more: &[&str]| {
        let data = folder.path().join(data);
        let mut command = common::features_with(&backbone, &data, &images, 4);
        let output = command.args(more).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        json(&output.stdout)
    };
    let first = run("a", &["--sessions", "1"]);
    let expected = rows(first["store"].as_str().unwrap());
    assert_eq!(expected.len(), 40);
    assert_eq!(
        first["arrangement"],
        serde_json::json!({"sessions": 1, "threads_each": 2})
    );
    let kept: Vec<_> = fs::read_dir(&optimized).unwrap().flatten().collect();
    assert_eq!(
        kept.len(),
        1,
        "the optimised model is kept beside the model"
    );

    let two = run("b", &["--sessions", "2"]);
    assert_eq!(
        two["arrangement"],
        serde_json::json!({"sessions": 2, "threads_each": 1})
    );
    assert_eq!(rows(two["store"].as_str().unwrap()), expected);

    // A damaged one is made anew.
    fs::write(kept[0].path().join("model.onnx"), "nonsense").unwrap();
    let mended = run("c", &[]);
    assert_eq!(rows(mended["store"].as_str().unwrap()), expected);
    assert_eq!(fs::read_dir(&optimized).unwrap().count(), 1);

    // Where nothing can be kept, the model itself is opened.
    fs::remove_dir_all(&optimized).unwrap();
    fs::write(&optimized, "in the way").unwrap();
    let data = folder.path().join("d");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("optimized"), "in the way").unwrap();
    let without = run("d", &[]);
    assert_eq!(rows(without["store"].as_str().unwrap()), expected);
}

#[test]
fn timings_say_where_the_time_went() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    common::sample(&images, 10);
    let backbone = common::tiny_backbone(folder.path());
    let data = folder.path().join("data");
    let features = |more: &[&str]| {
        let mut command = common::extractor(&data);
        command.args(["features", "--ep", "cpu", "--backbone"]);
        command.arg(&backbone).arg(&images).args(more);
        let output = command.assert().code(0).get_output().stdout.clone();
        String::from_utf8(output).unwrap()
    };
    let text = features(&["--timings"]);
    for stage in ["read", "decode", "resize", "engine", "check", "write"] {
        assert!(text.lines().any(|line| line.starts_with(stage)), "{text}");
    }
    assert!(text.contains("engine ready after"), "{text}");
    // JSON has them always.
    let all = features(&["--json", "--dtype", "f16"]);
    let all = json(all.as_bytes());
    for stage in ["read", "decode", "resize", "engine", "write"] {
        let secs = all["timings"][format!("{stage}_secs")].as_f64().unwrap();
        assert!(secs > 0.0, "{all}");
    }
    let start = &all["start"];
    let secs = |name: &str| start[name].as_f64().unwrap();
    assert!(secs("planned_secs") < secs("engine_secs"));
    assert!(secs("engine_secs") < secs("first_batch_secs"));
    // Nothing to do takes no engine and no time.
    let cached = json(features(&["--json"]).as_bytes());
    assert!(cached["timings"].is_null() && cached["start"]["engine_secs"].is_null());
}

/// Reading, decoding and resizing alone, without a backbone: what a fast accelerator is fed with at most.
/// `make bench WHAT=decode`.
#[test]
#[ignore = "a benchmark"]
fn decoding_alone() {
    let folder = tempfile::tempdir().unwrap();
    let small = match common::test_data() {
        Some(data) => data.join("pets"),
        None => {
            common::sample(folder.path(), 500);
            folder.path().to_owned()
        }
    };
    let small = files_below(&small);
    let large = folder.path().join("large");
    fs::create_dir(&large).unwrap();
    small
        .par_iter()
        .take(512)
        .enumerate()
        .for_each(|(i, bytes)| {
            let image = image::load_from_memory(bytes).unwrap().into_rgb8();
            let filter = image::imageops::FilterType::CatmullRom;
            let image = image::imageops::resize(&image, 500, 375, filter);
            let file = fs::File::create(large.join(format!("{i}.jpg"))).unwrap();
            let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(file, 90);
            image.write_with_encoder(encoder).unwrap();
        });
    let preprocessor = Preprocessor {
        preset: Preset::Caffe,
        height: 100,
        width: 100,
        layout: Layout::Nhwc,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("decode and resize to 100x100, images a second (one thread: 1.00)");
    for (what, files) in [("as they are", small), ("500x375", files_below(&large))] {
        let mut one = None;
        let mut threads = 1;
        while threads <= cores {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            let mut rates: Vec<f64> = (0..5)
                .map(|_| {
                    let start = Instant::now();
                    pool.install(|| decode_all(&files, preprocessor));
                    files.len() as f64 / start.elapsed().as_secs_f64()
                })
                .collect();
            rates.sort_by(f64::total_cmp);
            let rate = rates[2];
            let ratio = rate / *one.get_or_insert(rate);
            println!("{what:<12} {threads:>3} threads {rate:>8.0} images/s {ratio:>6.2}");
            threads *= 2;
        }
    }
}

fn decode_all(files: &[Vec<u8>], preprocessor: Preprocessor) {
    files.par_iter().for_each_init(
        || vec![0.0; preprocessor.len()],
        |input, bytes| {
            preprocessor.apply(&decode_rgb8(bytes).unwrap(), input);
            assert!(input.iter().all(|v| v.is_finite()));
        },
    );
}

/// The bytes of every file in the folder and its sub-folders.
fn files_below(folder: &Path) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => files.extend(files_below(&path)),
            path if path.extension().is_some_and(|e| e == "jpg") => {
                files.push(fs::read(path).unwrap());
            }
            _ => {}
        }
    }
    files
}
