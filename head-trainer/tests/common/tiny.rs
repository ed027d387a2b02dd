//! A backbone of one convolution, small pictures to go with it and a head that is trained on them.

use std::fs;
use std::path::{Path, PathBuf};

use extractor::decode::RgbImage;
use extractor::preprocess::{Layout, Preset};
use extractor::store::Dtype;
use head_trainer::explain::png;
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, GraphProto, Message as _, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use protobuf::{Enum as _, EnumOrUnknown, MessageField};

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
        let kernel: Vec<f32> = (0..CHANNELS * 3 * 64)
            .map(|i| {
                (noise(i as u64) - 0.5)
                    * if self.preset == Preset::Raw {
                        0.002
                    } else {
                        0.2
                    }
            })
            .collect();
        let [height, width] = SIZE.map(|side| side as i64);
        let (rows, columns, channels) = (height / 8, width / 8, CHANNELS as i64);
        let node = |op: &str, inputs: &[&str], output: &str, attribute| NodeProto {
            op_type: op.to_owned(),
            name: output.to_owned(),
            input: inputs.iter().map(|i| (*i).to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute,
            ..Default::default()
        };
        let conv = vec![ints("kernel_shape", &[8, 8]), ints("strides", &[8, 8])];
        let (nodes, input, output) = match self.layout {
            Layout::Nchw => (
                vec![
                    node("Conv", &["input", "kernel"], "conv", conv),
                    node("Relu", &["conv"], "features", vec![]),
                ],
                [3, height, width],
                [channels, rows, columns],
            ),
            Layout::Nhwc => (
                vec![
                    node(
                        "Transpose",
                        &["input"],
                        "first",
                        vec![ints("perm", &[0, 3, 1, 2])],
                    ),
                    node("Conv", &["first", "kernel"], "conv", conv),
                    node("Relu", &["conv"], "relu", vec![]),
                    node(
                        "Transpose",
                        &["relu"],
                        "features",
                        vec![ints("perm", &[0, 2, 3, 1])],
                    ),
                ],
                [height, width, 3],
                [rows, columns, channels],
            ),
        };
        let kernel = TensorProto {
            name: "kernel".to_owned(),
            dims: vec![channels, 3, 8, 8],
            data_type: DataType::FLOAT.value(),
            raw_data: kernel.iter().flat_map(|x| x.to_le_bytes()).collect(),
            ..Default::default()
        };
        let graph = GraphProto {
            name: "tiny".to_owned(),
            node: nodes,
            initializer: vec![kernel],
            input: vec![self.tensor("input", input)],
            output: vec![self.tensor("features", output)],
            ..Default::default()
        };
        let model = ModelProto {
            ir_version: 8,
            opset_import: vec![OperatorSetIdProto {
                version: self.opset,
                ..Default::default()
            }],
            graph: MessageField::some(graph),
            ..Default::default()
        };
        model.write_to_bytes().unwrap()
    }

    fn tensor(&self, name: &str, dims: [i64; 3]) -> ValueInfoProto {
        use dimension::Value::{DimParam, DimValue};
        let batch = self.batch.map_or(DimParam("N".to_owned()), DimValue);
        let dims = [batch].into_iter().chain(dims.map(DimValue));
        let dim = dims.map(|value| Dimension {
            value: Some(value),
            ..Default::default()
        });
        let tensor = type_proto::Tensor {
            elem_type: DataType::FLOAT.value(),
            shape: MessageField::some(TensorShapeProto {
                dim: dim.collect(),
                ..Default::default()
            }),
            ..Default::default()
        };
        ValueInfoProto {
            name: name.to_owned(),
            type_: MessageField::some(TypeProto {
                value: Some(type_proto::Value::TensorType(tensor)),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        type_: EnumOrUnknown::new(AttributeType::INTS),
        ints: values.to_vec(),
        ..Default::default()
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
