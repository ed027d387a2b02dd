//! A ResNet50 as an ONNX model, shaped like a Keras export: channels last outside, channels
//! first inside.
//!
//! Every list is written in one fixed order, so equal weights give equal bytes.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::{
    AttributeProto, GraphProto, Message as _, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, ValueInfoProto,
};
use protobuf::{Enum as _, EnumOrUnknown, MessageField};

use super::LayerWeights;
use super::architecture::{Architecture, ConvBn};
use crate::onnx_tensor::{Dim, tensor_info};

/// ONNX operator set 17 and its file version 8: read by ONNX Runtime 1.12 and later.
const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;

/// Name of the model's input, [N, height, width, 3].
pub const INPUT: &str = "input";
/// Name of the model's output, [N, h, w, 2048].
pub const OUTPUT: &str = "features";

/// What the file says about itself.
pub struct Label<'a> {
    /// One sentence for the model's doc string.
    pub note: &'a str,
    /// Key and value pairs of the model's metadata.
    pub metadata: &'a [(&'a str, String)],
}

/// The model's bytes for an input of this height and width.
///
/// # Errors
/// When they cannot be serialised.
pub fn encode(
    architecture: &Architecture,
    weights: Vec<LayerWeights>,
    input_size: [usize; 2],
    label: &Label<'_>,
) -> Result<Vec<u8>, protobuf::Error> {
    let [height, width] = input_size;
    let [(rows, channels), (columns, _)] = input_size.map(|side| architecture.output(side));
    let mut graph = Graph {
        epsilon: architecture.epsilon,
        nodes: Vec::new(),
        initializers: Vec::new(),
    };
    for (layer, weights) in architecture.layers().zip(weights) {
        graph.weights(layer, weights);
    }

    let x = graph.transpose("to_nchw", INPUT, "input_nchw", &[0, 3, 1, 2]);
    let x = graph.conv_bn(&architecture.stem, &x);
    let x = graph.node("Relu", "conv1_relu", &[&x], vec![]);
    // Keras pads with zeros and ONNX with minus infinity: the same, behind a ReLU.
    let window = vec![
        ints("kernel_shape", &[3, 3]),
        ints("pads", &[1; 4]),
        ints("strides", &[2, 2]),
    ];
    let mut x = graph.node("MaxPool", "pool1_pool", &[&x], window);
    for block in &architecture.blocks {
        let name = &block.name;
        let shortcut = match &block.shortcut {
            Some(layer) => graph.conv_bn(layer, &x),
            None => x.clone(),
        };
        let [first, second, third] = &block.branch;
        let branch = graph.conv_bn(first, &x);
        let branch = graph.node("Relu", &format!("{name}_1_relu"), &[&branch], vec![]);
        let branch = graph.conv_bn(second, &branch);
        let branch = graph.node("Relu", &format!("{name}_2_relu"), &[&branch], vec![]);
        let branch = graph.conv_bn(third, &branch);
        let sum = graph.node("Add", &format!("{name}_add"), &[&shortcut, &branch], vec![]);
        x = graph.node("Relu", &format!("{name}_out"), &[&sum], vec![]);
    }
    graph.transpose("to_nhwc", &x, OUTPUT, &[0, 2, 3, 1]);

    let graph = GraphProto {
        name: "resnet50".to_owned(),
        node: graph.nodes,
        initializer: graph.initializers,
        doc_string: label.note.to_owned(),
        input: vec![images_of(INPUT, [height, width, 3])],
        output: vec![images_of(OUTPUT, [rows, columns, channels])],
        ..Default::default()
    };
    let entry = |&(key, ref value): &(&str, String)| StringStringEntryProto {
        key: key.to_owned(),
        value: value.clone(),
        ..Default::default()
    };
    let model = ModelProto {
        ir_version: IR_VERSION,
        opset_import: vec![OperatorSetIdProto {
            version: OPSET,
            ..Default::default()
        }],
        producer_name: "headstart".to_owned(),
        doc_string: label.note.to_owned(),
        graph: MessageField::some(graph),
        metadata_props: label.metadata.iter().map(entry).collect(),
        ..Default::default()
    };
    model.write_to_bytes()
}

