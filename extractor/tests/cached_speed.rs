//! How long `extractor features` takes, and how much memory, where every image is cached, and the
//! first time with a backbone that costs next to nothing. A measurement: does nothing unless it is
//! run with `make bench WHAT=store`.
//!
//! Memory is measured in two ways, each at its high-water mark, in a process of its own that runs
//! nothing but the verb:
//!
//! - heap: what the program has allocated, counted exactly by the allocator. ONNX Runtime is
//!   another library with another allocator and is not counted; it opens for the first run alone,
//!   and what it takes follows from the batch, not from the number of images.
//! - resident: anonymous memory (heap and stacks, `RssAnon`), sampled every half millisecond.
//!   Within some bytes an image, as pages and the allocator's own book-keeping are in it.
//!
//! Neither holds mapped shards: they are the kernel's page cache, which it drops when it likes.
//! Bytes an image are the difference between 100,000 and 25,000 images, divided by
//! 75,000; paths are like `Cat/12345.jpg`, and their bytes count.
//!
//! The same images in the other forms follow: their features are cached by then, so a first run
//! lists and digests them, and a second one trusts the archive to be unchanged.

mod common;

use std::alloc::System;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use cap::Cap;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// Set for the process that runs the verb.
const VERB: &str = "HEADSTART_BENCH_VERB";
const HEAP_LINE: &str = "heap high-water mark in bytes: ";

fn main() -> ExitCode {
    if std::env::var_os(VERB).is_some() {
        let code = extractor::cli::main();
        eprintln!("{HEAP_LINE}{}", HEAP.max_allocated());
        return code;
    }
    if std::env::args().any(|arg| arg == "--ignored") {
        measure();
    }
    ExitCode::SUCCESS
}

const COUNTS: [usize; 2] = [25_000, 100_000];
/// An image may not cost more memory than this.
const BYTES_AN_IMAGE: f64 = 48.0;

/// The other forms, and what an image may cost in them: more while they are listed, for the order of
/// the paths and for where images lie, if that is another order. In a first run of Parquet
/// pages are decoded, which take some 20 MB whatever the number of images.
const FORMS: [(&str, f64); 7] = [
    ("pets.csv", 48.0),
    ("paths.parquet", 68.0),
    ("pets.tar", 64.0),
    ("webdataset.tar", 112.0), // labels are members, too
    ("pets.parquet", 68.0),
    ("shuffled.parquet", 68.0),
    ("pets.zip", ZIP),
];
const DECODE_PAGES: [&str; 2] = ["pets.parquet", "shuffled.parquet"];
/// The reader of zip keeps what the archive says of each member.
const ZIP: f64 = 280.0;

/// Small JPEGs, each another one: `Cat/00000.jpg`, `Dog/00001.jpg` and so on.
fn draw(folder: &Path, count: usize) {
    for class in ["Cat", "Dog"] {
        fs::create_dir_all(folder.join(class)).unwrap();
    }
    for i in 0..count {
        let picture = image::RgbImage::from_fn(8, 8, |x, y| {
            image::Rgb([(i % 251) as u8, (i / 251) as u8, (x * 31 + y) as u8])
        });
        let class = ["Cat", "Dog"][i % 2];
        let path = folder.join(format!("{class}/{i:05}.jpg"));
        let mut bytes = Vec::new();
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90);
        picture.write_with_encoder(encoder).unwrap();
        bytes.extend_from_slice(&i.to_le_bytes()); // after the end marker: another id
        fs::write(path, bytes).unwrap();
    }
}

/// The pictures in `folder` in another form, in that folder.
fn form(folder: &Path, name: &str, count: usize) -> PathBuf {
    let class = |i: usize| ["Cat", "Dog"][i % 2];
    let path = |i: usize| format!("{}/{i:05}.jpg", class(i));
    let bytes = |i: usize| fs::read(folder.join(path(i))).unwrap();
    let mut order: Vec<usize> = (0..count).step_by(2).chain((1..count).step_by(2)).collect();
    let to = folder.join(name);
    let file = || std::io::BufWriter::new(fs::File::create(&to).unwrap());
    match name {
        "pets.csv" => {
            let lines = order
                .iter()
                .map(|i| format!("{},{}\n", path(*i), class(*i)));
            fs::write(&to, format!("path,label\n{}", lines.collect::<String>())).unwrap();
        }
        "pets.zip" => {
            let mut writer = zip::ZipWriter::new(file());
            let options = zip::write::SimpleFileOptions::default()
                .compression_method(zip::CompressionMethod::Stored);
            for i in order {
                writer.start_file(path(i), options).unwrap();
                writer.write_all(&bytes(i)).unwrap();
            }
            writer.finish().unwrap();
        }
        "pets.tar" | "webdataset.tar" => {
            let mut builder = tar::Builder::new(file());
            let mut add = |name: &str, bytes: &[u8]| {
                let mut header = tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o644);
                builder.append_data(&mut header, name, bytes).unwrap();
            };
            for i in order {
                if name == "pets.tar" {
                    add(&path(i), &bytes(i));
                } else {
                    add(&format!("s/img_{i:05}.jpg"), &bytes(i));
                    add(&format!("s/img_{i:05}.cls"), class(i).as_bytes());
                }
            }
            builder.finish().unwrap();
        }
        _ => {
            if name == "shuffled.parquet" {
                order = (0..count).map(|i| i * 60_013 % count).collect();
            }
            let names = order.iter().map(|i| path(*i));
            let labels = order.iter().map(|i| class(*i));
            let mut columns = vec![
                (
                    "path",
                    Arc::new(StringArray::from_iter_values(names)) as ArrayRef,
                ),
                ("label", Arc::new(StringArray::from_iter_values(labels))),
            ];
            if name != "paths.parquet" {
                let images = order.iter().map(|i| bytes(*i));
                columns.push(("image", Arc::new(BinaryArray::from_iter_values(images))));
            }
            let batch = RecordBatch::try_from_iter(columns).unwrap();
            let mut writer =
                parquet::arrow::ArrowWriter::try_new(file(), batch.schema(), None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
        }
    }
    to
}

