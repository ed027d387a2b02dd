//! The runner with a fake engine: what it feeds, what it stores, what it rejects.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::backbone::{Backbone, Spec};
use crate::decode::Exif;
use crate::digest::{Digest, ImageId};
use crate::engine::{Engine, EngineError, EngineInfo};
use crate::images::{Folder, ImageBytes};
use crate::index::DigestCache;
use crate::preprocess::{Layout, Preset};
use crate::store::{Features, IDENTITY, Store, StoreJson, key};
use crate::view::Views;

mod sessions;

const BATCH: usize = 4;

/// Channels first, 3 channels of 2x2: channel c at position p is the image's mean + 10 c + p; a
/// white image is `white` everywhere.
struct Fake {
    info: EngineInfo,
    white: f32,
    fails_at: Option<usize>,
    panics: bool, // rather than fail
    runs: usize,
    takes: Duration,
}

impl Fake {
    fn new(white: f32, fails_at: Option<usize>) -> Fake {
        Fake {
            info: EngineInfo {
                engine: "a fake".to_owned(),
                provider: "CPU",
                note: None,
            },
            white,
            fails_at,
            panics: false,
            runs: 0,
            takes: Duration::ZERO,
        }
    }
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
        std::thread::sleep(self.takes);
        if self.fails_at == Some(self.runs) {
            assert!(!self.panics, "as told");
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

fn fake_backbone(engine: Fake) -> Backbone {
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
    Backbone::new(spec, Box::new(engine), BATCH)
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
    reads: AtomicUsize,
}

/// Counts how often an image is read.
struct Counted<'a>(Folder, &'a AtomicUsize);

impl Images for Counted<'_> {
    fn read(&self, path: &[u8]) -> Result<ImageBytes<'_>, crate::transient::Unreadable> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read(path)
    }
}

