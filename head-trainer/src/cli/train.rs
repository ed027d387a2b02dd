//! `head-trainer train`.

pub(super) mod repeat;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use extractor::cli::common::{Outcome, OutputArgs};
use extractor::cli::place::local_index;
use extractor::engine::Precision;
use extractor::files::escape_path;
use extractor::store::{Store, costs};
use extractor::view::View;
use serde_json::json;

use self::repeat::Repeat;
use super::choices::ChoiceArgs;
use super::data::{DataArgs, load, tell};
use crate::dataset::Dataset;
use crate::decide::Choices;
use crate::head::Head;
use crate::judge::{Judgeable, judge};
use crate::metrics::Logits;
use crate::protocol::{Protocol, Tutorial};
use crate::run::{Contents, Draft, Model, RunKey, RunRecord, Trained};
use crate::solver::adam::{AdamConfig, Schedule};
use crate::solver::lbfgs::Lbfgs;
use crate::solver::linfa::Linfa;
use crate::solver::{self, ClassWeight, Fit, FitConfig, MinimumConfig, Problem, SolverConfig};
use crate::split::Side;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum SolverName {
    /// The tutorial's optimizer, epoch by epoch.
    Adam,
    /// L-BFGS to the minimum of the penalised loss.
    Lbfgs,
    /// The same minimum by linfa-logistic: slower, a check.
    Linfa,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ProtocolName {
    /// An epoch is one full pass, then a full validation.
    Full,
    /// The tutorial's loop: 363 steps an epoch from a shuffle buffer of 1,000, validation on 10 x
    /// 1,000 repeated samples.
    Tutorial,
}

/// Flags of `head-trainer train`, as typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Folder that the run's folder goes to [default: DATA_DIR/runs].
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,
    /// Train as this run was trained, to the same bits: its folder, its name, or the beginning of
    /// its name or digest. Fails if index, split or store have changed, or the head comes out
    /// otherwise. With --index, --split or --store: where they lie now.
    #[arg(long, value_name = "RUN", conflicts_with_all = repeat::TAKEN)]
    repeat: Option<PathBuf>,

    /// Solver.
    #[arg(long, value_enum, default_value = "adam")]
    solver: SolverName,
    /// adam: seed of the initial weights and the order of images [default: 0].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Standardise the features (folded back into the head's weights).
    #[arg(long)]
    standardize: bool,
    /// What each class's losses count in training: none, balanced (n / (K n of the class)) or a
    /// number for each class, such as 1,2.5.
    #[arg(long, value_name = "W", default_value = "none")]
    class_weight: ClassWeight,
    /// adam: what an epoch is.
    #[arg(long, value_enum, default_value = "full")]
    protocol: ProtocolName,
    /// adam: epochs [default: 7].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    epochs: Option<u32>,
    /// adam: images a step [default: 64].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    batch_size: Option<u32>,
    /// adam: step size [default: 0.001].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    learning_rate: Option<f64>,
    /// adam: how the step size changes: constant, cosine or exponential:RATE (the factor at the
    /// end) [default: constant].
    #[arg(long, value_name = "S")]
    schedule: Option<Schedule>,
    /// adam: share of the channels left out of each training row [default: 0].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    dropout: Option<f64>,
    /// adam: stop after N epochs without a lower validation loss and take the best epoch's weights.
    #[arg(long, value_name = "N")]
    patience: Option<u32>,
    /// adam, tutorial protocol: steps an epoch [default: 363].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    steps_per_epoch: Option<u32>,
    /// adam, tutorial protocol: images in the shuffle buffer [default: 1000].
    #[arg(long, value_name = "N")]
    shuffle_buffer: Option<u32>,
    /// Weight of the penalty l2/2 |w|^2 on the mean loss [default: 0 for adam, 0.1 for the others].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    l2: Option<f64>,
    /// lbfgs, linfa: iterations at most [default: 1000].
    #[arg(long, value_name = "N")]
    max_iterations: Option<u64>,
    /// lbfgs, linfa: gradient norm to stop at [default: 0.0001].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    gradient_tolerance: Option<f64>,
    #[command(flatten)]
    choices: ChoiceArgs,
}

impl Args {
    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let started = Instant::now();
        let runs = self.runs.clone();
        let runs = runs.unwrap_or_else(|| output.data_dir.join("runs"));
        let repeat = self.repeat.as_deref();
        let repeat = repeat.map(|run| Repeat::read(&runs, run)).transpose()?;
        let config = match &repeat {
            Some(repeat) => repeat.head()?,
            None => self.config()?,
        };
        self.data.images.set_threads()?;
        let (index_path, store_path, split, views) = match &repeat {
            Some(repeat) => {
                let named = self.data.images.named_index(output)?;
                let index = local_index(&named.unwrap_or_else(|| repeat.index()), output)?;
                let store = self.data.store.as_deref();
                let store = store.map(|place| repeat.local_store(place, output));
                let (store, split) = (store.transpose()?, self.data.images.split.split.as_deref());
                let (store, split) = repeat.inputs(&index, store.as_deref(), split)?;
                (index, store, split, repeat.views()?)
            }
            None => {
                let index = self.data.images.index(output)?;
                let store = self.data.find_store(output)?;
                let split = self.data.images.split.source(&index);
                (index, store, split, self.data.views.clone())
            }
        };
        let draft = Draft::new(&runs)?;

