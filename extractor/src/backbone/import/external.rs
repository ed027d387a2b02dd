//! Weights that a model keeps in files beside it, taken into the model itself, so that its digest
//! covers them.
//!
//! Must not read outside the model's folder.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Component, Path};

use onnx_protobuf::{GraphProto, ModelProto, NodeProto, TensorProto, tensor_proto};
use protobuf::EnumOrUnknown;

use super::ImportError;

/// A model file is not larger: what protobuf can hold.
const LIMIT_BYTES: u64 = i32::MAX as u64;

/// Takes all weights in other files into `model`, which lies in `folder`; a model from elsewhere has
/// none. Returns how many bytes that were.
///
/// # Errors
/// When a file is missing, lies elsewhere, is too short, or all is too large for one file.
pub fn take_in(model: &mut ModelProto, folder: Option<&Path>) -> Result<u64, ImportError> {
    let mut bytes = 0;
    let mut take = |tensor: &mut TensorProto| -> Result<(), ImportError> {
        if tensor.data_location != EnumOrUnknown::new(tensor_proto::DataLocation::EXTERNAL) {
            return Ok(());
        }
        let name = tensor.name.clone();
        let wrong = |reason: &str| ImportError::External {
            tensor: name.clone(),
            reason: reason.to_owned(),
            source: None,
        };
        let folder = folder.ok_or_else(|| {
            wrong(
                "a model from a server comes alone (hint: download both and name the model's file)",
            )
        })?;
        let get = |key: &str| {
            let entry = tensor.external_data.iter().find(|entry| entry.key == key);
            entry.map(|entry| entry.value.clone())
        };
        let location = get("location").ok_or_else(|| wrong("it does not say which file"))?;
        let mut components = Path::new(&location).components();
        if location.is_empty() || !components.all(|c| matches!(c, Component::Normal(_))) {
            return Err(wrong("the file is not in the model's folder"));
        }
        let number = |key: &str| {
            let parse = |text: String| text.parse::<u64>().map_err(|_| wrong("malformed offset"));
            get(key).map(parse).transpose()
        };
        let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(folder.join(&location))?;
            let size = file.metadata()?.len();
            let length = length.unwrap_or(size.saturating_sub(offset));
            if offset.checked_add(length).is_none_or(|end| end > size) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if bytes + length > LIMIT_BYTES {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            file.seek(SeekFrom::Start(offset))?;
            let mut data = Vec::new();
            file.take(length).read_to_end(&mut data)?;
            Ok(data)
        };
        let data = read().map_err(|source| ImportError::External {
            tensor: name.clone(),
            reason: format!("in {}", crate::files::escape(location.as_bytes())),
            source: Some(source),
        })?;
        bytes += data.len() as u64;
        tensor.raw_data = data;
        tensor.external_data.clear();
        tensor.data_location = EnumOrUnknown::default();
        Ok(())
    };
    if let Some(graph) = model.graph.as_mut() {
        in_graph(graph, &mut take)?;
    }
    for function in &mut model.functions {
        in_nodes(&mut function.node, &mut take)?;
    }
    Ok(bytes)
}

type Take<'a> = &'a mut dyn FnMut(&mut TensorProto) -> Result<(), ImportError>;

fn in_graph(graph: &mut GraphProto, take: Take) -> Result<(), ImportError> {
    graph.initializer.iter_mut().try_for_each(&mut *take)?;
    for sparse in &mut graph.sparse_initializer {
        let parts = [sparse.values.as_mut(), sparse.indices.as_mut()];
        parts.into_iter().flatten().try_for_each(&mut *take)?;
    }
    in_nodes(&mut graph.node, take)
}

fn in_nodes(nodes: &mut [NodeProto], take: Take) -> Result<(), ImportError> {
    for attribute in nodes.iter_mut().flat_map(|node| &mut node.attribute) {
        let tensors = attribute
            .t
            .as_mut()
            .into_iter()
            .chain(&mut attribute.tensors);
        tensors.into_iter().try_for_each(&mut *take)?;
        for graph in attribute
            .g
            .as_mut()
            .into_iter()
            .chain(&mut attribute.graphs)
        {
            in_graph(graph, take)?;
        }
    }
    Ok(())
}
