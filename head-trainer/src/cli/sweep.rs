//! `head-trainer sweep`: many heads on the same features, compared.

mod files;
mod text;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{bail, ensure};
use extractor::cli::common::{Outcome as Exit, OutputArgs};
use extractor::progress::Progress;

use self::files::Record;
use super::data::DataArgs;
use super::out::Out;
use super::train::{Inputs, SolverName};
use crate::dataset::{Dataset, find_store, find_stores};
use crate::decide::Choices;
use crate::run::Draft;
use crate::solver::adam::AdamConfig;
use crate::solver::lbfgs::Lbfgs;
use crate::solver::linfa::Linfa;
use crate::solver::{ClassWeight, FitConfig, MinimumConfig, SolverConfig};
use crate::split::Side;
use crate::sweep::folds::{Part, TrainSide, folds};
use crate::sweep::grid::{Grid, Values};
use crate::sweep::{self, By, Data, Outcome};

/// The penalties that are tried where none are named.
const PENALTIES: &str = "1e-6..1e5:45";

/// Flags of `head-trainer sweep`, as typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Compare all stores that fit --backbone, --preset and --dtype, not the usual one alone.
    #[arg(long)]
    all_stores: bool,

    /// Solvers, with commas between them. Penalties of lbfgs that differ alone are one path.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "lbfgs")]
    solver: Vec<SolverName>,
    /// Penalties l2/2 |w|^2: numbers with commas between them, or FROM..TO:COUNT in equal ratios
    /// [default: 1e-6..1e5:45 for lbfgs and linfa, 0 for adam].
    #[arg(long, value_name = "VALUES", allow_hyphen_values = true)]
    l2: Option<Values>,
    /// adam: step sizes, written as --l2 [default: 0.001].
    #[arg(long, value_name = "VALUES", allow_hyphen_values = true)]
    learning_rate: Option<Values>,
    /// adam: numbers of epochs, with commas between them [default: 7].
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    epochs: Vec<u32>,
    /// adam: images a step [default: 64].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    batch_size: Option<u32>,
    /// lbfgs, linfa: iterations at most [default: 1000].
    #[arg(long, value_name = "N")]
    max_iterations: Option<u64>,
    /// lbfgs, linfa: gradient norm to stop at [default: 0.0001].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    gradient_tolerance: Option<f64>,
    /// Standardise the features (folded back into the head's weights).
    #[arg(long)]
    standardize: bool,
    /// What each class's losses count in training: none, balanced or a number for each class.
    #[arg(long, value_name = "W", default_value = "none")]
    class_weight: ClassWeight,

    /// Judge each head on K folds of the training side, by heads that did not see them. The
    /// validation and the test side are not touched.
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..=1000))]
    folds: u16,
    /// Judge each head on the validation side instead, trained N times with the seeds --seed,
    /// --seed + 1 and so on (adam alone draws random numbers).
    #[arg(long, value_name = "N", conflicts_with = "folds", value_parser = clap::value_parser!(u16).range(1..=1000))]
    seeds: Option<u16>,
    /// Seed of the folds, and of adam's initial weights and order of images.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// What to compare by.
    #[arg(long, value_enum, default_value = "loss")]
    by: By,
    /// Choose the simplest head within one standard error of the best one: the strongest penalty,
    /// then the fewest epochs, then the smallest steps.
    #[arg(long)]
    one_standard_error: bool,
    /// Train the chosen head on the whole training side and record the run.
    #[arg(long)]
    train: bool,
    /// Rows of the table to print; the files have all.
    #[arg(long, default_value_t = 20, value_name = "N")]
    top: usize,
    /// Folder for sweep.csv and sweep.json [default: DATA_DIR/sweeps/<time>-<digest>].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// With --train: folder that the run's folder goes to [default: DATA_DIR/runs].
    #[arg(long, value_name = "DIR", requires = "train")]
    runs: Option<PathBuf>,
}

impl Args {
    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Exit> {
        let started = Instant::now();
        let candidates = self.candidates()?;
        self.data.images.set_threads()?;
        let index = self.data.images.index(output)?;
        let (root, filter) = (self.data.store_root(output), self.data.filter()?);
        let stores = match self.all_stores {
            true => find_stores(&root, &filter)?,
            false => vec![find_store(&root, &filter)?],
        };
        let runs = self.runs.clone();
        let runs = runs.unwrap_or_else(|| output.data_dir.join("runs"));
        let draft = self.train.then(|| Draft::new(&runs)).transpose()?;
        let out = Out::new(self.out.as_deref(), &output.data_dir.join("sweeps"))?;

        let (mut swept, mut splits) = (Vec::new(), BTreeSet::new());
        for store in &stores {
            let dataset = self.data.load(store, &index, output)?;
            splits.insert(dataset.split.digest.to_string());
            ensure!(
                splits.len() == 1,
                "the split changed while the sweep ran (hint: run it again)"
            );
            let outcomes = self.sweep(&dataset, &candidates, output)?;
            swept.push((store.clone(), dataset, outcomes));
        }
        let outcomes: Vec<Outcome> = swept.iter().flat_map(|(.., o)| o.clone()).collect();
        let order = sweep::ranked(&outcomes, self.by);
        let chosen = sweep::choose(&outcomes, self.by, self.one_standard_error);
        let judged = match self.seeds {
            None => format!(
                "{} folds of the training side, seed {}",
                self.folds, self.seed
            ),
            Some(seeds) => format!("the validation side, {seeds} seeds from {}", self.seed),
        };
        let secs = started.elapsed().as_secs_f64();
        let mut record = Record::new(&swept, &order, chosen, (self.by, judged), &index, secs);
        let digest = record.write(out.path())?;
        let out = out.publish(&digest)?;
        if let Some(draft) = draft {
            let (_, dataset, _) = &swept[chosen / candidates.len()];
            let inputs = Inputs {
                dataset,
                index_path: &index,
                load_secs: 0.0,
            };
            let config = &outcomes[chosen].config;
            let (trained, folder) = inputs.train(config, Choices::default(), draft)?;
            record.trained(&folder, &trained);
            record.write(&out)?;
        }
        let text = text::text(&record, self.top, self.one_standard_error, &out);
        output.print(&record.json(&out), &text)?;
        Ok(Exit::Done)
    }

