//! Outlines of shards.

use std::convert::Infallible;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::*;
use crate::store::outline::pieces;

/// The outline of the shard at `path` as a file at `to`, and how many bytes were read for it; none if
/// the shard has none.
fn sketch(path: &Path, to: &Path) -> Option<u64> {
    let bytes = Bytes::from(fs::read(path).unwrap());
    let mut read = 0;
    let pieces = pieces::<Infallible>(bytes.len() as u64, |ranges: &[Range<u64>]| {
        read += ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum::<u64>();
        let slice = |range: &Range<u64>| bytes.slice(range.start as usize..range.end as usize);
        Ok(ranges.iter().map(slice).collect())
    });
    let file = fs::File::create(to).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (at, piece) in pieces.unwrap()? {
        file.write_all_at(&piece, at).unwrap();
    }
    Some(read)
}

fn only_shard(folder: &Path) -> PathBuf {
    let mut paths = files(folder, shard::PREFIX, shard::SUFFIX).unwrap();
    assert_eq!(paths.len(), 1);
    paths.remove(0)
}

/// A store of one shard, its outline beside it, and what was read for that.
fn outlined(root: &Path, rows: &[(ImageId, String)], shape: MapShape) -> (Store, Store, u64) {
    let key = store_key(Dtype::F32);
    let json = StoreJson {
        key: key.clone(),
        backbone_name: "a backbone".to_owned(),
        backbone_trained: None,
    };
    let folder = key::create(&root.join("real"), &json).unwrap();
    let mut writer = ShardWriter::new(&folder, &key, &provenance(), shape, usize::MAX);
    for batch in rows.chunks(7) {
        let named: Vec<(ImageId, &str)> = batch.iter().map(|(id, view)| (*id, &view[..])).collect();
        writer
            .write(&named, vec![1.5; batch.len() * shape.len()])
            .unwrap();
    }
    writer.finish().unwrap();
    let outline = key::create(&root.join("outline"), &json).unwrap();
    let shard = only_shard(&folder);
    let read = sketch(&shard, &outline.join(shard.file_name().unwrap())).unwrap();
    (
        Store::open(&folder).unwrap(),
        Store::open(&outline).unwrap(),
        read,
    )
}

fn must_be_alike(real: &Store, outline: &Store) {
    assert!(real.iter().eq(outline.iter()));
    let (real, outline) = (&real.shards()[0], &outline.shards()[0]);
    assert_eq!(real.content(), outline.content());
    assert_eq!(real.fingerprint(), outline.fingerprint());
    assert_eq!(real.len_bytes(), outline.len_bytes());
    assert!(verify::must_fit_name(outline).is_ok());
}

#[test]
fn an_outline_has_the_rows_and_holes_for_features() {
    let root = tempfile::tempdir().unwrap();
    let shape = MapShape {
        height: 4,
        width: 4,
        channels: 256,
    };
    let rows: Vec<_> = (0..100).map(|i| (id(i), "identity".to_owned())).collect();
    let (real, outline, read) = outlined(root.path(), &rows, shape);
    must_be_alike(&real, &outline);
    let length = real.shards()[0].len_bytes();
    assert!(read < length / 10, "{read} of {length} bytes");
    // What was not read is not there.
    assert!(real.shards()[0].verify().is_ok());
    assert!(outline.shards()[0].verify().is_err());
}

#[test]
fn a_long_footer_is_read_whole() {
    let root = tempfile::tempdir().unwrap();
    let rows: Vec<_> = (0..14_000)
        .map(|i| (id(i), "identity".to_owned()))
        .collect();
    let (real, outline, _) = outlined(root.path(), &rows, SHAPE);
    must_be_alike(&real, &outline);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn an_outline_is_as_its_shard(rows in prop::collection::vec((0..1000_usize, "[a-z0-9-]{0,80}"), 1..40)) {
        let root = tempfile::tempdir().unwrap();
        let rows: Vec<_> = rows.into_iter().map(|(i, view)| (id(i), view)).collect();
        let (real, outline, _) = outlined(root.path(), &rows, SHAPE);
        must_be_alike(&real, &outline);
    }

    #[test]
    fn damage_never_stops_the_program(at in 0.0..1.0_f64, flip in 1..=255_u8, cut in 0..2000_usize) {
        let root = tempfile::tempdir().unwrap();
        let shard = only_shard(&write(root.path(), Dtype::F32, 9, usize::MAX));
        let mut bytes = fs::read(&shard).unwrap();
        let place = (at * bytes.len() as f64) as usize;
        bytes[place] ^= flip;
        bytes.truncate(bytes.len().saturating_sub(cut % 3 * cut));
        let (damaged, to) = (root.path().join("damaged"), root.path().join("outline"));
        fs::write(&damaged, &bytes).unwrap();
        if sketch(&damaged, &to).is_some() {
            let _ = Shard::open(&to);
        }
    }
}
