//! A backbone in 8 bits as files: what may become one, and how the result is described and written beside its
//! description.
//!
//! Must not know how it was quantised, nor what that costs.

use std::path::{Path, PathBuf};

use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::{Message as _, ModelProto};
use protobuf::Enum as _;

use super::onnx::set_metadata;
use super::probe::{self, Pair};
use super::{BackboneError, Description, Model, described, spec};
use crate::digest::Digest;
use crate::files::FileError;

/// Elements from which on a tensor of whole numbers is a weight, not a shape or a zero point.
const WEIGHT: i64 = 256;

/// No 8-bit backbone can be made of a model, or of what was made of it.
#[derive(Debug, thiserror::Error)]
pub enum QuantizedError {
    /// The model has whole numbers for weights, or nodes that quantise.
    #[error(
        "the backbone is quantised already: {reason} (hint: quantize takes the float32 model that it was made of)"
    )]
    Already {
        /// What shows it.
        reason: String,
    },
    /// The bytes are no model.
    #[error("the quantised model is not an ONNX model")]
    NotOnnx(#[from] protobuf::Error),
    /// The model or its description cannot be used.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// A file cannot be written, or another one is in its place.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Refuses a model that is quantised already.
///
/// # Errors
/// [`QuantizedError::Already`].
pub fn check_is_float(bytes: &[u8]) -> Result<(), QuantizedError> {
    let model = ModelProto::parse_from_bytes(bytes)?;
    let already = |reason| Err(QuantizedError::Already { reason });
    let quantises = |op: &str| {
        let whole = [
            "QuantizeLinear",
            "DequantizeLinear",
            "DynamicQuantizeLinear",
        ];
        whole.contains(&op) || op.starts_with("QLinear") || op.ends_with("Integer")
    };
    if let Some(node) = model.graph.node.iter().find(|n| quantises(&n.op_type)) {
        return already(format!("it has the node {} ({})", node.name, node.op_type));
    }
    let small = [
        DataType::INT8,
        DataType::UINT8,
        DataType::INT4,
        DataType::UINT4,
    ];
    let is_weight = |t: &&onnx_protobuf::TensorProto| {
        small.iter().any(|kind| kind.value() == t.data_type)
            && t.dims.iter().product::<i64>() >= WEIGHT
    };
    match model.graph.initializer.iter().find(is_weight) {
        Some(tensor) => already(format!("its weights {} are whole numbers", tensor.name)),
        None => Ok(()),
    }
}

/// What is to be said of an 8-bit backbone.
#[derive(Debug, Clone)]
pub struct Quantized {
    name: String,
    from: Digest,
    how: String,
    description: Description,
}

impl Quantized {
    /// One named `name`, of `model`, quantised as `how` says (such as `256 images, minmax`).
    ///
    /// # Errors
    /// When the model's description cannot be read.
    pub fn of(model: &Model, name: &str, how: &str) -> Result<Quantized, QuantizedError> {
        let float = described(&model.path, &model.spec.digest)?;
        let (from, spec) = (model.spec.digest, &model.spec);
        Ok(Quantized {
            name: name.to_owned(),
            from,
            how: how.to_owned(),
            description: Description {
                name: Some(name.to_owned()),
                preset: Some(spec.preset),
                // The ranges are those of images of this size.
                input_size: Some(spec.input_size),
                feature_tensor: Some(spec.feature_tensor.clone()),
                sha256: None,
                note: Some(format!(
                    "int8 of {} (SHA-256 {from}), calibrated on {how}",
                    spec.name
                )),
                ..float
            },
        })
    }

    /// Refuses, before the costly step, a place where another backbone is, or another's description alone. One that
    /// was made in the same way of the same model may be there: it may turn out to be the same.
    ///
    /// # Errors
    /// When there is another one, or the folder cannot be written to.
    pub fn check_place(&self, to: &Path) -> Result<(), FileError> {
        crate::files::Pending::new(to)?;
        let path = spec::description_path(to);
        match (to.exists(), path.exists()) {
            (false, false) => Ok(()),
            _ if self.description.is_noted_in(&path) => Ok(()),
            (true, _) => Err(probe::occupied(to, "backbone")),
            (false, true) => Err(probe::occupied(&path, "description")),
        }
    }

    /// Notes in the quantiser's result what it is. Returns the model's bytes and their description.
    ///
    /// # Errors
    /// When the bytes are no model.
    pub fn finish(self, bytes: &[u8]) -> Result<Finished, QuantizedError> {
        let mut model = ModelProto::parse_from_bytes(bytes)?;
        let preset = self.description.preset.map(|preset| preset.to_string());
        let metadata = [
            ("headstart.name", Some(self.name)),
            ("headstart.preset", preset),
            ("headstart.quantized_from", Some(self.from.to_string())),
            ("headstart.calibrated_on", Some(self.how)),
        ];
        for (key, value) in metadata {
            if let Some(value) = value {
                set_metadata(&mut model, key, value);
            }
        }
        let bytes = model.write_to_bytes()?;
        let description = Description {
            sha256: Some(Digest::of(&bytes)),
            ..self.description
        };
        Ok(Finished { bytes, description })
    }
}

impl Description {
    /// Whether the file at `path` is a description with the same note: of the same model, made in the same way.
    fn is_noted_in(&self, path: &Path) -> bool {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let there: Description = toml::from_str(&text).unwrap_or_default();
        there.note == self.note
    }
}

/// An 8-bit backbone, in memory.
#[derive(Debug, Clone)]
pub struct Finished {
    bytes: Vec<u8>,
    description: Description,
}

impl Finished {
    /// The model's file, byte for byte.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Digest of the model's file.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// Writes the model to `to` and its description beside it, both whole or not at all, and returns the
    /// description's path.
    ///
    /// # Errors
    /// When a file cannot be written, or another one is in its place.
    pub fn write(&self, to: &Path) -> Result<PathBuf, FileError> {
        let path = spec::description_path(to);
        // One without its model is what a stopped run left, if it says the same.
        if !to.exists() && path.exists() && !self.description.is_noted_in(&path) {
            return Err(probe::occupied(&path, "description"));
        }
        Pair::begin(to, &self.bytes, &self.description)?.publish(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Spec;
    use super::super::seed::{self, SeedOptions};
    use super::*;
    use onnx_protobuf::{GraphProto, NodeProto, TensorProto};
    use protobuf::MessageField;

    fn model(op: &str, weights: DataType, dims: &[i64]) -> Vec<u8> {
        let graph = GraphProto {
            node: vec![NodeProto {
                op_type: op.to_owned(),
                name: "first".to_owned(),
                ..Default::default()
            }],
            initializer: vec![TensorProto {
                name: "w".to_owned(),
                data_type: weights.value(),
                dims: dims.to_vec(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let model = ModelProto {
            graph: MessageField::some(graph),
            ..Default::default()
        };
        model.write_to_bytes().unwrap()
    }

    #[test]
    fn a_quantised_model_is_refused() {
        let error = |op, weights, dims: &[i64]| {
            let checked = check_is_float(&model(op, weights, dims));
            checked.unwrap_err().to_string()
        };
        let float = DataType::FLOAT;
        for op in [
            "DequantizeLinear",
            "QuantizeLinear",
            "QLinearConv",
            "ConvInteger",
        ] {
            let error = error(op, float, &[8]);
            assert!(error.contains(&format!("node first ({op})")), "{error}");
        }
        let error = error("Cast", DataType::INT8, &[64, 64, 1, 1]);
        assert!(error.contains("weights w are whole numbers"), "{error}");
        assert!(check_is_float(&model("Conv", float, &[64, 64, 3, 3])).is_ok());
        assert!(check_is_float(&model("Conv", DataType::UINT8, &[4])).is_ok());
        assert!(check_is_float(b"\xff\xff").is_err());
    }

    #[test]
    fn the_description_is_the_float_ones_but_for_what_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seeded.onnx");
        let options = SeedOptions { seed: 1, size: 32 };
        seed::write(&path, &options).unwrap();
        let float = Model::read(&path, &Default::default()).unwrap();
        let quantized = || Quantized::of(&float, "small", "64 images, minmax").unwrap();
        let to = folder.path().join("deep").join("small.onnx");
        quantized().check_place(&to).unwrap();
        let finished = quantized().finish(&float.bytes().unwrap()).unwrap();
        let description = finished.write(&to).unwrap();

        let read = Model::read(&to, &Default::default()).unwrap();
        assert_eq!(read.spec.name, "small");
        assert_eq!(read.spec.digest, finished.digest());
        assert_ne!(read.spec.digest, float.spec.digest);
        let text = std::fs::read_to_string(&description).unwrap();
        let digest = float.spec.digest;
        assert!(text.contains(&format!("(SHA-256 {digest}), calibrated on 64 images")));
        let same = Spec {
            name: float.spec.name.clone(),
            digest,
            ..read.spec
        };
        assert_eq!(same, float.spec);
        let metadata = ModelProto::parse_from_bytes(finished.bytes()).unwrap();
        let from = metadata.metadata_props.iter();
        let mut from = from.filter(|entry| entry.key == "headstart.quantized_from");
        assert_eq!(from.next().unwrap().value, digest.to_string());

        // The same again may be made, another may not.
        quantized().check_place(&to).unwrap();
        finished.write(&to).unwrap();
        let other = || Quantized::of(&float, "small", "32 images, minmax").unwrap();
        let error = other().check_place(&to).unwrap_err();
        assert!(error.source.to_string().contains("another backbone"));
        let error = other()
            .finish(&float.bytes().unwrap())
            .unwrap()
            .write(&to)
            .unwrap_err();
        assert!(error.source.to_string().contains("another backbone"));

        // A description without its model: of a run that was stopped between the two, or another's.
        std::fs::remove_file(&to).unwrap();
        quantized().check_place(&to).unwrap();
        let error = other().check_place(&to).unwrap_err();
        assert!(error.source.to_string().contains("another description"));
        assert_eq!(error.path, description);
        std::fs::write(&description, "note = \"mine\"\n").unwrap();
        let error = finished.write(&to).unwrap_err();
        assert!(error.source.to_string().contains("another description"));
        let left = std::fs::read_to_string(&description).unwrap();
        assert_eq!((left.as_str(), to.exists()), ("note = \"mine\"\n", false));
    }
}
