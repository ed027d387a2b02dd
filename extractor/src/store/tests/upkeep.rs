//! Verifying, compacting and collecting.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::time::{Duration, SystemTime};

use super::*;
use crate::store::compact::{self, Compacted, compact};
use crate::store::verify::{QUARANTINE, quarantine, verify};
use crate::store::{gc, inspect};

pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Every row, physically: id -> the copies' features and provenances.
fn copies(folder: &Path) -> BTreeMap<ImageId, Vec<(Vec<f32>, Provenance)>> {
    let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for shard in Store::open(folder).unwrap().shards() {
        shard.verify().unwrap();
        for (batch, row) in shard.positions() {
            let features = values(shard.features(batch, row));
            let copies = all.entry(shard.id(batch, row)).or_default();
            copies.push((features, shard.provenance().clone()));
        }
    }
    all
}

fn values(features: Features) -> Vec<f32> {
    let mut values = Vec::new();
    features.widen_into(&mut values);
    values
}

/// What a reader sees: id -> features.
pub(super) fn seen(folder: &Path, rows: usize) -> Vec<Option<Vec<f32>>> {
    let store = Store::open(folder).unwrap();
    let of = |i| Some(values(store.features(store.locate(&id(i), IDENTITY)?)));
    (0..rows).map(of).collect()
}

pub(super) fn provenance_of(batch_size: usize) -> Provenance {
    Provenance {
        batch_size,
        ..provenance()
    }
}

pub(super) fn shards(folder: &Path) -> Vec<PathBuf> {
    files(folder, shard::PREFIX, shard::SUFFIX).unwrap()
}

pub(super) fn make_old(folder: &Path, age: Duration) {
    for path in files(folder, "", "").unwrap() {
        let file = File::open(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }
}

pub(super) fn options(grace: Duration) -> compact::Options {
    compact::Options {
        shard_bytes: 1 << 20,
        grace,
    }
}

#[test]
fn small_shards_are_merged_bit_by_bit_and_only_within_a_provenance() {
    for dtype in [Dtype::F32, Dtype::F16] {
        let root = tempfile::tempdir().unwrap();
        for i in 0..5 {
            write_rows(
                root.path(),
                dtype,
                &provenance_of(2),
                &[2 * i, 2 * i + 1],
                1,
            );
        }
        let folder = write_rows(root.path(), dtype, &provenance_of(3), &[10, 11, 12, 13], 1);
        let before = copies(&folder);
        assert_eq!(shards(&folder).len(), 7);
        let compacted = compact(&folder, &options(Duration::ZERO)).unwrap();
        assert_eq!((compacted.replaced, compacted.written.len()), (7, 2));
        assert_eq!(
            (compacted.removed.shards, compacted.removed.waiting),
            (7, 0)
        );
        assert_eq!(shards(&folder).len(), 2);
        assert_eq!(copies(&folder), before);
        // There is nothing left to do.
        let again = compact(&folder, &options(Duration::ZERO)).unwrap();
        assert_eq!(again, Compacted::default());
    }
}

#[test]
fn full_shards_are_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let folder = write(root.path(), Dtype::F32, 8, 4 * SHAPE.len() * 4);
    let before = shards(&folder);
    let small = compact::Options {
        shard_bytes: 4 * SHAPE.len() * 4,
        grace: Duration::ZERO,
    };
    assert_eq!(compact(&folder, &small).unwrap(), Compacted::default());
    assert_eq!(shards(&folder), before);
}

/// Copies of a row that differ in the last bits (other machines made them) are told apart here by
/// provenance: what is read never changes, and one copy stays.
#[test]
fn duplicates_go_and_what_is_read_stays() {
    let root = tempfile::tempdir().unwrap();
    let rows: [&[usize]; 4] = [&[0, 1, 2, 3], &[2, 3, 4, 5], &[0, 5, 6], &[1, 6, 2]];
    let mut folder = PathBuf::new();
    for (i, rows) in rows.iter().enumerate() {
        folder = write_rows(root.path(), Dtype::F32, &provenance_of(i), rows, 1 << 20);
    }
    // Whatever the order in which shards are removed, the same copy is read in between.
    let origin = |folder: &Path| -> Vec<_> {
        let store = Store::open(folder).unwrap();
        let of = |i| {
            store.shards[store.locate(&id(i), IDENTITY).unwrap().shard as usize]
                .provenance()
                .batch_size
        };
        (0..7).map(of).collect()
    };
    let (before, origins) = (seen(&folder, 7), origin(&folder));
    let compacted = compact(&folder, &options(DAY)).unwrap();
    assert_eq!(compacted.removed.shards, 0, "nobody loses what they read");
    assert!(compacted.removed.waiting > 0);
    assert_eq!(
        (seen(&folder, 7), origin(&folder)),
        (before.clone(), origins.clone())
    );

    // Once the replaced and the replacing shards are a day old, the replaced ones go.
    make_old(&folder, DAY * 2);
    let dead = compacted.removed.waiting;
    let compacted = compact(&folder, &options(DAY)).unwrap();
    assert_eq!(
        (compacted.removed.shards, compacted.removed.waiting),
        (dead, 0)
    );
    assert_eq!((seen(&folder, 7), origin(&folder)), (before, origins));
    let copies = copies(&folder);
    assert_eq!(copies.len(), 7);
    assert!(copies.values().all(|c| c.len() == 1));
}

