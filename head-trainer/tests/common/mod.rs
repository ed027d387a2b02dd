//! What the integration tests share: the real test data (if there), stores made of known numbers,
//! stores computed with ONNX Runtime, and the built binary.

#![allow(dead_code)]

#[path = "../../../extractor/tests/common/tiny.rs"]
pub mod convolution;
#[path = "../../../extractor/tests/common/onnx.rs"]
pub mod onnx;
pub mod server;
pub mod sweeps;
pub mod tiny;

use std::path::{Path, PathBuf};

use extractor::backbone::{MapShape, Model, Overrides};
use extractor::decode::Exif;
use extractor::digest::{Digest, ImageId};
use extractor::engine::{EngineOptions, OnnxRuntime, Precision, Provider};
use extractor::features::{self, Job, Report, Sessions};
use extractor::images::Folder;
use extractor::index::{DigestCache, Entry, Index};
use extractor::preprocess::{Layout, Preset};
use extractor::runtime::{self, Flavour};
use extractor::store::writer::SHARD_BYTES;
use extractor::store::{Dtype, IDENTITY, Provenance, ShardWriter, Store, StoreJson, StoreKey, key};
use extractor::timings::Clock;
use extractor::view::Views;

/// The real test data, `HEADSTART_TEST_DATA`; without it the test says so and passes.
pub fn test_data() -> Option<PathBuf> {
    let path = std::env::var_os("HEADSTART_TEST_DATA").map(PathBuf::from);
    match &path {
        Some(path) => assert!(
            path.join("pets").is_dir(),
            "HEADSTART_TEST_DATA has no pets"
        ),
        None => eprintln!("skipped: HEADSTART_TEST_DATA is not set"),
    }
    path
}

/// The first `n` of the real photos of a class, by name.
pub fn photos(test_data: &Path, class: &str, n: usize) -> Vec<PathBuf> {
    let files = std::fs::read_dir(test_data.join("pets").join(class)).unwrap();
    let mut files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.truncate(n);
    files
}

/// A head that is trained on `data/set` and a real backbone: the run's folder.
pub fn trained(data: &Path, backbone: &Path) -> PathBuf {
    let (store, index) = extract(&data.join("set"), backbone, data);
    let mut command = head_trainer(data);
    command.args(["train", "--json", "--index"]).arg(index);
    command.arg("--store").arg(store).arg("--backbone");
    let output = command
        .arg(backbone)
        .assert()
        .code(0)
        .get_output()
        .stdout
        .clone();
    let result: serde_json::Value = serde_json::from_slice(&output).unwrap();
    PathBuf::from(result["run"].as_str().unwrap())
}

/// The built binary with a data folder of its own.
pub fn head_trainer(data_dir: &Path) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_head-trainer"));
    command
        .env_remove("HEADSTART_LOG")
        .env("HEADSTART_DATA_DIR", data_dir);
    command
}

/// ONNX Runtime's library, as `make test` put it into `data/`.
pub fn library() -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let located = runtime::locate(&repository.join("data"), Flavour::Cpu);
    located
        .expect("ONNX Runtime is not there: run `make runtime` first")
        .path
}

struct Quiet;

impl Report for Quiet {
    fn done(&self, _: usize) {}
    fn rejected(&self, path: &[u8], reason: &str) {
        panic!("{}: {reason}", String::from_utf8_lossy(path));
    }
}

/// ONNX Runtime on the CPU.
pub fn engine() -> EngineOptions {
    EngineOptions {
        library: library(),
        provider: Provider::Cpu,
        precision: Precision::Fp32,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        optimized: None,
    }
}

/// Indexes `images` and computes their features with a real backbone: (store, index file).
pub fn extract(images: &Path, backbone: &Path, data_dir: &Path) -> (PathBuf, PathBuf) {
    extract_as(images, backbone, data_dir, Dtype::F32)
}

/// [`extract`] into a store of `dtype`.
pub fn extract_as(
    images: &Path,
    backbone: &Path,
    data_dir: &Path,
    dtype: Dtype,
) -> (PathBuf, PathBuf) {
    let model = Model::read(backbone, &Overrides::default()).unwrap();
    let index = Index::of_folder(images, &DigestCache::default(), || ())
        .unwrap()
        .index;
    let index_path = data_dir.join("indexes/test.arrow");
    index.write(&index_path, images).unwrap();
    let json = StoreJson {
        key: StoreKey::new(&model.spec, Exif::Ignore, dtype),
        backbone_name: model.spec.name.clone(),
        backbone_trained: model.spec.trained,
    };
    let folder = key::create(&data_dir.join("features"), &json).unwrap();
    let options = engine();
    let engine = OnnxRuntime::open(&model.bytes().unwrap(), &options).unwrap();
    let backbone = model.with_engine(Box::new(engine), 64);
    let store = Store::open(&folder).unwrap();
    let plan = features::plan(&index, Some(&store), &Views::identity());
    let job = Job {
        images: &Folder::new(images),
        folder: &folder,
        key: &json.key,
        strict: true,
        shard_bytes: SHARD_BYTES,
        stop: &std::sync::atomic::AtomicBool::new(false),
        clock: &Clock::default(),
    };
    let mut sessions = Sessions::one(backbone, options.threads);
    features::extract(&job, &mut sessions, &index, &plan.missing, &Quiet).unwrap();
    (folder, index_path)
}

pub const SHAPE: MapShape = MapShape {
    height: 2,
    width: 2,
    channels: 5,
};

