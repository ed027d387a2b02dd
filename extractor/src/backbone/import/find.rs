//! Finds a classifier's feature map: what its global average pooling pools.
//!
//! Must not change the model.

use std::collections::{HashMap, HashSet};

use onnx_protobuf::{GraphProto, NodeProto, TensorProto, tensor_proto};
use protobuf::Enum as _;

use super::ImportError;
use super::cut::names_read;
use crate::preprocess::Layout;

/// A feature map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its tensor's name.
    pub tensor: String,
    /// Order of its axes, if it is known.
    pub layout: Option<Layout>,
    /// Height and width that it must have for the pooling to be global.
    pub full_size: Option<[usize; 2]>,
    /// Why it is the one, for people.
    pub why: String,
}

/// The feature map of a classifier.
///
/// # Errors
/// When there is no global average pooling, or there are several.
pub fn feature_map(graph: &GraphProto) -> Result<Found, ImportError> {
    let poolings: Vec<(usize, Pooling)> = (graph.node.iter().enumerate())
        .filter_map(|(position, node)| Some((position, pooling(node, graph)?)))
        .collect();
    let behind: Vec<HashSet<usize>> = poolings
        .iter()
        .map(|(position, _)| downstream(graph, *position))
        .collect();
    // Poolings inside the backbone, as in squeeze-and-excitation blocks, have others behind them.
    let is_last = |i: &usize| {
        let mut others = poolings.iter();
        !others.any(|(other, _)| behind[*i].contains(other))
    };
    let last: Vec<usize> = (0..poolings.len()).filter(is_last).collect();
    let [last] = last[..] else {
        let names = last.iter().map(|i| poolings[*i].1.input.clone()).collect();
        return Err(ImportError::Poolings(names));
    };
    let (position, pooling) = &poolings[last];
    let node = &graph.node[*position];
    let is_learned = |i: &usize| LEARNED.contains(&graph.node[*i].op_type.as_str());
    if behind[last].iter().any(is_learned) {
        return Ok(Found {
            tensor: pooling.input.clone(),
            layout: pooling.layout,
            full_size: pooling.full_size,
            why: format!("{} pools it", node.op_type),
        });
    }
    // The classifier comes before the pooling, as in SqueezeNet: a convolution of 1x1.
    let before = |name: &str| {
        let gives = |node: &&NodeProto| node.output.iter().any(|output| output == name);
        graph.node.iter().find(gives)
    };
    let mut name = pooling.input.as_str();
    let classifier = loop {
        match before(name) {
            Some(node) if PLAIN.contains(&node.op_type.as_str()) => name = &node.input[0],
            Some(node) if node.op_type == "Conv" && is_1x1(node, graph) => break node,
            _ => {
                return Err(ImportError::NothingLearned {
                    pooled: pooling.input.clone(),
                });
            }
        }
    };
    let mut tensor = classifier.input[0].as_str();
    while let Some(node) = before(tensor).filter(|node| PASSING.contains(&node.op_type.as_str())) {
        tensor = &node.input[0];
    }
    Ok(Found {
        tensor: tensor.to_owned(),
        layout: Some(Layout::Nchw),
        full_size: None,
        why: "the classifier's convolution reads it, and nothing is learned behind the pooling"
            .to_owned(),
    })
}

/// Operators with weights that a classifier may have.
const LEARNED: [&str; 8] = [
    "Gemm",
    "MatMul",
    "Conv",
    "QGemm",
    "QLinearMatMul",
    "QLinearConv",
    "MatMulInteger",
    "FusedMatMul",
];
/// Operators that change no number in inference.
const PASSING: [&str; 2] = ["Dropout", "Identity"];
/// Operators between a classifier's convolution and its pooling.
const PLAIN: [&str; 5] = ["Dropout", "Identity", "Relu", "Clip", "BatchNormalization"];

struct Pooling {
    input: String,
    layout: Option<Layout>,
    full_size: Option<[usize; 2]>,
}

