//! The folder that records a run: what it was made of, what came out, and the head.
//!
//! # Format
//!
//! `runs/<UTC time>-<digest>/`, say `runs/20260131T235959Z-0a1b2c3d4e5f/`, holds
//!
//! - `run.json`: a [`RunRecord`],
//! - `metrics.csv`: a row for each epoch, `steps.csv`: a row for each step (Adam alone has any),
//! - the model: `head.safetensors`, see [`crate::head`], or `baseline.safetensors`, see
//!   [`crate::baseline`],
//! - `predictions.arrow`: see [`predictions`],
//! - `train` and, where there is any, `validation`: a TensorBoard event file each, see `events.rs`,
//!
//! and MAY hold other files. The digest is that of the [`RunKey`], the inputs and configuration
//! without the time: equal digests are equal runs, and all numbers but times are then equal too, as
//! long as the store's rows come from one engine and processor (`features_computed_by`) and the
//! program is of one version.
//! A folder appears whole or not at all: it is filled under a temporary name beside its place
//! and renamed. `run.json` has `format` 3; a reader MUST refuse another, but for 2, which is 3 with
//! heads alone.
//!
//! This file knows how to keep a run and not how to make one.

mod draft;
mod events;
mod find;
mod inputs;
mod key;
pub mod predictions;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use extractor::digest::Digest;
use extractor::files::FileError;
use extractor::store::StoreKey;
use serde::{Deserialize, Serialize};

use self::draft::DRAFT;
pub(crate) use self::draft::csv_bytes;
pub use self::draft::{Contents, Draft, Model};
pub use self::find::{FindError, find, newest};
pub use self::inputs::{Changed, Input, Inputs, InputsError};
pub use self::key::{RunKey, Trained};
pub use self::predictions::Predictions;
use crate::baseline::BaselineFit;
use crate::head::{Decision, Head, HeadError};
use crate::metrics::{Basic, Metrics};
use crate::solver::{Convergence, Epoch, Fit};
use crate::split::SplitPlan;
use crate::utc::{TimeForm, utc};

/// The version of `run.json`.
pub const FORMAT: u32 = 3;

/// The version before: heads alone.
const FORMAT_2: u32 = 2;

const RECORD_FILE: &str = "run.json";

/// Where the inputs lie; for people, not part of the key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Places {
    /// Folder of the feature store.
    pub store: String,
    /// The index file.
    pub index: String,
    /// The split file.
    pub split: String,
    /// The backbone's file, if it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backbone: Option<String>,
}

/// Images of one side, by class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Training images of each class.
    pub train: Vec<u64>,
    /// Validation images of each class.
    pub validation: Vec<u64>,
    /// Test images of each class.
    pub test: Vec<u64>,
}

/// How the finished head does on each side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FinalMetrics {
    /// On the training side, all with the final weights.
    pub train: Option<Metrics>,
    /// On the validation side, each image once.
    pub validation: Option<Metrics>,
    /// On the test side.
    pub test: Option<Metrics>,
    /// On the validation side with temperature 1 and threshold 0.5, if any was chosen there: what
    /// runs compare by, as `validation` is then of a choice that was made on the same images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_before_choices: Option<Basic>,
}

/// `run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// Digest of `key`.
    pub digest: Digest,
    /// When the run was written, UTC, `YYYY-MM-DDThh:mm:ssZ`.
    pub created_utc: String,
    /// What decides the run.
    pub key: RunKey,
    /// Where that lay.
    pub places: Places,
    /// What `key.store_key` is the digest of: how an image becomes features, or pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreKey>,
    /// How the split was made; none if the user brought it.
    pub split_plan: Option<SplitPlan>,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Numbers that the last layer sees of an image: of a head, the channels C of the pooled
    /// features.
    pub channels: usize,
    /// Trainable parameters; of a head, C + 1 for two classes, K (C + 1) for more.
    pub trainable_parameters: usize,
    /// All parameters, if more than the trainable ones; of a head, without its backbone's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_parameters: Option<usize>,
    /// Images by side and class.
    pub counts: Counts,
    /// Every epoch.
    pub history: Vec<Epoch>,
    /// The epoch whose weights the head has, if training stopped early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_epoch: Option<u32>,
    /// How close to the minimum the solver came, where it says so.
    pub convergence: Option<Convergence>,
    /// Temperature and threshold of the head.
    pub decision: Decision,
    /// The finished head on each side, with its temperature and threshold.
    pub metrics: FinalMetrics,
    /// Whatever else says where the features come from: the store's key fields (backbone,
    /// preset, ...), by name.
    pub provenance: BTreeMap<String, String>,
    /// Versions of this program and of what it uses, by name.
    pub versions: BTreeMap<String, String>,
    /// Wall-clock times by name, in seconds: `fit`; `load`, reading the inputs before it; `features`,
    /// computing them once, all extractions of the store together, where the store tells.
    pub secs: BTreeMap<String, f64>,
}

