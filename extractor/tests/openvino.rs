//! Precisions and OpenVINO, by the built binary: what cannot be had is refused with a way out, and
//! what runs under OpenVINO's name gives the features that it should.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{json, repository, sample, small_backbone};
use extractor::runtime::{Flavour, Pinned, Platform};
use extractor::store::Store;
use predicates::str::contains;

/// `extractor features` on `images`, with nothing but what `data_dir` holds for a library.
fn features(data_dir: &Path, images: &Path, backbone: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_extractor"));
    command
        .env_remove("ORT_DYLIB_PATH")
        .env_remove("HEADSTART_LOG")
        .env("HEADSTART_DATA_DIR", data_dir)
        .args(["features", "--json", "--threads", "2", "--backbone"])
        .arg(backbone)
        .arg(images)
        .args(flags);
    command
}

#[test]
fn what_a_provider_does_not_compute_in_is_refused_before_an_image_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    sample(&images, 2);
    let data = folder.path().join("data");
    for (provider, precision, remedy) in [
        ("cpu", "bf16", "--ep openvino does"),
        ("cpu", "tf32", "--ep cuda does"),
        ("cuda", "bf16", "--ep openvino does"),
        ("openvino", "tf32", "--ep cuda does"),
    ] {
        let flags = ["--ep", provider, "--precision", precision];
        let command = features(&data, &images, small_backbone(), &flags);
        let said =
            format!("error: --ep {provider} does not compute in {precision} (hint: {remedy}");
        assert_cmd::Command::from(command)
            .assert()
            .code(1)
            .stdout("")
            .stderr(contains(said));
        assert!(!data.join("indexes").exists(), "nothing was read");
    }
}

#[test]
fn auto_in_bf16_says_how_openvino_is_got() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    sample(&images, 2);
    let data = folder.path().join("data");
    let command = features(&data, &images, small_backbone(), &["--precision", "bf16"]);
    let said = match Platform::current() {
        Ok(Platform::LinuxX86_64) => {
            "extractor runtime fetch --flavour openvino (or make runtime EP=openvino)"
        }
        _ => "no ONNX Runtime",
    };
    assert_cmd::Command::from(command)
        .assert()
        .code(1)
        .stderr(contains(said));
    assert!(!data.join("features").exists(), "no store is made");
}

/// A data folder with the repository's libraries; none where there is no OpenVINO to have.
fn with_libraries(folder: &Path) -> Option<PathBuf> {
    let Ok(pinned) =
        Platform::current().and_then(|platform| Pinned::find(platform, Flavour::Openvino))
    else {
        eprintln!("skipped: there is no OpenVINO for this platform");
        return None;
    };
    let runtimes = repository().join("data/runtime");
    let library = runtimes.join(pinned.folder);
    assert!(
        library.is_dir(),
        "{} is not there: run `make runtime EP=openvino` first",
        library.display()
    );
    let data = folder.join("data");
    fs::create_dir(&data).unwrap();
    symlink(&runtimes, data.join("runtime")).unwrap();
    Some(data)
}

/// What a run printed and the pooled features [2048] of its store, by image.
type Run = (serde_json::Value, BTreeMap<String, Vec<f64>>);

fn run(data: &Path, images: &Path, backbone: &Path, flags: &[&str]) -> Run {
    let output = features(data, images, backbone, flags).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{flags:?}: {said}");
    let printed = json(&output.stdout);
    let store = Store::open(Path::new(printed["store"].as_str().unwrap())).unwrap();
    let shape = store.map_shape().unwrap();
    let mut values = Vec::new();
    let pooled = store.iter().map(|(id, _, row)| {
        values.clear();
        store.features(row).widen_into(&mut values);
        let mut sums = vec![0.0; shape.channels];
        for position in values.chunks_exact(shape.channels) {
            for (sum, value) in sums.iter_mut().zip(position) {
                *sum += f64::from(*value);
            }
        }
        (id.to_string(), sums)
    });
    let pooled = pooled.collect();
    (printed, pooled)
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
#[ignore = "needs OpenVINO's library; make test-all runs it"]
fn openvinos_features_are_the_cpu_providers() {
    let folder = tempfile::tempdir().unwrap();
    let Some(data) = with_libraries(folder.path()) else {
        return;
    };
    let images = folder.path().join("images");
    sample(&images, 20);
    // Trained weights where there are some.
    let models = common::test_data().map(|data| data.join("models/mobilenetv2_100.onnx"));
    let backbones: Vec<PathBuf> = [Some(small_backbone().to_owned()), models]
        .into_iter()
        .flatten()
        .collect();
    for backbone in backbones {
        let run = |flags: &[&str]| run(&data, &images, &backbone, flags);
        let (cpu, reference) = run(&["--ep", "cpu"]);
        let store = |printed: &serde_json::Value| printed["store"].as_str().unwrap().to_owned();
        // In fp32 the key is the same, so a store of its own.
        let place = folder.path().join("openvino");
        let (fp32, features) = run(&["--ep", "openvino", "--store", place.to_str().unwrap()]);
        assert_eq!(cpu["key"], fp32["key"]);
        assert_eq!(fp32["provider"], "OpenVINO");
        assert_ne!(fp32["engine"], cpu["engine"]);
        assert_eq!(features.len(), 40);
        for (id, features) in &features {
            let reference = &reference[id];
            let largest = reference.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
            for (a, b) in features.iter().zip(reference) {
                assert!((a - b).abs() <= 1e-3 * largest, "{id}: {a} {b}");
            }
        }
        let recorded = Store::open(Path::new(&store(&fp32))).unwrap();
        let providers: Vec<&str> = recorded
            .provenances()
            .into_iter()
            .map(|p| p.provider.as_str())
            .collect();
        assert_eq!(providers, ["OpenVINO"]);

        let flags = ["--ep", "openvino", "--precision", "bf16"];
        if !fs::read_to_string("/proc/cpuinfo")
            .unwrap()
            .contains("avx512_bf16")
        {
            let mut refused: assert_cmd::Command =
                self::features(&data, &images, &backbone, &flags).into();
            refused.assert().code(1).stderr(contains("AVX512_BF16"));
            eprintln!("skipped: this processor has no bfloat16 instructions");
            continue;
        }
        let (bf16, features) = run(&flags);
        assert_eq!(bf16["key"]["precision"], "bf16");
        assert_ne!(store(&bf16), store(&cpu));
        let mut same = 0;
        for (id, features) in &features {
            let cosine = cosine(features, &reference[id]);
            assert!(cosine >= 0.995, "{id}: {cosine}");
            same += usize::from(*features == reference[id]);
        }
        assert_eq!(same, 0, "bf16 is not fp32");
        // What is cached is found, by auto too; nothing is computed again.
        let (again, _) = run(&["--precision", "bf16"]);
        assert_eq!(again["counts"]["cached"], 40);
    }
}
