//! What a sweep leaves behind: `sweep.json` with everything, `sweep.csv` with a row a candidate.
//!
//! # Format, version 2
//!
//! Both are for people and their scripts; no verb reads them. A reader MUST refuse a `format` that
//! it does not know, and MAY ignore fields that it does not know. Numbers are as Rust prints them,
//! shortest first; times are UTC, `YYYY-MM-DDThh:mm:ssZ`; what a candidate has no use for is null
//! in JSON (or left out, inside of `config`) and empty in CSV.
//!
//! `sweep.json` is one object:
//!
//! - `format` (2), `created_utc`, `versions` (by name), `secs` (wall-clock time up to the ranking);
//! - `index`, `index_digest`, `split`, `split_digest`, `split_plan` (null if the user brought it),
//!   `classes`;
//! - `judging`: `{"folds": {"count", "seed"}}` or `{"seeds": {"count", "first"}}`; `judged_on` says
//!   the same in words;
//! - `images`: `train` and, with seeds, `validation`: images of each class that candidates were
//!   trained and judged on, in every store; `left_out`: those that some store has and another
//!   one rejected;
//! - `stores`: an object each with `store` (its folder), `store_key`, `views` (of the training
//!   images), `provenance` (as in `run.json`: backbone, preset, what computed the features);
//!   `passed_over`: those that lack images, with `store` and `reason`;
//! - `by`, `one_standard_error`: how one was chosen; `chosen_rank`: its place in the list; and
//!   `train_command`: the line for a shell that trains it on the whole training side;
//! - `candidates`: best first, those that failed last. Each has `rank` (from 1; null if it failed),
//!   `chosen`, `store`, `store_key`, `backbone`, `preset`, `dtype`, `config` (as in `run.json`), `secs`, and
//!   either `scores` (loss and accuracy on each part, in the order of folds or seeds), `loss` and
//!   `accuracy` (`mean`, and `standard_error` over the parts, null for one part), `converged`, or
//!   `failure`, why it has none;
//! - `run`, with `--train` alone: its `folder`, `validation_accuracy` and `test_accuracy`.
//!
//! `sweep.csv` has the columns of [`Row`], a line a candidate in the same order.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use extractor::digest::Digest;
use extractor::files::{escape_path, write_atomically};
use serde::Serialize;
use serde_json::{Value, json};

use super::Job;
use super::command::{class_weight_text, schedule_text, words};
use super::images::JudgedOn;
use super::stores::{Checked, PassedOver, Stores};
use crate::protocol::Protocol;
use crate::run::RunRecord;
use crate::shell::shell_line;
use crate::solver::lbfgs::Lbfgs;
use crate::solver::linfa::Linfa;
use crate::solver::{FitConfig, SolverConfig};
use crate::split::{Side, SplitPlan};
use crate::sweep::{By, Entry, Mean, Scored};
use crate::utc::{TimeForm, utc};

/// The version of `sweep.json`.
const FORMAT: u32 = 2;

/// `sweep.json`; see the file's header.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    format: u32,
    created_utc: String,
    versions: BTreeMap<&'static str, &'static str>,
    index: String,
    index_digest: Digest,
    split: String,
    split_digest: Digest,
    split_plan: Option<SplitPlan>,
    classes: Vec<String>,
    judging: JudgedOn,
    pub judged_on: String,
    images: ImageCounts,
    stores: Vec<Checked>,
    passed_over: Vec<PassedOver>,
    pub by: By,
    pub one_standard_error: bool,
    pub chosen_rank: usize,
    pub train_command: String,
    pub secs: f64,
    pub candidates: Vec<Candidate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Trained>,
}

#[derive(Debug, Serialize)]
struct ImageCounts {
    train: Vec<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation: Option<Vec<u64>>,
    left_out: usize,
}

/// A candidate and what came of it.
#[derive(Debug, Serialize)]
pub(super) struct Candidate {
    pub rank: Option<usize>,
    pub chosen: bool,
    pub store: String,
    store_key: Digest,
    pub backbone: String,
    pub preset: String,
    pub dtype: String,
    #[serde(skip)]
    views: String,
    pub config: FitConfig,
    #[serde(flatten)]
    pub scored: Option<Scored>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    secs: f64,
}

/// The run of the chosen one.
#[derive(Debug, Serialize)]
pub(super) struct Trained {
    pub folder: String,
    pub validation_accuracy: Option<f64>,
    pub test_accuracy: Option<f64>,
}

