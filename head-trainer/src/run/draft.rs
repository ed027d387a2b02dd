//! A run's folder while it is filled, and the tables in it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use extractor::digest::Digest;
use extractor::files::{sync_folder, write_atomically};
use serde::Serialize;

use super::events::{self, Logged};
use super::{Predictions, RECORD_FILE, RunError, RunRecord, model_file};
use crate::baseline::Baseline;
use crate::head::Head;
use crate::solver::Step;
use crate::utc::{TimeForm, utc};

pub(super) const METRICS_FILE: &str = "metrics.csv";
pub(super) const STEPS_FILE: &str = "steps.csv";

/// Begins the name of a folder that is not finished.
pub(super) const DRAFT: &str = ".draft-";

/// A draft that is older was left behind by a program that was killed.
const ABANDONED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What was trained.
#[derive(Clone, Copy, Debug)]
pub enum Model<'a> {
    /// A head.
    Head(&'a Head),
    /// A baseline.
    Baseline(&'a Baseline),
}

/// What a run's folder is filled with.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The record.
    pub record: &'a RunRecord,
    /// The model.
    pub model: Model<'a>,
    /// Every step.
    pub steps: &'a [Step],
    /// What the model says of the held-out images.
    pub predictions: &'a Predictions,
}

/// A run's folder while it is filled. Dropped unpublished, it disappears.
#[derive(Debug)]
pub struct Draft {
    folder: tempfile::TempDir,
    root: PathBuf,
}

impl Draft {
    /// Begins a folder under `root` (`runs`), which is created if need be. Begin before the costly
    /// work: a folder that cannot be written then shows at once. Removes drafts that nobody has
    /// touched for a week.
    ///
    /// # Errors
    /// [`RunError::Write`].
    pub fn new(root: &Path) -> Result<Draft, RunError> {
        let error = |source| RunError::Write {
            path: root.to_owned(),
            source,
        };
        fs::create_dir_all(root).map_err(error)?;
        remove_abandoned(root);
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            builder.permissions(fs::Permissions::from_mode(0o777)); // less the umask
        }
        Ok(Draft {
            folder: builder.prefix(DRAFT).tempdir_in(root).map_err(error)?,
            root: root.to_owned(),
        })
    }

    /// The folder as it is called until it is published, for files beyond the usual ones.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the usual files and gives the folder its name, which is returned.
    ///
    /// # Errors
    /// When something cannot be written; the folder is then removed.
    pub fn publish(self, contents: &Contents<'_>) -> Result<PathBuf, RunError> {
        let Contents {
            record,
            model,
            steps,
            predictions,
        } = *contents;
        let path = |name| self.folder.path().join(name);
        let bytes = match model {
            Model::Head(head) => head.to_bytes(),
            Model::Baseline(baseline) => baseline.to_bytes(),
        };
        write_atomically(&model_file(self.folder.path(), &record.key.config), &bytes)?;
        table(&path(METRICS_FILE), &EPOCH_COLUMNS, &record.history)?;
        table(&path(STEPS_FILE), &STEP_COLUMNS, steps)?;
        predictions.write(self.folder.path())?;
        let logged = Logged {
            history: &record.history,
            steps,
            learning_rates: &record.key.learning_rates(&record.history, steps),
            end: SystemTime::now(),
        };
        events::write(self.folder.path(), &logged)?;
        let mut json = serde_json::to_vec_pretty(record).expect("a record is plain data");
        json.push(b'\n');
        // JSON has no infinity and no NaN: a record with one could not be read again.
        if serde_json::from_slice::<RunRecord>(&json).is_err() {
            return Err(RunError::NotFinite);
        }
        write_atomically(&path(RECORD_FILE), &json)?; // which syncs the folder
        self.publish_as(&record.digest)
    }

    /// Names the folder, as it is, after the time and `digest`; returns what it is called then.
    ///
    /// # Errors
    /// When it cannot be renamed; the folder is then removed.
    pub fn publish_as(self, digest: &Digest) -> Result<PathBuf, RunError> {
        let write = |path: PathBuf| move |source| RunError::Write { path, source };
        let time = utc(SystemTime::now(), TimeForm::Name);
        let name = format!("{time}-{}", digest.short());
        for attempt in 1_u32.. {
            // Two equal runs within a second: the later one gets a number.
            let suffix = if attempt == 1 {
                String::new()
            } else {
                format!("-{attempt}")
            };
            let target = self.root.join(format!("{name}{suffix}"));
            // A rename onto a folder with files in it fails, so nothing is ever replaced.
            match fs::rename(self.folder.path(), &target) {
                Ok(()) => {
                    let _ = self.folder.keep(); // it has moved: there is nothing to remove
                    sync_folder(&self.root)?;
                    return Ok(target);
                }
                Err(_) if target.exists() => {}
                Err(source) => return Err(write(target)(source)),
            }
        }
        unreachable!("some number is free")
    }
}

/// Removes what killed programs left below `root`, as far as that is allowed.
fn remove_abandoned(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let is_draft = entry.file_name().to_string_lossy().starts_with(DRAFT);
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|time| time.elapsed().ok());
        if is_draft && age.is_some_and(|age| age > ABANDONED) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

const EPOCH_COLUMNS: [&str; 6] = [
    "epoch",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "secs",
];

const STEP_COLUMNS: [&str; 5] = ["step", "epoch", "loss", "running_loss", "running_accuracy"];

/// Writes a CSV table into a folder that nobody reads yet.
fn table(path: &Path, columns: &[&str], rows: &[impl Serialize]) -> Result<(), RunError> {
    let bytes = csv_bytes(path, columns, rows)?;
    File::create_new(path)
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
        .map_err(|source| RunError::Write {
            path: path.to_owned(),
            source,
        })
}

/// A CSV table whose header is there without any rows, too; `path` is for messages.
///
/// # Errors
/// [`RunError::Csv`].
pub(crate) fn csv_bytes(
    path: &Path,
    columns: &[&str],
    rows: &[impl Serialize],
) -> Result<Vec<u8>, RunError> {
    let error = |source| RunError::Csv {
        path: path.to_owned(),
        source,
    };
    let mut writer = csv::WriterBuilder::new()
        .has_headers(false)
        .from_writer(Vec::new());
    writer.write_record(columns).map_err(error)?;
    for row in rows {
        writer.serialize(row).map_err(error)?;
    }
    writer
        .into_inner()
        .map_err(|e| error(e.into_error().into()))
}