#[test]
fn an_old_shard_waits_for_its_replacement_to_be_old() {
    let root = tempfile::tempdir().unwrap();
    write_rows(root.path(), Dtype::F32, &provenance(), &[0, 1], 1);
    let folder = write_rows(root.path(), Dtype::F32, &provenance(), &[2, 3], 1);
    make_old(&folder, DAY * 2);
    let compacted = compact(&folder, &options(DAY)).unwrap();
    assert_eq!((compacted.written.len(), compacted.removed.waiting), (1, 2));
    assert_eq!(shards(&folder).len(), 3);
    assert_eq!(Store::open(&folder).unwrap().len(), 4);
}

/// Any number of compactions at once, stopped anywhere, lose and double nothing.
#[test]
fn compactions_may_race() {
    let root = tempfile::tempdir().unwrap();
    let mut folder = PathBuf::new();
    for i in 0..12 {
        folder = write_rows(
            root.path(),
            Dtype::F32,
            &provenance_of(i % 2),
            &[i, i + 1],
            1,
        );
    }
    let before = seen(&folder, 13);
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| compact(&folder, &options(Duration::ZERO)).map(|_| ())))
            .collect();
        let readers = scope.spawn(|| {
            for _ in 0..50 {
                assert_eq!(seen(&folder, 13), before);
            }
        });
        for job in jobs {
            // Without a grace period one may remove what another has under way, which then fails.
            if let Err(e) = job.join().unwrap() {
                let e = match e {
                    StoreError::Stopped { source, .. } => *source,
                    e => e,
                };
                assert!(matches!(e, StoreError::File(_)), "{e}");
            }
        }
        readers.join().unwrap();
    });
    compact(&folder, &options(Duration::ZERO)).unwrap();
    assert_eq!(seen(&folder, 13), before);
    let copies = copies(&folder);
    assert!(copies.len() == 13 && copies.values().all(|c| c.len() == 1));
}

/// Overwrites the first feature that is `value` in the shard at `path`.
pub(super) fn damage(path: &Path, value: f32) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes
        .windows(4)
        .position(|w| w == value.to_le_bytes())
        .unwrap();
    bytes[at..at + 4].fill(0);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn damage_is_never_rewritten_nor_trusted() {
    let root = tempfile::tempdir().unwrap();
    write_rows(root.path(), Dtype::F32, &provenance(), &[0, 1], 1);
    let folder = write_rows(root.path(), Dtype::F32, &provenance(), &[2, 3], 1);
    let merged = compact(&folder, &options(DAY)).unwrap().written.remove(0);
    damage(&merged, 203.0);
    let error = compact(&folder, &options(Duration::ZERO))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("is damaged") && error.contains("--quarantine"),
        "{error}"
    );
    assert_eq!(shards(&folder).len(), 3, "the good copies are still there");
    let damaged = verify(&folder, &|_| {}).unwrap().damaged;
    quarantine(&folder, &damaged).unwrap();
    assert_eq!(
        seen(&folder, 4),
        (0..4).map(|i| Some(map_of(i))).collect::<Vec<_>>()
    );
}

