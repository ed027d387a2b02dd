//! The trained baseline and the file it is kept in.
//!
//! # Format
//!
//! A baseline is a safetensors file of little-endian F32 tensors with the layout and the names of
//! Keras's layers. It MUST hold, for each stage i of 1, 2, 3, `conv{i}/kernel` `[3, 3, C, F]`
//! (rows, columns, channels, filters), `conv{i}/bias` `[F]` and `norm{i}/gamma`, `norm{i}/beta`,
//! `norm{i}/moving_mean`, `norm{i}/moving_variance` `[F]`; and `dense/kernel` `[D, O]` and
//! `dense/bias` `[O]`. Its `__metadata__` MUST have `format` = `headstart baseline`, `version` =
//! `1`, `size` = a JSON array of the images' height and width, and `classes` = one of the K class
//! names; O is 1 for K = 2 and K otherwise. It MAY have `temperature`, `threshold` and any other
//! keys, as a head may ([`crate::head`]). A reader MUST refuse a version it does not know. The
//! header's keys are sorted, so that equal baselines are equal files.
//!
//! This file knows nothing of how a baseline is trained.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use extractor::files::write_atomically;
use safetensors::tensor::{SafeTensorError, SafeTensors};

use super::network::Network;
use super::shape::{STAGES, Shape};
use crate::head::Decision;
use crate::tensors::{
    Tensor, Values, insert_classes, read, take_classes, take_format, to_bytes, values,
};

const FORMAT: &str = "headstart baseline";
const VERSION: &str = "1";

/// A network with the names of its classes and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Baseline {
    /// The numbers.
    pub network: Network,
    /// Names of the classes; of two, the probability is that of the second.
    pub classes: Vec<String>,
    /// Temperature and threshold.
    pub decision: Decision,
    /// What else the file says. The format's own keys are not found here.
    pub metadata: BTreeMap<String, String>,
}

/// Why a baseline was not saved or loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaselineFileError {
    /// The file was not read.
    #[error("cannot read baseline {}", path.display())]
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
    #[error("baseline {} is no safetensors file", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the reader found.
        source: SafeTensorError,
    },
    /// It is one, but not a baseline of this version.
    #[error(
        "{} is no baseline that this version reads: {reason} (hint: train it again)",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl Baseline {
    /// The file's bytes; equal for equal baselines.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut metadata = self.metadata.clone();
        metadata.insert("format".to_owned(), FORMAT.to_owned());
        metadata.insert("version".to_owned(), VERSION.to_owned());
        let size = serde_json::json!(self.network.shape().size);
        metadata.insert("size".to_owned(), size.to_string());
        insert_classes(&mut metadata, &self.classes, &self.decision);
        let lists = self.network.to_lists("");
        let tensors: Vec<Tensor<'_>> = lists.iter().map(List::tensor).collect();
        to_bytes(&metadata, &tensors)
    }

    /// Writes the baseline to `path`, whole or not at all.
    ///
    /// # Errors
    /// [`BaselineFileError::File`].
    pub fn save(&self, path: &Path) -> Result<(), BaselineFileError> {
        Ok(write_atomically(path, &self.to_bytes())?)
    }

    /// Reads a baseline.
    ///
    /// # Errors
    /// When the file cannot be read, is no baseline, is of another version or holds a number that
    /// is not finite.
    pub fn load(path: &Path) -> Result<Baseline, BaselineFileError> {
        let bytes = fs::read(path).map_err(|source| BaselineFileError::Read {
            path: path.to_owned(),
            source,
        })?;
        let (tensors, metadata) =
            read(&bytes).map_err(|source| BaselineFileError::Safetensors {
                path: path.to_owned(),
                source,
            })?;
        parse(&tensors, metadata).map_err(|reason| BaselineFileError::Format {
            path: path.to_owned(),
            reason,
        })
    }
}

/// The baseline in a well-formed safetensors file, or what is wrong with it.
fn parse(
    tensors: &SafeTensors<'_>,
    mut metadata: BTreeMap<String, String>,
) -> Result<Baseline, String> {
    take_format(&mut metadata, FORMAT, &[VERSION])?;
    let (classes, decision) = take_classes(&mut metadata)?;
    let text = metadata.remove("size").unwrap_or_default();
    let size: [usize; 2] = serde_json::from_str(&text)
        .map_err(|_| format!("its size is `{text}`, expected a height and a width"))?;
    let mut filters = [0; STAGES];
    for (i, filters) in (1..).zip(&mut filters) {
        let bias = tensors.tensor(&format!("conv{i}/bias")).ok();
        *filters = match bias.as_ref().map(|bias| bias.shape()) {
            Some([count]) => *count,
            _ => return Err(format!("it has no list `conv{i}/bias`")),
        };
    }
    let shape = Shape {
        size,
        filters,
        classes: classes.len(),
    };
    if !shape.is_usable() {
        return Err(format!("no network has {shape:?}"));
    }
    Ok(Baseline {
        network: Network::from_tensors(shape, tensors, "")?,
        classes,
        decision,
        metadata,
    })
}

/// Some of a network's numbers as a file has them.
pub(super) struct List {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl List {
    /// The same, to be written.
    pub fn tensor(&self) -> Tensor<'_> {
        Tensor {
            name: self.name.clone(),
            shape: self.shape.clone(),
            values: Values::F32(&self.values),
        }
    }
}

/// Rows and columns of a matrix `[.., columns]` swapped.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let column = |c: usize| values.iter().skip(c).step_by(columns).copied();
    (0..columns).flat_map(column).collect()
}

