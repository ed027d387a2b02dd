//! A backbone of one convolution that opens and runs in no time, for tests of both crates.
//!
//! Must not need a binary: the other crate's tests include this file, too.

use std::fs;
use std::path::{Path, PathBuf};

use super::onnx::{ints, model, node, tensor, weights};

/// Writes a backbone [N, 3, 32, 32] -> [N, `channels`, 32 / `stride`, 32 / `stride`] into `folder`.
pub fn backbone(folder: &Path, channels: i64, stride: i64) -> PathBuf {
    let side = 32 / stride;
    let value = |i| ((i * 7919 % 1009) as f32 / 1009.0) - 0.5;
    let model = model(
        17,
        vec![node(
            "Conv",
            &["input", "weights", "bias"],
            "features",
            vec![ints("strides", &[stride, stride])],
        )],
        vec![
            weights("weights", &[channels, 3, stride, stride], value),
            weights("bias", &[channels], value),
        ],
        tensor("input", None, &[3, 32, 32]),
        tensor("features", None, &[channels, side, side]),
    );
    let path = folder.join("tiny.onnx");
    fs::write(&path, model).unwrap();
    fs::write(path.with_extension("toml"), "preset = \"unit\"\n").unwrap();
    path
}