    fn sweep(
        &self,
        dataset: &Dataset,
        candidates: &[FitConfig],
        output: &OutputArgs,
    ) -> anyhow::Result<Vec<Outcome>> {
        let side = TrainSide {
            rows: dataset.train_rows(),
            starts: dataset.train_starts(),
        };
        let parts = match self.seeds {
            None => folds(side, &dataset.labels_n, self.folds.into(), self.seed),
            Some(seeds) => {
                let validation = dataset.rows_on(Side::Validation);
                ensure!(
                    !validation.is_empty(),
                    "the validation side has no images to judge by (hint: --folds)"
                );
                let part = Part {
                    train: side.rows.to_vec(),
                    starts: side.starts.to_vec(),
                    validation,
                };
                vec![part; seeds.into()]
            }
        };
        let seeds: Option<Vec<u64>> = self.seeds.map(|n| {
            (0..u64::from(n))
                .map(|i| self.seed.wrapping_add(i))
                .collect()
        });
        let data = Data {
            rows: dataset.pooled.rows(),
            labels_n: &dataset.labels_n,
            classes: dataset.classes.len(),
            parts: &parts,
        };
        let total = (candidates.len() * parts.len()) as u64;
        let progress = Progress::new("training", "heads", total, output.quiet);
        let outcomes = sweep::run(data, candidates, seeds.as_deref(), &|| progress.add(1))?;
        Ok(outcomes)
    }

    /// Every candidate, each number checked.
    fn candidates(&self) -> anyhow::Result<Vec<FitConfig>> {
        let adam = self.solver.contains(&SolverName::Adam);
        let minimum = self.solver.iter().any(|s| *s != SolverName::Adam);
        for (flag, given, fits, needed) in [
            (
                "--learning-rate",
                self.learning_rate.is_some(),
                adam,
                "--solver adam",
            ),
            ("--epochs", !self.epochs.is_empty(), adam, "--solver adam"),
            (
                "--batch-size",
                self.batch_size.is_some(),
                adam,
                "--solver adam",
            ),
            (
                "--seeds",
                self.seeds.is_some(),
                !minimum,
                "--solver adam alone",
            ),
            (
                "--max-iterations",
                self.max_iterations.is_some(),
                minimum,
                "--solver lbfgs or linfa",
            ),
            (
                "--gradient-tolerance",
                self.gradient_tolerance.is_some(),
                minimum,
                "--solver lbfgs or linfa",
            ),
        ] {
            if given && !fits {
                bail!("{flag} needs {needed}");
            }
        }
        let values = |values: &Option<Values>| values.clone().map_or_else(Vec::new, |v| v.0);
        let usual: Values = PENALTIES.parse().map_err(anyhow::Error::msg)?;
        let default = MinimumConfig::default();
        let minimum = MinimumConfig {
            max_iterations: self.max_iterations.unwrap_or(default.max_iterations),
            gradient_tolerance: self
                .gradient_tolerance
                .unwrap_or(default.gradient_tolerance),
            ..default
        };
        let mut candidates: Vec<FitConfig> = Vec::new();
        for name in &self.solver {
            let (solver, l2) = match name {
                SolverName::Lbfgs => (SolverConfig::Lbfgs(Lbfgs(minimum)), &usual.0[..]),
                SolverName::Linfa => (SolverConfig::Linfa(Linfa(minimum)), &usual.0[..]),
                SolverName::Adam => {
                    let default = AdamConfig::default();
                    let adam = AdamConfig {
                        batch_size: self.batch_size.unwrap_or(default.batch_size),
                        seed: self.seed,
                        ..default
                    };
                    (SolverConfig::Adam(adam), &[][..])
                }
            };
            let grid = Grid {
                base: FitConfig {
                    standardize: self.standardize,
                    class_weight: self.class_weight.clone(),
                    ..FitConfig::new(solver.clone())
                },
                solvers: vec![solver],
                l2: self.l2.as_ref().map_or(l2, |values| &values.0).to_vec(),
                learning_rates: values(&self.learning_rate),
                epochs: self.epochs.clone(),
            };
            for candidate in grid.candidates() {
                candidate.check()?;
                if !candidates.contains(&candidate) {
                    candidates.push(candidate);
                }
            }
        }
        Ok(candidates)
    }
}
