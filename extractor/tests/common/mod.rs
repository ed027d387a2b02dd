//! What the integration tests share: the real test data (if there), ONNX Runtime's library, and
//! the built binary.

#![allow(dead_code)]

pub mod http;
pub mod onnx;
pub mod pets;
pub mod tiny;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use extractor::runtime::{self, Flavour};
use extractor::store::{Features, Store};

/// The real test data, `HEADSTART_TEST_DATA`; without it the test says so and passes.
pub fn test_data() -> Option<PathBuf> {
    match std::env::var_os("HEADSTART_TEST_DATA") {
        Some(path) => {
            let path = PathBuf::from(path);
            assert!(
                path.join("pets").is_dir(),
                "HEADSTART_TEST_DATA has no pets: {path:?}"
            );
            Some(path)
        }
        None => {
            eprintln!("skipped: HEADSTART_TEST_DATA is not set");
            None
        }
    }
}

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// ONNX Runtime's library, as `make test` put it into `data/`.
pub fn library() -> PathBuf {
    let data = repository().join("data");
    let located = runtime::locate(&data, Flavour::Cpu);
    located
        .expect("ONNX Runtime is not there: run `make runtime` first")
        .path
}

/// The built binary with a data folder of its own and the repository's ONNX Runtime.
pub fn extractor(data_dir: &Path) -> assert_cmd::Command {
    command(data_dir).into()
}

/// The same, for processes that are not waited for.
pub fn command(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_extractor"));
    command
        .env("ORT_DYLIB_PATH", library())
        .env_remove("HEADSTART_LOG")
        .env("HEADSTART_DATA_DIR", data_dir);
    command
}

/// `extractor features` on `images` with the small backbone, in shards of about four rows.
pub fn features(data_dir: &Path, images: &Path, batch_size: usize) -> Command {
    features_with(small_backbone(), data_dir, images, batch_size)
}

/// The same with another backbone.
pub fn features_with(
    backbone: &Path,
    data_dir: &Path,
    images: &Path,
    batch_size: usize,
) -> Command {
    let mut command = command(data_dir);
    command
        .args(["features", "--json", "--ep", "cpu", "--threads", "2"])
        .args(["--shard-bytes", "32768", "--batch-size"])
        .arg(batch_size.to_string())
        .arg("--backbone")
        .arg(backbone)
        .arg(images);
    command
}

/// What a verb printed with `--json`.
pub fn json(output: &[u8]) -> serde_json::Value {
    serde_json::from_slice(output)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(output)))
}

/// The only store of a data folder, if there is one yet.
pub fn only_store(data_dir: &Path) -> Option<PathBuf> {
    let stores = extractor::store::find(&data_dir.join("features")).ok()?;
    assert_eq!(stores.len(), 1);
    stores.into_iter().next()
}

/// The names in a folder that begin with `prefix`.
pub fn names(folder: &Path, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}

/// Every row of a store, checked: id -> features as bits, one a copy.
pub fn copies(folder: impl AsRef<Path>) -> BTreeMap<String, Vec<Vec<u32>>> {
    let store = Store::open(folder.as_ref()).unwrap();
    let mut all: BTreeMap<String, Vec<Vec<u32>>> = BTreeMap::new();
    for shard in store.shards() {
        shard.verify().unwrap();
        for batch in 0..shard.batches() {
            for row in 0..shard.rows_in(batch) {
                let Features::F32(values) = shard.features(batch, row) else {
                    panic!("not f32")
                };
                let bits = values.iter().map(|v| v.to_bits()).collect();
                let id = shard.id(batch, row).to_string();
                all.entry(id).or_default().push(bits);
            }
        }
    }
    all
}

/// Every row of a store that has no row twice.
pub fn rows(folder: impl AsRef<Path>) -> BTreeMap<String, Vec<u32>> {
    let one = |(id, mut copies): (String, Vec<_>)| {
        assert_eq!(copies.len(), 1, "{id} is there twice");
        (id, copies.remove(0))
    };
    copies(folder).into_iter().map(one).collect()
}

/// A small backbone: the seeded ResNet50 at 32 pixels (maps 1x1x2048). It lies in the build's own
/// folder for tests, so that no run leaves a copy behind.
pub fn small_backbone() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("small.onnx");
        let options = extractor::backbone::seed::SeedOptions { seed: 1, size: 32 };
        extractor::backbone::seed::write(&path, &options).unwrap();
        path
    })
}

/// A backbone of one convolution, [N, 3, 32, 32] -> [N, 128, 4, 4], for tests that start the
/// program often: it opens in no time.
pub fn tiny_backbone(folder: &Path) -> PathBuf {
    tiny::backbone(folder, 128, 8)
}

/// Draws a sample set of `per_class` images a class into `folder`.
pub fn sample(folder: &Path, per_class: usize) {
    let options = extractor::sample::SampleOptions {
        out: folder.to_owned(),
        per_class,
        seed: 5,
    };
    extractor::sample::write(&options, &|_| {}).unwrap();
}

/// Runs a shell script as root of a user namespace with mounts of its own: `args` are its first
/// arguments, and a command to run its further ones.
pub fn in_mount_namespace(
    script: &str,
    args: &[&Path],
    more: Option<&Command>,
) -> std::io::Result<std::process::Output> {
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script, "sh"]).args(args);
    if let Some(more) = more {
        command.arg(more.get_program()).args(more.get_args());
        command.envs(more.get_envs().filter_map(|(k, v)| Some((k, v?))));
    }
    command.output()
}
