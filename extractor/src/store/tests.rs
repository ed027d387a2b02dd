use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::decode::Exif;
use crate::digest::Digest;
use crate::engine::Precision;
use crate::preprocess::{Layout, Preset};

mod outline;
mod strange;
mod upkeep;

const SHAPE: MapShape = MapShape {
    height: 2,
    width: 3,
    channels: 4,
};

fn store_key(dtype: Dtype) -> StoreKey {
    StoreKey {
        format: FORMAT_VERSION,
        backbone: Digest::of(b"a backbone"),
        feature_tensor: "features".to_owned(),
        input_layout: Layout::Nhwc,
        feature_layout: None,
        precision: Precision::Fp32,
        decoder: "a decoder".to_owned(),
        exif: Exif::Ignore,
        resize: "a resize".to_owned(),
        input_size: [64, 96],
        preset: Preset::Unit,
        dtype,
    }
}

fn provenance() -> Provenance {
    Provenance {
        engine: "an engine 1.0".to_owned(),
        provider: "CPU".to_owned(),
        processor: "a processor".to_owned(),
        headstart: "0.1.0".to_owned(),
        batch_size: 2,
    }
}

fn id(i: usize) -> ImageId {
    Digest::of(&i.to_le_bytes())
}

fn map_of(i: usize) -> Vec<f32> {
    (0..SHAPE.len()).map(|j| (i * 100 + j) as f32).collect()
}

/// A store with rows 0..rows in batches of two.
fn write(root: &Path, dtype: Dtype, rows: usize, shard_bytes: usize) -> PathBuf {
    let all: Vec<usize> = (0..rows).collect();
    write_rows(root, dtype, &provenance(), &all, shard_bytes)
}

/// Adds the given rows to a store, in batches of two.
fn write_rows(
    root: &Path,
    dtype: Dtype,
    provenance: &Provenance,
    rows: &[usize],
    shard_bytes: usize,
) -> PathBuf {
    let key = store_key(dtype);
    let json = StoreJson {
        key: key.clone(),
        backbone_name: "a backbone".to_owned(),
        backbone_trained: None,
    };
    let folder = key::create(root, &json).unwrap();
    let mut writer = ShardWriter::new(&folder, &key, provenance, SHAPE, shard_bytes);
    for pair in rows.chunks(2) {
        let ids: Vec<_> = pair.iter().map(|&i| (id(i), IDENTITY)).collect();
        let features = pair.iter().flat_map(|&i| map_of(i)).collect();
        writer.write(&ids, features).unwrap();
    }
    writer.finish().unwrap();
    folder
}

fn shard_of(folder: &Path) -> PathBuf {
    files(folder, "shard-", ".arrow").unwrap().remove(0)
}

#[test]
fn rows_come_in_the_order_of_the_shards_and_copies_do_not_count() {
    let root = tempfile::tempdir().unwrap();
    let row_bytes = SHAPE.len() * 4;
    write(root.path(), Dtype::F32, 10, 4 * row_bytes);
    // Copies of rows 4 to 6 among new ones, in batches and shards of their own.
    let folder = write_rows(
        root.path(),
        Dtype::F32,
        &provenance(),
        &[10, 4, 5, 11, 6],
        6 * row_bytes,
    );
    let store = Store::open(&folder).unwrap();
    let rows: Vec<_> = store.iter().collect();
    assert_eq!((rows.len(), store.len()), (12, 12));
    assert!(rows.is_sorted_by(|(.., a), (.., b)| a < b));
    for (id, view, at) in rows {
        assert_eq!(store.locate(&id, view), Some(at));
    }
    let total: usize = store.shards().iter().map(Shard::rows).sum();
    assert_eq!(total, 15);
}

#[test]
fn what_was_written_is_read() {
    for dtype in [Dtype::F32, Dtype::F16] {
        let root = tempfile::tempdir().unwrap();
        let row_bytes = SHAPE.len() * dtype.size_bytes();
        let folder = write(root.path(), dtype, 7, 4 * row_bytes);
        let store = Store::open(&folder).unwrap();
        assert_eq!(store.len(), 7);
        assert_eq!(store.shards().len(), 2, "4 rows a shard");
        assert_eq!(store.map_shape(), Some(SHAPE));
        for i in 0..7 {
            let row = store.locate(&id(i), IDENTITY).unwrap();
            let mut values = Vec::new();
            store.features(row).widen_into(&mut values);
            assert_eq!(values, map_of(i));
        }
        assert_eq!(store.locate(&id(7), IDENTITY), None);
        assert_eq!(store.provenances().len(), 1);
        store.shards().iter().for_each(|s| s.verify().unwrap());
        let names: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(
            names.len(),
            3,
            "two shards, store.json and nothing temporary: {names:?}"
        );
    }
}

#[test]
fn the_same_rows_give_the_same_file() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = shard_of(&write(a.path(), Dtype::F32, 5, 1 << 20));
    let b = shard_of(&write(b.path(), Dtype::F32, 5, 1 << 20));
    assert_eq!(a.file_name(), b.file_name());
    assert_eq!(fs::read(a).unwrap(), fs::read(b).unwrap());
}

