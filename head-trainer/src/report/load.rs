//! A run as a report sees it, from the folder that it was recorded in. The one file that knows
//! what a record looks like.

use std::path::{Path, PathBuf};

use extractor::digest::{Digest, ImageId};
use extractor::files::escape_path;

use crate::head::Decision;
use crate::metrics::interval::{Interval, Z_95, wilson};
use crate::metrics::{Logits, Metrics};
use crate::run::{Counts, FinalMetrics, Places, Predictions, RunError, RunRecord, Trained};
use crate::shell::quoted;
use crate::solver::{Epoch, FitConfig, SolverConfig};
use crate::split::Side;

/// A run.
#[derive(Clone, Debug)]
pub struct RunData {
    /// Name of its folder.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Digest of what it was made of.
    pub digest: Digest,
    /// When it was recorded, UTC.
    pub created_utc: String,
    /// What was trained, in a word or two: `adam head`.
    pub short: String,
    /// What was trained: backbone, preset, solver with its settings.
    pub kind: String,
    /// Digests of index and split: figures of runs that differ here do not compare.
    pub data: (Digest, Digest),
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Images by side and class.
    pub counts: Counts,
    /// Parameters that training changed.
    pub trainable_parameters: u64,
    /// Parameters of the model that was trained; none where that is what a frozen backbone was
    /// put before.
    pub total_parameters: Option<u64>,
    /// Share of their first values in a baseline's moving moments, if that is more than 1 %.
    pub lag: Option<f64>,
    /// What each epoch told; one entry for a solver that has no epochs.
    pub history: Vec<Epoch>,
    /// Whether the history is one of epochs.
    pub has_epochs: bool,
    /// The epoch whose weights were kept, if training stopped early.
    pub best_epoch: Option<u32>,
    /// Temperature and threshold.
    pub decision: Decision,
    /// The finished model on each side.
    pub metrics: FinalMetrics,
    /// What the finished model says of each image of a side: test, or else validation. None where
    /// the run did not keep that.
    pub held_out: Option<HeldOut>,
    /// Why there is none.
    pub held_out_note: Option<String>,
    /// Times in seconds; none where they were not recorded.
    pub secs: Secs,
    /// Where the inputs lay.
    pub places: Places,
    /// Everything else that the record says, by name.
    pub facts: Vec<(String, String)>,
    /// Commands that make the run again.
    pub commands: Vec<String>,
}

/// Wall-clock times, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Secs {
    /// Training.
    pub training: Option<f64>,
    /// Reading the inputs before it.
    pub load: Option<f64>,
    /// Computing the features, once for all runs on them.
    pub features: Option<f64>,
    /// Whether there are features to compute at all.
    pub needs_features: bool,
}

/// Images of one side and what the finished model says of them.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldOut {
    /// The side.
    pub side: Side,
    /// Ids `[N]`.
    pub ids: Vec<ImageId>,
    /// Labels `[N]`.
    pub labels: Vec<u32>,
    /// Logits `[N, O]`, before the temperature.
    pub logits: Logits,
}

/// What the caller has words for.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// What was trained and its settings, as `runs list` says it: `adam epochs=20`.
    pub trained: String,
    /// The record's fields, by name.
    pub facts: Vec<(String, String)>,
}

impl RunData {
    /// Reads a run's folder.
    ///
    /// # Errors
    /// When its record or its predictions cannot be read.
    pub fn read(
        folder: &Path,
        words: impl FnOnce(&RunRecord) -> Words,
    ) -> Result<RunData, RunError> {
        let record = RunRecord::read(folder)?;
        let predictions = Predictions::read(folder)?;
        let words = words(&record);
        Ok(RunData::new(folder, record, predictions, words))
    }

    fn new(
        folder: &Path,
        record: RunRecord,
        predictions: Option<Predictions>,
        words: Words,
    ) -> RunData {
        let name = escape_path(Path::new(folder.file_name().unwrap_or(folder.as_os_str())));
        let (held_out, held_out_note) = match held_out(predictions, record.classes.len()) {
            Ok(held_out) => (Some(held_out), None),
            Err(note) => (None, Some(note)),
        };
        let model = Model::new(&record, &words.trained);
        let epochs: f64 = record.history.iter().map(|epoch| epoch.secs).sum();
        let secs = |name: &str| record.secs.get(name).copied();
        RunData {
            name,
            digest: record.digest,
            created_utc: record.created_utc.clone(),
            short: model.short,
            kind: model.kind,
            data: (record.key.index, record.key.split),
            trainable_parameters: record.trainable_parameters as u64,
            total_parameters: record.total_parameters.map(|count| count as u64),
            lag: lag(&record),
            has_epochs: model.has_epochs,
            best_epoch: record.best_epoch,
            decision: record.decision,
            held_out,
            held_out_note,
            secs: Secs {
                training: secs("fit").or((epochs > 0.0).then_some(epochs)),
                load: secs("load"),
                features: secs("features"),
                needs_features: model.needs_features,
            },
            commands: vec![format!(
                "head-trainer {} --repeat {}",
                model.verb,
                quoted(folder.as_os_str())
            )],
            folder: folder.to_owned(),
            classes: record.classes,
            counts: record.counts,
            history: record.history,
            metrics: record.metrics,
            places: record.places,
            facts: words.facts,
        }
    }