impl Network {
    /// All numbers, by the format's names after `prefix`.
    pub(super) fn to_lists(&self, prefix: &str) -> Vec<List> {
        let mut lists = Vec::new();
        let mut list = |name: String, shape: Vec<usize>, values: Vec<f32>| {
            lists.push(List {
                name: format!("{prefix}{name}"),
                shape,
                values,
            });
        };
        let (stage_ranges, dense) = &self.ranges;
        let part = |range: &std::ops::Range<usize>| self.parameters[range.clone()].to_vec();
        let stages = self.shape.stages();
        for (i, ((stage, ranges), [mean, variance])) in
            (1..).zip(stages.iter().zip(stage_ranges).zip(&self.moving))
        {
            let (channels, filters) = (stage.channels, stage.filters);
            let kernel = vec![3, 3, channels, filters];
            list(format!("conv{i}/kernel"), kernel, part(&ranges.kernel));
            for (name, values) in [
                (format!("conv{i}/bias"), part(&ranges.bias)),
                (format!("norm{i}/gamma"), part(&ranges.gamma)),
                (format!("norm{i}/beta"), part(&ranges.beta)),
                (format!("norm{i}/moving_mean"), mean.clone()),
                (format!("norm{i}/moving_variance"), variance.clone()),
            ] {
                list(name, vec![filters], values);
            }
        }
        let (inputs, outputs) = (self.shape.dense_inputs(), self.shape.outputs());
        let kernel = transposed(&self.parameters[dense.weights.clone()], inputs);
        list("dense/kernel".to_owned(), vec![inputs, outputs], kernel);
        list("dense/bias".to_owned(), vec![outputs], part(&dense.bias));
        lists
    }

    /// The network of `shape` in the tensors whose names start with `prefix`, or what is wrong with
    /// them.
    pub(super) fn from_tensors(
        shape: Shape,
        tensors: &SafeTensors<'_>,
        prefix: &str,
    ) -> Result<Network, String> {
        let mut network = Network::initial(shape, 0);
        let mut lists = network.to_lists(prefix);
        for list in &mut lists {
            list.values = values(tensors, &list.name, |shape| shape == list.shape)?;
        }
        let mut lists = lists.into_iter().map(|list| list.values);
        let mut next = || lists.next().unwrap_or_default();
        let parameters = &mut network.parameters;
        for (ranges, [mean, variance]) in network.ranges.0.iter().zip(&mut network.moving) {
            for range in [&ranges.kernel, &ranges.bias, &ranges.gamma, &ranges.beta] {
                parameters[range.clone()].copy_from_slice(&next());
            }
            (*mean, *variance) = (next(), next());
        }
        let dense = &network.ranges.1;
        let weights = transposed(&next(), shape.outputs());
        parameters[dense.weights.clone()].copy_from_slice(&weights);
        parameters[dense.bias.clone()].copy_from_slice(&next());
        Ok(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(classes: usize) -> Baseline {
        let shape = Shape {
            size: [31, 40],
            filters: [2, 3, 4],
            classes,
        };
        let mut network = Network::initial(shape, 1);
        for (i, w) in network.parameters.iter_mut().enumerate() {
            *w += i as f32;
        }
        network.moving[1][0][2] = 7.0;
        Baseline {
            network,
            classes: (0..classes).map(|k| format!("class \"{k}\"")).collect(),
            decision: Decision {
                temperature: 1.5,
                ..Decision::default()
            },
            metadata: BTreeMap::from([("key".to_owned(), "value".to_owned())]),
        }
    }

    fn loaded(bytes: &[u8]) -> Result<Baseline, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("baseline.safetensors");
        fs::write(&path, bytes).unwrap();
        Baseline::load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn file_round_trip_with_equal_bytes() {
        for classes in [2, 3] {
            let bytes = example(classes).to_bytes();
            let back = loaded(&bytes).unwrap();
            assert_eq!(back, example(classes));
            assert_eq!(back.to_bytes(), bytes);
        }
        // Keras's layout: inputs first.
        let (baseline, bytes) = (example(3), example(3).to_bytes());
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let kernel = values(&tensors, "dense/kernel", |shape| shape == [4, 3]).unwrap();
        let weights = &baseline.network.parameters[baseline.network.ranges.1.weights.clone()];
        assert_eq!(kernel[3 * 3 + 1], weights[4 + 3]);
    }

    #[test]
    fn what_is_no_baseline_is_refused() {
        let refused = |change: &dyn Fn(&mut Baseline)| {
            let mut baseline = example(2);
            change(&mut baseline);
            loaded(&baseline.to_bytes()).unwrap_err()
        };
        assert!(
            loaded(b"nonsense")
                .unwrap_err()
                .contains("no safetensors file")
        );
        let message = refused(&|b| b.network.parameters[3] = f32::NAN);
        assert!(message.contains("holds NaN"), "{message}");
        let message = refused(&|b| b.network.shape.size = [29, 40]);
        assert!(message.contains("no network has"), "{message}");
        let message = refused(&|b| b.classes.push("third".to_owned()));
        assert!(message.contains("dense/kernel"), "{message}");
        let mut bytes = example(2).to_bytes();
        let at = bytes
            .windows(13)
            .position(|w| w == br#""version":"1""#)
            .unwrap();
        bytes[at + 11] = b'2';
        let message = loaded(&bytes).unwrap_err();
        assert!(
            message.contains("version is `2`, expected `1`"),
            "{message}"
        );
    }
}
