//! The folder that records a run: what it was made of, what came out, and the head.
//!
//! # Format
//!
//! `runs/<UTC time>-<digest>/`, say `runs/20260131T235959Z-0a1b2c3d4e5f/`, holds
//!
//! - `run.json`: a [`RunRecord`],
//! - `metrics.csv`: a row for each epoch, `steps.csv`: a row for each step (Adam alone has any),
//! - `head.safetensors`: see [`crate::head`],
//! - `train` and, where there is any, `validation`: a TensorBoard event file each, see `events.rs`,
//!
//! and MAY hold other files. The digest is that of the [`RunKey`], the inputs and configuration
//! without the time: equal digests are equal runs, and all numbers but times are then equal too, as
//! long as the store's rows come from one engine and processor (`features_computed_by`) and the
//! program is of one version.
//! A folder appears whole or not at all: it is filled under a temporary name beside its place
//! and renamed. `run.json` has `format` 2; a reader MUST refuse another.
//!
//! This file knows how to keep a run and not how to make one.

mod draft;
mod events;
mod find;
mod inputs;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use extractor::digest::Digest;
use extractor::files::FileError;
use extractor::store::IDENTITY;
use serde::{Deserialize, Serialize};

use self::draft::DRAFT;
pub use self::draft::Draft;
pub(crate) use self::draft::csv_bytes;
pub use self::find::{FindError, find};
pub use self::inputs::{Changed, Input, Inputs, InputsError};
use crate::decide::Choices;
use crate::head::{Decision, Head, HeadError};
use crate::metrics::Metrics;
use crate::solver::{Convergence, Epoch, Fit, FitConfig};
use crate::split::SplitPlan;
use crate::utc::{TimeForm, utc};

/// The version of `run.json`.
pub const FORMAT: u32 = 2;

const RECORD_FILE: &str = "run.json";
const HEAD_FILE: &str = "head.safetensors";

/// Everything that decides a run: equal keys give equal heads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunKey {
    /// Digest of the feature store's key.
    pub store_key: Digest,
    /// Digest of the index.
    pub index: Digest,
    /// Digest of the split file.
    pub split: Digest,
    /// Solver, its numbers and its seed.
    pub config: FitConfig,
    /// What is chosen on the validation side after training.
    #[serde(default, skip_serializing_if = "Choices::is_none")]
    pub choices: Choices,
    /// Views that the training images were seen in; left out if it is `identity` alone.
    #[serde(default = "identity", skip_serializing_if = "is_identity")]
    pub views: Vec<String>,
}

fn identity() -> Vec<String> {
    vec![IDENTITY.to_owned()]
}

fn is_identity(views: &[String]) -> bool {
    views == [IDENTITY]
}

impl RunKey {
    /// Digest of the key's JSON: fields in the order above, numbers in their shortest form.
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("a key is plain data"))
    }
}

/// Where the inputs lie; for people, not part of the key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Places {
    /// Folder of the feature store.
    pub store: String,
    /// The index file.
    pub index: String,
    /// The split file.
    pub split: String,
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
    /// How the split was made; none if the user brought it.
    pub split_plan: Option<SplitPlan>,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Channels of the pooled features, C.
    pub channels: usize,
    /// Trainable parameters: C + 1 for two classes, K (C + 1) for more.
    pub trainable_parameters: usize,
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
    /// Wall-clock times by name, in seconds.
    pub secs: BTreeMap<String, f64>,
}

impl RunRecord {
    /// A record of `fit` under `key`; the fields that only the caller knows are empty.
    pub fn new(key: RunKey, classes: Vec<String>, fit: &Fit) -> RunRecord {
        let channels = fit.head.channels();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        RunRecord {
            format: FORMAT,
            digest: key.digest(),
            created_utc: utc(SystemTime::now(), TimeForm::Record),
            key,
            places: Places::default(),
            split_plan: None,
            classes,
            channels,
            trainable_parameters: fit.head.parameter_count(),
            counts: Counts::default(),
            history: fit.history.clone(),
            best_epoch: fit.best_epoch,
            convergence: fit.convergence,
            decision: Decision::default(),
            metrics: FinalMetrics::default(),
            provenance: BTreeMap::new(),
            versions: BTreeMap::from([("head-trainer".to_owned(), version)]),
            secs: BTreeMap::new(),
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
        if format != FORMAT {
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
    /// A file or folder was not written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The head was not written.
    #[error(transparent)]
    Head(#[from] HeadError),
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

/// Where the head of a run's folder lies.
pub fn head_file(folder: &Path) -> PathBuf {
    folder.join(HEAD_FILE)
}

/// The head of a run's folder.
///
/// # Errors
/// As [`Head::load`].
pub fn head(folder: &Path) -> Result<Head, HeadError> {
    Head::load(&head_file(folder))
}

#[cfg(test)]
mod tests;
