//! How long `extractor features` takes, and how much memory, where every image is cached, and the
//! first time with a backbone that costs next to nothing. Ignored by default; run with
//! `make bench WHAT=store`.
//!
//! Memory is the high-water mark of anonymous memory (heap and stacks, `RssAnon`), sampled every
//! half millisecond: mapped shards are the kernel's page cache, which it drops when it likes.

mod common;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const COUNTS: [usize; 2] = [5_000, 25_000];

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
    peak_bytes: u64,
    cached: u64,
}

fn run(backbone: &Path, data: &Path, images: &Path) -> Run {
    let mut command = common::command(data);
    command
        .args([
            "features",
            "--json",
            "--quiet",
            "--ep",
            "cpu",
            "--threads",
            "2",
            "--backbone",
        ])
        .arg(backbone)
        .arg(images)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().unwrap();
    let mut peak_bytes = 0;
    while child.try_wait().unwrap().is_none() {
        peak_bytes = peak_bytes.max(anonymous_bytes(child.id()).unwrap_or(0));
        std::thread::sleep(Duration::from_micros(500));
    }
    let secs = start.elapsed().as_secs_f64();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let cached = common::json(&output.stdout)["counts"]["cached"].as_u64();
    Run {
        secs,
        peak_bytes,
        cached: cached.unwrap(),
    }
}

#[test]
#[ignore = "a measurement"]
fn cached_runs_of_many_images() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let backbone = common::tiny_backbone(folder.path());
    let mut peaks = Vec::new();
    for count in COUNTS {
        let images = folder.path().join(format!("images-{count}"));
        let data = folder.path().join(format!("data-{count}"));
        draw(&images, count);
        // Files this young are not trusted to be unchanged.
        std::thread::sleep(Duration::from_millis(2500));
        let first = run(&backbone, &data, &images);
        assert_eq!(first.cached, 0);
        let mut cached = run(&backbone, &data, &images);
        for _ in 0..2 {
            let again = run(&backbone, &data, &images);
            assert_eq!(again.cached, count as u64);
            cached.secs = cached.secs.min(again.secs);
            cached.peak_bytes = cached.peak_bytes.max(again.peak_bytes);
        }
        for (what, run) in [("first", &first), ("cached", &cached)] {
            println!(
                "{what} run of {count} images: {:.2} s, {:.1} MB of memory",
                run.secs,
                run.peak_bytes as f64 / 1e6
            );
        }
        peaks.push([first.peak_bytes, cached.peak_bytes]);
    }
    let more = (COUNTS[1] - COUNTS[0]) as f64;
    for (i, what) in ["first", "cached"].into_iter().enumerate() {
        println!(
            "{what} run: {:.0} bytes an image more",
            (peaks[1][i] as f64 - peaks[0][i] as f64) / more
        );
    }
}