#[test]
fn a_damaged_batch_is_found() {
    let root = tempfile::tempdir().unwrap();
    let folder = write(root.path(), Dtype::F32, 6, 1 << 20);
    let path = shard_of(&folder);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes
        .windows(4)
        .position(|w| w == 203_f32.to_le_bytes())
        .unwrap();
    bytes[at..at + 4].fill(0);
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    let store = Store::open(&folder).unwrap();
    let error = store.shards()[0].verify().unwrap_err().to_string();
    assert!(error.contains("record batch 1 is damaged"), "{error}");
}

#[test]
fn every_key_field_is_in_the_digest_and_refused_if_it_differs() {
    let key = store_key(Dtype::F32);
    let mut others = vec![key.clone(); 12];
    others[0].format = 2;
    others[1].backbone = Digest::of(b"another");
    others[2].feature_tensor.push('2');
    others[3].precision = Precision::Bf16;
    others[4].decoder.push('2');
    others[5].exif = Exif::Apply;
    others[6].resize.push('2');
    others[7].input_size = [64, 64];
    others[8].preset = Preset::Caffe;
    others[9].dtype = Dtype::F16;
    others[10].input_layout = Layout::Nchw;
    others[11].feature_layout = Some(Layout::Nhwc);
    for other in others {
        assert_ne!(other.digest(), key.digest());
        let error = other.must_equal(&key, Path::new("x")).unwrap_err();
        assert!(matches!(error, StoreError::Key { .. }), "{error}");
    }
    assert!(key.must_equal(&key.clone(), Path::new("x")).is_ok());
}

#[test]
fn a_shard_of_another_key_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let f16 = write(root.path(), Dtype::F16, 2, 1 << 20);
    let f32 = write(root.path(), Dtype::F32, 2, 1 << 20);
    let stranger = shard_of(&f16);
    fs::copy(&stranger, f32.join(stranger.file_name().unwrap())).unwrap();
    let error = Store::open(&f32).unwrap_err().to_string();
    assert!(error.contains("has dtype F16, expected F32"), "{error}");
    assert!(error.contains("(hint: move it there, or"), "{error}");
    assert_eq!(find(root.path()).unwrap().len(), 2);
    assert_eq!(find(&f32).unwrap(), [f32]);
}

#[test]
fn another_version_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let folder = write(root.path(), Dtype::F32, 2, 1 << 20);
    let json = folder.join(key::STORE_JSON);
    let text = fs::read_to_string(&json)
        .unwrap()
        .replace("\"format\": 1", "\"format\": 9");
    fs::write(&json, text).unwrap();
    let error = Store::open(&folder).unwrap_err().to_string();
    assert!(error.contains("format 9"), "{error}");
    assert!(matches!(
        find(&root.path().join("none")),
        Err(StoreError::None(_))
    ));
}

#[test]
fn rejected_images_are_remembered() {
    let root = tempfile::tempdir().unwrap();
    let folder = write(root.path(), Dtype::F32, 1, 1 << 20);
    let rejected = Rejected {
        id: id(9),
        view: None,
        reason: "broken \"JPEG\"\nreally".to_owned(),
        retry: false,
    };
    rejected::write(&folder, std::slice::from_ref(&rejected)).unwrap();
    rejected::write(&folder, &[]).unwrap();
    let store = Store::open(&folder).unwrap();
    assert_eq!(store.rejected(&id(9)), Some(rejected.reason.as_str()));
    assert_eq!(store.rejected(&id(0)), None);
}

/// The golden shard of format 1 stays readable, and today's writer still writes exactly it.
#[test]
fn golden_shard() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/shard-v1.arrow");
    let root = tempfile::tempdir().unwrap();
    let written = shard_of(&write(root.path(), Dtype::F32, 3, 1 << 20));
    if std::env::var_os("HEADSTART_WRITE_GOLDEN").is_some() {
        fs::copy(&written, golden).unwrap();
    }
    let shard = Shard::open(Path::new(golden)).unwrap();
    shard.verify().unwrap();
    assert_eq!(
        (shard.batches(), shard.rows(), shard.map_shape()),
        (2, 3, SHAPE)
    );
    assert_eq!(shard.id(1, 0), id(2));
    assert_eq!(shard.view(1, 0), IDENTITY);
    assert_eq!(shard.features(1, 0), Features::F32(&map_of(2)));
    assert_eq!(shard.key(), &store_key(Dtype::F32));
    assert_eq!(shard.provenance(), &provenance());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// A cut or overwritten shard is refused or read, never a panic or a crash.
    #[test]
    fn hostile_shards_never_panic(cut in 0_usize..4000, at: prop::sample::Index, value: u8, from_end: bool) {
        let root = tempfile::tempdir().unwrap();
        let folder = write(root.path(), Dtype::F32, 3, 1 << 20);
        let path = shard_of(&folder);
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = value;
        if from_end {
            bytes.truncate(bytes.len() - cut.min(bytes.len()));
        }
        let hostile = root.path().join("hostile.arrow");
        fs::write(&hostile, bytes).unwrap();
        if let Ok(shard) = Shard::open(&hostile) {
            let _ = shard.verify();
            for batch in 0..shard.batches() {
                for row in 0..shard.rows_in(batch) {
                    let _ = (shard.id(batch, row), shard.view(batch, row), shard.features(batch, row));
                }
            }
        }
    }
}