#[test]
fn what_may_be_had_later_is_told_apart() {
    /// A server that is away for some images, and some that are gone.
    struct Away<'a>(&'a Folder);
    impl Images for Away<'_> {
        fn read(&self, path: &[u8]) -> Result<ImageBytes<'_>, crate::transient::Unreadable> {
            let code = match path {
                b"Grey/001.png" | b"Grey/002.png" => libc::ESTALE,
                b"Grey/003.png" => libc::ENOENT,
                _ => return self.0.read(path),
            };
            let error = std::io::Error::from_raw_os_error(code);
            Err(crate::transient::Unreadable::of(&error))
        }
    }
    let bench = Bench::new(&[1, 2, 3, 4]);
    let folder = Folder::new(bench.images.path());
    let (done, store, _) = bench.run_on(&Away(&folder), "identity", Dtype::F32, 0.0, None);
    let done = done.unwrap();
    assert_eq!((done.rows, done.absent, done.transient), (1, 3, 2));
    // Nothing is remembered of what could not be read.
    let plan = plan(&bench.index(), Some(&store), &Views::identity());
    assert_eq!((plan.missing.len(), plan.rejected.len()), (3, 0));
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
            reads: AtomicUsize::new(0),
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
        self.run_views("identity", dtype, white, fails_at)
    }

    fn run_views(
        &self,
        views: &str,
        dtype: Dtype,
        white: f32,
        fails_at: Option<usize>,
    ) -> (Result<Extracted, FeaturesError>, Store, Vec<String>) {
        let images = Counted(Folder::new(self.images.path()), &self.reads);
        self.run_on(&images, views, dtype, white, fails_at)
    }

    fn run_on(
        &self,
        images: &dyn Images,
        views: &str,
        dtype: Dtype,
        white: f32,
        fails_at: Option<usize>,
    ) -> (Result<Extracted, FeaturesError>, Store, Vec<String>) {
        let backbone = fake_backbone(Fake::new(white, fails_at));
        let mut sessions = Sessions::one(backbone, 1);
        self.run_in(&mut sessions, images, views, dtype)
    }

    fn run_in(
        &self,
        sessions: &mut Sessions,
        images: &dyn Images,
        views: &str,
        dtype: Dtype,
    ) -> (Result<Extracted, FeaturesError>, Store, Vec<String>) {
        self.run_as(sessions, images, views, dtype, false)
    }

    /// The first broken image ends it.
    fn run_strictly(
        &self,
        sessions: &mut Sessions,
        images: &dyn Images,
    ) -> (Result<Extracted, FeaturesError>, Store, Vec<String>) {
        self.run_as(sessions, images, "identity", Dtype::F32, true)
    }

    fn run_as(
        &self,
        sessions: &mut Sessions,
        images: &dyn Images,
        views: &str,
        dtype: Dtype,
        strict: bool,
    ) -> (Result<Extracted, FeaturesError>, Store, Vec<String>) {
        let json = StoreJson {
            key: StoreKey::new(&sessions.backbone().spec, Exif::Ignore, dtype),
            backbone_name: "fake".to_owned(),
            backbone_trained: None,
        };
        let folder = key::create(self.stores.path(), &json).unwrap();
        let index = self.index();
        let store = Store::open(&folder).unwrap();
        let plan = plan(&index, Some(&store), &views.parse().unwrap());
        let job = Job {
            images,
            folder: &folder,
            key: &json.key,
            strict,
            shard_bytes: 2 * BATCH * 12 * dtype.size_bytes(),
            stop: &AtomicBool::new(false),
            clock: &Clock::default(),
        };
        let seen = Seen::default();
        let result = extract(&job, sessions, &index, &plan.missing, &seen);
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
            Some("the feature 1000000, which f16 cannot hold"),
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
        // What is no number may be one on another machine.
        let id = Digest::of(&std::fs::read(bench.images.path().join("Grey/255.png")).unwrap());
        let rejected = expected.is_some();
        assert_eq!(store.rejected(&id).is_some(), rejected);
        let is_final = store.to_try_again().rejected(&id).is_some();
        assert_eq!(is_final, rejected && white.is_finite());
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

/// Every row and every rejection of a store.
#[allow(clippy::type_complexity)]
fn contents(
    store: &Store,
) -> (
    BTreeMap<(ImageId, String), Vec<u32>>,
    BTreeMap<ImageId, Vec<String>>,
) {
    let rows = store.iter().map(|(id, view, at)| {
        let bits = match store.features(at) {
            Features::F32(map) => map.iter().map(|v| v.to_bits()).collect(),
            Features::F16(map) => map.iter().map(|v| v.to_bits().into()).collect(),
            Features::U8(map) => map.iter().map(|v| u32::from(*v)).collect(),
        };
        ((id, view.to_owned()), bits)
    });
    let mut rejected: BTreeMap<ImageId, Vec<String>> = BTreeMap::new();
    for record in crate::store::inspect::inspect(store).unwrap().rejected {
        let view = record.view.unwrap_or_default();
        rejected.entry(record.id).or_default().push(view);
    }
    (rows.collect(), rejected)
}

const VIEWS: &str = "identity,hflip,crop:9"; // 11 views, in batches of 4

#[test]
fn an_image_is_decoded_once_for_all_the_views_that_it_lacks() {
    let bench = Bench::new(&[0, 51, 102]);
    let reads = || bench.reads.swap(0, Ordering::Relaxed);
    let (result, store, _) = bench.run_views("identity,crop:2", Dtype::F32, 0.0, None);
    let extracted = result.unwrap();
    assert_eq!((extracted.images, extracted.rows, reads()), (3, 9, 3));
    let (before, _) = contents(&store);
    let (result, store, _) = bench.run_views(VIEWS, Dtype::F32, 0.0, None);
    let extracted = result.unwrap();
    assert_eq!((extracted.images, extracted.rows, reads()), (3, 24, 3));
    assert_eq!((store.len(), store.images()), (33, 3));
    assert_eq!(store.views()[0], ("identity".to_owned(), 3));
    assert_eq!(store.views()[10], ("crop-9".to_owned(), 3));
    let (after, _) = contents(&store);
    assert!(before.iter().all(|(row, bits)| after[row] == *bits));
    let (result, ..) = bench.run_views(VIEWS, Dtype::F32, 0.0, Some(1));
    assert_eq!((result.unwrap().rows, reads()), (0, 0));
}

/// Neither where a run stops nor in how many runs the views are asked for changes a row or a
/// rejection, though crops that miss the dark columns are white and their features too large.
#[test]
fn interrupted_between_views_the_store_becomes_the_same() {
    let new = || {
        let bench = Bench::new(&[10, 255, 20]);
        for (name, dark) in [("a", 0..12), ("b", 28..40)] {
            let picture = image::GrayImage::from_fn(40, 40, |x, _| {
                image::Luma([if dark.contains(&x) { 0 } else { 255 }])
            });
            let path = bench.images.path().join(format!("Grey/{name}.png"));
            picture.save(path).unwrap();
        }
        bench
    };
    let undisturbed = new();
    let (result, store, lines) = undisturbed.run_views(VIEWS, Dtype::F16, 1e6, None);
    let extracted = result.unwrap();
    assert_eq!((extracted.images, extracted.rejected.len()), (2, 3));
    let expected = contents(&store);
    let white = store
        .iter()
        .filter(|(_, v, _)| v.starts_with("crop"))
        .count();
    assert!(white > 18 && white < 36, "some crops of a and b are white");
    let first = "Grey/255.png: the backbone gives the feature 1000000, which f16 cannot hold";
    assert_eq!(lines[0], first);
    assert_eq!(lines.iter().filter(|l| l.contains("255.png")).count(), 1);
    assert!(
        lines[1].ends_with("which f16 cannot hold in the view crop-5"),
        "{lines:?}"
    );
    for fails_at in 1..=14 {
        let bench = new();
        let (result, ..) = bench.run_views(VIEWS, Dtype::F16, 1e6, Some(fails_at));
        assert!(result.is_err(), "{fails_at} of 14 batches");
        let (result, store, _) = bench.run_views(VIEWS, Dtype::F16, 1e6, None);
        result.unwrap();
        assert_eq!(contents(&store), expected, "stopped at {fails_at}");
    }
    let bench = new();
    for views in ["identity", "hflip", "crop:3", VIEWS] {
        let (result, ..) = bench.run_views(views, Dtype::F16, 1e6, None);
        result.unwrap();
    }
    let (result, store, lines) = bench.run_views(VIEWS, Dtype::F16, 1e6, Some(1));
    assert_eq!((result.unwrap().rows, lines.len()), (0, 0));
    assert_eq!(contents(&store), expected);
}
