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

mod common;

use std::alloc::System;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

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
const BYTES_AN_IMAGE: f64 = 64.0;

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
        for (what, run) in [("first", &first), ("cached", &cached)] {
            println!(
                "{what} run of {count} images: {:.2} s, heap {:.2} MB, resident {:.1} MB",
                run.secs,
                run.heap_bytes as f64 / 1e6,
                run.resident_bytes as f64 / 1e6
            );
        }
        if count == COUNTS[0] {
            let secs = make_features_secs(&backbone, &data, &images);
            println!("make features of {count} cached images: {secs:.2} s");
        }
        all.push([first, cached]);
        for folder in [images, data] {
            fs::remove_dir_all(folder).unwrap();
        }
    }
    let more = (COUNTS[1] - COUNTS[0]) as f64;
    for (i, what) in ["first", "cached"].into_iter().enumerate() {
        let an_image =
            |bytes: fn(&Run) -> u64| (bytes(&all[1][i]) as f64 - bytes(&all[0][i]) as f64) / more;
        let heap = an_image(|run| run.heap_bytes);
        let resident = an_image(|run| run.resident_bytes);
        println!("{what} run: {heap:.1} bytes an image of heap, {resident:.0} resident");
        assert!(heap <= BYTES_AN_IMAGE, "more than {BYTES_AN_IMAGE}");
    }
}
