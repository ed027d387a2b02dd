//! What a million images cost both binaries: seconds and memory of `extractor features` that finds
//! them all cached, of one that adds a few, of `extractor store inspect --index`, and of training.
//! A measurement, run with `make bench WHAT=scale`; a test run does the same with fewer images and
//! checks that none costs more memory than it may.
//!
//! Images are 16 bytes that begin as a PNG file does, so that they are listed and digested and never
//! decoded, in Parquet files; maps are 1x1x16, written by the library in record batches of 64 rows
//! and shards of 2,048, as those of a ResNet50 are. Only the maps are smaller than real ones, and
//! what is measured holds none.
//!
//! Each verb runs in a process of its own, which says what it took at its high-water mark: heap,
//! counted by the allocator, and resident memory (`VmHWM`), mapped files included, which are the
//! kernel's page cache and go when memory is short. Bytes an image are the difference between a
//! million and a quarter, divided by 750,000. A number after `--ignored` is another large count:
//! with 14000000 it is as large as ImageNet-21k.

mod common;

use std::alloc::System;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use cap::Cap;
use common::convolution;
use extractor::backbone::{MapShape, Model, Overrides};
use extractor::decode::Exif;
use extractor::digest::{Digest, ImageId};
use extractor::store::{Dtype, IDENTITY, ShardWriter, StoreJson, StoreKey, key};
use parquet::arrow::ArrowWriter;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// Set for the process that runs a verb: of which binary.
const BINARY: &str = "HEADSTART_BENCH_BINARY";
const HEAP_LINE: &str = "heap high-water mark in bytes: ";
const RESIDENT_LINE: &str = "resident high-water mark in kB: ";

const COUNTS: [usize; 2] = [250_000, 1_000_000];
/// A little above powers of two, where a vector that doubles has the most room to spare.
const FEW: [usize; 2] = [70_000, 270_000];
/// What an image, with a path of 16 bytes, may cost any verb.
const BYTES_AN_IMAGE: f64 = 64.0;
/// What a verb may take besides.
const BASE_BYTES: f64 = 24e6;
/// Images that come later.
const MORE: usize = 100;
const CHANNELS: usize = 16;
const BATCH: usize = 64;
const ROWS_PER_SHARD: usize = 2048;
const ROWS_PER_FILE: usize = 250_000;
const CLASSES: [&str; 2] = ["Cat", "Dog"];

fn main() -> ExitCode {
    let run = match std::env::var(BINARY).as_deref() {
        Ok("extractor") => extractor::cli::main,
        Ok(_) => head_trainer::cli::main,
        Err(_) => {
            let args: Vec<String> = std::env::args().collect();
            if args.iter().any(|arg| arg == "--ignored") {
                let large = args.iter().find_map(|arg| arg.parse().ok());
                measure([COUNTS[0], large.unwrap_or(COUNTS[1])]);
            } else if !args.iter().any(|arg| arg == "--list") {
                check();
            }
            return ExitCode::SUCCESS;
        }
    };
    let code = run();
    eprintln!("{HEAP_LINE}{}", HEAP.max_allocated());
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let resident = resident.and_then(|text| text.trim().strip_suffix(" kB"));
    eprintln!("{RESIDENT_LINE}{}", resident.unwrap_or("0"));
    code
}

/// Bytes of image number `i`.
fn image_bytes(i: usize) -> [u8; 16] {
    let mut bytes = *b"\x89PNG\r\n\x1a\n\0\0\0\0\0\0\0\0";
    bytes[8..].copy_from_slice(&i.to_le_bytes());
    bytes
}

