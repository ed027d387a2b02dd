//! Reads from an ONNX file what a backbone's user must know: the names, types and shapes of its
//! inputs and outputs. Needs no ONNX Runtime, so that a fully cached run needs none either.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use onnx_protobuf::{
    Message as _, ModelProto, StringStringEntryProto, ValueInfoProto, tensor_proto,
    tensor_shape_proto, type_proto,
};
use protobuf::CodedInputStream;
use protobuf::rt::WireType;
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;

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
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
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

/// What is known of a model's file without its weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// Digest of the file.
    pub digest: Digest,
    /// Its size.
    pub len_bytes: u64,
    /// Inputs and outputs, or why it is no usable model.
    pub io: Result<ModelIo, OnnxError>,
}

impl Outline {
    /// Reads a model's file once, from end to end, and keeps no weights.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of_file(path: &Path) -> io::Result<Outline> {
        Outline::of_reader(File::open(path)?)
    }

    /// The outline of a model's bytes.
    pub fn of_bytes(bytes: &[u8]) -> Outline {
        Outline::of_reader(bytes).expect("bytes can be read")
    }

    fn of_reader(reader: impl Read) -> io::Result<Outline> {
        /// Digests what passes.
        struct Digesting<R> {
            inner: R,
            hasher: Sha256,
            len_bytes: u64,
            failed: Option<io::Error>,
        }
        impl<R: Read> Read for Digesting<R> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let n = loop {
                    match self.inner.read(buffer) {
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => {
                            let same = e.raw_os_error().map(io::Error::from_raw_os_error);
                            self.failed = Some(same.unwrap_or_else(|| e.kind().into()));
                            return Err(e);
                        }
                        Ok(n) => break n,
                    }
                };
                self.hasher.update(&buffer[..n]);
                self.len_bytes += n as u64;
                Ok(n)
            }
        }
        let digesting = Digesting {
            inner: reader,
            hasher: Sha256::new(),
            len_bytes: 0,
            failed: None,
        };
        let mut reader = BufReader::with_capacity(1 << 18, digesting);
        let io = read_io(&mut reader);
        // What is no model, and what follows one, is digested all the same.
        if reader.get_ref().failed.is_none() {
            io::copy(&mut reader, &mut io::sink())?;
        }
        let Digesting {
            hasher,
            len_bytes,
            failed,
            ..
        } = reader.into_inner();
        match failed {
            Some(e) => Err(e),
            None => Ok(Outline {
                digest: Digest(hasher.finalize().into()),
                len_bytes,
                io,
            }),
        }
    }
}

/// What of a graph is looked at; the numbers are those of `onnx.proto`.
#[derive(Default)]
struct Graph {
    has_nodes: bool,
    weights: HashSet<String>,
    external: bool,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
}

/// Reads a model's inputs and outputs, and passes over everything else.
fn read_io(reader: &mut dyn BufRead) -> Result<ModelIo, OnnxError> {
    let mut graph = None;
    let mut stream = CodedInputStream::from_buf_read(reader);
    each_field(&mut stream, &mut |stream, field| {
        match field {
            7 => within(stream, &mut |stream| {
                read_graph(stream, graph.get_or_insert_default())
            })?,
            _ => return Ok(false),
        }
        Ok(true)
    })
    .map_err(|e| OnnxError::NotOnnx(format!(": {e}")))?;
    let Some(graph) = graph.filter(|graph| graph.has_nodes) else {
        return Err(OnnxError::NotOnnx(": it has no graph".to_owned()));
    };
    if graph.external {
        return Err(OnnxError::ExternalData);
    }
    let is_weight = |name: &String| graph.weights.contains(name);
    let inputs = graph.inputs.iter().filter(|i| !is_weight(&i.name));
    Ok(ModelIo {
        inputs: inputs.map(info).collect(),
        outputs: graph.outputs.iter().map(info).collect(),
    })
}

fn read_graph(stream: &mut CodedInputStream, graph: &mut Graph) -> protobuf::Result<()> {
    each_field(stream, &mut |stream, field| {
        match field {
            1 => {
                graph.has_nodes = true;
                return Ok(false);
            }
            5 => within(stream, &mut |stream| read_weight(stream, graph))?,
            11 => graph.inputs.push(read_value(stream)?),
            12 => graph.outputs.push(read_value(stream)?),
            _ => return Ok(false),
        }
        Ok(true)
    })
}

/// Reads what a graph says of an input or output.
fn read_value(stream: &mut CodedInputStream) -> protobuf::Result<ValueInfoProto> {
    // Parsing goes as deep as the bytes say, so there must not be many.
    const MOST_BYTES: u32 = 16_384;
    let length = stream.read_raw_varint32()?;
    if length > MOST_BYTES {
        return Err(io::Error::other("too long a description of an input or output").into());
    }
    ValueInfoProto::parse_from_bytes(&stream.read_raw_bytes(length)?)
}

