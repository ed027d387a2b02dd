//! What a sweep leaves behind: `sweep.json` with everything, `sweep.csv` with a row a candidate.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use extractor::digest::Digest;
use extractor::files::{escape_path, write_atomically};
use serde::Serialize;
use serde_json::{Value, json};

use crate::dataset::Dataset;
use crate::run::RunRecord;
use crate::solver::{FitConfig, SolverConfig};
use crate::sweep::{By, Mean, Outcome};
use crate::utc::{TimeForm, utc};

/// `sweep.json`.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    /// The version of this file.
    format: u32,
    /// When it was written, UTC.
    created_utc: String,
    /// The index file.
    index: String,
    /// Its digest.
    index_digest: Digest,
    /// The split file's digest.
    split_digest: Digest,
    /// What the candidates were judged on.
    pub judged_on: String,
    /// What they are ranked by.
    pub by: By,
    /// The rank of the chosen one.
    pub chosen_rank: usize,
    /// Wall-clock time of it all, features included.
    pub secs: f64,
    /// The candidates, best first.
    pub candidates: Vec<Candidate>,
    /// The run that the chosen one was trained as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Trained>,
}

/// A candidate and what came of it.
#[derive(Debug, Serialize)]
pub(super) struct Candidate {
    /// From 1.
    pub rank: usize,
    /// Whether it is the chosen one.
    pub chosen: bool,
    /// The feature store.
    pub store: String,
    /// Digest of its key.
    store_key: Digest,
    /// Its backbone's name.
    pub backbone: String,
    /// Its preset.
    pub preset: String,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The run of the chosen one.
#[derive(Debug, Serialize)]
pub(super) struct Trained {
    /// Its folder.
    pub folder: String,
    /// Accuracy on the validation side.
    pub validation_accuracy: Option<f64>,
    /// Accuracy on the test side.
    pub test_accuracy: Option<f64>,
}

/// A row of `sweep.csv`.
#[derive(Serialize)]
struct Row<'a> {
    rank: usize,
    chosen: bool,
    backbone: &'a str,
    preset: &'a str,
    solver: &'a str,
    standardize: bool,
    l2: f64,
    learning_rate: Option<f64>,
    epochs: Option<u32>,
    loss: f64,
    loss_standard_error: Option<f64>,
    accuracy: f64,
    accuracy_standard_error: Option<f64>,
    converged: bool,
    secs: f64,
    store: &'a str,
}

/// Penalty, step size and epochs of a candidate.
pub(super) fn numbers(config: &FitConfig) -> (f64, Option<f64>, Option<u32>) {
    let (learning_rate, epochs) = match &config.solver {
        SolverConfig::Adam(adam) => (Some(adam.learning_rate), Some(adam.epochs)),
        SolverConfig::Lbfgs(_) | SolverConfig::Linfa(_) => (None, None),
    };
    (config.solver.l2(), learning_rate, epochs)
}

impl Record {
    /// A record of what came of all candidates on each store, in the `order` of their ranks.
    pub fn new(
        swept: &[(PathBuf, Dataset, Vec<Outcome>)],
        order: &[usize],
        chosen: usize,
        (by, judged_on): (By, String),
        index: &Path,
        secs: f64,
    ) -> Record {
        let of_each: Vec<(&Path, &Dataset, &Outcome)> = swept
            .iter()
            .flat_map(|(store, dataset, outcomes)| {
                outcomes.iter().map(move |o| (store.as_path(), dataset, o))
            })
            .collect();
        let candidate = |(rank, &number): (usize, &usize)| {
            let (store, dataset, outcome) = of_each[number];
            Candidate {
                rank: rank + 1,
                chosen: number == chosen,
                store: escape_path(store),
                store_key: dataset.store.key().digest(),
                backbone: dataset.store.backbone_name().to_owned(),
                preset: dataset.store.key().preset.to_string(),
                outcome: outcome.clone(),
            }
        };
        let candidates: Vec<Candidate> = order.iter().enumerate().map(candidate).collect();
        let chosen = candidates.iter().find(|c| c.chosen);
        Record {
            format: 1,
            created_utc: utc(SystemTime::now(), TimeForm::Record),
            index: escape_path(index),
            index_digest: swept[0].1.index_digest,
            split_digest: swept[0].1.split.digest,
            judged_on,
            by,
            chosen_rank: chosen.map_or(1, |c| c.rank),
            secs,
            candidates,
            run: None,
        }
    }

    /// The candidate that was chosen.
    pub fn chosen(&self) -> &Candidate {
        &self.candidates[self.chosen_rank - 1]
    }

    /// Remembers the run that the chosen one was trained as.
    pub fn trained(&mut self, folder: &Path, run: &RunRecord) {
        let accuracy =
            |metrics: &Option<crate::metrics::Metrics>| metrics.as_ref().map(|m| m.accuracy);
        self.run = Some(Trained {
            folder: escape_path(folder),
            validation_accuracy: accuracy(&run.metrics.validation),
            test_accuracy: accuracy(&run.metrics.test),
        });
    }

    /// As JSON, with the folder it was written to.
    pub fn json(&self, out: &Path) -> Value {
        json!({ "sweep": escape_path(out), "record": self })
    }

    /// Writes both files to `folder`; returns the digest of `sweep.json`.
    pub fn write(&self, folder: &Path) -> anyhow::Result<Digest> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        let mut csv = csv::Writer::from_writer(Vec::new());
        for candidate in &self.candidates {
            csv.serialize(candidate.row())?;
        }
        write_atomically(&folder.join("sweep.csv"), &csv.into_inner()?)?;
        write_atomically(&folder.join("sweep.json"), &json)?;
        Ok(Digest::of(&json))
    }
}

impl Candidate {
    fn row(&self) -> Row<'_> {
        let Outcome {
            config,
            loss,
            accuracy,
            converged,
            secs,
            ..
        } = &self.outcome;
        let (l2, learning_rate, epochs) = numbers(config);
        let error = |mean: &Mean| mean.standard_error;
        Row {
            rank: self.rank,
            chosen: self.chosen,
            backbone: &self.backbone,
            preset: &self.preset,
            solver: config.solver.name(),
            standardize: config.standardize,
            l2,
            learning_rate,
            epochs,
            loss: loss.mean,
            loss_standard_error: error(loss),
            accuracy: accuracy.mean,
            accuracy_standard_error: error(accuracy),
            converged: *converged,
            secs: *secs,
            store: &self.store,
        }
    }
}
