//! Nodes and constants of an ONNX graph as they are added, in one fixed order.
//!
//! Knows the format and not what is computed.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::{AttributeProto, NodeProto, TensorProto};
use protobuf::{Enum as _, EnumOrUnknown};

/// Nodes in the order in which they run, and the constants that they use.
pub(super) struct Nodes<'a> {
    prefix: &'a str,
    pub nodes: Vec<NodeProto>,
    pub initializers: Vec<TensorProto>,
}

impl Nodes<'_> {
    /// None yet; all names but those of [`Nodes::named`] begin with `prefix`.
    pub fn new(prefix: &str) -> Nodes<'_> {
        Nodes {
            prefix,
            nodes: Vec::new(),
            initializers: Vec::new(),
        }
    }

    /// Adds a node and returns the name of its output, which is the node's.
    pub fn add(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&str],
        with: Vec<AttributeProto>,
    ) -> String {
        let name = format!("{}{name}", self.prefix);
        self.push(op, name.clone(), inputs, name.clone(), with);
        name
    }

    /// Adds a node whose output is called `output`.
    pub fn named(&mut self, op: &str, output: &str, inputs: &[&str], with: Vec<AttributeProto>) {
        let name = format!("{}to_{output}", self.prefix);
        self.push(op, name, inputs, output.to_owned(), with);
    }

    fn push(
        &mut self,
        op: &str,
        name: String,
        inputs: &[&str],
        output: String,
        attribute: Vec<AttributeProto>,
    ) {
        self.nodes.push(NodeProto {
            op_type: op.to_owned(),
            name,
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output],
            attribute,
            ..Default::default()
        });
    }

    /// A float32 constant.
    pub fn floats(&mut self, name: &str, dims: &[usize], values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.constant(name, DataType::FLOAT, dims, bytes)
    }

    /// An int64 constant, one axis.
    pub fn integers(&mut self, name: &str, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.constant(name, DataType::INT64, &[values.len()], bytes)
    }

    fn constant(
        &mut self,
        name: &str,
        data_type: DataType,
        dims: &[usize],
        raw_data: Vec<u8>,
    ) -> String {
        let name = format!("{}{name}", self.prefix);
        self.initializers.push(TensorProto {
            name: name.clone(),
            dims: dims.iter().map(|&dim| dim as i64).collect(),
            data_type: data_type.value(),
            raw_data, // little-endian on every machine
            ..Default::default()
        });
        name
    }
}

/// An attribute that is a number.
pub(super) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        type_: EnumOrUnknown::new(AttributeType::INT),
        i: value,
        ..Default::default()
    }
}

/// An attribute that is a list of numbers.
pub(super) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        type_: EnumOrUnknown::new(AttributeType::INTS),
        ints: values.to_vec(),
        ..Default::default()
    }
}

/// The attribute of a `Cast`.
pub(super) fn to(data_type: DataType) -> Vec<AttributeProto> {
    vec![int("to", data_type.value().into())]
}
