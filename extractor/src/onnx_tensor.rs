//! How an ONNX graph says what goes in and out: name, type and shape of a tensor.
//!
//! Must not know what a graph computes.

use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{TensorShapeProto, TypeProto, ValueInfoProto, type_proto};
use protobuf::{Enum as _, MessageField};

/// One axis of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    /// Of this length.
    Fixed(usize),
    /// Of a length that a run chooses; axes of the same name have the same.
    Free(&'static str),
    /// Of any length.
    Open,
}

/// Name, type and shape of an input or output.
pub fn tensor_info(name: &str, data_type: DataType, dims: &[Dim]) -> ValueInfoProto {
    let dimension = |dim: &Dim| Dimension {
        value: match dim {
            Dim::Fixed(length) => Some(dimension::Value::DimValue(*length as i64)),
            Dim::Free(name) => Some(dimension::Value::DimParam((*name).to_owned())),
            Dim::Open => None,
        },
        ..Default::default()
    };
    let tensor = type_proto::Tensor {
        elem_type: data_type.value(),
        shape: MessageField::some(TensorShapeProto {
            dim: dims.iter().map(dimension).collect(),
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
