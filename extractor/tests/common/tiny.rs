//! A backbone of one convolution that opens and runs in no time, for tests of both crates.
//!
//! Must not need a binary: the other crate's tests include this file, too.

use std::fs;
use std::path::{Path, PathBuf};

use onnx_protobuf::tensor_shape_proto::{Dimension, dimension};
use onnx_protobuf::{
    AttributeProto, GraphProto, Message as _, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto, tensor_proto,
    type_proto,
};
use protobuf::{Enum as _, MessageField};

/// Writes a backbone [N, 3, 32, 32] -> [N, `channels`, 32 / `stride`, 32 / `stride`] into `folder`.
pub fn backbone(folder: &Path, channels: i64, stride: i64) -> PathBuf {
    let side = 32 / stride;
    let float = tensor_proto::DataType::FLOAT.value();
    let weights = |name: &str, dims: &[i64]| TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: float,
        float_data: (0..dims.iter().product())
            .map(|i| ((i * 7919 % 1009) as f32 / 1009.0) - 0.5)
            .collect(),
        ..Default::default()
    };
    let tensor = |name: &str, dims: [i64; 3]| {
        let dims = dims.map(|n| Some(dimension::Value::DimValue(n)));
        let batch = [Some(dimension::Value::DimParam("N".to_owned()))];
        let dim = batch.into_iter().chain(dims).map(|value| Dimension {
            value,
            ..Default::default()
        });
        let shape = TensorShapeProto {
            dim: dim.collect(),
            ..Default::default()
        };
        let tensor = type_proto::Tensor {
            elem_type: float,
            shape: MessageField::some(shape),
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
    };
    let strides = AttributeProto {
        name: "strides".to_owned(),
        type_: attribute_proto::AttributeType::INTS.into(),
        ints: vec![stride, stride],
        ..Default::default()
    };
    let convolution = NodeProto {
        op_type: "Conv".to_owned(),
        input: ["input", "weights", "bias"].map(str::to_owned).into(),
        output: vec!["features".to_owned()],
        attribute: vec![strides],
        ..Default::default()
    };
    let graph = GraphProto {
        name: "tiny".to_owned(),
        node: vec![convolution],
        initializer: vec![
            weights("weights", &[channels, 3, stride, stride]),
            weights("bias", &[channels]),
        ],
        input: vec![tensor("input", [3, 32, 32])],
        output: vec![tensor("features", [channels, side, side])],
        ..Default::default()
    };
    let model = ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            version: 17,
            ..Default::default()
        }],
        graph: MessageField::some(graph),
        ..Default::default()
    };
    let path = folder.join("tiny.onnx");
    fs::write(&path, model.write_to_bytes().unwrap()).unwrap();
    fs::write(path.with_extension("toml"), "preset = \"unit\"\n").unwrap();
    path
}