/// What `node` pools, if it is an average over all of height and width.
fn pooling(node: &NodeProto, graph: &GraphProto) -> Option<Pooling> {
    let input = node.input.first()?.clone();
    let pooling = |layout, full_size| Pooling {
        input,
        layout: Some(layout),
        full_size,
    };
    match node.op_type.as_str() {
        "GlobalAveragePool" | "QLinearGlobalAveragePool" => Some(pooling(Layout::Nchw, None)),
        "ReduceMean" => {
            let mut axes = ints(node, "axes").or_else(|| constant(graph, node.input.get(1)?))?;
            axes.iter_mut()
                .filter(|a| **a < 0)
                .for_each(|axis| *axis += 4);
            axes.sort_unstable();
            match axes[..] {
                [1, 2] => Some(pooling(Layout::Nhwc, None)),
                [2, 3] => Some(pooling(Layout::Nchw, None)),
                _ => None,
            }
        }
        "AveragePool" => {
            let kernel = ints(node, "kernel_shape")?;
            let size = |i: usize| usize::try_from(kernel[i]).ok();
            let [height, width] = [size(0)?, size(1)?];
            // Whether it is as large as the map will show. Inside a backbone they are small, and
            // convolutions follow.
            let follows = downstream(graph, position_of(graph, node)?);
            let is_spatial = |i: &usize| {
                let node = &graph.node[*i];
                node.op_type.ends_with("Conv") && !is_1x1(node, graph)
            };
            let is_last = kernel.len() == 2 && !follows.iter().any(is_spatial);
            is_last.then(|| pooling(Layout::Nchw, Some([height, width])))
        }
        _ => None,
    }
}

fn position_of(graph: &GraphProto, node: &NodeProto) -> Option<usize> {
    graph
        .node
        .iter()
        .position(|other| std::ptr::eq(other, node))
}

/// Positions of the nodes that use what the node at `start` gives, directly or not.
fn downstream(graph: &GraphProto, start: usize) -> HashSet<usize> {
    let mut readers: HashMap<String, Vec<usize>> = HashMap::new();
    for (position, node) in graph.node.iter().enumerate() {
        for name in names_read(node) {
            readers.entry(name).or_default().push(position);
        }
    }
    let (mut found, mut next) = (HashSet::new(), vec![start]);
    while let Some(position) = next.pop() {
        for name in &graph.node[position].output {
            for &reader in readers.get(name).into_iter().flatten() {
                if found.insert(reader) {
                    next.push(reader);
                }
            }
        }
    }
    found
}

/// Whether a convolution looks at single positions.
fn is_1x1(node: &NodeProto, graph: &GraphProto) -> bool {
    let kernel = ints(node, "kernel_shape").or_else(|| {
        let weights = node.input.get(1)?;
        let tensor = graph.initializer.iter().find(|t| t.name == *weights)?;
        Some(tensor.dims.get(2..)?.to_vec())
    });
    kernel.is_some_and(|kernel| kernel.iter().all(|&side| side == 1))
}

fn ints(node: &NodeProto, name: &str) -> Option<Vec<i64>> {
    let attribute = node.attribute.iter().find(|a| a.name == name)?;
    Some(attribute.ints.clone())
}

/// The integers of a constant: an initializer, or a `Constant` node's value.
fn constant(graph: &GraphProto, name: &String) -> Option<Vec<i64>> {
    let of_node = || {
        let node = graph.node.iter().find(|n| n.output.contains(name))?;
        let value = node.attribute.iter().find(|a| a.name == "value")?;
        (node.op_type == "Constant").then(|| value.t.as_ref())?
    };
    let tensor: &TensorProto = (graph.initializer.iter())
        .find(|tensor| tensor.name == *name)
        .or_else(of_node)?;
    if tensor.data_type != tensor_proto::DataType::INT64.value() {
        return None;
    }
    let (raw, _) = tensor.raw_data.as_chunks::<8>();
    Some(match tensor.int64_data.is_empty() {
        true => raw.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect(),
        false => tensor.int64_data.clone(),
    })
}
