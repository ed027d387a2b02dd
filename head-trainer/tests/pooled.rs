//! Pooled features: the right bits wherever they come from, and nothing that can happen to a
//! sidecar changes them or stops a training.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use common::{MadeUp, made_up_store, noise, record, train};
use extractor::backbone::MapShape;
use extractor::digest::{Digest, ImageId};
use extractor::store::compact::{self, compact};
use extractor::store::{Dtype, IDENTITY, ShardWriter, Store, StoreError, key, verify};
use half::f16;
use head_trainer::pooled::PooledStore;
use predicates::str::contains;
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

const SHAPE: MapShape = MapShape {
    height: 3,
    width: 2,
    channels: 4,
};
const VIEWS: [&str; 2] = [IDENTITY, "hflip"];

fn id(i: usize) -> ImageId {
    Digest::of(&i.to_le_bytes())
}

/// A map with numbers of either sign and very different size, rounded as the store rounds it.
fn map(i: usize, view: &str, shape: MapShape, dtype: Dtype) -> Vec<f32> {
    let first = (i * 2 + usize::from(view != IDENTITY)) * shape.len();
    (first..first + shape.len())
        .map(|n| (noise(n as u64) - 0.5) * 4.0_f32.powi((n % 9) as i32 - 4))
        .map(|x| match dtype {
            Dtype::F32 => x,
            Dtype::F16 => f16::from_f32(x).to_f32(),
            Dtype::U8 => x.abs().round_ties_even().min(255.0),
        })
        .collect()
}

/// Adds the given images in both views: `batch` rows a record batch, `per_shard` rows a shard.
fn add(
    data: &Path,
    dtype: Dtype,
    shape: MapShape,
    images: &[usize],
    [batch, per_shard]: [usize; 2],
) -> PathBuf {
    let (json, provenance) = made_up_store(dtype);
    let folder = key::create(&data.join("features"), &json).unwrap();
    let shard_bytes = per_shard * shape.len() * dtype.size_bytes();
    let mut writer = ShardWriter::new(&folder, &json.key, &provenance, shape, shard_bytes);
    let rows: Vec<(usize, &str)> = images
        .iter()
        .flat_map(|i| VIEWS.map(|view| (*i, view)))
        .collect();
    for rows in rows.chunks(batch) {
        let maps = rows
            .iter()
            .flat_map(|(i, view)| map(*i, view, shape, dtype));
        let ids: Vec<(ImageId, &str)> = rows.iter().map(|(i, view)| (id(*i), *view)).collect();
        writer.write(&ids, maps.collect()).unwrap();
    }
    writer.finish().unwrap();
    folder
}

/// Pools a store and compares every bit: row by row, one position after the other.
fn check(folder: &Path, images: &[usize], shape: MapShape, dtype: Dtype) {
    let store = Store::open(folder).unwrap();
    let pooled = PooledStore::open(&store, true).unwrap();
    let wanted: Vec<(usize, &str)> = images
        .iter()
        .rev()
        .flat_map(|i| VIEWS.map(|view| (*i, view)))
        .collect();
    let refs: Vec<_> = wanted
        .iter()
        .map(|(i, view)| store.locate(&id(*i), view).unwrap())
        .collect();
    let pooled = pooled.gather(&refs);
    let rows = pooled.rows();
    assert_eq!(
        (rows.count(), rows.channels()),
        (refs.len(), shape.channels)
    );
    for (row, (i, view)) in (0..).zip(wanted) {
        let mut sum = vec![0.0_f32; shape.channels];
        for position in map(i, view, shape, dtype).chunks(shape.channels) {
            sum.iter_mut().zip(position).for_each(|(sum, x)| *sum += x);
        }
        let positions = (shape.height * shape.width) as f32;
        let expected: Vec<u32> = sum.iter().map(|x| (x / positions).to_bits()).collect();
        let found: Vec<u32> = rows.row(row).iter().map(|x| x.to_bits()).collect();
        assert_eq!(found, expected, "image {i}, {view}");
    }
}

