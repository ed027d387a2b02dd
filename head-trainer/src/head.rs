//! The head: a weight for each channel and a bias, for one logit or for one a class, and the file
//! it is kept in.
//!
//! Two classes have one output: logit = `Σ weights[c] * pooled[c] + bias`, whose sigmoid is the
//! probability of class 1. K > 2 classes have K outputs, whose softmax is the probability of each.
//!
//! # Format
//!
//! A head is a safetensors file. It MUST hold two little-endian F32 tensors, `weight` of shape
//! `[O, C]` and `bias` of shape `[O]`: what `torch.nn.Linear(C, O)` calls its parameters. Its
//! `__metadata__` MUST have `format` = `headstart head`, `version` = `2` and `classes` = a JSON
//! array of the K class names; O is 1 for K = 2 and K otherwise. It MAY have `temperature`, a
//! positive decimal number that logits are divided by (1 if absent), and, for two classes,
//! `threshold`, the probability above which an image is taken for class 1 (0.5 if absent). It MAY
//! have any other keys (store key, preset, ...), which are kept. A reader MUST refuse a version it
//! does not know; version 1 is version 2 with two classes and neither of those numbers. The
//! header's keys are sorted, so that equal heads are equal files.
//!
//! This file knows nothing of how a head is trained.

mod linear;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use safetensors::tensor::{SafeTensorError, SafeTensors};

use extractor::files::write_atomically;

pub use self::linear::{Linear, outputs_for};
use crate::metrics::{divided, predicted, probabilities};
use crate::tensors::{
    Tensor, Values, insert_classes, read, take_classes, take_format, to_bytes, values,
};

const FORMAT: &str = "headstart head";
const VERSION: &str = "2";
/// The version before: the same with two classes, no temperature and no threshold.
const VERSION_1: &str = "1";

/// What makes probabilities and a class of logits, besides the head's numbers.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Decision {
    /// Logits are divided by it; 1 changes nothing.
    pub temperature: f64,
    /// For two classes: the probability above which an image is taken for class 1.
    pub threshold: f64,
}

impl Default for Decision {
    fn default() -> Decision {
        Decision {
            temperature: 1.0,
            threshold: 0.5,
        }
    }
}

impl Decision {
    /// Probabilities `[K]` of the logits `[O]`.
    pub fn probabilities(&self, logits_o: &[f32]) -> Vec<f32> {
        probabilities(&divided(logits_o, self.temperature))
    }

    /// The class of the logits `[O]`. A temperature changes none, as it changes no order.
    pub fn class(&self, logits_o: &[f32]) -> u32 {
        match logits_o {
            [_] if self.threshold != 0.5 => {
                u32::from(f64::from(self.probabilities(logits_o)[1]) > self.threshold)
            }
            _ => predicted(logits_o),
        }
    }
}

/// A head with the names of its classes and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The numbers.
    pub linear: Linear,
    /// Names of the classes; of two, the probability is that of the second.
    pub classes: Vec<String>,
    /// Temperature and threshold.
    pub decision: Decision,
    /// What else the file says (store key, preset, ...). The keys `format`, `version`, `classes`,
    /// `temperature` and `threshold` are the format's own and are not found here.
    pub metadata: BTreeMap<String, String>,
}

/// Why a head was not saved or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeadError {
    /// The file was not read.
    #[error("cannot read head {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file was not written.
    #[error(transparent)]
    File(#[from] extractor::files::FileError),
    /// The file is no safetensors file.
    #[error("head {} is no safetensors file", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the reader found.
        source: SafeTensorError,
    },
    /// It is one, but not a head of this version.
    #[error("{} is no head that this version reads: {reason} (hint: train it again)", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Head {
    /// The file's bytes; equal for equal heads.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut metadata = self.metadata.clone();
        metadata.insert("format".to_owned(), FORMAT.to_owned());
        metadata.insert("version".to_owned(), VERSION.to_owned());
        insert_classes(&mut metadata, &self.classes, &self.decision);
        let (outputs, channels) = (self.linear.outputs(), self.linear.channels());
        let tensor = |name: &str, shape, values| Tensor {
            name: name.to_owned(),
            shape,
            values: Values::F32(values),
        };
        let weight = tensor("weight", vec![outputs, channels], &self.linear.weights_oc);
        let bias = tensor("bias", vec![outputs], &self.linear.bias_o);
        to_bytes(&metadata, &[weight, bias])
    }

    /// Writes the head to `path`, whole or not at all.
    ///
    /// # Errors
    /// [`HeadError::File`].
    pub fn save(&self, path: &Path) -> Result<(), HeadError> {
        Ok(write_atomically(path, &self.to_bytes())?)
    }

    /// Reads a head.
    ///
    /// # Errors
    /// When the file cannot be read, is no head, is of another version or holds a weight that is
    /// no finite number.
    pub fn load(path: &Path) -> Result<Head, HeadError> {
        let bytes = fs::read(path).map_err(|source| HeadError::Read {
            path: path.to_owned(),
            source,
        })?;
        Head::from_bytes(&bytes, path)
    }

    /// Reads a head from the bytes of the file at `path`, which is only for messages.
    fn from_bytes(bytes: &[u8], path: &Path) -> Result<Head, HeadError> {
        let (tensors, metadata) = read(bytes).map_err(|source| HeadError::Safetensors {
            path: path.to_owned(),
            source,
        })?;
        parse(&tensors, metadata).map_err(|reason| HeadError::Format {
            path: path.to_owned(),
            reason,
        })
    }
}

