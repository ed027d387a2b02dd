//! Where a training stands, in a file: everything that the rest of it depends on.
//!
//! # Format
//!
//! A checkpoint is a safetensors file with the tensors of [`super::file`], those of the best
//! epoch's network as well, under `best/`, where early stopping keeps one, and the optimizer's
//! `means` and `squares` in the order of the parameters. `history` `[epochs, 6]` and `steps`
//! `[steps, 5]` are F64; NaN stands for what there is not. Its `__metadata__` has `format` =
//! `headstart baseline checkpoint`, `version` = `1`, `best_epoch` and `key`, which names the
//! configuration and the data that it is good for. Random numbers need no place here: they follow
//! from the seed and the number of steps. A checkpoint is for the version that wrote it; a reader
//! MUST refuse any other.
//!
//! This file knows nothing of how an epoch is made.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{fs, io};

use extractor::files::write_atomically;
use safetensors::tensor::{SafeTensorError, SafeTensors};

use super::file::List;
use super::network::Network;
use super::shape::Shape;
use crate::solver::{Epoch, Step};
use crate::tensors::{Tensor, Values, read, take_format, to_bytes, values, wide_values};

const FORMAT: &str = "headstart baseline checkpoint";
const VERSION: &str = "1";

/// Where a training keeps its checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoints {
    /// The file: written anew after every epoch, whole or not at all, and where it exists, where
    /// the training goes on from.
    pub path: PathBuf,
    /// A digest of everything that decides the training: configuration, images, labels, sides.
    pub key: String,
}

/// Why a checkpoint was not written or cannot be gone on from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file was not read.
    #[error("cannot read checkpoint {}", path.display())]
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
    #[error("checkpoint {} is no safetensors file (hint: remove it)", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the reader found.
        source: SafeTensorError,
    },
    /// It is one, but not a checkpoint of this version and this network.
    #[error("{} is no checkpoint to go on from: {reason} (hint: remove it)", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It belongs to other data or another configuration.
    #[error(
        "checkpoint {} is of another training, {found}, and this one is {expected} (hint: remove \
         it, or name another file)",
        path.display()
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// The key in it.
        found: String,
        /// The key of this training.
        expected: String,
    },
}

/// Where a training stands after an epoch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    /// The network.
    pub network: Network,
    /// The moving means of the gradient and of its square.
    pub moments: [Vec<f32>; 2],
    /// Every epoch so far.
    pub history: Vec<Epoch>,
    /// Every step so far.
    pub steps: Vec<Step>,
    /// The best epoch's number and network, where early stopping asks for them.
    pub best: Option<(u32, Network)>,
}

impl Checkpoints {
    /// Writes where a training stands.
    pub(super) fn save(&self, state: &State) -> Result<(), CheckpointError> {
        Ok(write_atomically(&self.path, &state.to_bytes(&self.key))?)
    }

    /// Reads where the training of a network of `shape` stands; none if it has not begun.
    pub(super) fn load(&self, shape: Shape) -> Result<Option<State>, CheckpointError> {
        let path = || self.path.clone();
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(CheckpointError::Read {
                    path: path(),
                    source,
                });
            }
        };
        let (tensors, mut metadata) =
            read(&bytes).map_err(|source| CheckpointError::Safetensors {
                path: path(),
                source,
            })?;
        let format = |reason| CheckpointError::Format {
            path: path(),
            reason,
        };
        take_format(&mut metadata, FORMAT, &[VERSION]).map_err(format)?;
        let found = metadata.remove("key").unwrap_or_default();
        if found != self.key {
            return Err(CheckpointError::Key {
                path: path(),
                found,
                expected: self.key.clone(),
            });
        }
        let best = metadata.remove("best_epoch");
        Ok(Some(
            State::parse(shape, &tensors, best.as_deref()).map_err(format)?,
        ))
    }
}

impl State {
    fn to_bytes(&self, key: &str) -> Vec<u8> {
        let mut metadata = BTreeMap::from(
            [("format", FORMAT), ("version", VERSION), ("key", key)]
                .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        let mut lists = self.network.to_lists("");
        if let Some((epoch, network)) = &self.best {
            metadata.insert("best_epoch".to_owned(), epoch.to_string());
            lists.extend(network.to_lists("best/"));
        }
        let none = f64::NAN;
        let epoch = |e: &Epoch| {
            [
                f64::from(e.epoch),
                e.train_loss,
                e.train_accuracy,
                e.validation_loss.unwrap_or(none),
                e.validation_accuracy.unwrap_or(none),
                e.secs,
            ]
        };
        let step = |s: &Step| {
            [
                s.step as f64,
                f64::from(s.epoch),
                s.loss,
                s.running_loss,
                s.running_accuracy,
            ]
        };
        let history: Vec<f64> = self.history.iter().flat_map(epoch).collect();
        let steps: Vec<f64> = self.steps.iter().flat_map(step).collect();
        let tensor = |name: &str, shape, values| Tensor {
            name: name.to_owned(),
            shape,
            values,
        };
        let mut tensors: Vec<Tensor<'_>> = lists.iter().map(List::tensor).collect();
        for (name, moments) in ["means", "squares"].into_iter().zip(&self.moments) {
            tensors.push(tensor(name, vec![moments.len()], Values::F32(moments)));
        }
        let wide =
            |name, rows, columns, values| tensor(name, vec![rows, columns], Values::F64(values));
        tensors.push(wide("history", self.history.len(), 6, &history));
        tensors.push(wide("steps", self.steps.len(), 5, &steps));
        to_bytes(&metadata, &tensors)
    }

    /// What the tensors of a checkpoint say, or what is wrong with them.
    fn parse(
        shape: Shape,
        tensors: &SafeTensors<'_>,
        best_epoch: Option<&str>,
    ) -> Result<State, String> {
        let best = match best_epoch {
            None => None,
            Some(text) => {
                let epoch = text.parse();
                let epoch: u32 = epoch.map_err(|_| format!("its best_epoch is `{text}`"))?;
                Some((epoch, Network::from_tensors(shape, tensors, "best/")?))
            }
        };
        let moments = |name| values(tensors, name, |found| found == [shape.trainable()]);
        let history = wide_values(tensors, "history", |found| matches!(found, [_, 6]))?;
        let steps = wide_values(tensors, "steps", |found| matches!(found, [_, 5]))?;
        let (epochs, count) = (history.len() / 6, steps.len() / 5);
        let best_epoch = best.as_ref().map_or(1, |(epoch, _)| *epoch as usize);
        if epochs == 0 || !(1..=epochs).contains(&best_epoch) || count % epochs != 0 {
            return Err(format!(
                "it has {epochs} epochs, {count} steps and the best epoch {best_epoch}"
            ));
        }
        let told = |x: f64| (!x.is_nan()).then_some(x);
        Ok(State {
            network: Network::from_tensors(shape, tensors, "")?,
            moments: [moments("means")?, moments("squares")?],
            history: history
                .as_chunks::<6>()
                .0
                .iter()
                .map(|e| Epoch {
                    epoch: e[0] as u32,
                    train_loss: e[1],
                    train_accuracy: e[2],
                    validation_loss: told(e[3]),
                    validation_accuracy: told(e[4]),
                    secs: e[5],
                })
                .collect(),
            steps: steps
                .as_chunks::<5>()
                .0
                .iter()
                .map(|s| Step {
                    step: s[0] as u64,
                    epoch: s[1] as u32,
                    loss: s[2],
                    running_loss: s[3],
                    running_accuracy: s[4],
                })
                .collect(),
            best,
        })
    }
}