/// The sidecars and what else lies beside them.
fn beside(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let pooled = folder
        .ancestors()
        .nth(2)
        .unwrap()
        .join("pooled")
        .join(folder.file_name().unwrap());
    let entries = fs::read_dir(pooled).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap_or_default()))
        .collect()
}

fn shards(folder: &Path) -> Vec<PathBuf> {
    let store = Store::open(folder).unwrap();
    store.shards().iter().map(|s| s.path().to_owned()).collect()
}

/// Changes a byte of the features of an image in whatever shard has them.
fn damage_features(folder: &Path, image: usize) {
    let needle: Vec<u8> = map(image, IDENTITY, SHAPE, Dtype::F32)
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    assert!(damage(folder, &needle));
}

fn damage(folder: &Path, needle: &[u8]) -> bool {
    let mut found = false;
    for path in shards(folder) {
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|w| w == needle) {
            found = true;
            bytes[at + needle.len() / 2] ^= 1;
            fs::remove_file(&path).unwrap(); // may be mapped
            fs::write(&path, bytes).unwrap();
        }
    }
    found
}

fn pool(folder: &Path) -> Result<PooledStore, StoreError> {
    PooledStore::open(&Store::open(folder).unwrap(), true)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_same_bits_first_and_later_for_any_shape_and_threads(
        (height, width, channels) in (1..5_usize, 1..5_usize, 1..40_usize),
        images in 1..40_usize,
        batch in 1..70_usize,
        per_shard in 1..90_usize,
        half in any::<bool>(),
    ) {
        let shape = MapShape { height, width, channels };
        let dtype = if half { Dtype::F16 } else { Dtype::F32 };
        let data = tempfile::tempdir().unwrap();
        let images: Vec<usize> = (0..images).collect();
        let folder = add(data.path(), dtype, shape, &images, [batch, per_shard]);
        let mut sidecars = Vec::new();
        for threads in [1, 3] {
            let _ = fs::remove_dir_all(data.path().join("pooled"));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for _ in ["first", "later"] {
                pool.install(|| check(&folder, &images, shape, dtype));
            }
            sidecars.push(beside(&folder));
        }
        prop_assert_eq!(sidecars[0].len(), shards(&folder).len());
        prop_assert!(sidecars[0] == sidecars[1], "the same files for any number of threads");
    }
}

#[test]
fn a_later_training_reads_no_features() {
    let data = tempfile::tempdir().unwrap();
    let images: Vec<usize> = (0..10).collect();
    let folder = add(data.path(), Dtype::F32, SHAPE, &images, [4, 8]);
    check(&folder, &images, SHAPE, Dtype::F32);
    damage_features(&folder, 3);
    // What was pooled when the features were sound is right still; verifying looks at them.
    check(&folder, &images, SHAPE, Dtype::F32);
    assert_eq!(verify::verify(&folder, &|_| ()).unwrap().damaged.len(), 1);
    fs::remove_dir_all(data.path().join("pooled")).unwrap();
    assert!(matches!(pool(&folder), Err(StoreError::Shard { .. })));
    assert_eq!(beside(&folder).len(), 2, "the sound shards were pooled");
    assert!(beside(&folder).values().all(|bytes| !bytes.is_empty()));
}

#[test]
fn damage_to_an_id_or_a_view_is_found_although_the_shard_was_pooled() {
    for needle in [&id(3).0[..], b"hflip"] {
        let data = tempfile::tempdir().unwrap();
        let images: Vec<usize> = (0..10).collect();
        let folder = add(data.path(), Dtype::F32, SHAPE, &images, [4, 8]);
        check(&folder, &images, SHAPE, Dtype::F32);
        assert!(damage(&folder, needle));
        assert!(matches!(pool(&folder), Err(StoreError::Shard { .. })));
    }
}

