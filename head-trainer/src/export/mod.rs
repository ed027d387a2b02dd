//! A head and its backbone as one ONNX model that takes pixels: whoever runs it needs neither this
//! program nor its preprocessing.
//!
//! # Interface
//!
//! | | name | type | shape |
//! |---|---|---|---|
//! | input | `image` | uint8 | `[N, height, width, 3]`: N images of one size, RGB, rows top to bottom |
//! | output | `probabilities` | float32 | `[N, K]`, with the head's temperature |
//! | output | `label` | int64 | `[N]`, the number of the class by the head's threshold |
//!
//! Height and width are free; N is, too, unless the backbone fixes it. The metadata has
//! `headstart.format` = `classifier`, `headstart.version` = `1`, `headstart.labels` = a JSON array
//! of the K names, `headstart.temperature`, for two classes `headstart.threshold`, and, each under
//! `headstart.`, what the caller adds.
//!
//! The resize is written out in gathers and sums, each rounded as [`extractor::resize`] rounds it, so
//! that the backbone sees the same bits as in [`crate::predict`]; ONNX's `Resize` leaves rounding
//! open, and wants all of a large image as float32. The backbone keeps its nodes, names, operator set
//! and metadata; only a tensor that is called like one of the interface is renamed.
//!
//! [`check`] compares such a model with the predictor that it was made of, [`web`] makes a page that
//! runs it; [`keras`] makes a Keras model of the same parts instead. Must not know of command lines or runs.

pub mod check;
mod graph;
pub mod keras;
mod names;
mod stages;
pub mod web;

use std::collections::BTreeMap;

use extractor::backbone::Spec;
use extractor::onnx_tensor::{Dim, tensor_info};
use extractor::preprocess::Layout;
use extractor::store::Dtype;
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::{Message as _, ModelProto, StringStringEntryProto, ValueInfoProto};

use self::graph::Nodes;
use crate::head::Head;

/// Name of the input.
pub const IMAGE: &str = "image";
/// Name of the output of probabilities.
pub const PROBABILITIES: &str = "probabilities";
/// Name of the output of class numbers.
pub const LABEL: &str = "label";

/// ONNX's operator set in which all operators that are added mean what they mean here, or later.
const LEAST_OPSET: i64 = 9;
/// The file version from which initial values need not be inputs.
const LEAST_IR: i64 = 4;

/// Before the names of the metadata.
const OURS: &str = "headstart.";

/// No model can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The backbone's file is not read or written.
    #[error("the backbone is no ONNX model that can be written")]
    Protobuf(#[from] protobuf::Error),
    /// The backbone is too old.
    #[error(
        "the backbone uses operator set {0} of ONNX, and {LEAST_OPSET} is the first that does (hint: \
         onnx.version_converter.convert_version(model, 17) makes a newer one of it)"
    )]
    Opset(i64),
    /// The backbone has no graph.
    #[error("the backbone has no graph with the tensors {0} and {1}")]
    Graph(String, String),
}

/// What a model is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The head.
    pub head: &'a Head,
    /// The backbone's file.
    pub backbone: &'a [u8],
    /// What is known of the backbone.
    pub spec: &'a Spec,
    /// Order of the axes of its feature map.
    pub map_layout: Layout,
    /// What the features were rounded to.
    pub dtype: Dtype,
    /// What the model is to say of itself, by name.
    pub metadata: &'a BTreeMap<String, String>,
}

/// The model's file; equal for equal parts.
///
/// # Errors
/// [`ExportError`].
pub fn fuse(parts: &Parts<'_>) -> Result<Vec<u8>, ExportError> {
    let spec = parts.spec;
    let mut model = ModelProto::parse_from_bytes(parts.backbone)?;
    let is_onnx = |domain: &str| domain.is_empty() || domain == "ai.onnx";
    let opsets = model.opset_import.iter();
    let opset = opsets
        .filter(|o| is_onnx(&o.domain))
        .map(|o| o.version)
        .max();
    match opset {
        Some(opset) if opset >= LEAST_OPSET => {}
        other => return Err(ExportError::Opset(other.unwrap_or(1))),
    }
    model.ir_version = model.ir_version.max(LEAST_IR);
    let Some(graph) = model.graph.as_mut() else {
        let (input, map) = (spec.input.clone(), spec.feature_tensor.clone());
        return Err(ExportError::Graph(input, map));
    };

    let mut taken = names::all(graph);
    let [mut input, mut map] = [spec.input.clone(), spec.feature_tensor.clone()];
    for name in [IMAGE, PROBABILITIES, LABEL] {
        if taken.contains(name) {
            let other = names::free(&format!("backbone_{name}"), &taken);
            names::rename(graph, name, &other);
            [&mut input, &mut map]
                .into_iter()
                .filter(|tensor| *tensor == name)
                .for_each(|tensor| tensor.clone_from(&other));
            taken.insert(other);
        }
    }
    let prefix = names::free_prefix("headstart", &taken);
    let mut before = Nodes::new(&prefix);
    stages::preprocessing(&mut before, spec, &input);
    let mut after = Nodes::new(&prefix);
    stages::decision(&mut after, parts, &map);

    // What the inputs and outputs say of their shapes stays true of the tensors inside. An initial
    // value that was an input as well is a constant from now on.
    let inputs = std::mem::take(&mut graph.input);
    let outputs = std::mem::take(&mut graph.output);
    let initial = |name: &str| graph.initializer.iter().any(|t| t.name == name);
    let inputs: Vec<ValueInfoProto> = inputs.into_iter().filter(|i| !initial(&i.name)).collect();
    for info in inputs.into_iter().chain(outputs) {
        if graph.value_info.iter().all(|known| known.name != info.name) {
            graph.value_info.push(info);
        }
    }
    let backbone = std::mem::replace(&mut graph.node, before.nodes);
    graph.node.extend(backbone);
    graph.node.extend(after.nodes);
    graph.initializer.extend(before.initializers);
    graph.initializer.extend(after.initializers);

    let images = match spec.batch {
        Some(batch) => Dim::Fixed(batch),
        None => Dim::Free("N"),
    };
    let [height, width] = ["height", "width"].map(Dim::Free);
    let (classes, float) = (Dim::Fixed(parts.head.classes.len()), DataType::FLOAT);
    let pixels = [images, height, width, Dim::Fixed(3)];
    graph.input = vec![tensor_info(IMAGE, DataType::UINT8, &pixels)];
    graph.output = vec![
        tensor_info(PROBABILITIES, float, &[images, classes]),
        tensor_info(LABEL, DataType::INT64, &[images]),
    ];
    let mut all = parts.metadata.clone();
    let mut own = |name: &str, value: String| all.insert(name.to_owned(), value);
    own("format", "classifier".to_owned());
    own("version", "1".to_owned());
    own("labels", serde_json::json!(parts.head.classes).to_string());
    own("temperature", parts.head.decision.temperature.to_string());
    if parts.head.classes.len() == 2 {
        own("threshold", parts.head.decision.threshold.to_string());
    }
    let entry = |(name, value): (String, String)| StringStringEntryProto {
        key: format!("{OURS}{name}"),
        value,
        ..Default::default()
    };
    model.metadata_props.retain(|e| !e.key.starts_with(OURS));
    model.metadata_props.extend(all.into_iter().map(entry));
    Ok(model.write_to_bytes()?)
}
