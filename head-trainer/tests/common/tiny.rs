//! A backbone of one convolution, small pictures to go with it and a head that is trained on them.

use std::fs;
use std::path::{Path, PathBuf};

use extractor::decode::RgbImage;
use extractor::preprocess::{Layout, Preset};
use extractor::store::Dtype;
use head_trainer::explain::png;

use super::onnx::{ints, model, node, tensor, weights};
use super::{extract_as, head_trainer, library, noise};

/// Height and width of the input, channels of the map: none like the other.
pub const SIZE: [usize; 2] = [24, 16];
pub const CHANNELS: usize = 5;

/// What a tiny run is made of.
#[derive(Clone, Copy)]
pub struct Tiny {
    pub preset: Preset,
    pub layout: Layout,
    pub dtype: Dtype,
    pub classes: &'static [&'static str],
    pub opset: i64,
    /// The batch size, if the model fixes one.
    pub batch: Option<i64>,
}

impl Default for Tiny {
    fn default() -> Tiny {
        Tiny {
            preset: Preset::Imagenet,
            layout: Layout::Nchw,
            dtype: Dtype::F32,
            classes: &["Cat", "Dog"],
            opset: 17,
            batch: None,
        }
    }
}

impl Tiny {
    /// Draws pictures into `data/set`, writes the backbone, extracts and trains with `args`: the
    /// run's folder.
    pub fn run(&self, data: &Path, args: &[&str]) -> PathBuf {
        self.run_with(data, None, args)
    }

    /// [`Tiny::run`] with another model in the backbone's file.
    pub fn run_with(&self, data: &Path, model: Option<&[u8]>, args: &[&str]) -> PathBuf {
        let images = data.join("set");
        for (k, class) in self.classes.iter().enumerate() {
            let folder = images.join(class);
            fs::create_dir_all(&folder).unwrap();
            for i in 0..20 {
                let image = picture(k as u64, i);
                fs::write(folder.join(format!("{i:02}.png")), png(&image).unwrap()).unwrap();
            }
        }
        let backbone = self.write_backbone(&data.join("elsewhere"));
        if let Some(model) = model {
            fs::write(&backbone, model).unwrap();
        }
        let (store, index) = extract_as(&images, &backbone, data, self.dtype);
        let mut command = head_trainer(data);
        command
            .args(["train", "--json", "--index"])
            .arg(index)
            .arg("--store")
            .arg(store)
            .arg("--backbone")
            .arg(&backbone)
            .args(args);
        let output = command.assert().code(0).get_output().stdout.clone();
        let result: serde_json::Value = serde_json::from_slice(&output).unwrap();
        PathBuf::from(result["run"].as_str().unwrap())
    }

    /// Writes the backbone and its description into `folder`.
    pub fn write_backbone(&self, folder: &Path) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        let path = folder.join("tiny.onnx");
        fs::write(&path, self.model()).unwrap();
        let description = format!("preset = \"{}\"\nname = \"tiny\"\n", self.preset);
        fs::write(folder.join("tiny.toml"), description).unwrap();
        path
    }

    /// The model: a convolution of 8 x 8 pixels and a ReLU, channels first inside.
    fn model(&self) -> Vec<u8> {
        let scale = match self.preset {
            Preset::Raw => 0.002,
            _ => 0.2,
        };
        let kernel = weights("kernel", &[CHANNELS as i64, 3, 8, 8], |i| {
            (noise(i as u64) - 0.5) * scale
        });
        let [height, width] = SIZE.map(|side| side as i64);
        let (rows, columns, channels) = (height / 8, width / 8, CHANNELS as i64);
        let conv = |input: &str| {
            let attributes = vec![ints("kernel_shape", &[8, 8]), ints("strides", &[8, 8])];
            node("Conv", &[input, "kernel"], "conv", attributes)
        };
        let transpose = |input: &str, output: &str, perm: [i64; 4]| {
            node("Transpose", &[input], output, vec![ints("perm", &perm)])
        };
        let (nodes, input, output) = match self.layout {
            Layout::Nchw => (
                vec![conv("input"), node("Relu", &["conv"], "features", vec![])],
                [3, height, width],
                [channels, rows, columns],
            ),
            Layout::Nhwc => (
                vec![
                    transpose("input", "first", [0, 3, 1, 2]),
                    conv("first"),
                    node("Relu", &["conv"], "relu", vec![]),
                    transpose("relu", "features", [0, 2, 3, 1]),
                ],
                [height, width, 3],
                [rows, columns, channels],
            ),
        };
        model(
            self.opset,
            nodes,
            vec![kernel],
            tensor("input", self.batch, &input),
            tensor("features", self.batch, &output),
        )
    }
}

/// A picture of class `k`, of a size of its own.
pub fn picture(k: u64, i: u64) -> RgbImage {
    let (width, height) = (10 + 7 * (i as usize % 5), 9 + 11 * (i as usize % 4));
    let pixel = |at: usize| {
        let lean = if at as u64 % 3 == k { 80.0 } else { 0.0 };
        (noise((k << 40) + (i << 20) + at as u64) * 175.0 + lean) as u8
    };
    RgbImage {
        width,
        height,
        pixels: (0..width * height * 3).map(pixel).collect(),
    }
}

/// `head-trainer` with ONNX Runtime.
pub fn with_engine(data: &Path) -> assert_cmd::Command {
    let mut command = head_trainer(data);
    command.env("ORT_DYLIB_PATH", library());
    command
}

/// A baseline that is trained for an epoch on the pictures of [`Tiny::run`]: the run's folder.
pub fn baseline(data: &Path) -> PathBuf {
    let mut command = with_engine(data);
    command
        .args(["baseline", "--json", "--epochs", "1", "--size", "32x32"])
        .arg(data.join("set"))
        .arg("--index")
        .arg(data.join("indexes/test.arrow"));
    let output = command.assert().code(0).get_output().stdout.clone();
    let result: serde_json::Value = serde_json::from_slice(&output).unwrap();
    PathBuf::from(result["run"].as_str().unwrap())
}