/// The same header with other bytes in it, and a checksum of its own that fits.
fn forged(sidecar: &[u8], at: usize, field: &[u8]) -> Vec<u8> {
    let mut bytes = sidecar.to_vec();
    bytes[at..at + field.len()].copy_from_slice(field);
    let checksum = xxh3_64(&bytes[..120]);
    bytes[120..128].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn whatever_is_wrong_with_a_sidecar_it_is_made_anew() {
    let data = tempfile::tempdir().unwrap();
    let images: Vec<usize> = (0..10).collect();
    let folder = add(data.path(), Dtype::F32, SHAPE, &images, [4, 8]);
    check(&folder, &images, SHAPE, Dtype::F32);
    let good = beside(&folder);
    let (path, bytes) = good.first_key_value().unwrap();
    let (_, other) = good.last_key_value().unwrap();
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("a part of the header", bytes[..100].to_vec()),
        ("the header alone", bytes[..128].to_vec()),
        ("cut", bytes[..bytes.len() - 1].to_vec()),
        ("longer", [bytes, &[0; 4][..]].concat()),
        ("zeros", vec![0; bytes.len()]),
        ("text", b"hello".repeat(99)),
        ("of another shard", other.clone()),
        ("another magic", forged(bytes, 0, b"HSPOOLEE")),
        ("a later version", forged(bytes, 8, &2_u32.to_le_bytes())),
        ("no channels", forged(bytes, 12, &[0; 4])),
        ("many channels", forged(bytes, 12, &[0xff; 4])),
        ("many rows", forged(bytes, 16, &[0xff; 8])),
        (
            "rows that overflow",
            forged(bytes, 16, &(1_u64 << 60).to_le_bytes()),
        ),
        ("a turned map", forged(bytes, 24, &[2, 0, 0, 0, 3, 0, 0, 0])),
        ("another fingerprint", forged(bytes, 40, &[0x55; 8])),
        ("another checksum", forged(bytes, 48, &[0x55; 8])),
        ("something among the zeros", forged(bytes, 100, b"x")),
    ];
    let mut flipped = Vec::new();
    for at in (0..bytes.len()).step_by(7) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        flipped.push(("a changed bit", bytes));
    }
    for (what, bad) in bad.into_iter().chain(flipped) {
        fs::remove_file(path).unwrap();
        fs::write(path, bad).unwrap();
        check(&folder, &images, SHAPE, Dtype::F32);
        assert!(beside(&folder) == good, "{what}");
    }
    // What cannot be replaced is passed by.
    fs::remove_file(path).unwrap();
    fs::create_dir(path).unwrap();
    check(&folder, &images, SHAPE, Dtype::F32);
    assert!(path.is_dir());
}

#[test]
fn a_user_is_told_why_it_is_pooled_anew() {
    let data = tempfile::tempdir().unwrap();
    let (folder, _) = MadeUp::new(&["Cat", "Dog"], 50).write(data.path());
    let (first, _) = record(data.path(), &[]);
    let sidecars = beside(&folder);
    let (path, bytes) = sidecars.first_key_value().unwrap();
    fs::write(path, &bytes[..300]).unwrap();
    train(data.path(), &[])
        .code(0)
        .stderr(contains("pooled anew, as "))
        .stderr(contains("cannot be used: it has 300 bytes, expected 2128"));
    assert!(beside(&folder) == sidecars);
    let (again, _) = record(data.path(), &[]);
    assert_eq!(again["metrics"], first["metrics"]);
}