    /// The side that scores are shown of, and the finished model's metrics there.
    pub fn judged(&self) -> Option<(Side, &Metrics)> {
        let FinalMetrics {
            validation, test, ..
        } = &self.metrics;
        let test = test.as_ref().map(|metrics| (Side::Test, metrics));
        test.or(validation
            .as_ref()
            .map(|metrics| (Side::Validation, metrics)))
    }

    /// The epoch with the highest validation accuracy, the first of equals, and that accuracy with
    /// its interval, where it is one of the whole side.
    pub fn best_validation(&self) -> Option<(u32, f64, Option<Interval>)> {
        let mut best: Option<(u32, f64)> = None;
        for epoch in &self.history {
            if let Some(accuracy) = epoch.validation_accuracy
                && best.is_none_or(|(_, most)| accuracy > most)
            {
                best = Some((epoch.epoch, accuracy));
            }
        }
        let (epoch, accuracy) = best?;
        let images = self
            .metrics
            .validation
            .as_ref()
            .map_or(0, |metrics| metrics.images);
        let hits = accuracy * images as f64;
        let is_whole = (hits - hits.round()).abs() < 1e-6;
        let interval = wilson((hits.round() as u64).min(images), images, Z_95);
        Some((epoch, accuracy, interval.filter(|_| is_whole)))
    }

    /// Median time of an epoch, in seconds.
    pub fn epoch_secs(&self) -> Option<f64> {
        if !self.has_epochs {
            return None;
        }
        let mut secs: Vec<f64> = self.history.iter().map(|epoch| epoch.secs).collect();
        secs.sort_by(f64::total_cmp);
        let (low, high) = (secs.len().checked_sub(1)? / 2, secs.len() / 2);
        Some((secs[low] + secs[high]) / 2.0)
    }
}

/// What kinds of models differ in.
struct Model {
    short: String,
    kind: String,
    has_epochs: bool,
    needs_features: bool,
    verb: &'static str,
}

impl Model {
    fn new(record: &RunRecord, trained: &str) -> Model {
        let said = |name: &str| record.provenance.get(name).map_or("?", String::as_str);
        match &record.key.config {
            Trained::Head(FitConfig { solver, .. }) => Model {
                short: format!("{} head", solver.name()),
                kind: format!(
                    "head on {}, preset {}: {trained}",
                    said("backbone_name"),
                    said("preset"),
                ),
                has_epochs: matches!(solver, SolverConfig::Adam(_)),
                needs_features: true,
                verb: "train",
            },
            Trained::Baseline { .. } => Model {
                short: "baseline".to_owned(),
                kind: format!("{trained}, from scratch"),
                has_epochs: true,
                needs_features: false,
                verb: "baseline",
            },
        }
    }
}

/// The side to look at, or why there is none.
fn held_out(predictions: Option<Predictions>, classes: usize) -> Result<HeldOut, String> {
    let Some(predictions) = predictions else {
        return Err("the run kept no predictions (hint: train it again)".to_owned());
    };
    let is_fine = predictions.logits.classes() == classes
        && predictions
            .labels
            .iter()
            .all(|&label| (label as usize) < classes)
        && predictions.logits.values().iter().all(|z| z.is_finite());
    if !is_fine {
        return Err("the run's predictions do not fit its record".to_owned());
    }
    for side in [Side::Test, Side::Validation] {
        let (rows, logits, labels) = predictions.on(side);
        if !rows.is_empty() {
            return Ok(HeldOut {
                side,
                ids: rows.iter().map(|&row| predictions.ids[row]).collect(),
                labels,
                logits,
            });
        }
    }
    Err("the run has no held-out images".to_owned())
}

/// Share of their first values in a baseline's moving moments, if that is more than 1 %.
fn lag(record: &RunRecord) -> Option<f64> {
    let config = record.key.config.baseline()?;
    let images: u64 = record.counts.train.iter().sum();
    let of_epoch = config.steps(images as usize) / u64::from(config.epochs);
    let share = config.lag(of_epoch * record.history.len() as u64);
    (share > 0.01).then_some(share)
}