fn anonymous_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

struct Run {
    secs: f64,
    heap_bytes: u64,
    resident_bytes: u64,
    cached: u64,
}

fn run(backbone: &Path, data: &Path, images: &Path) -> Run {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .env(VERB, "1")
        .env("ORT_DYLIB_PATH", common::library())
        .env("HEADSTART_DATA_DIR", data)
        .env_remove("HEADSTART_LOG")
        .args(["features", "--json", "--quiet", "--ep", "cpu"])
        .args(["--threads", "2", "--backbone"])
        .arg(backbone)
        .arg(images)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().unwrap();
    let mut resident_bytes = 0;
    while child.try_wait().unwrap().is_none() {
        resident_bytes = resident_bytes.max(anonymous_bytes(child.id()).unwrap_or(0));
        std::thread::sleep(Duration::from_micros(500));
    }
    let secs = start.elapsed().as_secs_f64();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let heap = stderr.lines().find_map(|line| line.strip_prefix(HEAP_LINE));
    let cached = common::json(&output.stdout)["counts"]["cached"].as_u64();
    Run {
        secs,
        heap_bytes: heap.unwrap().parse().unwrap(),
        resident_bytes,
        cached: cached.unwrap(),
    }
}

/// The shortest time and the most memory of several runs.
fn summary(runs: impl Iterator<Item = Run>) -> Run {
    let all = runs.reduce(|a, b| Run {
        secs: a.secs.min(b.secs),
        heap_bytes: a.heap_bytes.max(b.heap_bytes),
        resident_bytes: a.resident_bytes.max(b.resident_bytes),
        cached: a.cached.min(b.cached),
    });
    all.unwrap()
}

/// How long `make features` takes, which has cargo look at the sources first.
fn make_features_secs(backbone: &Path, data: &Path, images: &Path) -> f64 {
    let mut command = Command::new("make");
    command
        .current_dir(common::repository())
        .env("HEADSTART_DATA_DIR", data)
        .arg("features")
        .arg(format!("DATA={}", images.display()))
        .arg(format!("BACKBONE={}", backbone.display()))
        .arg(format!("STORE={}", data.join("features").display()))
        .arg(format!("extractor={}", env!("CARGO_BIN_EXE_extractor")))
        .arg("fetch_runtime=true")
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut once = || {
        let start = Instant::now();
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        start.elapsed().as_secs_f64()
    };
    once(); // cargo may have to build
    once().min(once())
}

fn measure() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let backbone = common::tiny_backbone(folder.path());
    let mut all = Vec::new();
    for count in COUNTS {
        let images = folder.path().join(format!("images-{count}"));
        let data = folder.path().join(format!("data-{count}"));
        draw(&images, count);
        // Files this young are not trusted to be unchanged.
        std::thread::sleep(Duration::from_millis(2500));
        // How many batches are in flight at once is chance.
        let first = summary((0..3).map(|_| {
            let _ = fs::remove_dir_all(&data);
            run(&backbone, &data, &images)
        }));
        assert_eq!(first.cached, 0);
        let cached = summary((0..3).map(|_| run(&backbone, &data, &images)));
        assert_eq!(cached.cached, count as u64);
        let folders = BYTES_AN_IMAGE;
        let mut runs = vec![
            ("a folder, first run".to_owned(), folders, first),
            ("a folder, cached".to_owned(), folders, cached),
        ];
        for (name, limit) in FORMS {
            let path = form(&images, name, count);
            std::thread::sleep(Duration::from_millis(2500));
            for what in ["first run", "cached"] {
                let run = run(&backbone, &data, &path);
                assert_eq!(run.cached, count as u64, "{name}");
                let decodes_pages = what == "first run" && DECODE_PAGES.contains(&name);
                let limit = if decodes_pages { f64::INFINITY } else { limit };
                runs.push((format!("{name}, {what}"), limit, run));
            }
            fs::remove_file(path).unwrap();
        }
        for (what, _, run) in &runs {
            println!(
                "{what}, {count} images: {:.2} s, heap {:.2} MB, resident {:.1} MB",
                run.secs,
                run.heap_bytes as f64 / 1e6,
                run.resident_bytes as f64 / 1e6
            );
        }
        if count == COUNTS[0] {
            let secs = make_features_secs(&backbone, &data, &images);
            println!("make features of {count} cached images: {secs:.2} s");
        }
        all.push(runs);
        for folder in [images, data] {
            fs::remove_dir_all(folder).unwrap();
        }
    }
    let more = (COUNTS[1] - COUNTS[0]) as f64;
    for ((what, limit, large), (.., small)) in all[1].iter().zip(&all[0]) {
        let an_image = |bytes: fn(&Run) -> u64| (bytes(large) as f64 - bytes(small) as f64) / more;
        let heap = an_image(|run| run.heap_bytes);
        let resident = an_image(|run| run.resident_bytes);
        println!("{what}: {heap:.1} bytes an image of heap, {resident:.0} resident");
        assert!(heap <= *limit, "more than {limit}");
    }
}
