//! The head: one weight for each channel and a bias, and the file it is kept in.
//!
//! logit = `Σ weights[c] * pooled[c] + bias`; the probability of class 1 is its sigmoid.
//!
//! # Format
//!
//! A head is a safetensors file. It MUST hold two little-endian F32 tensors, `weight` of shape
//! `[1, C]` and `bias` of shape `[1]`: what `torch.nn.Linear(C, 1)` calls its parameters. Its
//! `__metadata__` MUST have `format` = `headstart head`, `version` = `1` and `classes` = a JSON
//! array of the two class names, class 0 first; it MAY have any other keys (store key, preset,
//! ...), which are kept. A reader MUST refuse another version. The header's keys are sorted, so
//! that equal heads are equal files.
//!
//! This file knows nothing of how a head is trained.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::{fs, io};

use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors};

use extractor::files::write_atomically;

use crate::matrix::{Rows, dot};
use crate::metrics::sigmoid;

const FORMAT: &str = "headstart head";
const VERSION: &str = "1";

/// The numbers of a head: what a solver finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// One weight for each channel, `[C]`.
    pub weights_c: Vec<f32>,
    /// The bias.
    pub bias: f32,
}

impl Linear {
    /// `Σ weights[c] * pooled[c] + bias`, for the pooled features `[C]` of one image.
    pub fn logit(&self, pooled_c: &[f32]) -> f32 {
        dot(&self.weights_c, pooled_c) + self.bias
    }

    /// Probability of class 1, in [0, 1].
    pub fn probability(&self, pooled_c: &[f32]) -> f32 {
        sigmoid(self.logit(pooled_c))
    }

    /// Logits of every row, `[N]`; bits do not depend on the number of threads.
    ///
    /// # Panics
    /// When the rows have another number of channels.
    pub fn logits(&self, rows: Rows<'_>) -> Vec<f32> {
        let count = u32::try_from(rows.count()).expect("a row number fits 32 bits");
        let all: Vec<u32> = (0..count).collect();
        crate::metrics::logits(self, rows, &all)
    }

    /// Number of trainable parameters: C + 1.
    pub fn parameter_count(&self) -> usize {
        self.weights_c.len() + 1
    }

    /// The same head with its two classes swapped: every logit has the other sign.
    pub fn mirrored(&self) -> Linear {
        Linear {
            weights_c: self.weights_c.iter().map(|w| -w).collect(),
            bias: -self.bias,
        }
    }
}

/// A head with the names of its classes and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// The numbers.
    pub linear: Linear,
    /// Names of class 0 and class 1; the probability is that of class 1.
    pub classes: [String; 2],
    /// What else the file says (store key, preset, ...). The keys `format`, `version` and
    /// `classes` are the format's own and are not found here.
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
        // Written here and not by the safetensors crate, whose metadata is a hash map and so in
        // another order in every process.
        let channels = self.linear.weights_c.len();
        let mut metadata = self.metadata.clone();
        let classes = serde_json::json!(self.classes).to_string();
        for (key, value) in [
            ("format", FORMAT),
            ("version", VERSION),
            ("classes", &classes),
        ] {
            metadata.insert(key.to_owned(), value.to_owned());
        }
        let weight_bytes = channels * 4;
        let mut header = serde_json::json!({
            "__metadata__": metadata,
            "bias": {
                "dtype": "F32", "shape": [1], "data_offsets": [weight_bytes, weight_bytes + 4],
            },
            "weight": {
                "dtype": "F32", "shape": [1, channels], "data_offsets": [0, weight_bytes],
            },
        })
        .to_string();
        while !header.len().is_multiple_of(8) {
            header.push(' ');
        }
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        let values = self.linear.weights_c.iter().chain([&self.linear.bias]);
        bytes.extend(values.flat_map(|x| x.to_le_bytes()));
        bytes
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
        let safetensors = |source| HeadError::Safetensors {
            path: path.to_owned(),
            source,
        };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(safetensors)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(safetensors)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        parse(&tensors, metadata).map_err(|reason| HeadError::Format {
            path: path.to_owned(),
            reason,
        })
    }
}

/// The head in a well-formed safetensors file, or what is wrong with it.
fn parse(tensors: &SafeTensors<'_>, mut metadata: HashMap<String, String>) -> Result<Head, String> {
    for (key, expected) in [("format", FORMAT), ("version", VERSION)] {
        match metadata.remove(key) {
            Some(found) if found == expected => {}
            Some(found) => return Err(format!("its {key} is `{found}`, expected `{expected}`")),
            None => return Err(format!("its metadata has no `{key}`")),
        }
    }
    let classes = metadata.remove("classes").unwrap_or_default();
    let classes: [String; 2] = serde_json::from_str(&classes)
        .map_err(|_| format!("its classes are `{classes}`, expected two names"))?;
    let weights_c = values(tensors, "weight", |shape| matches!(shape, [1, c] if *c > 0))?;
    let bias = values(tensors, "bias", |shape| shape == [1])?[0];
    Ok(Head {
        linear: Linear { weights_c, bias },
        classes,
        metadata: metadata.into_iter().collect(),
    })
}

/// The finite F32 values of tensor `name`, if its shape is as it should be.
fn values(
    tensors: &SafeTensors<'_>,
    name: &str,
    shape_is_right: impl Fn(&[usize]) -> bool,
) -> Result<Vec<f32>, String> {
    let tensor = tensors
        .tensor(name)
        .map_err(|_| format!("it has no tensor `{name}`"))?;
    if tensor.dtype() != Dtype::F32 || !shape_is_right(tensor.shape()) {
        let (dtype, shape) = (tensor.dtype(), tensor.shape());
        return Err(format!(
            "its tensor `{name}` is {dtype:?} of shape {shape:?}"
        ));
    }
    let (quads, _) = tensor.data().as_chunks::<4>();
    let values: Vec<f32> = quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect();
    match values.iter().find(|x| !x.is_finite()) {
        Some(x) => Err(format!("its tensor `{name}` holds {x}")),
        None => Ok(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Head {
        Head {
            linear: Linear {
                weights_c: vec![1.0, -2.0, 0.5],
                bias: 0.25,
            },
            classes: ["Cat \"tom\"".to_owned(), "Dog".to_owned()],
            metadata: (0..20)
                .map(|i| (format!("key {i}"), format!("{i}")))
                .collect(),
        }
    }

    #[test]
    fn logit_by_hand() {
        let head = example().linear;
        assert_eq!(head.logit(&[1.0, 2.0, 4.0]), 1.0 - 4.0 + 2.0 + 0.25);
        assert_eq!(head.parameter_count(), 4);
        assert_eq!(head.mirrored().logit(&[1.0, 2.0, 4.0]), 0.75);
        let rows = Rows::new(&[0.0, 0.0, 0.0, 1.0, 2.0, 4.0], 3).unwrap();
        assert_eq!(head.logits(rows), [0.25, -0.75]);
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
        let other_version = reason(&replaced(r#""version":"1""#, r#""version":"2""#));
        assert!(
            other_version.contains("version is `2`, expected `1`"),
            "{other_version}"
        );
        assert!(reason(&replaced(r#""version""#, r#""versiom""#)).contains("no `version`"));
        assert!(reason(&replaced(r#""bias""#, r#""bios""#)).contains("no tensor `bias`"));
        let mut head = example();
        head.linear.weights_c[1] = f32::NAN;
        assert!(reason(&head.to_bytes()).contains("holds NaN"));
    }
}