/// Nodes and weights as they are added.
struct Graph {
    epsilon: f32,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
}

impl Graph {
    /// Adds a node with one output, which takes the node's name.
    fn node(
        &mut self,
        operator: &str,
        name: &str,
        inputs: &[&str],
        attribute: Vec<AttributeProto>,
    ) -> String {
        self.node_into(operator, name, inputs, name, attribute)
    }

    fn node_into(
        &mut self,
        operator: &str,
        name: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<AttributeProto>,
    ) -> String {
        self.nodes.push(NodeProto {
            op_type: operator.to_owned(),
            name: name.to_owned(),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute,
            ..Default::default()
        });
        output.to_owned()
    }

    fn transpose(&mut self, name: &str, input: &str, output: &str, order: &[i64]) -> String {
        self.node_into(
            "Transpose",
            name,
            &[input],
            output,
            vec![ints("perm", order)],
        )
    }

    fn conv_bn(&mut self, layer: &ConvBn, input: &str) -> String {
        let ConvBn {
            name,
            kernel,
            stride,
            pad,
            ..
        } = layer;
        let (conv, bn) = (format!("{name}_conv"), format!("{name}_bn"));
        let attributes = vec![
            ints("kernel_shape", &[*kernel as i64; 2]),
            ints("pads", &[*pad as i64; 4]),
            ints("strides", &[*stride as i64; 2]),
        ];
        let (kernel, bias) = (format!("{conv}/kernel"), format!("{conv}/bias"));
        let inputs: &[&str] = match self.has(&bias) {
            true => &[input, &kernel, &bias],
            false => &[input, &kernel],
        };
        let convolved = self.node("Conv", &conv, inputs, attributes);
        let statistics =
            ["gamma", "beta", "moving_mean", "moving_variance"].map(|part| format!("{bn}/{part}"));
        let [gamma, beta, mean, variance] = statistics.each_ref().map(String::as_str);
        let inputs = [&convolved, gamma, beta, mean, variance];
        self.node(
            "BatchNormalization",
            &bn,
            &inputs,
            vec![float("epsilon", self.epsilon)],
        )
    }

    fn has(&self, weights: &str) -> bool {
        self.initializers
            .iter()
            .any(|tensor| tensor.name == weights)
    }

    fn weights(&mut self, layer: &ConvBn, weights: LayerWeights) {
        let name = &layer.name;
        let (kernel, channels) = (layer.kernel as i64, layer.out_channels as i64);
        let dims = vec![channels, layer.in_channels as i64, kernel, kernel];
        let mut add = |part: &str, dims: Vec<i64>, values: Vec<f32>| {
            self.initializers.push(TensorProto {
                name: format!("{name}_{part}"),
                dims,
                data_type: DataType::FLOAT.value(),
                // ONNX's raw data is little-endian on every machine.
                raw_data: values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect(),
                ..Default::default()
            });
        };
        add("conv/kernel", dims, weights.kernel_oihw);
        if let Some(bias) = weights.bias {
            add("conv/bias", vec![channels], bias);
        }
        add("bn/gamma", vec![channels], weights.gamma);
        add("bn/beta", vec![channels], weights.beta);
        add("bn/moving_mean", vec![channels], weights.mean);
        add("bn/moving_variance", vec![channels], weights.variance);
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

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        type_: EnumOrUnknown::new(AttributeType::FLOAT),
        f: value,
        ..Default::default()
    }
}

/// A float32 tensor [N, dims...] with a free number of images.
fn images_of(name: &str, dims: [usize; 3]) -> ValueInfoProto {
    let [a, b, c] = dims.map(Dim::Fixed);
    tensor_info(name, DataType::FLOAT, &[Dim::Free("N"), a, b, c])
}