        let dataset = load(&store_path, &index_path, &split, &views, output)?;
        let load_secs = started.elapsed().as_secs_f64();
        let choices = repeat
            .as_ref()
            .map_or_else(|| self.choices.choices(), Repeat::choices);
        let inputs = Inputs {
            dataset: &dataset,
            index_path: &index_path,
            backbone: match &repeat {
                Some(repeat) => repeat.backbone(),
                None => self.data.backbone.clone(),
            },
            load_secs,
        };
        let (record, folder) = inputs.train(&config, choices, draft)?;
        let value = json!({ "run": escape_path(&folder), "record": record });
        let text = text::text(&dataset, &record, &folder.display().to_string());
        repeat::print(repeat.as_ref(), &folder, value, text, output)?;
        Ok(Outcome::Done)
    }

    /// The validated configuration.
    fn config(&self) -> anyhow::Result<FitConfig> {
        let adam_only = [
            ("--epochs", self.epochs.is_some()),
            ("--batch-size", self.batch_size.is_some()),
            ("--learning-rate", self.learning_rate.is_some()),
            ("--schedule", self.schedule.is_some()),
            ("--dropout", self.dropout.is_some()),
            ("--patience", self.patience.is_some()),
            ("--seed", self.seed.is_some()),
            (
                "--protocol tutorial",
                self.protocol == ProtocolName::Tutorial,
            ),
        ];
        let tutorial_only = [
            ("--steps-per-epoch", self.steps_per_epoch.is_some()),
            ("--shuffle-buffer", self.shuffle_buffer.is_some()),
        ];
        let minimum_only = [
            ("--max-iterations", self.max_iterations.is_some()),
            ("--gradient-tolerance", self.gradient_tolerance.is_some()),
        ];
        let refuse = |flags: &[(&str, bool)], needed: &str| match flags.iter().find(|f| f.1) {
            Some((flag, _)) => Err(anyhow::anyhow!("{flag} needs {needed}")),
            None => Ok(()),
        };
        let solver = match self.solver {
            SolverName::Adam => {
                refuse(&minimum_only, "--solver lbfgs or linfa")?;
                let default = AdamConfig::default();
                let protocol = match self.protocol {
                    ProtocolName::Full => {
                        refuse(&tutorial_only, "--protocol tutorial")?;
                        Protocol::Full
                    }
                    ProtocolName::Tutorial => {
                        let t = Tutorial::default();
                        Protocol::Tutorial(Tutorial {
                            steps_per_epoch: self.steps_per_epoch.unwrap_or(t.steps_per_epoch),
                            shuffle_buffer: self.shuffle_buffer.unwrap_or(t.shuffle_buffer),
                            ..t
                        })
                    }
                };
                SolverConfig::Adam(AdamConfig {
                    epochs: self.epochs.unwrap_or(default.epochs),
                    batch_size: self.batch_size.unwrap_or(default.batch_size),
                    learning_rate: self.learning_rate.unwrap_or(default.learning_rate),
                    schedule: self.schedule.unwrap_or_default(),
                    l2: self.l2.unwrap_or(default.l2),
                    dropout: self.dropout.unwrap_or(default.dropout),
                    patience: self.patience,
                    protocol,
                    seed: self.seed.unwrap_or_default(),
                    ..default
                })
            }
            SolverName::Lbfgs | SolverName::Linfa => {
                refuse(&adam_only, "--solver adam")?;
                refuse(&tutorial_only, "--solver adam --protocol tutorial")?;
                let default = MinimumConfig::default();
                let minimum = MinimumConfig {
                    l2: self.l2.unwrap_or(default.l2),
                    max_iterations: self.max_iterations.unwrap_or(default.max_iterations),
                    gradient_tolerance: self
                        .gradient_tolerance
                        .unwrap_or(default.gradient_tolerance),
                    ..default
                };
                match self.solver {
                    SolverName::Linfa => SolverConfig::Linfa(Linfa(minimum)),
                    _ => SolverConfig::Lbfgs(Lbfgs(minimum)),
                }
            }
        };
        let config = FitConfig {
            solver,
            standardize: self.standardize,
            class_weight: self.class_weight.clone(),
        };
        config.check()?;
        Ok(config)
    }
}

