//! Cuts an ONNX graph off behind one of its tensors: what is needed to compute that stays, field by
//! field, and everything else goes.
//!
//! Messages are moved, never rebuilt, so what this program does not know of them (their unknown
//! fields) stays as well. Must not know what the tensor is.

use std::collections::HashSet;

use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::{GraphProto, ModelProto, NodeProto, SparseTensorProto, ValueInfoProto};

use super::ImportError;
use crate::onnx_tensor::{Dim, tensor_info};

/// What went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Nodes of the graph.
    pub nodes: usize,
    /// Weights and other constants.
    pub initializers: usize,
}

/// Leaves of `model` what computes `feature`, which becomes its only output.
///
/// # Errors
/// When nothing computes it, or something that it needs is nowhere.
pub fn cut(model: &mut ModelProto, feature: &str) -> Result<Dropped, ImportError> {
    let graph = model.graph.as_mut().ok_or(ImportError::NoGraph)?;
    let (needed, nodes) = needed(graph, feature)?;
    let before = (graph.node.len(), graph.initializer.len());

    let output = output(graph, feature);
    let mut stays = nodes.iter();
    graph.node.retain(|_| *stays.next().unwrap_or(&false));
    graph.initializer.retain(|t| needed.contains(&t.name));
    graph
        .sparse_initializer
        .retain(|t| needed.contains(sparse_name(t)));
    graph.input.retain(|input| needed.contains(&input.name));
    graph
        .value_info
        .retain(|value| needed.contains(&value.name) && value.name != feature);
    graph.quantization_annotation.retain(|annotation| {
        let mut parameters = annotation.quant_parameter_tensor_names.iter();
        needed.contains(&annotation.tensor_name) && parameters.all(|p| needed.contains(&p.value))
    });
    graph.output = vec![output];

    keep_functions(model);
    // They train the classifier that is gone.
    model.training_info.clear();
    let after = model
        .graph
        .as_ref()
        .map_or((0, 0), |graph| (graph.node.len(), graph.initializer.len()));
    Ok(Dropped {
        nodes: before.0 - after.0,
        initializers: before.1 - after.1,
    })
}

/// Makes `feature` an output of the whole model, too.
pub fn also_give(model: &mut ModelProto, feature: &str) {
    let Some(graph) = model.graph.as_mut() else {
        return;
    };
    if graph.output.iter().all(|output| output.name != feature) {
        let output = output(graph, feature);
        graph.output.push(output);
    }
}

/// The names of all tensors that `feature` needs, itself included, and of each node whether it does.
fn needed(graph: &GraphProto, feature: &str) -> Result<(HashSet<String>, Vec<bool>), ImportError> {
    let producer = |name: &str| {
        let gives = |node: &NodeProto| node.output.iter().any(|output| output == name);
        graph.node.iter().position(gives)
    };
    if producer(feature).is_none() {
        return Err(ImportError::NoTensor(feature.to_owned()));
    }
    let given: HashSet<&str> = (graph.input.iter().map(|input| input.name.as_str()))
        .chain(graph.initializer.iter().map(|tensor| tensor.name.as_str()))
        .chain(graph.sparse_initializer.iter().map(sparse_name))
        .collect();
    let mut needed = HashSet::from([feature.to_owned()]);
    let mut nodes = vec![false; graph.node.len()];
    let mut next = vec![feature.to_owned()];
    while let Some(name) = next.pop() {
        let mut reads = Vec::new();
        match producer(&name) {
            Some(position) if nodes[position] => {}
            Some(position) => {
                nodes[position] = true;
                reads = names_read(&graph.node[position]);
            }
            None if given.contains(name.as_str()) => {}
            None => return Err(ImportError::Dangling(name)),
        }
        // A quantised tensor's scale and zero point.
        let annotations = graph.quantization_annotation.iter();
        for annotation in annotations.filter(|a| a.tensor_name == name) {
            let parameters = annotation.quant_parameter_tensor_names.iter();
            reads.extend(parameters.map(|parameter| parameter.value.clone()));
        }
        for name in reads {
            if needed.insert(name.clone()) {
                next.push(name);
            }
        }
    }
    // A node's other outputs have their types stated, too.
    for (node, _) in graph.node.iter().zip(&nodes).filter(|(_, stays)| **stays) {
        needed.extend(node.output.iter().filter(|name| !name.is_empty()).cloned());
    }
    Ok((needed, nodes))
}

/// The names that a node reads, those that graphs inside it take from around them included.
pub(super) fn names_read(node: &NodeProto) -> Vec<String> {
    let own = node.input.iter().filter(|name| !name.is_empty()).cloned();
    let mut names: Vec<String> = own.collect();
    for graph in graphs_in(node) {
        names.extend(names_taken(graph));
    }
    names
}

fn graphs_in(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    let attributes = node.attribute.iter();
    attributes.flat_map(|attribute| attribute.g.as_ref().into_iter().chain(&attribute.graphs))
}

/// The names that a graph uses and does not define.
fn names_taken(graph: &GraphProto) -> HashSet<String> {
    let mut taken: HashSet<String> = graph.node.iter().flat_map(names_read).collect();
    taken.extend(graph.output.iter().map(|output| output.name.clone()));
    let defined = (graph.input.iter().map(|input| input.name.as_str()))
        .chain(graph.initializer.iter().map(|tensor| tensor.name.as_str()))
        .chain(graph.sparse_initializer.iter().map(sparse_name))
        .chain(
            graph
                .node
                .iter()
                .flat_map(|node| node.output.iter().map(String::as_str)),
        );
    for name in defined {
        taken.remove(name);
    }
    taken
}

fn sparse_name(tensor: &SparseTensorProto) -> &str {
    tensor.values.as_ref().map_or("", |values| &values.name)
}

/// What the graph says of `feature`, or else that it has four axes of float32.
fn output(graph: &GraphProto, feature: &str) -> ValueInfoProto {
    let mut stated = graph.output.iter().chain(&graph.value_info);
    match stated.find(|value| value.name == feature) {
        Some(value) => value.clone(),
        None => four_axes(feature),
    }
}

/// A tensor of float32 with four axes of any length.
pub(super) fn four_axes(name: &str) -> ValueInfoProto {
    tensor_info(name, DataType::FLOAT, &[Dim::Open; 4])
}

/// Drops the functions that no node that is left calls.
fn keep_functions(model: &mut ModelProto) {
    let Some(graph) = model.graph.as_ref() else {
        return;
    };
    let mut called = HashSet::new();
    graph.node.iter().for_each(|node| calls(node, &mut called));
    loop {
        let before = called.len();
        let functions = model.functions.iter();
        let used = functions.filter(|f| called.contains(&(f.domain.clone(), f.name.clone())));
        let nodes: Vec<&NodeProto> = used.flat_map(|function| &function.node).collect();
        nodes.into_iter().for_each(|node| calls(node, &mut called));
        if called.len() == before {
            break;
        }
    }
    model
        .functions
        .retain(|f| called.contains(&(f.domain.clone(), f.name.clone())));
}

/// Adds what a node, and those of graphs inside it, are called.
fn calls(node: &NodeProto, called: &mut HashSet<(String, String)>) {
    called.insert((node.domain.clone(), node.op_type.clone()));
    for graph in graphs_in(node) {
        graph.node.iter().for_each(|node| calls(node, called));
    }
}
