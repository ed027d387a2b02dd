//! What the integration tests share: the real test data (if there), ONNX Runtime's library, and
//! the built binary.

#![allow(dead_code)]

pub mod http;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use extractor::runtime::{self, Flavour};

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
    let mut command = assert_cmd::Command::new(env!("CARGO_BIN_EXE_extractor"));
    command
        .env("ORT_DYLIB_PATH", library())
        .env_remove("HEADSTART_LOG")
        .env("HEADSTART_DATA_DIR", data_dir);
    command
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

/// Draws a sample set of `per_class` images a class into `folder`.
pub fn sample(folder: &Path, per_class: usize) {
    let options = extractor::sample::SampleOptions {
        out: folder.to_owned(),
        per_class,
        seed: 5,
    };
    extractor::sample::write(&options, &|_| {}).unwrap();
}