#[test]
fn where_nothing_can_be_kept_a_training_works_as_well() {
    let data = tempfile::tempdir().unwrap();
    let (folder, _) = MadeUp::new(&["Cat", "Dog"], 50).write(data.path());
    let (first, _) = record(data.path(), &[]);
    fs::remove_dir_all(data.path().join("pooled")).unwrap();
    // A file where the folder would be stops root, too.
    fs::write(data.path().join("pooled"), "in the way").unwrap();
    let nowhere = data.path().join("nowhere");
    for temporary in [std::env::temp_dir(), nowhere] {
        let mut command = common::head_trainer(data.path());
        let command = command.args(["train", "--json", "--index"]);
        command.arg(data.path().join("indexes/made-up.arrow"));
        let assert = command.env("TMPDIR", temporary).assert().code(0).stderr(
            contains("pooled features are not kept for the next training: cannot create folder")
                .count(1),
        );
        let result: serde_json::Value =
            serde_json::from_slice(&assert.get_output().stdout).unwrap();
        assert_eq!(result["record"]["metrics"], first["metrics"]);
    }
    // Damage is found there, too.
    let images: Vec<usize> = (0..10).collect();
    check(
        &add(data.path(), Dtype::F16, SHAPE, &images, [4, 8]),
        &images,
        SHAPE,
        Dtype::F16,
    );
    assert!(damage(
        &folder,
        &MadeUp::new(&["Cat", "Dog"], 50).entries[7].id.0
    ));
    assert!(matches!(pool(&folder), Err(StoreError::Shard { .. })));
}

#[test]
fn only_a_new_shard_is_pooled_when_a_store_has_grown() {
    let data = tempfile::tempdir().unwrap();
    let images: Vec<usize> = (0..16).collect();
    let folder = add(data.path(), Dtype::F32, SHAPE, &images[..10], [4, 100]);
    check(&folder, &images[..10], SHAPE, Dtype::F32);
    damage_features(&folder, 3); // would be noticed if the old shard were read
    add(data.path(), Dtype::F32, SHAPE, &images[10..], [4, 100]);
    check(&folder, &images, SHAPE, Dtype::F32);
    assert_eq!(beside(&folder).len(), 2);
}