fn read_weight(stream: &mut CodedInputStream, graph: &mut Graph) -> protobuf::Result<()> {
    each_field(stream, &mut |stream, field| {
        match field {
            8 => {
                graph.weights.insert(stream.read_string()?);
            }
            14 => {
                let external = tensor_proto::DataLocation::EXTERNAL as i32;
                graph.external |= stream.read_int32()? == external;
            }
            _ => return Ok(false),
        }
        Ok(true)
    })
}

/// Hands the number of each field to `read`, which reads it or says false, for it to be passed over.
fn each_field(
    stream: &mut CodedInputStream,
    read: &mut dyn FnMut(&mut CodedInputStream, u32) -> protobuf::Result<bool>,
) -> protobuf::Result<()> {
    while let Some(tag) = stream.read_raw_tag_or_eof()? {
        // Three bits of wire type, then the field's number.
        let wire_type = WireType::new(tag & 7).filter(|_| tag >> 3 != 0);
        // ONNX has no groups, and they would be passed over as deep as they lie in each other.
        let is_group = |w: &WireType| matches!(w, WireType::StartGroup | WireType::EndGroup);
        let wire_type = wire_type.filter(|w| !is_group(w));
        let wire_type = wire_type.ok_or_else(|| io::Error::other("incorrect tag"))?;
        if !read(stream, tag >> 3)? {
            stream.skip_field(wire_type)?;
        }
    }
    Ok(())
}

/// Reads a message that lies in a field of this one.
fn within(
    stream: &mut CodedInputStream,
    read: &mut dyn FnMut(&mut CodedInputStream) -> protobuf::Result<()>,
) -> protobuf::Result<()> {
    let length = stream.read_raw_varint64()?;
    let outer = stream.push_limit(length)?;
    read(stream)?;
    if stream.bytes_until_limit() != 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    stream.pop_limit(outer);
    Ok(())
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

#[cfg(test)]
mod tests {
    use onnx_protobuf::{GraphProto, NodeProto, TensorProto};
    use protobuf::MessageField;

    use super::*;

    fn model() -> ModelProto {
        let weights = TensorProto {
            name: "w".to_owned(),
            raw_data: vec![7; 1 << 20],
            ..TensorProto::default()
        };
        let value = |name: &str| ValueInfoProto {
            name: name.to_owned(),
            ..ValueInfoProto::default()
        };
        let graph = GraphProto {
            node: vec![NodeProto::new()],
            initializer: vec![weights],
            input: vec![value("w"), value("x")],
            output: vec![value("y")],
            ..GraphProto::default()
        };
        ModelProto {
            ir_version: 8,
            producer_name: "test".to_owned(),
            graph: MessageField::some(graph),
            ..ModelProto::default()
        }
    }

    #[test]
    fn an_outline_passes_over_the_weights() {
        let bytes = model().write_to_bytes().unwrap();
        let outline = Outline::of_bytes(&bytes);
        assert_eq!(outline.digest, Digest::of(&bytes));
        assert_eq!(outline.len_bytes, bytes.len() as u64);
        let io = outline.io.unwrap();
        let names = |tensors: &[TensorInfo]| tensors.iter().map(|t| t.name.clone()).collect();
        let (inputs, outputs): (Vec<_>, Vec<_>) = (names(&io.inputs), names(&io.outputs));
        assert_eq!(
            (inputs, outputs),
            (vec!["x".to_owned()], vec!["y".to_owned()])
        );
    }

    #[test]
    fn what_is_no_model_is_said_and_digested() {
        let mut external = model();
        let weights = &mut external.graph.as_mut().unwrap().initializer[0];
        weights.data_location = tensor_proto::DataLocation::EXTERNAL.into();
        let bytes = external.write_to_bytes().unwrap();
        assert_eq!(Outline::of_bytes(&bytes).io, Err(OnnxError::ExternalData));

        let whole = model().write_to_bytes().unwrap();
        let cuts = [0, 1, 5, 40, whole.len() / 2, whole.len() - 1];
        let cases = cuts.map(|n| whole[..n].to_vec());
        // Groups in groups, in the model and in an input's description, and a length of 2^60.
        let deep = vec![0x0b; 1 << 20];
        let mut within = vec![0x3a, 0x84, 0x80, 0x80, 0x01, 0x5a, 0x80, 0x80, 0x80, 0x01];
        within.extend(&deep);
        let long = [vec![0x3a], vec![0x80; 8], vec![0x10, 0, 0]].concat();
        let others = [
            b"not a model".to_vec(),
            vec![0; 100],
            vec![0xff; 100],
            deep,
            within,
            long,
        ];
        for bytes in cases.into_iter().chain(others) {
            let outline = Outline::of_bytes(&bytes);
            assert!(
                matches!(outline.io, Err(OnnxError::NotOnnx(_))),
                "{outline:?}"
            );
            assert_eq!(outline.digest, Digest::of(&bytes));
        }
    }
}