impl FinalMetrics {
    /// Loss and accuracy on the validation side that runs compare by.
    pub fn comparable(&self) -> Option<Basic> {
        let finished = self.validation.as_ref().map(Metrics::basic);
        self.validation_before_choices.or(finished)
    }
}

impl RunRecord {
    /// A record of `fit` under `key`; the fields that only the caller knows are empty.
    pub fn new(key: RunKey, classes: Vec<String>, fit: &Fit) -> RunRecord {
        RunRecord {
            trainable_parameters: fit.head.parameter_count(),
            convergence: fit.convergence,
            ..RunRecord::of(
                key,
                classes,
                fit.head.channels(),
                &fit.history,
                fit.best_epoch,
            )
        }
    }

    fn of(
        key: RunKey,
        classes: Vec<String>,
        channels: usize,
        history: &[Epoch],
        best_epoch: Option<u32>,
    ) -> RunRecord {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        RunRecord {
            format: FORMAT,
            digest: key.digest(),
            created_utc: utc(SystemTime::now(), TimeForm::Record),
            key,
            places: Places::default(),
            store: None,
            split_plan: None,
            classes,
            channels,
            trainable_parameters: 0,
            total_parameters: None,
            counts: Counts::default(),
            history: history.to_vec(),
            best_epoch,
            convergence: None,
            decision: Decision::default(),
            metrics: FinalMetrics::default(),
            provenance: BTreeMap::new(),
            versions: BTreeMap::from([("head-trainer".to_owned(), version)]),
            secs: BTreeMap::new(),
        }
    }

    /// A record of the baseline's `fit` under `key`; the fields that only the caller knows are empty.
    pub fn of_baseline(key: RunKey, classes: Vec<String>, fit: &BaselineFit) -> RunRecord {
        let [trainable, total] = fit.network.parameter_count();
        RunRecord {
            trainable_parameters: trainable,
            total_parameters: Some(total),
            ..RunRecord::of(
                key,
                classes,
                fit.network.shape().dense_inputs(),
                &fit.history,
                fit.best_epoch,
            )
        }
    }

    /// Reads `run.json` of a run's folder.
    ///
    /// # Errors
    /// When it cannot be read or has another format.
    pub fn read(folder: &Path) -> Result<RunRecord, RunError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let path = folder.join(RECORD_FILE);
        let bytes = fs::read(&path).map_err(|source| RunError::Read {
            path: path.clone(),
            source,
        })?;
        let parse = |source| RunError::Json {
            path: path.clone(),
            source,
        };
        let Format { format } = serde_json::from_slice(&bytes).map_err(parse)?;
        if format != FORMAT && format != FORMAT_2 {
            return Err(RunError::Format { path, format });
        }
        serde_json::from_slice(&bytes).map_err(parse)
    }
}

/// Why a run was not written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Something was not read.
    #[error("cannot read {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something was not written.
    #[error("cannot write {}", path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A table was not written.
    #[error("cannot write {}", path.display())]
    Csv {
        /// What.
        path: PathBuf,
        /// Why.
        source: csv::Error,
    },
    /// A file or folder was not read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The table of predictions was not read or written.
    #[error("cannot read or write {}", path.display())]
    Arrow {
        /// The file.
        path: PathBuf,
        /// Why.
        source: arrow::error::ArrowError,
    },
    /// The head was not written.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// A figure cannot be recorded.
    #[error("a figure of the run is no finite number (hint: a smaller --learning-rate)")]
    NotFinite,
    /// A record is no record.
    #[error("{} is no record of a run", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A record has another format.
    #[error("{} has format {format}, expected {FORMAT} (hint: train again)", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
}

/// Folders of runs under `root`, oldest first. A `root` that does not exist has none.
///
/// # Errors
/// [`RunError::Read`].
pub fn list(root: &Path) -> Result<Vec<PathBuf>, RunError> {
    let error = |source| RunError::Read {
        path: root.to_owned(),
        source,
    };
    let entries = match fs::read_dir(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(error)?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.map_err(error)?.path();
        let is_draft = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(DRAFT);
        if !path.file_name().is_some_and(is_draft) && path.join(RECORD_FILE).is_file() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

/// Where the model of a run's folder lies.
pub fn model_file(folder: &Path, trained: &Trained) -> PathBuf {
    folder.join(format!("{}.safetensors", trained.noun()))
}

/// The head of a run's folder.
///
/// # Errors
/// As [`Head::load`].
pub fn head(folder: &Path) -> Result<Head, HeadError> {
    Head::load(&folder.join("head.safetensors"))
}

#[cfg(test)]
mod tests;