#[test]
fn whatever_is_damaged_is_set_aside_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let folder = write(root.path(), Dtype::F32, 12, 2 * SHAPE.len() * 4);
    let sound = verify(&folder, &|_| {}).unwrap();
    assert_eq!((sound.shards, sound.rows, sound.damaged.len()), (6, 12, 0));
    let all = shards(&folder);
    let first = |shard: &Path| {
        let shard = Shard::open(shard).unwrap();
        values(shard.features(0, 0))[1]
    };
    damage(&all[0], first(&all[0]));
    let cut = fs::read(&all[1]).unwrap();
    fs::write(&all[1], &cut[..cut.len() - 100]).unwrap();
    fs::write(&all[2], b"").unwrap();
    let stranger = shard_of(&write(other.path(), Dtype::F16, 2, 1 << 20));
    fs::copy(&stranger, folder.join("shard-ffffffffffffffff.arrow")).unwrap();
    fs::create_dir(folder.join("shard-folder.arrow")).unwrap();
    fs::write(folder.join("rejected-x.jsonl"), b"{\"id\": 7").unwrap();
    fs::write(folder.join("rejected-y.jsonl"), b"\xff").unwrap();
    let error = Store::open(&folder).unwrap_err().to_string();
    assert!(error.contains("--quarantine"), "{error}");

    let verified = verify(&folder, &|_| {}).unwrap();
    assert_eq!((verified.shards, verified.rows), (3, 6));
    let reasons: Vec<_> = verified.damaged.iter().map(|d| d.reason.as_str()).collect();
    assert_eq!(reasons.len(), 7, "{reasons:?}");
    for expected in [
        "checksum",
        "cut off?",
        "too short",
        "its dtype is F16, not F32",
    ] {
        assert_eq!(
            reasons.iter().filter(|r| r.contains(expected)).count(),
            1,
            "{reasons:?}"
        );
    }
    let moved = quarantine(&folder, &verified.damaged).unwrap();
    assert_eq!(moved.len(), 7);
    assert!(
        moved
            .iter()
            .all(|p| p.exists() && p.starts_with(folder.join(QUARANTINE)))
    );
    let store = Store::open(&folder).unwrap();
    assert_eq!(store.len(), 6);
    assert_eq!(inspect::inspect(&store).unwrap().quarantined.len(), 7);
    // What is computed anew takes its place, and can be set aside again.
    let folder = write(root.path(), Dtype::F32, 12, 2 * SHAPE.len() * 4);
    assert_eq!(
        seen(&folder, 12),
        (0..12).map(|i| Some(map_of(i))).collect::<Vec<_>>()
    );
    damage(&all[0], first(&all[0]));
    let again = quarantine(&folder, &verify(&folder, &|_| {}).unwrap().damaged).unwrap();
    assert!(
        again[0].to_string_lossy().ends_with(".arrow.1"),
        "{again:?}"
    );
}

#[test]
fn a_damaged_store_json_is_found_and_written_anew() {
    let root = tempfile::tempdir().unwrap();
    let folder = write(root.path(), Dtype::F32, 2, 1 << 20);
    fs::write(folder.join(key::STORE_JSON), b"{").unwrap();
    let verified = verify(&folder, &|_| {}).unwrap();
    assert_eq!((verified.shards, verified.damaged.len()), (1, 1));
    quarantine(&folder, &verified.damaged).unwrap();
    write(root.path(), Dtype::F32, 2, 1 << 20);
    assert_eq!(Store::open(&folder).unwrap().len(), 2);
}

pub(super) fn keep(rows: &[usize]) -> HashSet<ImageId> {
    rows.iter().map(|&i| id(i)).collect()
}

#[test]
fn unneeded_rows_are_dropped_with_yes_only() {
    let root = tempfile::tempdir().unwrap();
    let folder = write(root.path(), Dtype::F32, 8, 2 * SHAPE.len() * 4);
    let kept = keep(&[0, 1, 2, 77]);
    let before = shards(&folder);
    let mut options = gc::Options {
        grace: Duration::ZERO,
        yes: false,
    };
    let planned = gc::collect(&folder, &kept, &options).unwrap();
    assert_eq!((planned.kept_images, planned.unneeded_images), (3, 5));
    assert_eq!(
        (planned.unneeded.len(), planned.partly_needed.len()),
        (2, 1)
    );
    assert_eq!(shards(&folder), before);

    options.yes = true;
    let done = gc::collect(&folder, &kept, &options).unwrap();
    assert_eq!((done.removed.shards, done.written.len()), (3, 1));
    assert_eq!(shards(&folder).len(), 2);
    let left: Vec<_> = seen(&folder, 8).into_iter().flatten().collect();
    assert_eq!(left, [map_of(0), map_of(1), map_of(2)]);
}

#[test]
fn what_is_young_stays() {
    let root = tempfile::tempdir().unwrap();
    let folder = write(root.path(), Dtype::F32, 4, 2 * SHAPE.len() * 4);
    let killed = folder.join(".tmp-killed");
    fs::write(&killed, b"half a shard").unwrap();
    let options = gc::Options {
        grace: DAY,
        yes: true,
    };
    let young = gc::collect(&folder, &keep(&[0]), &options).unwrap();
    assert_eq!(
        (
            young.removed.shards,
            young.removed.waiting,
            young.written.len()
        ),
        (0, 1, 0)
    );
    assert_eq!(Store::open(&folder).unwrap().len(), 4);
    assert!(killed.exists());

    // A day later what nobody needs goes, and the rest of the partly needed shard a day after its
    // rows were taken over.
    make_old(&folder, DAY * 2);
    let old = gc::collect(&folder, &keep(&[0]), &options).unwrap();
    assert_eq!((old.removed.shards, old.removed.temporary), (1, 1));
    assert_eq!((old.removed.waiting, old.written.len()), (1, 1));
    assert!(!killed.exists());
    make_old(&folder, DAY * 2);
    let older = gc::collect(&folder, &keep(&[0]), &options).unwrap();
    assert_eq!((older.removed.shards, older.removed.waiting), (1, 0));
    let copies = copies(&folder);
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[&id(0)][0].0, map_of(0));
}
