//! Small ONNX models put together by hand, for tests of both crates.
//!
//! Must not need a binary: the other crate's tests include this file, too.

use extractor::onnx_tensor::{Dim, tensor_info};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::{
    AttributeProto, GraphProto, Message as _, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, ValueInfoProto,
};
use protobuf::{Enum as _, EnumOrUnknown, MessageField};

/// A node that is called as its output is.
pub fn node(op: &str, inputs: &[&str], output: &str, attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op.to_owned(),
        name: output.to_owned(),
        input: inputs.iter().map(|i| (*i).to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute: attributes,
        ..Default::default()
    }
}

/// An attribute of integers.
pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        type_: EnumOrUnknown::new(AttributeType::INTS),
        ints: values.to_vec(),
        ..Default::default()
    }
}

/// An initializer of `dims`; `value` gives each of its elements by position.
pub fn weights(name: &str, dims: &[i64], value: impl Fn(i64) -> f32) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::FLOAT.value(),
        raw_data: (0..dims.iter().product())
            .flat_map(|i| value(i).to_le_bytes())
            .collect(),
        ..Default::default()
    }
}

/// An input or output [batch, dims]; no `batch` leaves it open.
pub fn tensor(name: &str, batch: Option<i64>, dims: &[i64]) -> ValueInfoProto {
    let fixed = |length: i64| Dim::Fixed(length as usize);
    let batch = batch.map_or(Dim::Free("N"), fixed);
    let dims = dims.iter().copied().map(fixed);
    let dims: Vec<Dim> = [batch].into_iter().chain(dims).collect();
    tensor_info(name, DataType::FLOAT, &dims)
}

/// The file of a model of one input and one output.
pub fn model(
    opset: i64,
    nodes: Vec<NodeProto>,
    weights: Vec<TensorProto>,
    input: ValueInfoProto,
    output: ValueInfoProto,
) -> Vec<u8> {
    let graph = GraphProto {
        name: "tiny".to_owned(),
        node: nodes,
        initializer: weights,
        input: vec![input],
        output: vec![output],
        ..Default::default()
    };
    let model = ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            version: opset,
            ..Default::default()
        }],
        graph: MessageField::some(graph),
        ..Default::default()
    };
    model.write_to_bytes().unwrap()
}
