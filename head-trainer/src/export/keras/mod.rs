//! A head on Keras's ResNet50 as the Keras model that the head would be trained in: the weights of
//! both as one safetensors file, and a script that builds the model of them and checks it.
//!
//! # Format
//!
//! The file holds, as F32, the backbone's parameters under the names that `scripts/export_graph.py`
//! gives them in the ONNX file (`conv1_conv/kernel`, `[out, in, H, W]`; `conv1_bn/gamma`, `[C]`; ...);
//! `head/kernel` `[C, O]` and `head/bias` `[O]`, divided by the temperature; and for the check `images`
//! `[N, H, W, 3]`, RGB from 0 to 255, with `probabilities` `[N, K]`. Its metadata has `labels`, a JSON
//! array, `preset`, `threshold`, and what the caller adds.
//!
//! Must not know of runs or command lines.

use std::collections::BTreeMap;

use extractor::backbone::Spec;
use extractor::preprocess::{Layout, Preset};
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::{Message as _, ModelProto, TensorProto};

use super::check::Case;
use crate::head::Head;
use crate::tensors::{Tensor, Values, to_bytes};

/// The script, the same for every model: its weights have its name and end in `.safetensors`.
pub const SCRIPT: &str = include_str!("model.py");

/// How the metadata of an exported ResNet50 begins.
const SOURCE: &str = "tf.keras.applications.ResNet50(include_top=False";

/// No Keras model can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KerasError {
    /// The backbone's file is not read.
    #[error("the backbone is no ONNX model")]
    Protobuf(#[from] protobuf::Error),
    /// The backbone is another network.
    #[error(
        "the backbone {0} is no ResNet50 that scripts/export_resnet50.py exported from Keras (hint: \
         --onnx writes any run's model)"
    )]
    Other(String),
    /// Keras's models take these two presets.
    #[error("preset {0} is not one of Keras's for ResNet50: caffe and unit")]
    Preset(Preset),
}

/// The backbone's parameters by name, if it is Keras's ResNet50.
#[derive(Debug)]
pub struct Backbone {
    parameters: Vec<(String, Vec<usize>, Vec<f32>)>,
}

impl Backbone {
    /// Reads them: to be called before the costly work.
    ///
    /// # Errors
    /// [`KerasError`].
    pub fn read(bytes: &[u8], spec: &Spec) -> Result<Backbone, KerasError> {
        let other = || KerasError::Other(spec.name.clone());
        let model = ModelProto::parse_from_bytes(bytes)?;
        let mut metadata = model.metadata_props.iter();
        let is_it = metadata.any(|e| e.key == "source" && e.value.starts_with(SOURCE));
        if !is_it || spec.input_layout != Layout::Nhwc {
            return Err(other());
        }
        if !matches!(spec.preset, Preset::Caffe | Preset::Unit) {
            return Err(KerasError::Preset(spec.preset));
        }
        let tensors = model.graph.into_option().ok_or_else(other)?.initializer;
        let parameters = tensors
            .iter()
            .map(|tensor| numbers(tensor).ok_or_else(other));
        Ok(Backbone {
            parameters: parameters.collect::<Result<_, _>>()?,
        })
    }
}

/// Name, shape and values of a tensor of raw float32 numbers.
fn numbers(tensor: &TensorProto) -> Option<(String, Vec<usize>, Vec<f32>)> {
    let shape: Option<Vec<usize>> = tensor
        .dims
        .iter()
        .map(|&d| usize::try_from(d).ok())
        .collect();
    let shape = shape?;
    let raw = tensor.raw_data.chunks_exact(4);
    let fits = raw.len() == shape.iter().product::<usize>() && raw.remainder().is_empty();
    let is_float = tensor.data_type == DataType::FLOAT as i32;
    let values = raw.map(|bytes| f32::from_le_bytes(bytes.try_into().expect("4 bytes")));
    (fits && is_float).then(|| (tensor.name.clone(), shape, values.collect()))
}

/// The weights' file; equal for equal parts. `reference` are images of the input's size and what the
/// run says of them.
pub fn weights(
    backbone: &Backbone,
    head: &Head,
    spec: &Spec,
    reference: &Case,
    metadata: &BTreeMap<String, String>,
) -> Vec<u8> {
    let (outputs, channels) = (head.linear.outputs(), head.linear.channels());
    let scaled = |x: f32| (f64::from(x) / head.decision.temperature) as f32;
    let weights_oc = &head.linear.weights_oc;
    let kernel_co: Vec<f32> = (0..channels * outputs)
        .map(|at| scaled(weights_oc[at % outputs * channels + at / outputs]))
        .collect();
    let bias_o: Vec<f32> = head.linear.bias_o.iter().map(|&b| scaled(b)).collect();
    let images: Vec<f32> = reference.pixels.iter().map(|&p| f32::from(p)).collect();
    let expected = &reference.expected;
    let probabilities: Vec<f32> = expected
        .iter()
        .flat_map(|prediction| prediction.probabilities_k.clone())
        .collect();
    let tensor = |name: &str, shape: Vec<usize>, values| Tensor {
        name: name.to_owned(),
        shape,
        values: Values::F32(values),
    };
    let mut tensors: Vec<Tensor<'_>> = (backbone.parameters.iter())
        .map(|(name, shape, values)| tensor(name, shape.clone(), values))
        .collect();
    let pixels = vec![expected.len(), reference.height, reference.width, 3];
    let answers = vec![expected.len(), head.classes.len()];
    tensors.extend([
        tensor("head/kernel", vec![channels, outputs], &kernel_co),
        tensor("head/bias", vec![outputs], &bias_o),
        tensor("images", pixels, &images),
        tensor("probabilities", answers, &probabilities),
    ]);
    let mut metadata = metadata.clone();
    let mut own = |name: &str, value: String| metadata.insert(name.to_owned(), value);
    own("format", "headstart keras model".to_owned());
    own("version", "1".to_owned());
    own("labels", serde_json::json!(head.classes).to_string());
    own("preset", spec.preset.to_string());
    own("threshold", head.decision.threshold.to_string());
    to_bytes(&metadata, &tensors)
}
