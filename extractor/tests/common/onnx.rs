//! Small ONNX models put together by hand, for tests of both crates.
//!
//! Must not need a binary: the other crate's tests include this file, too.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, GraphProto, Message as _, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
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
    use dimension::Value::{DimParam, DimValue};
    let batch = batch.map_or(DimParam("N".to_owned()), DimValue);
    let dims = [batch]
        .into_iter()
        .chain(dims.iter().copied().map(DimValue));
    let dims = dims.map(|value| Dimension {
        value: Some(value),
        ..Default::default()
    });
    let tensor = type_proto::Tensor {
        elem_type: DataType::FLOAT.value(),
        shape: MessageField::some(TensorShapeProto {
            dim: dims.collect(),
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
