//! Files that are not what their names say, of other versions, replaced meanwhile, or no files.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Schema;
use arrow::ipc::reader::FileReader;
use arrow::ipc::root_as_footer;
use arrow::ipc::writer::FileWriter;
use arrow::record_batch::RecordBatch;

use super::upkeep::{DAY, damage, keep, make_old, options, provenance_of, seen, shards};
use super::*;
use crate::store::census::{Census, Clock, remove};
use crate::store::compact::compact;
use crate::store::verify::{QUARANTINE, quarantine, verify};
use crate::store::{gc, inspect};

/// A shard's bytes, its metadata changed.
fn with_metadata(shard: &Path, change: impl Fn(&mut HashMap<String, String>)) -> Vec<u8> {
    let reader = FileReader::try_new(File::open(shard).unwrap(), None).unwrap();
    let schema = reader.schema();
    let metadata = schema.metadata().iter();
    let mut metadata: HashMap<_, _> = metadata.map(|(k, v)| (k.clone(), v.clone())).collect();
    change(&mut metadata);
    let schema = Arc::new(Schema::new_with_metadata(schema.fields().clone(), metadata));
    let checksums = reader.custom_metadata()["headstart.checksums"].clone();
    let mut writer = FileWriter::try_new(Vec::new(), &schema).unwrap();
    for batch in reader {
        let columns = batch.unwrap().columns().to_vec();
        let batch = RecordBatch::try_new(schema.clone(), columns).unwrap();
        writer.write(&batch).unwrap();
    }
    writer.write_metadata("headstart.checksums", checksums);
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

fn mkfifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn a_shard_of_another_version_is_no_damage() {
    let root = tempfile::tempdir().unwrap();
    let folder = write(root.path(), Dtype::F32, 4, 2 * SHAPE.len() * 4);
    let all = shards(&folder);
    let newer = with_metadata(&all[0], |metadata| {
        metadata.insert("headstart.version".to_owned(), "2".to_owned());
        let key = metadata.get_mut("headstart.key").unwrap();
        *key = key.replace("\"format\":1", "\"format\":2,\"new\":[]");
    });
    replace(&all[0], &newer);
    let error = Store::open(&folder).unwrap_err();
    assert!(
        matches!(error, StoreError::ShardVersion { found: 2, .. }),
        "{error}"
    );
    let error = error.to_string();
    assert!(
        error.contains("has format 2, expected 1 (hint: "),
        "{error}"
    );
    let verified = verify(&folder, &|_| {}).unwrap();
    assert_eq!((verified.shards, verified.damaged.len()), (1, 0));
    assert_eq!(verified.other_version, [(all[0].clone(), 2)]);
    quarantine(&folder, &verified.damaged).unwrap();
    assert_eq!(shards(&folder), all);

    // A version that the key contradicts is a damaged one.
    for version in ["2", "new"] {
        let contradicted = with_metadata(&all[0], |metadata| {
            metadata.insert("headstart.version".to_owned(), version.to_owned());
            let key = metadata.get_mut("headstart.key").unwrap();
            *key = key.replace("\"format\":2", "\"format\":1");
        });
        let path = folder.join("shard-x.arrow");
        fs::write(&path, contradicted).unwrap();
        let damaged = verify(&folder, &|_| {}).unwrap().damaged;
        assert_eq!(damaged.len(), 1);
        assert!(
            damaged[0].reason.contains("its version is"),
            "{}",
            damaged[0].reason
        );
    }
}

/// Writers that computed the same rows on different processors: the first one's shard stays.
#[test]
fn an_equal_shard_is_never_overwritten() {
    let root = tempfile::tempdir().unwrap();
    let folder = write_rows(
        root.path(),
        Dtype::F32,
        &provenance_of(2),
        &[0, 1, 2],
        1 << 20,
    );
    let path = shard_of(&folder);
    let before = fs::metadata(&path).unwrap();
    make_old(&folder, DAY * 2);
    write_rows(
        root.path(),
        Dtype::F32,
        &provenance_of(3),
        &[0, 1, 2],
        1 << 20,
    );
    assert_eq!(shards(&folder), std::slice::from_ref(&path));
    let after = fs::metadata(&path).unwrap();
    assert_eq!(after.ino(), before.ino());
    let age = after.modified().unwrap().elapsed().unwrap_or_default();
    assert!(age < DAY, "what was asked for now is not old");
    assert_eq!(Shard::open(&path).unwrap().provenance(), &provenance_of(2));
    assert!(files(&folder, ".tmp-", "").unwrap().is_empty());
}

#[test]
fn an_equal_shard_that_is_damaged_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    let folder = write(root.path(), Dtype::F32, 4, 1 << 20);
    let path = shard_of(&folder);
    let whole = fs::read(&path).unwrap();
    damage(&path, 203.0);
    let flipped = fs::read(&path).unwrap();
    for bad in [&flipped[..], &whole[..100], &[]] {
        replace(&path, bad);
        write(root.path(), Dtype::F32, 4, 1 << 20);
        assert_eq!(fs::read(&path).unwrap(), whole);
        assert!(files(&folder, ".tmp-", "").unwrap().is_empty());
    }
}

