//! How fast features are written to a store, pooled the first time, and had pooled later. Ignored by default; run with
//! `make bench WHAT=store`. Each figure stands beside a plain copy of the same bytes in the same
//! process, as the ratio says more than the figure on a machine that others use too.

mod common;

use std::alloc::System;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cap::Cap;
use extractor::backbone::MapShape;
use extractor::digest::{Digest, ImageId};
use extractor::store::writer::SHARD_BYTES;
use extractor::store::{Dtype, IDENTITY, RowRef, ShardWriter, Store, key};
use head_trainer::pooled::{Pooled, PooledStore};
use rayon::prelude::*;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

const SHAPE: MapShape = MapShape {
    height: 4,
    width: 4,
    channels: 2048,
};
const BATCH: usize = 64;
const ROWS: usize = 4096; // 537 MB of f32
const REPEATS: usize = 3;

fn secs<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed().as_secs_f64(), result)
}

fn write_store(root: &Path, dtype: Dtype, batch: &[f32]) -> std::path::PathBuf {
    let (json, provenance) = common::made_up_store(dtype);
    let folder = key::create(root, &json).unwrap();
    let mut writer = ShardWriter::new(&folder, &json.key, &provenance, SHAPE, SHARD_BYTES);
    for first in (0..ROWS).step_by(BATCH) {
        let ids: Vec<ImageId> = (first..first + BATCH)
            .map(|i| Digest::of(&i.to_le_bytes()))
            .collect();
        let rows: Vec<(ImageId, &str)> = ids.iter().map(|id| (*id, IDENTITY)).collect();
        writer.write(&rows, batch.to_vec()).unwrap();
    }
    writer.finish().unwrap();
    folder
}

/// Writes the bytes of as many rows in plain files, synced as shards are.
fn write_plain(folder: &Path, bytes: &[u8]) {
    let per_file = (SHARD_BYTES / bytes.len()).max(1);
    let batches: Vec<usize> = (0..ROWS / BATCH).collect();
    for (i, part) in batches.chunks(per_file).enumerate() {
        let mut file = File::create(folder.join(format!("plain-{i}"))).unwrap();
        for _ in part {
            file.write_all(bytes).unwrap();
        }
        file.sync_all().unwrap();
    }
}

fn pooled(store: &Store, rows: &[RowRef]) -> Pooled {
    PooledStore::open(store, true).unwrap().gather(rows)
}

/// By how many bytes the heap grew.
#[derive(Debug)]
struct Growth {
    /// By what the result takes.
    kept: f64,
    /// At most, looked at all the time.
    most: f64,
}

fn heap<T>(work: impl FnOnce() -> T) -> (Growth, T) {
    let before = HEAP.allocated();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut most = before;
            while !done.load(Ordering::Relaxed) {
                most = most.max(HEAP.allocated());
                std::thread::sleep(Duration::from_micros(200));
            }
            most
        });
        let result = work();
        let kept = HEAP.allocated() as f64 - before as f64;
        done.store(true, Ordering::Relaxed);
        let most = (watch.join().unwrap() - before) as f64;
        (Growth { kept, most }, result)
    })
}

/// A number that depends on every value, so that all are read.
fn read_all(values: &[f32]) -> f32 {
    values
        .par_chunks(1 << 16)
        .map(|chunk| {
            let mut lanes = [0.0_f32; 16];
            for block in chunk.as_chunks::<16>().0 {
                for lane in 0..16 {
                    lanes[lane] += block[lane];
                }
            }
            lanes.iter().sum::<f32>()
        })
        .sum()
}

#[test]
#[ignore = "a measurement"]
fn writing_and_pooling_at_full_size() {
    let batch: Vec<f32> = (0..BATCH * SHAPE.len())
        .map(|i| ((i * 7919 % 1009) as f32 / 500.0 - 1.0).max(0.0))
        .collect();
    for dtype in [Dtype::F32, Dtype::F16] {
        let bytes = vec![1_u8; BATCH * SHAPE.len() * dtype.size_bytes()];
        let gigabytes = (ROWS * SHAPE.len() * dtype.size_bytes()) as f64 / 1e9;
        let memory = vec![1.0_f32; ROWS * SHAPE.len() * dtype.size_bytes() / 4];
        for _ in 0..REPEATS {
            let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let (plain, ()) = secs(|| write_plain(folder.path(), &bytes));
            let (ours, store) = secs(|| write_store(folder.path(), dtype, &batch));
            println!(
                "write {dtype}: {:.2} GB/s ({:.0} rows/s), plain files {:.2} GB/s: {:.2} of it",
                gigabytes / ours,
                ROWS as f64 / ours,
                gigabytes / plain,
                plain / ours
            );
            let store = Store::open(&store).unwrap();
            let rows: Vec<RowRef> = store.iter().map(|(_, _, row)| row).collect();
            let (verify, ()) = secs(|| store.shards().par_iter().for_each(|s| s.verify().unwrap()));
            let (plain, sum) = secs(|| read_all(&memory));
            assert!(sum > 0.0);
            // Where nothing can be kept, a file without a name is written, and not synced.
            let beside = folder.path().join("pooled");
            std::fs::write(&beside, "in the way").unwrap();
            let (pool, _) = secs(|| pooled(&store, &rows));
            std::fs::remove_file(&beside).unwrap();
            println!(
                "pool {dtype}: {:.2} GB/s with checksums, memory read {:.2} GB/s: {:.2} of it; \
                 checksums alone {:.2} GB/s",
                gigabytes / pool,
                gigabytes / plain,
                plain / pool,
                gigabytes / verify
            );
            let (sidecars, ()) = secs(|| {
                let mut file = File::create(folder.path().join("plain-pooled")).unwrap();
                file.write_all(bytemuck::cast_slice(&memory[..ROWS * SHAPE.channels]))
                    .unwrap();
                file.sync_all().unwrap();
            });
            let [first, later] = ["first", "later"].map(|_| {
                let (heap, (secs, pooled)) = heap(|| secs(|| pooled(&store, &rows)));
                assert_eq!(pooled.rows().count(), ROWS);
                assert!(heap.kept / (ROWS as f64) < 16.0, "{heap:?} for {ROWS} rows");
                (secs, heap)
            });
            println!(
                "start {dtype}: {:.3} s the first time, a plain file of as many pooled features \
                 {sidecars:.3} s; later {:.4} s, {:.0} times as fast; heap {:.1} bytes a row, \
                 {:.1} MB while it pools",
                first.0,
                later.0,
                first.0 / later.0,
                later.1.kept / ROWS as f64,
                first.1.most / 1e6
            );
        }
    }
}