/// A picture that decodes.
fn real_image_bytes(i: usize) -> Vec<u8> {
    let pixel = |x, y| image::Rgb([(i % 251) as u8, (x * 31 + y) as u8, 7]);
    let picture = image::RgbImage::from_fn(8, 8, pixel);
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// Adds a Parquet file of images to `folder`.
fn write_images<B: AsRef<[u8]>>(
    folder: &Path,
    range: std::ops::Range<usize>,
    bytes: fn(usize) -> B,
) {
    fs::create_dir_all(folder).unwrap();
    let class = |i: usize| CLASSES[i % 2];
    let paths = range.clone().map(|i| format!("{}/{i:08}.png", class(i)));
    let batch = RecordBatch::try_from_iter([
        (
            "path",
            Arc::new(StringArray::from_iter_values(paths)) as ArrayRef,
        ),
        (
            "label",
            Arc::new(StringArray::from_iter_values(range.clone().map(class))),
        ),
        (
            "image",
            Arc::new(BinaryArray::from_iter_values(range.clone().map(bytes))),
        ),
    ]);
    let batch = batch.unwrap();
    let file = fs::File::create(folder.join(format!("{:08}.parquet", range.start))).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// A store of the images' rows, as `backbone` would give them.
fn write_store(root: &Path, backbone: &Path, count: usize) {
    let model = Model::read(backbone, &Overrides::default()).unwrap();
    let json = StoreJson {
        key: StoreKey::new(&model.spec, Exif::Ignore, Dtype::F32),
        backbone_name: model.spec.name.clone(),
        backbone_trained: None,
    };
    let (_, provenance) = common::made_up_store(Dtype::F32);
    let folder = key::create(root, &json).unwrap();
    let shape = MapShape {
        height: 1,
        width: 1,
        channels: CHANNELS,
    };
    let shard_bytes = ROWS_PER_SHARD * CHANNELS * size_of::<f32>();
    let mut writer = ShardWriter::new(&folder, &json.key, &provenance, shape, shard_bytes);
    for first in (0..count).step_by(BATCH) {
        let images = first..count.min(first + BATCH);
        let ids: Vec<ImageId> = images
            .clone()
            .map(|i| Digest::of(&image_bytes(i)))
            .collect();
        let rows: Vec<(ImageId, &str)> = ids.iter().map(|id| (*id, IDENTITY)).collect();
        // The ids are noise; the class leans to the first channel.
        let map = |(i, id): (usize, &ImageId)| {
            let noise: [u8; CHANNELS] = *id.0.first_chunk().unwrap();
            let mut map = noise.map(|byte| f32::from(byte) / 255.0);
            map[0] += 0.5 * (i % 2) as f32;
            map
        };
        writer
            .write(&rows, images.zip(&ids).flat_map(map).collect())
            .unwrap();
    }
    writer.finish().unwrap();
}

struct Run {
    what: String,
    secs: f64,
    heap_bytes: u64,
    resident_bytes: u64,
    result: serde_json::Value,
}

fn run(what: &str, binary: &str, data: &Path, args: &[&str]) -> Run {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .env(BINARY, binary)
        .env("ORT_DYLIB_PATH", common::library())
        .env("HEADSTART_DATA_DIR", data)
        .env_remove("HEADSTART_LOG")
        .args(args)
        .args(["--json", "--quiet"]);
    let start = Instant::now();
    let output = command.output().unwrap();
    let secs = start.elapsed().as_secs_f64();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {stderr}");
    let number = |prefix: &str| -> u64 {
        let line = stderr.lines().find_map(|line| line.strip_prefix(prefix));
        line.unwrap().parse().unwrap()
    };
    Run {
        what: what.to_owned(),
        secs,
        heap_bytes: number(HEAP_LINE),
        resident_bytes: number(RESIDENT_LINE) * 1024,
        result: serde_json::from_slice(&output.stdout).unwrap(),
    }
}

/// All verbs over `count` images.
fn verbs(folder: &Path, count: usize) -> Vec<Run> {
    let (images, data) = (folder.join("images"), folder.join("data"));
    let backbone = convolution::backbone(folder, CHANNELS as i64, 32);
    let start = Instant::now();
    for first in (0..count).step_by(ROWS_PER_FILE) {
        write_images(
            &images,
            first..count.min(first + ROWS_PER_FILE),
            image_bytes,
        );
    }
    write_store(&data.join("features"), &backbone, count);
    println!(
        "{count} images and rows written in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    // Files this young are not trusted to be unchanged.
    std::thread::sleep(std::time::Duration::from_millis(2500));

    let index = data.join("index.arrow");
    let (index, store) = (index.to_str().unwrap(), data.join("features"));
    let common = ["--index", index, "--store", store.to_str().unwrap()];
    let backbone = backbone.to_str().unwrap();
    let features = [
        "features",
        images.to_str().unwrap(),
        "--backbone",
        backbone,
        "--ep",
        "cpu",
    ];
    let features = [&features[..], &common[..]].concat();
    let cached = |run: &Run| run.result["counts"]["cached"].as_u64();

    let mut runs = Vec::new();
    for what in ["features, all cached, listed anew", "features, all cached"] {
        let run = run(what, "extractor", &data, &features);
        assert_eq!(cached(&run), Some(count as u64));
        runs.push(run);
    }
    let inspect = [
        "store",
        "inspect",
        store.to_str().unwrap(),
        "--index",
        index,
    ];
    runs.push(run("store inspect --index", "extractor", &data, &inspect));

    let train = [&["train"], &common[..]].concat();
    let train =
        |what: &str, more: &[&str]| run(what, "head-trainer", &data, &[&train, more].concat());
    runs.push(train("train, 1 epoch, the first", &["--epochs", "1"]));
    runs.push(train("train, 3 epochs", &["--epochs", "3"]));
    runs.push(train("train, L-BFGS", &["--solver", "lbfgs"]));

    write_images(&images, count..count + MORE, real_image_bytes);
    let added = run(
        &format!("features, {MORE} to add"),
        "extractor",
        &data,
        &features,
    );
    assert_eq!(cached(&added), Some(count as u64));
    assert_eq!(added.result["counts"]["new"].as_u64(), Some(MORE as u64));
    runs.push(added);
    runs
}

/// Checks the memory that an image costs, counted exactly.
fn check() {
    let [few, many] = FEW.map(|count| {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        verbs(folder.path(), count)
    });
    let mut too_much = Vec::new();
    for (few, many) in few.iter().zip(&many) {
        let more = many.heap_bytes as f64 - few.heap_bytes as f64;
        let an_image = more / (FEW[1] - FEW[0]) as f64;
        let besides = few.heap_bytes as f64 - an_image * FEW[0] as f64;
        println!(
            "{:<36} {an_image:>6.1} bytes an image and {:.1} MB",
            many.what,
            besides / 1e6
        );
        if an_image > BYTES_AN_IMAGE || besides > BASE_BYTES {
            too_much.push(&many.what);
        }
    }
    assert_eq!(too_much, [""; 0], "take too much memory");
}

fn measure(counts: [usize; 2]) {
    let [small, large] = counts.map(|count| {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        verbs(folder.path(), count)
    });
    let more = (counts[1] - counts[0]) as f64;
    println!(
        "\n{} images; bytes an image beyond {}:",
        counts[1], counts[0]
    );
    for (small, large) in small.iter().zip(&large) {
        let an_image = |of: fn(&Run) -> u64| (of(large) as f64 - of(small) as f64) / more;
        println!(
            "{:<36} {:>7.2} s  heap {:>8.1} MB ({:>6.1} B)  resident {:>8.1} MB ({:>6.1} B)",
            large.what,
            large.secs,
            large.heap_bytes as f64 / 1e6,
            an_image(|run| run.heap_bytes),
            large.resident_bytes as f64 / 1e6,
            an_image(|run| run.resident_bytes),
        );
    }
}