/// The head in a well-formed safetensors file, or what is wrong with it.
fn parse(
    tensors: &SafeTensors<'_>,
    mut metadata: BTreeMap<String, String>,
) -> Result<Head, String> {
    take_format(&mut metadata, FORMAT, &[VERSION, VERSION_1])?;
    let (classes, decision) = take_classes(&mut metadata)?;
    let outputs = outputs_for(classes.len());
    let shape_is_right = |shape: &[usize]| matches!(shape, [o, c] if *o == outputs && *c > 0);
    let weights_oc = values(tensors, "weight", shape_is_right)?;
    let bias_o = values(tensors, "bias", |shape| shape == [outputs])?;
    Ok(Head {
        linear: Linear { weights_oc, bias_o },
        classes,
        decision,
        metadata,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Head {
        Head {
            linear: Linear::binary(vec![1.0, -2.0, 0.5], 0.25),
            classes: vec!["Cat \"tom\"".to_owned(), "Dog".to_owned()],
            decision: Decision::default(),
            metadata: (0..20)
                .map(|i| (format!("key {i}"), format!("{i}")))
                .collect(),
        }
    }

    fn three_classes() -> Head {
        Head {
            linear: Linear {
                weights_oc: vec![1.0, 0.0, 0.0, 1.0, -1.0, 2.0],
                bias_o: vec![0.0, 0.5, -0.5],
            },
            classes: ["a", "b", "c"].map(str::to_owned).to_vec(),
            decision: Decision {
                temperature: 2.0,
                ..Decision::default()
            },
            metadata: BTreeMap::new(),
        }
    }

    #[test]
    fn decisions_by_hand() {
        // σ(ln 9) = 0.9; at temperature 2, σ(ln 3) = 0.75.
        let logits = [9_f32.ln()];
        let decision = |temperature, threshold| Decision {
            temperature,
            threshold,
        };
        assert!((decision(1.0, 0.5).probabilities(&logits)[1] - 0.9).abs() < 1e-6);
        assert!((decision(2.0, 0.5).probabilities(&logits)[0] - 0.25).abs() < 1e-6);
        assert_eq!(decision(1.0, 0.8).class(&logits), 1);
        assert_eq!(decision(2.0, 0.8).class(&logits), 0);
        assert_eq!(decision(5.0, 0.5).class(&logits), 1);
        assert_eq!(decision(5.0, 0.5).class(&[0.0]), 0);
        assert_eq!(decision(1.0, 0.5).class(&[3.0, 4.5, 4.5]), 1);
    }

    #[test]
    fn file_round_trip_with_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head.safetensors");
        example().save(&path).unwrap();
        let loaded = Head::load(&path).unwrap();
        assert_eq!(loaded, example());
        assert_eq!(loaded.to_bytes(), fs::read(&path).unwrap());
        assert_eq!(loaded.to_bytes().len() % 8, 0);
        three_classes().save(&path).unwrap();
        assert_eq!(Head::load(&path).unwrap(), three_classes());
    }

    #[test]
    fn version_1_is_read() {
        let bytes = replaced(r#""version":"2""#, r#""version":"1""#);
        assert_eq!(Head::from_bytes(&bytes, Path::new("h")).unwrap(), example());
    }

    fn reason(bytes: &[u8]) -> String {
        let error = Head::from_bytes(bytes, Path::new("h")).unwrap_err();
        error.to_string()
    }

    /// Replaces `from` by `to`, of equal length so that the header's length stays right.
    fn replaced(from: &str, to: &str) -> Vec<u8> {
        assert_eq!(from.len(), to.len());
        let mut bytes = example().to_bytes();
        let at = bytes
            .windows(from.len())
            .position(|window| window == from.as_bytes())
            .unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    }

    #[test]
    fn what_is_no_head_is_refused() {
        assert!(reason(b"nonsense").contains("no safetensors file"));
        let other_version = reason(&replaced(r#""version":"2""#, r#""version":"3""#));
        assert!(
            other_version.contains("version is `3`, expected `2`"),
            "{other_version}"
        );
        assert!(reason(&replaced(r#""version""#, r#""versiom""#)).contains("no `version`"));
        assert!(reason(&replaced(r#""bias""#, r#""bios""#)).contains("no tensor `bias`"));
        let mut head = example();
        head.linear.weights_oc[1] = f32::NAN;
        assert!(reason(&head.to_bytes()).contains("holds NaN"));
        let mut head = three_classes();
        head.classes.pop();
        assert!(reason(&head.to_bytes()).contains("shape [3, 2]"));
        head.classes.pop();
        assert!(reason(&head.to_bytes()).contains("two names or more"));
        head = three_classes();
        head.decision.temperature = -1.0;
        assert!(reason(&head.to_bytes()).contains("temperature is `-1`"));
    }
}