/// A row of `sweep.csv`. Means and errors are over the folds or seeds; `views` has spaces between
/// them, `class_weight` and `schedule` are as the flags have them.
#[derive(Serialize)]
struct Row<'a> {
    rank: Option<usize>,
    chosen: bool,
    backbone: &'a str,
    preset: &'a str,
    dtype: &'a str,
    views: &'a str,
    solver: &'a str,
    standardize: bool,
    class_weight: String,
    l2: f64,
    learning_rate: Option<f64>,
    epochs: Option<u32>,
    batch_size: Option<u32>,
    schedule: Option<String>,
    dropout: Option<f64>,
    patience: Option<u32>,
    protocol: Option<&'static str>,
    seed: Option<u64>,
    max_iterations: Option<u64>,
    gradient_tolerance: Option<f64>,
    loss: Option<f64>,
    loss_standard_error: Option<f64>,
    accuracy: Option<f64>,
    accuracy_standard_error: Option<f64>,
    converged: Option<bool>,
    failure: Option<&'a str>,
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
        job: &Job<'_>,
        stores: &Stores<'_>,
        entries: &[Entry<'_>],
        (order, chosen): (&[usize], usize),
        secs: f64,
    ) -> Record {
        let common = &stores.common;
        let place = order.iter().position(|number| *number == chosen);
        let candidate = |(place, &number): (usize, &usize)| {
            let Entry { store, outcome } = entries[number];
            Candidate {
                rank: outcome.result.is_ok().then_some(place + 1),
                chosen: number == chosen,
                ..Candidate::new(&stores.all[store], outcome)
            }
        };
        let plan = common.split.header.map(|header| header.plan);
        let Entry { store, outcome } = entries[chosen];
        let command = words(job, &stores.all[store], plan, &outcome.config);
        let counts = |side| common.images.counts(side, common.classes.len());
        let validation = match job.judged_on {
            JudgedOn::Folds { .. } => None,
            JudgedOn::Seeds { .. } => Some(counts(Side::Validation)),
        };
        Record {
            format: FORMAT,
            created_utc: utc(SystemTime::now(), TimeForm::Record),
            versions: BTreeMap::from([("head-trainer", env!("CARGO_PKG_VERSION"))]),
            index: escape_path(job.index),
            index_digest: common.index_digest,
            split: escape_path(&common.split.path),
            split_digest: common.split.digest,
            split_plan: plan,
            classes: common.classes.clone(),
            judging: job.judged_on,
            judged_on: job.judged_on.to_string(),
            images: ImageCounts {
                train: counts(Side::Train),
                validation,
                left_out: common.images.left_out(),
            },
            stores: stores.all.clone(),
            passed_over: stores.passed_over.clone(),
            by: job.args.by,
            one_standard_error: job.args.one_standard_error,
            chosen_rank: place.map_or(1, |place| place + 1),
            train_command: shell_line(&command),
            secs,
            candidates: order.iter().enumerate().map(candidate).collect(),
            run: None,
        }
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
    fn new(store: &Checked, outcome: &crate::sweep::Outcome) -> Candidate {
        Candidate {
            rank: None,
            chosen: false,
            store: store.store.clone(),
            store_key: store.store_key,
            backbone: store.field("backbone_name").to_owned(),
            preset: store.field("preset").to_owned(),
            dtype: store.field("dtype").to_owned(),
            views: store.views.join(" "),
            config: outcome.config.clone(),
            scored: outcome.result.as_ref().ok().cloned(),
            failure: outcome.result.as_ref().err().map(|e| e.to_string()),
            secs: outcome.secs,
        }
    }

    fn row(&self) -> Row<'_> {
        let config = &self.config;
        let adam = match &config.solver {
            SolverConfig::Adam(adam) => Some(adam),
            SolverConfig::Lbfgs(_) | SolverConfig::Linfa(_) => None,
        };
        let minimum = match &config.solver {
            SolverConfig::Lbfgs(Lbfgs(minimum)) | SolverConfig::Linfa(Linfa(minimum)) => {
                Some(minimum)
            }
            SolverConfig::Adam(_) => None,
        };
        let (l2, learning_rate, epochs) = numbers(config);
        let scored = self.scored.as_ref();
        let (loss, accuracy) = (scored.map(|s| s.loss), scored.map(|s| s.accuracy));
        let mean = |mean: Option<Mean>| mean.map(|m| m.mean);
        let error = |mean: Option<Mean>| mean.and_then(|m| m.standard_error);
        Row {
            rank: self.rank,
            chosen: self.chosen,
            backbone: &self.backbone,
            preset: &self.preset,
            dtype: &self.dtype,
            views: &self.views,
            solver: config.solver.name(),
            standardize: config.standardize,
            class_weight: class_weight_text(&config.class_weight).unwrap_or("none".to_owned()),
            l2,
            learning_rate,
            epochs,
            batch_size: adam.map(|a| a.batch_size),
            schedule: adam.map(|a| schedule_text(&a.schedule)),
            dropout: adam.map(|a| a.dropout),
            patience: adam.and_then(|a| a.patience),
            protocol: adam.map(|a| match a.protocol {
                Protocol::Full => "full",
                Protocol::Tutorial(_) => "tutorial",
            }),
            seed: adam.map(|a| a.seed),
            max_iterations: minimum.map(|m| m.max_iterations),
            gradient_tolerance: minimum.map(|m| m.gradient_tolerance),
            loss: mean(loss),
            loss_standard_error: error(loss),
            accuracy: mean(accuracy),
            accuracy_standard_error: error(accuracy),
            converged: scored.map(|s| s.converged),
            failure: self.failure.as_deref(),
            secs: self.secs,
            store: &self.store,
        }
    }
}