/// What a store of made-up features says of itself.
pub fn made_up_store(dtype: Dtype) -> (StoreJson, Provenance) {
    let json = StoreJson {
        key: StoreKey {
            format: 1,
            backbone: Digest::of(b"made up"),
            feature_tensor: "features".to_owned(),
            input_layout: Layout::Nhwc,
            feature_layout: None,
            precision: Precision::Fp32,
            decoder: "none".to_owned(),
            exif: Exif::Ignore,
            resize: "none".to_owned(),
            input_size: [8, 8],
            preset: Preset::Unit,
            dtype,
        },
        backbone_name: "made-up".to_owned(),
        backbone_trained: Some(false),
    };
    let provenance = Provenance {
        engine: "none".to_owned(),
        provider: "CPU".to_owned(),
        processor: "none".to_owned(),
        headstart: "test".to_owned(),
        batch_size: 1,
    };
    (json, provenance)
}

/// A number in [0, 1) that depends on `n` alone.
pub fn noise(n: u64) -> f32 {
    let digest = Digest::of(&n.to_le_bytes());
    f32::from(u16::from_le_bytes([digest.0[0], digest.0[1]])) / 65536.0
}

/// A made-up image.
#[derive(Clone)]
pub struct Made {
    pub id: ImageId,
    pub path: Vec<u8>,
    pub label: Option<u32>,
}

/// The index of `images` made-up images a class, and features that tell the classes apart.
pub struct MadeUp {
    /// The classes, sorted.
    pub classes: Vec<String>,
    /// The images.
    pub entries: Vec<Made>,
    /// Number of the next image.
    next: u64,
}

impl MadeUp {
    pub fn new(classes: &[&str], images: u64) -> MadeUp {
        let mut made_up = MadeUp {
            classes: classes.iter().map(|c| (*c).to_owned()).collect(),
            entries: Vec::new(),
            next: 0,
        };
        for label in 0..classes.len() as u32 {
            for _ in 0..images {
                made_up.add(Some(label));
            }
        }
        made_up
    }

    /// Adds an image and returns its entry's number.
    pub fn add(&mut self, label: Option<u32>) -> usize {
        let class = label.map_or("none", |l| self.classes[l as usize].as_str());
        self.entries.push(Made {
            id: Digest::of(format!("image {}", self.next).as_bytes()),
            path: format!("{class}/{:04}.jpg", self.next).into_bytes(),
            label,
        });
        self.next += 1;
        self.entries.len() - 1
    }

    /// The index.
    pub fn index(&self) -> Index {
        let mut index = Index::new(self.classes.clone());
        for Made { id, path, label } in &self.entries {
            index.push(Entry {
                id: *id,
                path,
                label: *label,
            });
        }
        index
    }

    /// Writes the index to `data_dir/indexes/made-up.arrow`.
    pub fn write_index(&self, data_dir: &Path) -> PathBuf {
        let path = data_dir.join("indexes/made-up.arrow");
        self.index().write(&path, Path::new("/made/up")).unwrap();
        path
    }

    /// Adds rows for the given entries to the made-up store below `data_dir/features`.
    pub fn write_rows(&self, data_dir: &Path, entries: &[usize], dtype: Dtype) -> PathBuf {
        self.write_views(data_dir, entries, &[IDENTITY], dtype)
    }

    /// The same with a row for each of `views`, of other numbers for each.
    pub fn write_views(
        &self,
        data_dir: &Path,
        entries: &[usize],
        views: &[&str],
        dtype: Dtype,
    ) -> PathBuf {
        let (json, provenance) = made_up_store(dtype);
        let folder = key::create(&data_dir.join("features"), &json).unwrap();
        let mut writer = ShardWriter::new(&folder, &json.key, &provenance, SHAPE, SHARD_BYTES);
        for &i in entries {
            for view in views {
                let rows = [(self.entries[i].id, *view)];
                writer.write(&rows, self.map(i, view)).unwrap();
            }
        }
        writer.finish().unwrap();
        folder
    }

    /// The feature map of a view of an entry.
    pub fn map(&self, i: usize, view: &str) -> Vec<f32> {
        // Class k leans to channel k - 1.
        let label = self.entries[i].label.unwrap_or_default();
        let lean = |channel: u64| {
            if channel + 1 == u64::from(label) {
                0.6
            } else {
                0.0
            }
        };
        let of_view = match view {
            IDENTITY => 0,
            view => u64::from(Digest::of(view.as_bytes()).0[0]) << 32,
        };
        (0..SHAPE.len() as u64)
            .map(|j| noise(of_view + i as u64 * 1000 + j) + lean(j % 5))
            .collect()
    }

    /// Index and all rows.
    pub fn write(&self, data_dir: &Path) -> (PathBuf, PathBuf) {
        let all: Vec<usize> = (0..self.entries.len()).collect();
        (
            self.write_rows(data_dir, &all, Dtype::F32),
            self.write_index(data_dir),
        )
    }
}

/// `head-trainer train` on the index of [`MadeUp`].
pub fn train(data: &Path, args: &[&str]) -> assert_cmd::assert::Assert {
    let mut command = head_trainer(data);
    command
        .args(["train", "--index"])
        .arg(data.join("indexes/made-up.arrow"))
        .args(args);
    command.assert()
}

/// The `record` of a run that succeeds, and its folder.
pub fn record(data: &Path, args: &[&str]) -> (serde_json::Value, PathBuf) {
    let assert = train(data, &[args, &["--json"]].concat()).code(0);
    let result: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    (
        result["record"].clone(),
        PathBuf::from(result["run"].as_str().unwrap()),
    )
}