/// What a head is trained on, and where it lay.
pub(super) struct Inputs<'a> {
    /// Features, labels, sides.
    pub dataset: &'a Dataset,
    /// The index file.
    pub index_path: &'a Path,
    /// The backbone's file, if it was named.
    pub backbone: Option<PathBuf>,
    /// How long they took to read.
    pub load_secs: f64,
}

impl Inputs<'_> {
    /// Trains a head, judges it on every side and publishes the run: its record and its folder.
    pub(super) fn train(
        &self,
        config: &FitConfig,
        choices: Choices,
        draft: Draft,
    ) -> anyhow::Result<(RunRecord, PathBuf)> {
        let dataset = self.dataset;
        let rows = dataset.pooled.rows();
        config.check_for(dataset.classes.len())?;
        let validation = dataset.rows_on(Side::Validation);
        choices.check(dataset.classes.len(), &dataset.labels_of(&validation))?;
        let problem = Problem::new(
            rows,
            &dataset.labels_n,
            dataset.classes.len(),
            dataset.train_rows(),
            &validation,
        )?
        .with_views(dataset.train_starts())?;
        let fit_started = Instant::now();
        let fit = solver::fit(&problem, config, &mut |epoch| {
            tracing::debug!(
                "epoch {}: validation {:?}",
                epoch.epoch,
                epoch.validation_accuracy
            );
        })?;
        let fit_secs = fit_started.elapsed().as_secs_f64();
        let judged = judge(&choices, |side| {
            let rows_of = dataset.rows_on(side);
            Judgeable {
                ids: dataset.predicted_ids_of(side, &rows_of),
                labels: dataset.labels_of(&rows_of),
                logits: Logits::of(&fit.head, rows, &rows_of),
            }
        })?;
        let mut record = self.record(config, choices, &fit);
        record.decision = judged.decision;
        record.metrics = judged.metrics;
        record.secs.insert("fit".to_owned(), fit_secs);
        let head = Head {
            linear: fit.head.clone(),
            classes: dataset.classes.clone(),
            decision: judged.decision,
            metadata: BTreeMap::from([
                ("store_key".to_owned(), record.key.store_key.to_string()),
                (
                    "backbone".to_owned(),
                    dataset.store.key().backbone.to_string(),
                ),
                ("preset".to_owned(), dataset.store.key().preset.to_string()),
                ("run".to_owned(), record.digest.to_string()),
            ]),
        };
        let folder = draft.publish(&Contents {
            record: &record,
            model: Model::Head(&head),
            steps: &fit.steps,
            predictions: &judged.predictions,
        })?;
        Ok((record, folder))
    }

    /// The record, but for what is judged after training.
    fn record(&self, config: &FitConfig, choices: Choices, fit: &Fit) -> RunRecord {
        let dataset = self.dataset;
        let store = &dataset.store;
        let key = RunKey {
            store_key: store.key().digest(),
            index: dataset.index_digest,
            split: dataset.split.digest,
            config: Trained::Head(config.clone()),
            choices,
            views: dataset.views.iter().map(View::to_string).collect(),
        };
        let mut record = RunRecord::new(key, dataset.classes.clone(), fit);
        tell(&mut record, dataset, store, self.index_path);
        record.places.backbone = self.backbone.as_deref().map(escape_path);
        record.provenance = provenance(store);
        record.secs.insert("load".to_owned(), self.load_secs);
        let costs = costs(store.folder());
        if !costs.is_empty() {
            let secs = costs.iter().map(|cost| cost.secs).sum();
            record.secs.insert("features".to_owned(), secs);
        }
        record
    }
}

/// Where a store's features come from, by name: the fields of its key, and what computed them.
pub(super) fn provenance(store: &Store) -> BTreeMap<String, String> {
    let key = store.key();
    let shape = store.map_shape().map(|s| s.to_string()).unwrap_or_default();
    let engines = store.provenances();
    let engines = engines.iter().map(|p| p.to_string()).collect::<Vec<_>>();
    // Said where it is not the usual one.
    let precision = (key.precision != Precision::Fp32)
        .then(|| ("precision".to_owned(), key.precision.to_string()));
    let named = [
        ("backbone_name", store.backbone_name().to_owned()),
        ("backbone_digest", key.backbone.to_string()),
        ("preset", key.preset.to_string()),
        (
            "input_size",
            format!("{}x{}", key.input_size[0], key.input_size[1]),
        ),
        ("dtype", key.dtype.to_string()),
        ("decoder", key.decoder.clone()),
        ("map_shape", shape),
        ("features_computed_by", engines.join("; ")),
    ]
    .map(|(k, v)| (k.to_owned(), v));
    named.into_iter().chain(precision).collect()
}
