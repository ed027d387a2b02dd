//! Reads from an ONNX file what a backbone's user must know: the names, types and shapes of its
//! inputs and outputs. Needs no ONNX Runtime, so that a fully cached run needs none either.

use onnx_protobuf::{
    Message, ModelProto, StringStringEntryProto, ValueInfoProto, tensor_proto, tensor_shape_proto,
    type_proto,
};

/// Inputs (those that are not weights) and outputs of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelIo {
    /// Inputs that a caller must give.
    pub inputs: Vec<TensorInfo>,
    /// Outputs.
    pub outputs: Vec<TensorInfo>,
}

/// One input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name in the graph.
    pub name: String,
    /// Whether its elements are float32.
    pub float32: bool,
    /// Its shape if the model states one; `None` for a dynamic axis.
    pub dims: Option<Vec<Option<usize>>>,
}

impl std::fmt::Display for TensorInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(dims) = &self.dims {
            let dims: Vec<String> = dims
                .iter()
                .map(|d| d.map_or("?".to_owned(), |d| d.to_string()))
                .collect();
            write!(f, " [{}]", dims.join(", "))?;
        }
        Ok(())
    }
}

/// The bytes are no usable ONNX model.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OnnxError {
    /// Not the protobuf of a model with a graph.
    #[error(
        "it is not an ONNX model{0} (hint: make backbone exports one; BACKBONE=FILE.onnx names another)"
    )]
    NotOnnx(String),
    /// Weights in other files would not be covered by the digest.
    #[error(
        "it keeps weights in separate files, which are not supported (hint: save it as one file, \
         onnx.save_model(model, path, save_as_external_data=False))"
    )]
    ExternalData,
}

/// Reads a model's inputs and outputs.
///
/// # Errors
/// When the bytes are no ONNX model or weights lie in other files.
pub fn read_io(bytes: &[u8]) -> Result<ModelIo, OnnxError> {
    let model =
        ModelProto::parse_from_bytes(bytes).map_err(|e| OnnxError::NotOnnx(format!(": {e}")))?;
    let Some(graph) = model.graph.as_ref().filter(|g| !g.node.is_empty()) else {
        return Err(OnnxError::NotOnnx(": it has no graph".to_owned()));
    };
    let external = tensor_proto::DataLocation::EXTERNAL.into();
    if graph
        .initializer
        .iter()
        .any(|t| t.data_location == external)
    {
        return Err(OnnxError::ExternalData);
    }
    let is_weight = |name: &str| graph.initializer.iter().any(|t| t.name == name);
    Ok(ModelIo {
        inputs: graph
            .input
            .iter()
            .filter(|i| !is_weight(&i.name))
            .map(info)
            .collect(),
        outputs: graph.output.iter().map(info).collect(),
    })
}

fn info(value: &ValueInfoProto) -> TensorInfo {
    let tensor = match value.type_.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => Some(tensor),
        _ => None,
    };
    let dims = tensor.and_then(|t| t.shape.as_ref()).map(|shape| {
        shape
            .dim
            .iter()
            .map(|d| match d.value {
                Some(tensor_shape_proto::dimension::Value::DimValue(n)) if n > 0 => {
                    Some(n as usize)
                }
                _ => None,
            })
            .collect()
    });
    TensorInfo {
        name: value.name.clone(),
        float32: tensor.is_some_and(|t| t.elem_type == tensor_proto::DataType::FLOAT as i32),
        dims,
    }
}

/// Notes `value` under `key` in the model's metadata, in place of what is noted there.
pub(super) fn set_metadata(model: &mut ModelProto, key: &str, value: String) {
    let entry = model.metadata_props.iter_mut().find(|e| e.key == key);
    match entry {
        Some(entry) => entry.value = value,
        None => model.metadata_props.push(StringStringEntryProto {
            key: key.to_owned(),
            value,
            ..Default::default()
        }),
    }
}
