//! `head-trainer sweep`: many heads on the same features, compared.

mod candidates;
mod command;
mod files;
mod images;
mod stores;
mod text;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use extractor::cli::common::{Outcome as Exit, OutputArgs};
use extractor::cli::signals::Signals;
use extractor::digest::ImageId;
use extractor::files::counted;
use extractor::progress::Progress;

use self::files::Record;
use self::images::{JudgedOn, parts};
use self::stores::Stores;
use super::data::DataArgs;
use super::out::Out;
use super::train::{Inputs, SolverName};
use crate::decide::Choices;
use crate::run::Draft;
use crate::solver::{ClassWeight, FitConfig};
use crate::sweep::grid::Values;
use crate::sweep::{self, By, Data, Entry, Outcome, SweepError};

/// What a signal does to a sweep.
const PROMISE: &str = "the trainings in flight are finished, and nothing of a sweep that is not \
                       complete is kept";

/// Flags of `head-trainer sweep`, as typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Compare all stores that fit --backbone, --preset, --dtype and --precision, not the usual one alone, on
    /// the images that all of them have. A store that lacks images of the index is passed over.
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
    /// validation and the test side are not touched. An image's fold depends on its id and --seed.
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..=1000))]
    folds: u16,
    /// Judge each head on the validation side instead, trained N times with the seeds --seed,
    /// --seed + 1 and so on (adam alone draws random numbers). The images are the same every
    /// time: the standard error is that of initial weights and the order of images alone.
    #[arg(long, value_name = "N", conflicts_with = "folds", value_parser = clap::value_parser!(u16).range(1..=1000))]
    seeds: Option<u16>,
    /// Seed of the folds, and of adam's initial weights and order of images.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// What to compare by.
    #[arg(long, value_enum, default_value = "loss")]
    by: By,
    /// Choose the simplest head within one standard error of the best one, among those of the
    /// best one's store and solver: the strongest penalty, then the fewest epochs, then the
    /// smallest steps. Needs two folds or seeds.
    #[arg(long)]
    one_standard_error: bool,
    /// Train the chosen head on the whole training side of its store and record the run.
    #[arg(long)]
    train: bool,
    /// Rows of the table to print, and as many of those that failed; the files have all.
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
        ensure!(
            !self.one_standard_error || self.seeds != Some(1),
            "--one-standard-error needs a standard error, and --seeds 1 has none (hint: --seeds 5 \
             or --folds)"
        );
        self.data.images.set_threads()?;
        let index = self.data.images.index(output)?;
        let folders = match self.all_stores {
            true => self.data.find_stores(output)?,
            false => vec![self.data.find_store(output)?],
        };
        let job = Job {
            args: &self,
            output,
            index: &index,
            candidates: &candidates,
            judged_on: self.judged_on(),
        };
        let signals = Signals::install()?;
        let result = signals.gently(PROMISE, |stop| job.run(&folders, started, stop));
        match (result, signals.received()) {
            (Err(e), Some(signal)) if is_stop(&e) => Ok(Exit::Interrupted(signal)),
            (result, _) => result,
        }
    }

    fn judged_on(&self) -> JudgedOn {
        match self.seeds {
            None => JudgedOn::Folds {
                count: self.folds,
                seed: self.seed,
            },
            Some(count) => JudgedOn::Seeds {
                count,
                first: self.seed,
            },
        }
    }
}

fn is_stop(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(SweepError::Stopped))
}

/// A sweep whose flags are fine.
struct Job<'a> {
    args: &'a Args,
    output: &'a OutputArgs,
    index: &'a Path,
    candidates: &'a [FitConfig],
    judged_on: JudgedOn,
}

impl Job<'_> {
    fn run(
        &self,
        folders: &[PathBuf],
        started: Instant,
        stop: &AtomicBool,
    ) -> anyhow::Result<Exit> {
        let (args, data_dir) = (self.args, &self.output.data_dir);
        let runs = args.runs.clone().unwrap_or_else(|| data_dir.join("runs"));
        let draft = args.train.then(|| Draft::new(&runs)).transpose()?;
        let out = Out::new(args.out.as_deref(), &data_dir.join("sweeps"))?;
        let mut stores = Stores::check(self, folders, stop)?;
        let swept = self.sweep(&mut stores, stop)?;
        let entries: Vec<Entry<'_>> = swept
            .iter()
            .enumerate()
            .flat_map(|(store, outcomes)| {
                outcomes.iter().map(move |outcome| Entry { store, outcome })
            })
            .collect();
        let failed = entries
            .iter()
            .filter_map(|e| e.outcome.result.as_ref().err());
        let (failed, first) = (failed.clone().count(), failed.clone().next());
        let Some(chosen) = sweep::choose(&entries, args.by, args.one_standard_error) else {
            let first = first.context("a sweep has candidates")?;
            bail!("every candidate failed, the first on {first}");
        };
        if let Some(first) = first {
            let failed = counted(failed, "candidate");
            tracing::warn!("{failed} failed, the first on {first}");
        }
        let order = sweep::ranked(&entries, args.by);
        let secs = started.elapsed().as_secs_f64();
        let mut record = Record::new(self, &stores, &entries, (&order, chosen), secs);
        let digest = record.write(out.path())?;
        let out = out.publish(&digest)?;
        if let Some(draft) = draft {
            let Entry { store, outcome } = entries[chosen];
            let loading = Instant::now();
            let dataset = stores.load(store)?;
            let inputs = Inputs {
                dataset: &dataset,
                index_path: self.index,
                backbone: args.data.backbone.clone(),
                load_secs: loading.elapsed().as_secs_f64(),
            };
            let (trained, folder) = inputs.train(&outcome.config, Choices::default(), draft)?;
            record.trained(&folder, &trained);
            record.write(&out)?;
        }
        let text = text::text(&record, args.top, &out);
        self.output.print(&record.json(&out), &text)?;
        Ok(Exit::Done)
    }

    /// What came of the candidates on each store.
    fn sweep(
        &self,
        stores: &mut Stores<'_>,
        stop: &AtomicBool,
    ) -> anyhow::Result<Vec<Vec<Outcome>>> {
        let count = stores.all.len();
        let trainings = self.candidates.len() * count * self.judged_on.count();
        let quiet = self.output.quiet;
        let progress = Progress::new("training", "heads", trainings as u64, quiet);
        let swept = (0..count).map(|store| {
            let dataset = stores.load(store)?;
            let images: BTreeSet<ImageId> = stores.common.images.all.iter().map(|i| i.0).collect();
            let parts = parts(&dataset, self.judged_on, |id| images.contains(id))?;
            let data = Data {
                rows: dataset.pooled.rows(),
                labels_n: &dataset.labels_n,
                classes: dataset.classes.len(),
                parts: &parts,
            };
            let outcomes = sweep::run(data, self.candidates, stop, &|| progress.add(1))?;
            stores.keep(store, dataset);
            Ok(outcomes)
        });
        let swept = swept.collect();
        progress.finish();
        swept
    }
}