#[test]
fn what_was_replaced_meanwhile_is_not_set_aside() {
    let root = tempfile::tempdir().unwrap();
    let folder = write(root.path(), Dtype::F32, 4, 1 << 20);
    let path = shard_of(&folder);
    let whole = fs::read(&path).unwrap();
    damage(&path, 203.0);
    let damaged = verify(&folder, &|_| {}).unwrap().damaged;
    assert_eq!(damaged.len(), 1);
    replace(&path, &whole);
    assert!(quarantine(&folder, &damaged).unwrap().is_empty());
    assert_eq!(Store::open(&folder).unwrap().len(), 4);
}

#[test]
fn a_store_without_store_json_is_a_damaged_one() {
    let root = tempfile::tempdir().unwrap();
    let folder = write(root.path(), Dtype::F32, 2, 1 << 20);
    fs::write(folder.join(key::STORE_JSON), b"{").unwrap();
    let damaged = verify(&folder, &|_| {}).unwrap().damaged;
    quarantine(&folder, &damaged).unwrap();
    let json = folder.join(key::STORE_JSON);
    assert!(folder.join(QUARANTINE).join(key::STORE_JSON).is_file() && !json.exists());
    assert_eq!(find(&folder).unwrap(), std::slice::from_ref(&folder));
    assert_eq!(find(root.path()).unwrap(), std::slice::from_ref(&folder));
    // In the quarantine there may be shards, too.
    fs::copy(
        shard_of(&folder),
        folder.join(QUARANTINE).join("shard-x.arrow"),
    )
    .unwrap();
    assert_eq!(find(&folder).unwrap(), std::slice::from_ref(&folder));
    let verified = verify(&folder, &|_| {}).unwrap();
    assert_eq!((verified.shards, verified.damaged.len()), (1, 1));
    assert_eq!(verified.damaged[0].path, json);
    assert!(quarantine(&folder, &verified.damaged).unwrap().is_empty());
    fs::remove_file(shard_of(&folder)).unwrap();
    assert!(matches!(find(&folder), Err(StoreError::None(_))));
    assert!(matches!(verify(&folder, &|_| {}), Err(StoreError::None(_))));
}

#[test]
fn what_is_no_file_is_damage_and_nothing_waits_for_it() {
    let root = tempfile::tempdir().unwrap();
    let folder = write(root.path(), Dtype::F32, 2, 1 << 20);
    let place = |name: &str| folder.join(name);
    mkfifo(&place("shard-0.arrow"));
    symlink("nowhere", place("shard-1.arrow")).unwrap();
    fs::create_dir(place("shard-2.arrow")).unwrap();
    mkfifo(&place("rejected-0.jsonl"));
    symlink("nowhere", place("rejected-1.jsonl")).unwrap();
    fs::create_dir(place(".tmp-folder")).unwrap();
    mkfifo(&place(".tmp-pipe"));
    symlink("nowhere", place(".tmp-link")).unwrap();
    assert!(matches!(
        Store::open(&folder),
        Err(StoreError::Rejected { .. })
    ));
    let damaged = verify(&folder, &|_| {}).unwrap().damaged;
    let reasons: Vec<_> = damaged.iter().map(|d| d.reason.as_str()).collect();
    let (pipe, link) = ("it is no regular file", "it is a link to what is not there");
    assert_eq!(reasons, [pipe, link, pipe, link, "it is a folder"]);
    assert_eq!(quarantine(&folder, &damaged).unwrap().len(), 5);
    let store = Store::open(&folder).unwrap();
    assert_eq!(store.len(), 2);
    assert!(inspect::inspect(&store).unwrap().temporary.is_empty());
    assert_eq!(
        compact(&folder, &options(Duration::ZERO))
            .unwrap()
            .removed
            .temporary,
        0
    );

    let json = place(key::STORE_JSON);
    fs::remove_file(&json).unwrap();
    mkfifo(&json);
    assert!(matches!(
        Store::open(&folder),
        Err(StoreError::NotAStore { .. })
    ));
    assert_eq!(find(root.path()).unwrap(), std::slice::from_ref(&folder));
    let damaged = verify(&folder, &|_| {}).unwrap().damaged;
    assert_eq!(quarantine(&folder, &damaged).unwrap().len(), 1);
    assert!(!json.exists());
}