#[test]
fn a_compacted_store_is_pooled_anew_and_old_sidecars_go() {
    let data = tempfile::tempdir().unwrap();
    let images: Vec<usize> = (0..20).collect();
    for half in images.chunks(10) {
        add(data.path(), Dtype::F32, SHAPE, half, [4, 100]);
    }
    let (json, _) = made_up_store(Dtype::F32);
    let folder = json.key.folder(&data.path().join("features"));
    check(&folder, &images, SHAPE, Dtype::F32);
    let old: Vec<PathBuf> = beside(&folder).into_keys().collect();
    assert_eq!(old.len(), 2);
    let options = compact::Options {
        grace: Duration::ZERO,
        ..compact::Options::default()
    };
    assert_eq!(compact(&folder, &options).unwrap().removed.shards, 2);
    let left = old[0].parent().unwrap().join(".tmp-left");
    let foreign = left.with_file_name("notes.txt");
    fs::write(&left, "half").unwrap();
    fs::write(&foreign, "not ours").unwrap();
    check(&folder, &images, SHAPE, Dtype::F32);
    assert_eq!(beside(&folder).len(), 5, "nothing is old enough to go");
    let long_ago = SystemTime::now() - Duration::from_secs(25 * 60 * 60);
    for path in beside(&folder).keys() {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    check(&folder, &images, SHAPE, Dtype::F32);
    let names: Vec<PathBuf> = beside(&folder).into_keys().collect();
    let sidecar = shards(&folder)[0].file_name().unwrap().to_owned();
    let expected = [
        foreign.clone(),
        foreign
            .with_file_name(sidecar)
            .with_extension("arrow.pooled"),
    ];
    assert_eq!(names, expected);
}

fn spawn(data: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_head-trainer"))
        .env("HEADSTART_DATA_DIR", data)
        .args(["train", "--json", "--threads", "2", "--index"])
        .arg(data.join("indexes/made-up.arrow"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A made-up data set in many small shards.
fn many_shards(data: &Path) -> PathBuf {
    let made_up = MadeUp::new(&["Cat", "Dog"], 100);
    made_up.write_index(data);
    let mut folder = PathBuf::new();
    let all: Vec<usize> = (0..200).collect();
    for some in all.chunks(10) {
        folder = made_up.write_rows(data, some, Dtype::F32);
    }
    folder
}

#[test]
fn trainers_that_pool_at_the_same_time_get_the_same() {
    for _ in 0..3 {
        let data = tempfile::tempdir().unwrap();
        let folder = many_shards(data.path());
        let trainers: Vec<Child> = (0..4).map(|_| spawn(data.path())).collect();
        let mut metrics = Vec::new();
        for trainer in trainers {
            let output = trainer.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
            assert!(output.stderr.is_empty(), "{output:?}");
            let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            metrics.push(result["record"]["metrics"].clone());
        }
        assert!(metrics.iter().all(|m| *m == metrics[0]));
        assert_eq!(beside(&folder).len(), 20);
    }
}

#[test]
fn a_killed_training_leaves_whole_sidecars_or_none() {
    let data = tempfile::tempdir().unwrap();
    let folder = many_shards(data.path());
    let started = Instant::now();
    assert!(spawn(data.path()).wait().unwrap().success());
    let run_micros = started.elapsed().as_micros() as u64;
    let whole = beside(&folder);
    assert_eq!(whole.len(), 20);
    let mut partly = 0;
    for kill in 0..40 {
        fs::remove_dir_all(data.path().join("pooled")).unwrap();
        fs::create_dir(data.path().join("pooled")).unwrap();
        let mut trainer = spawn(data.path());
        std::thread::sleep(Duration::from_micros(run_micros * kill / 40));
        trainer.kill().unwrap();
        trainer.wait().unwrap();
        let left = beside(&folder);
        for (path, bytes) in &left {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(name.starts_with(".tmp-") || *bytes == whole[path], "{name}");
        }
        partly += usize::from(!left.is_empty() && left.len() < 20);
    }
    println!("{partly} of 40 killed while they pooled");
    let output = spawn(data.path()).wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
}

/// The format as it was when version 1 was made: never to be written again.
#[test]
fn the_golden_file_is_what_is_written_and_read() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/pooled-v1.pooled");
    let data = tempfile::tempdir().unwrap();
    let images: Vec<usize> = (0..3).collect();
    let folder = add(data.path(), Dtype::F16, SHAPE, &images, [4, 100]);
    check(&folder, &images, SHAPE, Dtype::F16);
    let (path, written) = beside(&folder).pop_first().unwrap();
    if std::env::var_os("HEADSTART_WRITE_GOLDEN").is_some() {
        fs::copy(&path, golden).unwrap();
    }
    let bytes = fs::read(golden).unwrap();
    assert!(
        written == bytes,
        "a change of the format needs a new version"
    );
    // What a reader of its own, by the specification, finds.
    assert_eq!(bytes.len(), 128 + 6 * 4 * 4);
    assert_eq!(&bytes[..8], b"HSPOOLED");
    let number = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
    assert_eq!([8, 12, 16, 20, 24, 28].map(number), [1, 4, 6, 0, 3, 2]);
    assert!(bytes[56..120].iter().all(|b| *b == 0));
    let long = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().unwrap());
    assert_eq!(long(120), xxh3_64(&bytes[..120]));
    let rows = bytes[128..].chunks(16);
    let hashes: Vec<u8> = rows.flat_map(|row| xxh3_64(row).to_le_bytes()).collect();
    assert_eq!(long(48), xxh3_64(&hashes));
    let mut sum = [0.0_f32; 4];
    for position in map(0, "hflip", SHAPE, Dtype::F16).chunks(4) {
        sum.iter_mut().zip(position).for_each(|(sum, x)| *sum += x);
    }
    let second: Vec<u8> = sum.iter().flat_map(|x| (x / 6.0).to_le_bytes()).collect();
    assert_eq!(bytes[144..160], second);
}
