//! The runner with a fake engine: what it feeds, what it stores, what it rejects.

use std::cell::RefCell;

use super::*;
use crate::backbone::Spec;
use crate::engine::{Engine, EngineError, EngineInfo};
use crate::images::Folder;
use crate::index::DigestCache;
use crate::preprocess::{Layout, Preset};
use crate::store::{Features, StoreJson, key};

const BATCH: usize = 4;

/// Channels first, 3 channels of 2x2: channel c at position p is the image's mean + 10 c + p; a
/// white image is `white` everywhere.
struct Fake {
    info: EngineInfo,
    white: f32,
    fails_at: Option<usize>,
    runs: usize,
}

impl Engine for Fake {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn run(
        &mut self,
        input: &str,
        shape: [usize; 4],
        data: &[f32],
        output: &str,
        out: &mut Vec<f32>,
    ) -> Result<Vec<usize>, EngineError> {
        assert_eq!(
            (input, output, shape),
            ("x", "map", [BATCH, 3, 2, 2]),
            "a full batch, always"
        );
        self.runs += 1;
        if self.fails_at == Some(self.runs) {
            let reason = "as told".to_owned();
            return Err(EngineError::Cuda { reason });
        }
        out.clear();
        for image in data.chunks_exact(12) {
            let mean = image.iter().sum::<f32>() / 12.0;
            for i in 0..12 {
                let value = mean + (10 * (i / 4) + i % 4) as f32;
                out.push(if mean == 1.0 { self.white } else { value });
            }
        }
        Ok(vec![BATCH, 3, 2, 2])
    }
}

#[derive(Default)]
struct Seen(RefCell<Vec<String>>);

impl Report for Seen {
    fn done(&self, _: usize) {}
    fn rejected(&self, path: &[u8], reason: &str) {
        let line = format!("{}: {reason}", crate::files::escape(path));
        self.0.borrow_mut().push(line);
    }
}

struct Bench {
    images: tempfile::TempDir,
    stores: tempfile::TempDir,
}

impl Bench {
    /// Grey images of the given levels, `Grey/000.png` and so on; 255 is white.
    fn new(levels: &[u8]) -> Bench {
        let images = tempfile::tempdir().unwrap();
        let folder = images.path().join("Grey");
        std::fs::create_dir(&folder).unwrap();
        for level in levels {
            let picture = image::GrayImage::from_pixel(3, 3, image::Luma([*level]));
            picture
                .save(folder.join(format!("{level:03}.png")))
                .unwrap();
        }
        Bench {
            images,
            stores: tempfile::tempdir().unwrap(),
        }
    }

    fn index(&self) -> Index {
        let indexed = Index::of_folder(self.images.path(), &DigestCache::default(), || ());
        indexed.unwrap().index
    }

    /// One run; shards of two batches.
    fn run(
        &self,
        dtype: Dtype,
        white: f32,
        fails_at: Option<usize>,
    ) -> (Result<Extracted, FeaturesError>, Store, Vec<String>) {
        let spec = Spec {
            name: "fake".to_owned(),
            digest: Digest::of(b"fake"),
            input: "x".to_owned(),
            input_layout: Layout::Nchw,
            input_size: [2, 2],
            batch: None,
            feature_tensor: "map".to_owned(),
            feature_layout: None,
            preset: Preset::Unit,
            described_preset: None,
            trained: None,
        };
        let json = StoreJson {
            key: StoreKey::new(&spec, Exif::Ignore, dtype),
            backbone_name: "fake".to_owned(),
            backbone_trained: None,
        };
        let folder = key::create(self.stores.path(), &json).unwrap();
        let engine = Fake {
            info: EngineInfo {
                engine: "a fake".to_owned(),
                provider: "CPU",
                note: None,
            },
            white,
            fails_at,
            runs: 0,
        };
        let mut backbone = Backbone::fake(spec, Box::new(engine), BATCH);
        let index = self.index();
        let store = Store::open(&folder).unwrap();
        let plan = plan(&index, Some(&store));
        let job = Job {
            images: &Folder::new(self.images.path()),
            folder: &folder,
            key: &json.key,
            strict: false,
            shard_bytes: 2 * BATCH * 12 * dtype.size_bytes(),
            stop: &AtomicBool::new(false),
        };
        let seen = Seen::default();
        let result = extract(&job, &mut backbone, &index, &plan.missing, &seen);
        (result, Store::open(&folder).unwrap(), seen.0.into_inner())
    }
}

#[test]
fn rows_are_channels_last_whatever_the_backbone_gives() {
    let bench = Bench::new(&[0, 51, 102, 153, 204]); // one full batch and one padded
    let (result, store, rejected) = bench.run(Dtype::F32, 0.0, None);
    assert_eq!((result.unwrap().rows, rejected.len()), (5, 0));
    for (i, entry) in bench.index().iter().enumerate() {
        let Features::F32(map_hwc) = store.features(store.locate(&entry.id, IDENTITY).unwrap())
        else {
            panic!("not f32");
        };
        let mean = i as f32 * 0.2;
        for (j, value) in map_hwc.iter().enumerate() {
            let (position, channel) = (j / 3, j % 3);
            let expected = mean + (10 * channel + position) as f32;
            assert!((value - expected).abs() < 1e-5, "{value} {expected}");
        }
    }
    assert_eq!(store.provenances().len(), 1);
    assert_eq!(store.provenances().first().unwrap().engine, "a fake");
}

#[test]
fn what_the_type_cannot_hold_rejects_the_image_by_name() {
    let cases = [
        (
            Dtype::F16,
            1e6,
            Some("the feature 1000000, too large for f16"),
        ),
        (Dtype::F32, 1e6, None),
        (Dtype::F16, 65504.0, None),
        (Dtype::F32, f32::NAN, Some("a feature that is NaN")),
        (Dtype::F32, f32::INFINITY, Some("a feature that is inf")),
    ];
    for (dtype, white, expected) in cases {
        let bench = Bench::new(&[10, 20, 255]);
        let (result, store, rejected) = bench.run(dtype, white, None);
        let rows = if expected.is_some() { 2 } else { 3 };
        assert_eq!(
            (result.unwrap().rows, store.len()),
            (rows, rows),
            "{white} as {dtype}"
        );
        let line = expected.map(|e| format!("Grey/255.png: the backbone gives {e}"));
        assert_eq!(rejected, Vec::from_iter(line), "{white} as {dtype}");
        // It is remembered: the next run computes nothing.
        let (again, ..) = bench.run(dtype, white, Some(1));
        assert_eq!(again.unwrap().rows, 0);
    }
}

#[test]
fn a_failing_engine_keeps_what_was_complete() {
    let levels: Vec<u8> = (0..12).collect();
    let bench = Bench::new(&levels);
    let (result, store, _) = bench.run(Dtype::F32, 0.0, Some(3));
    assert!(matches!(result, Err(FeaturesError::Backbone(_))));
    assert_eq!(store.len(), 8, "two batches");
    let (result, store, _) = bench.run(Dtype::F32, 0.0, None);
    assert_eq!((result.unwrap().rows, store.len()), (4, 12));
}