#[test]
fn a_name_must_fit_what_is_in_the_file() {
    let root = tempfile::tempdir().unwrap();
    let folder = write(root.path(), Dtype::F32, 2, 1 << 20);
    let path = shard_of(&folder);
    for (name, sound) in [
        ("shard-00000000000000000000000000000000.arrow", false),
        ("shard--9998-00000000000000000000000000000000.arrow", false),
        ("shard-of-mine.arrow", true),
    ] {
        let other = folder.join(name);
        fs::copy(&path, &other).unwrap();
        let damaged = verify(&folder, &|_| {}).unwrap().damaged;
        assert_eq!(damaged.is_empty(), sound, "{name}");
        fs::remove_file(other).unwrap();
    }

    let rejected = |i| Rejected {
        id: id(i),
        view: None,
        reason: "broken".to_owned(),
        retry: false,
    };
    rejected::write(&folder, &[rejected(9)]).unwrap();
    let record = files(&folder, rejected::PREFIX, "").unwrap().remove(0);
    let text = fs::read_to_string(&record).unwrap();
    assert_eq!(
        Store::open(&folder).unwrap().rejected(&id(9)),
        Some("broken")
    );
    // Another image would never be tried.
    replace(
        &record,
        text.replace(&id(9).to_string(), &id(10).to_string())
            .as_bytes(),
    );
    let error = Store::open(&folder).unwrap_err().to_string();
    assert!(error.contains("it is not what was written"), "{error}");
    assert_eq!(verify(&folder, &|_| {}).unwrap().damaged.len(), 1);
}

#[test]
fn a_block_that_is_listed_twice_is_damage() {
    let root = tempfile::tempdir().unwrap();
    let folder = write(root.path(), Dtype::F32, 4, 1 << 20);
    let path = shard_of(&folder);
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len() - 10;
    let length = u32::from_le_bytes(*bytes[end..].first_chunk().unwrap());
    let start = end - length as usize;
    let blocks: Vec<Vec<u8>> = {
        let footer = root_as_footer(&bytes[start..end]).unwrap();
        let blocks = footer.recordBatches().unwrap();
        blocks.iter().map(|block| block.0.to_vec()).collect()
    };
    assert_eq!(blocks.len(), 2);
    let at = bytes[start..end]
        .windows(blocks[1].len())
        .position(|window| window == blocks[1])
        .unwrap();
    bytes[start + at..][..blocks[1].len()].copy_from_slice(&blocks[0]);
    replace(&path, &bytes);
    let error = Shard::open(&path).unwrap_err().to_string();
    assert!(
        error.contains("two of its record batches overlap"),
        "{error}"
    );
}

#[test]
fn features_must_be_of_the_keys_type() {
    let root = tempfile::tempdir().unwrap();
    let folder = write(root.path(), Dtype::F32, 2, 1 << 20);
    let other = with_metadata(&shard_of(&folder), |metadata| {
        let key = metadata.get_mut("headstart.key").unwrap();
        *key = key.replace("\"dtype\":\"f32\"", "\"dtype\":\"f16\"");
    });
    let path = root.path().join("other.arrow");
    fs::write(&path, other).unwrap();
    let error = Shard::open(&path).unwrap_err().to_string();
    assert!(
        error.contains("its features are Float32, those of its key f16"),
        "{error}"
    );
}

/// What replaces a shard is mapped and gone from the disk: then the shard is what is left.
#[test]
fn nothing_is_removed_for_a_copy_that_is_gone() {
    let root = tempfile::tempdir().unwrap();
    write_rows(root.path(), Dtype::F32, &provenance(), &[0, 1], 1);
    let folder = write_rows(root.path(), Dtype::F32, &provenance(), &[2, 3], 1);
    let merged = compact(&folder, &options(DAY)).unwrap().written.remove(0);
    let store = Store::open(&folder).unwrap();
    let (census, clock) = (
        Census::new(&store, None),
        Clock::new(&folder, Duration::ZERO),
    );
    assert_eq!(census.dead().len(), 2);
    fs::remove_file(merged).unwrap();
    let mut removed = Removed::default();
    remove(&census, &clock, false, &mut removed).unwrap();
    assert_eq!(removed.shards, 0);
    assert_eq!(Store::open(&folder).unwrap().len(), 4);
}

#[test]
fn collecting_everything_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let folder = write(root.path(), Dtype::F32, 4, 1 << 20);
    let mut options = gc::Options {
        grace: Duration::ZERO,
        yes: false,
    };
    let planned = gc::collect(&folder, &keep(&[77]), &options).unwrap();
    assert_eq!((planned.kept_images, planned.unneeded_images), (0, 4));
    options.yes = true;
    let error = gc::collect(&folder, &keep(&[77]), &options).unwrap_err();
    assert!(
        matches!(error, StoreError::NothingKept { images: 4, .. }),
        "{error}"
    );
    assert_eq!(seen(&folder, 4).iter().flatten().count(), 4);
}

#[test]
fn what_strangers_wrote_cannot_steer_a_terminal() {
    let error = StoreError::Shard {
        path: PathBuf::from("a\x1b[2Jb"),
        reason: "its key is \x1b[31m\n".to_owned(),
    };
    let error = error.to_string();
    assert!(!error.contains(char::is_control), "{error:?}");
}
