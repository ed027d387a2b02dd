//! The images themselves as a store: decoded and resized once, three bytes a pixel, mapped.
//!
//! A store of pixels is a feature store whose backbone gives its input back: the same keys, shards,
//! rejections and upkeep, for models that are trained on images and not on features. Its maps are
//! [H, W, 3], RGB, rounded to whole numbers from 0 to 255. Must not know what they are for.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::backbone::{Backbone, Spec};
use crate::decode::Exif;
use crate::digest::Digest;
use crate::engine::{Engine, EngineError, EngineInfo};
use crate::features::{self, Extracted, FeaturesError, Job, Plan, Report, Sessions, Work};
use crate::images::Images;
use crate::index::Index;
use crate::preprocess::{Layout, Preset};
use crate::store::{Dtype, Store, StoreError, StoreJson, StoreKey, key, writer};
use crate::timings::Clock;
use crate::view::{View, Views};

/// What a store of pixels calls its backbone.
pub const NAME: &str = "pixels";

/// Images that are decoded together.
const BATCH: usize = 64;

/// Gives its input back.
struct Identity(EngineInfo);

impl Engine for Identity {
    fn info(&self) -> &EngineInfo {
        &self.0
    }

    fn run(
        &mut self,
        _input: &str,
        shape: [usize; 4],
        data: &[f32],
        _output: &str,
        out: &mut Vec<f32>,
    ) -> Result<Vec<usize>, EngineError> {
        out.clear();
        out.extend_from_slice(data);
        Ok(shape.to_vec())
    }
}

/// The backbone that gives images of `size` (height, width) back.
fn spec(size: [usize; 2]) -> Spec {
    Spec {
        name: NAME.to_owned(),
        digest: Digest::of(NAME.as_bytes()),
        input: NAME.to_owned(),
        input_layout: Layout::Nhwc,
        input_size: size,
        batch: None,
        feature_tensor: NAME.to_owned(),
        feature_layout: Some(Layout::Nhwc),
        preset: Preset::Raw,
        described_preset: None,
        trained: None,
    }
}

/// The key of pixels of `size` (height, width) of images that are read as `exif` says.
pub fn key(size: [usize; 2], exif: Exif) -> StoreKey {
    StoreKey::new(&spec(size), exif, Dtype::U8)
}

/// The store of `key` below `root`, if it is there.
///
/// # Errors
/// When it is damaged.
pub fn open(root: &Path, key: &StoreKey) -> Result<Option<Store>, StoreError> {
    match Store::open(&key.folder(root)) {
        Ok(store) => Ok(Some(store)),
        Err(StoreError::None(_)) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Which images of `index` are not in `store` yet.
pub fn plan(index: &Index, store: Option<&Store>) -> Plan {
    features::plan(index, store, &Views::from_iter([View::Identity]))
}

/// Adds the images of `index` that a plan found missing to the store of `key` below `root`, reading
/// them from `images`; makes the store if need be. `stop` as in [`Job::stop`].
///
/// # Errors
/// [`FeaturesError`]; what was complete before is kept.
pub fn fill(
    images: &dyn Images,
    index: &Index,
    missing: &Work,
    (root, key): (&Path, &StoreKey),
    stop: &AtomicBool,
    report: &dyn Report,
) -> Result<Extracted, FeaturesError> {
    let json = StoreJson {
        key: key.clone(),
        backbone_name: NAME.to_owned(),
        backbone_trained: None,
    };
    let folder = key::create(root, &json)?;
    let info = EngineInfo {
        engine: NAME.to_owned(),
        provider: "CPU",
        note: None,
    };
    let backbone = Backbone::new(spec(key.input_size), Box::new(Identity(info)), BATCH);
    let job = Job {
        images,
        folder: &folder,
        key,
        strict: false,
        shard_bytes: writer::SHARD_BYTES,
        stop,
        clock: &Clock::default(),
    };
    features::extract(
        &job,
        &mut Sessions::one(backbone, 1),
        index,
        missing,
        report,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::decode_oriented;
    use crate::digest::ImageId;
    use crate::images::{Columns, DataSet};
    use crate::index::DigestCache;
    use crate::preprocess::Preprocessor;
    use crate::sample::{self, SampleOptions};
    use crate::store::Features;

    struct Silent;

    impl Report for Silent {
        fn done(&self, _: usize) {}
        fn rejected(&self, _: &[u8], _: &str) {}
    }

    #[test]
    fn a_row_is_the_resized_image_rounded() {
        let data = tempfile::tempdir().unwrap();
        let images = data.path().join("images");
        let options = SampleOptions {
            per_class: 10,
            ..SampleOptions::new(&images)
        };
        sample::write(&options, &|_| ()).unwrap();
        std::fs::write(images.join("rings/broken.jpg"), b"\xff\xd8\xff broken").unwrap();
        let set = DataSet::open(&images, &Columns::default()).unwrap();
        let path = data.path().join("index.arrow");
        let cache = DigestCache::unread(&path);
        let index = Index::of(&set, &cache, || ()).unwrap().index;

        let root = data.path().join("pixels");
        let key = key([24, 31], Exif::Ignore);
        let stop = AtomicBool::new(false);
        assert!(open(&root, &key).unwrap().is_none());
        let place = (root.as_path(), &key);
        let all = plan(&index, None).missing;
        let filled = fill(&set, &index, &all, place, &stop, &Silent).unwrap();
        assert_eq!(filled.rejected.len(), 1);
        assert_eq!(filled.rows, index.unique().count() - 1);

        let store = open(&root, &key).unwrap().unwrap();
        let again = plan(&index, Some(&store));
        assert_eq!((again.missing.len(), again.rejected.len()), (0, 1));
        let preprocessor = Preprocessor {
            preset: Preset::Raw,
            height: 24,
            width: 31,
            layout: Layout::Nhwc,
        };
        let mut expected = vec![0.0; preprocessor.len()];
        for (id, _, row) in store.iter() {
            let entry = index.iter().find(|entry| entry.id == id).unwrap();
            let bytes = set.read(entry.path).unwrap();
            assert_eq!(ImageId::of(&bytes), id);
            preprocessor.apply(
                &decode_oriented(&bytes, Exif::Ignore).unwrap(),
                &mut expected,
            );
            let Features::U8(pixels) = store.features(row) else {
                panic!("three bytes a pixel");
            };
            for (pixel, expected) in pixels.iter().zip(&expected) {
                assert_eq!(f32::from(*pixel), expected.round_ties_even());
            }
        }
        store
            .shards()
            .iter()
            .for_each(|shard| shard.verify().unwrap());
    }
}
