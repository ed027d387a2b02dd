//! `head-trainer baseline`.

mod text;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use extractor::cli::common::{Outcome, OutputArgs, skipped_line};
use extractor::cli::index;
use extractor::cli::signals::Signals;
use extractor::decode::Exif;
use extractor::features::Report;
use extractor::files::{counted, create_folder, escape_path, grouped};
use extractor::images::{Columns, DataSet};
use extractor::index::Index;
use extractor::pixels;
use extractor::progress::Progress;
use extractor::store::Store;
use serde_json::json;

use super::data::ImageArgs;
use super::train::ProtocolName;
use super::train::repeat::Repeat;
use crate::baseline::{self, Baseline, BaselineConfig, Checkpoints};
use crate::dataset::{PixelSet, SplitSource};
use crate::decide::Choices;
use crate::judge::{Judgeable, judge};
use crate::metrics::threshold::Criterion;
use crate::protocol::{Protocol, Tutorial};
use crate::run::{Contents, Counts, Draft, Model, Places, RunKey, RunRecord, Trained};
use crate::solver::ClassWeight;
use crate::solver::adam::Schedule;
use crate::split::Side;

/// Flags of `head-trainer baseline`, as typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    images: ImageArgs,
    #[command(flatten)]
    columns: Columns,
    /// Folder of stores of pixels: images decoded and resized once [default: DATA_DIR/pixels].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Height and width that images are resized to.
    #[arg(long, value_name = "HxW", value_parser = parse_size, default_value = "100x100")]
    size: Size,
    /// What to do with the orientation noted in an image's EXIF block.
    #[arg(long, value_enum, default_value_t)]
    exif: Exif,
    /// Folder that the run's folder goes to [default: DATA_DIR/runs].
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,
    /// Train as this run was trained, to the same bits: its folder, its name, or the beginning of
    /// its name or digest. With --index, --split or --store: where they lie now.
    #[arg(long, value_name = "RUN", conflicts_with_all = TAKEN)]
    repeat: Option<PathBuf>,
    /// Folder of the checkpoints, one a training, written after each epoch, from which the same
    /// command goes on after an interruption, to the same bits; removed at the end
    /// [default: DATA_DIR/checkpoints].
    #[arg(long, value_name = "DIR")]
    checkpoints: Option<PathBuf>,
    /// Begin anew even where a checkpoint is.
    #[arg(long)]
    fresh: bool,

    /// Epochs.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    epochs: u32,
    /// Images a step.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch_size: u32,
    /// Adam's step size.
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.001,
        allow_negative_numbers = true
    )]
    learning_rate: f64,
    /// How the step size changes: constant, cosine or exponential:RATE (the factor at the end).
    #[arg(long, value_name = "S", default_value = "constant")]
    schedule: Schedule,
    /// Stop after N epochs without a lower validation loss and take the best epoch's weights.
    #[arg(long, value_name = "N")]
    patience: Option<u32>,
    /// Mirror each training image left to right with probability one half.
    #[arg(long)]
    flip: bool,
    /// Move each training image by up to N pixels along both axes.
    #[arg(long, value_name = "N")]
    crop: Option<u32>,
    /// How much of batch normalisation's moving mean and variance each batch leaves; a training of
    /// few steps wants less than Keras's 0.99.
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.99,
        allow_negative_numbers = true
    )]
    momentum: f64,
    /// What an epoch is.
    #[arg(long, value_enum, default_value = "full")]
    protocol: ProtocolName,
    /// tutorial protocol: steps an epoch [default: 363].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    steps_per_epoch: Option<u32>,
    /// tutorial protocol: images in the shuffle buffer [default: 1000].
    #[arg(long, value_name = "N")]
    shuffle_buffer: Option<u32>,
    /// What each class's losses count in training: none, balanced or a number for each class.
    #[arg(long, value_name = "W", default_value = "none")]
    class_weight: ClassWeight,
    /// Seed of the initial weights, the order of images and what is drawn for them.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Fit a temperature on the validation side, so that probabilities are what they say.
    #[arg(long)]
    temperature: bool,
    /// Two classes: choose the threshold on the validation side, by youden, f1, accuracy or
    /// cost:FP:FN [default: 0.5].
    #[arg(long, value_name = "CRITERION")]
    threshold: Option<Criterion>,
}

/// The flags that `--repeat` takes from the run: all that change a result.
const TAKEN: [&str; 21] = [
    "size",
    "exif",
    "split_mode",
    "split_seed",
    "split_fractions",
    "resplit",
    "epochs",
    "batch_size",
    "learning_rate",
    "schedule",
    "patience",
    "flip",
    "crop",
    "momentum",
    "protocol",
    "steps_per_epoch",
    "shuffle_buffer",
    "class_weight",
    "seed",
    "temperature",
    "threshold",
];

/// What happens at a signal while images are decoded.
const PROMISE: &str = "the batch in flight is finished and what is decoded is kept";

/// Height and width.
#[derive(Clone, Copy, Debug)]
struct Size([usize; 2]);

fn parse_size(text: &str) -> Result<Size, String> {
    let least = baseline::LEAST_SIDE;
    let wrong = || format!("`{text}` is not HxW, such as 100x100, of {least} to 4096 pixels");
    let (height, width) = text.split_once('x').ok_or_else(wrong)?;
    match (height.parse(), width.parse()) {
        (Ok(height), Ok(width))
            if [height, width]
                .iter()
                .all(|side| (least..=4096).contains(side)) =>
        {
            Ok(Size([height, width]))
        }
        _ => Err(wrong()),
    }
}

/// What to train on.
struct Inputs {
    store: Store,
    index: Index,
    index_path: PathBuf,
    split: SplitSource,
    skipped: usize,
}

impl Args {
    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let started = Instant::now();
        let signals = Signals::install()?;
        let runs = self.runs.clone();
        let runs = runs.unwrap_or_else(|| output.data_dir.join("runs"));
        let repeat = self.repeat.as_deref();
        let repeat = repeat.map(|run| Repeat::read(&runs, run)).transpose()?;
        let (config, choices) = match &repeat {
            Some(repeat) => (repeat.baseline()?, repeat.choices()),
            None => (self.config()?, self.choices()),
        };
        self.images.set_threads()?;
        let draft = Draft::new(&runs)?;
        let inputs = match &repeat {
            Some(repeat) => self.repeated(repeat, output)?,
            None => self.inputs(&signals, output)?,
        };
        let Some(inputs) = inputs else {
            return Ok(Outcome::Interrupted(signals.received().unwrap_or(2)));
        };
        let set = PixelSet::load(inputs.store, &inputs.index, &inputs.split)?;
        let (record, folder) = train(
            &set,
            &config,
            choices,
            draft,
            &Around {
                index_path: &inputs.index_path,
                load_secs: started.elapsed().as_secs_f64(),
                checkpoints: &self
                    .checkpoints
                    .clone()
                    .unwrap_or_else(|| output.data_dir.join("checkpoints")),
                fresh: self.fresh,
                quiet: output.quiet,
            },
        )?;
        let mut value = json!({ "run": escape_path(&folder), "record": record });
        let mut text = text::text(&set, &record, &escape_path(&folder));
        let repeated = match &repeat {
            Some(repeat) => Some((repeat, repeat.compare(&folder, &mut value, &mut text)?)),
            None => None,
        };
        output.print(&value, &text)?;
        if let Some((repeat, same)) = repeated {
            repeat.check(&folder, same)?;
        }
        match inputs.skipped {
            0 => Ok(Outcome::Done),
            n => {
                tracing::warn!("{} skipped, each named above", counted(n, "image"));
                Ok(Outcome::Skipped)
            }
        }
    }

    fn choices(&self) -> Choices {
        Choices {
            temperature: self.temperature,
            threshold: self.threshold,
        }
    }

    fn config(&self) -> anyhow::Result<BaselineConfig> {
        let tutorial = Tutorial::default();
        let protocol = match self.protocol {
            ProtocolName::Full => {
                for (flag, given) in [
                    ("--steps-per-epoch", self.steps_per_epoch.is_some()),
                    ("--shuffle-buffer", self.shuffle_buffer.is_some()),
                ] {
                    ensure!(!given, "{flag} needs --protocol tutorial");
                }
                Protocol::Full
            }
            ProtocolName::Tutorial => Protocol::Tutorial(Tutorial {
                steps_per_epoch: self.steps_per_epoch.unwrap_or(tutorial.steps_per_epoch),
                shuffle_buffer: self.shuffle_buffer.unwrap_or(tutorial.shuffle_buffer),
                ..tutorial
            }),
        };
        let config = BaselineConfig {
            epochs: self.epochs,
            batch_size: self.batch_size,
            learning_rate: self.learning_rate,
            schedule: self.schedule,
            patience: self.patience,
            flip: self.flip,
            crop: self.crop,
            momentum: self.momentum,
            protocol,
            class_weight: self.class_weight.clone(),
            seed: self.seed,
        };
        config.check()?;
        Ok(config)
    }

    /// What a run to be repeated was trained on.
    fn repeated(&self, repeat: &Repeat, output: &OutputArgs) -> anyhow::Result<Option<Inputs>> {
        let named = self.images.named_index(output)?;
        let index_path = named.unwrap_or_else(|| repeat.index());
        let (store, split) = (self.store.as_deref(), self.images.split.split.as_deref());
        let (store, split) = repeat.inputs(&index_path, store, split)?;
        Ok(Some(Inputs {
            store: Store::open(&store)?,
            index: Index::read(&index_path)?,
            index_path,
            split,
            skipped: 0,
        }))
    }

    /// Index, split and pixels, made where they are not there yet; none if a signal ended that.
    fn inputs(&self, signals: &Signals, output: &OutputArgs) -> anyhow::Result<Option<Inputs>> {
        let Some(index_path) = self.images.named_index(output)? else {
            bail!("no data set is named (hint: head-trainer baseline DATA, or --index FILE)");
        };
        let open = |dir: &Path| DataSet::open(dir, &self.columns);
        let images = self.images.dir.as_deref().map(open).transpose()?;
        let mut skipped = 0;
        let index = match (index_path.exists(), &images) {
            (true, _) => Index::read(&index_path)?,
            (false, Some(images)) => {
                let indexed = index::make(images, &index_path, false, false, output)?;
                skipped += indexed.skipped.len();
                indexed.index
            }
            (false, None) => bail!(
                "there is no index {} (hint: name the data set, too)",
                escape_path(&index_path)
            ),
        };
        let root = self.store.clone();
        let root = root.unwrap_or_else(|| output.data_dir.join("pixels"));
        let key = pixels::key(self.size.0, self.exif);
        let mut store = pixels::open(&root, &key)?.map(Store::to_try_again);
        let plan = pixels::plan(&index, store.as_ref());
        for (position, reason) in &plan.rejected {
            eprintln!(
                "{}",
                skipped_line(index.entry(*position as usize).path, reason)
            );
        }
        skipped += plan.rejected.len();
        if !plan.missing.is_empty() {
            let missing = plan.missing.len();
            let Some(images) = &images else {
                bail!(
                    "{} of {} have no pixels in {} (hint: name the data set, too)",
                    grouped(missing as u64),
                    counted(index.unique().count(), "image"),
                    escape_path(&root)
                );
            };
            let bar = Bar(Progress::new(
                "decoding",
                "images",
                missing as u64,
                output.quiet,
            ));
            let filled = signals.gently(PROMISE, |stop| {
                pixels::fill(images, &index, &plan.missing, (&root, &key), stop, &bar)
            });
            bar.0.finish();
            skipped += filled?.rejected.len();
            if signals.received().is_some() {
                return Ok(None);
            }
            store = pixels::open(&root, &key)?;
        }
        let Some(store) = store else {
            bail!("the index {} has no image", escape_path(&index_path));
        };
        Ok(Some(Inputs {
            store,
            split: self.images.split.source(&index_path),
            index,
            index_path,
            skipped,
        }))
    }
}

struct Bar(Progress);

impl Report for Bar {
    fn done(&self, n: usize) {
        self.0.add(n as u64);
    }

    fn rejected(&self, path: &[u8], reason: &str) {
        self.0.line(&skipped_line(path, reason));
    }
}

/// What a training needs besides its data and configuration.
struct Around<'a> {
    index_path: &'a Path,
    load_secs: f64,
    checkpoints: &'a Path,
    fresh: bool,
    quiet: bool,
}

/// Trains a baseline, judges it on every side and publishes the run: its record and its folder.
fn train(
    set: &PixelSet,
    config: &BaselineConfig,
    choices: Choices,
    draft: Draft,
    around: &Around<'_>,
) -> anyhow::Result<(RunRecord, PathBuf)> {
    let (train, validation) = (set.rows_on(Side::Train), set.rows_on(Side::Validation));
    choices.check(set.classes.len(), &set.labels_of(&validation))?;
    let key = RunKey {
        store_key: set.store.key().digest(),
        index: set.index_digest,
        split: set.split.digest,
        config: Trained::Baseline {
            baseline: config.clone(),
        },
        choices,
        views: vec![extractor::store::IDENTITY.to_owned()],
    };
    let data = baseline::Data {
        images: set,
        labels_n: &set.labels_n,
        classes: set.classes.len(),
        train: &train,
        validation: &validation,
    };
    let digest = key.digest();
    let checkpoint = around
        .checkpoints
        .join(format!("baseline-{}.safetensors", digest.short()));
    let goes_on = checkpoint.exists();
    match (goes_on, around.fresh) {
        (true, true) => remove(&checkpoint)?,
        (true, false) => tracing::info!(
            "going on from the checkpoint {} (hint: --fresh begins anew)",
            escape_path(&checkpoint)
        ),
        (false, _) => create_folder(around.checkpoints)?,
    }
    let checkpoints = Checkpoints {
        path: checkpoint.clone(),
        key: digest.to_string(),
    };
    let progress = Cell::new(None);
    let fit_started = Instant::now();
    let fit = baseline::train(
        &data,
        config,
        Some(&checkpoints),
        &mut |event| match event {
            baseline::Progress::Step { step, total } => {
                let bar: Progress = progress.take().unwrap_or_else(|| {
                    let bar = Progress::new("training", "steps", total, around.quiet);
                    bar.add(step.step - 1);
                    bar
                });
                bar.add(1);
                progress.set(Some(bar));
            }
            baseline::Progress::Epoch(epoch) => tracing::debug!(
                "epoch {}: validation {:?}",
                epoch.epoch,
                epoch.validation_accuracy
            ),
        },
    )?;
    if let Some(bar) = progress.take() {
        bar.finish();
    }
    let fit_secs = fit_started.elapsed().as_secs_f64();
    warn_of_lag(config, fit.steps.len());
    let judged = judge(&choices, |side| {
        let rows = set.rows_on(side);
        Judgeable {
            ids: set.ids_of(&rows),
            labels: set.labels_of(&rows),
            logits: fit.network.logits(set, &rows),
        }
    })?;
    let mut record = RunRecord::of_baseline(key, set.classes.clone(), &fit);
    record.decision = judged.decision;
    record.metrics = judged.metrics;
    record.places = Places {
        store: escape_path(set.store.folder()),
        index: escape_path(around.index_path),
        split: escape_path(&set.split.path),
    };
    record.split_plan = set.split.header.map(|header| header.plan);
    record.counts = Counts {
        train: set.counts_on(Side::Train),
        validation: set.counts_on(Side::Validation),
        test: set.counts_on(Side::Test),
    };
    let [height, width] = set.store.key().input_size;
    record.provenance = [
        ("preset", "unit".to_owned()),
        ("input_size", format!("{height}x{width}")),
        ("decoder", set.store.key().decoder.clone()),
        ("exif", set.store.key().exif.to_string()),
        ("resize", set.store.key().resize.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    record.secs.insert("load".to_owned(), around.load_secs);
    record.secs.insert("fit".to_owned(), fit_secs);
    let saved = Baseline {
        network: fit.network.clone(),
        classes: record.classes.clone(),
        decision: judged.decision,
        metadata: BTreeMap::from([
            ("store_key".to_owned(), record.key.store_key.to_string()),
            ("preset".to_owned(), "unit".to_owned()),
            ("run".to_owned(), digest.to_string()),
        ]),
    };
    let folder = draft.publish(&Contents {
        record: &record,
        model: Model::Baseline(&saved),
        steps: &fit.steps,
        predictions: &judged.predictions,
    })?;
    remove(&checkpoint)?;
    Ok((record, folder))
}

/// Share of their first values in the moving moments at which a finished network is not what it was
/// trained to be.
const LAG: f64 = 0.01;

/// Says so where a training was too short for its moving moments.
fn warn_of_lag(config: &BaselineConfig, steps: usize) {
    let rest = config.momentum.powf(steps as f64);
    if rest > LAG {
        tracing::warn!(
            "after {} the moving moments of batch normalisation hold {:.0} % of their first values \
             still, so validation and test look worse than they would (hint: --momentum 0.9, as Keras's \
             0.99 is for long trainings, or more --epochs)",
            counted(steps, "step"),
            100.0 * rest
        );
    }
}

fn remove(checkpoint: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(checkpoint) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error)
            .with_context(|| format!("cannot remove the checkpoint {}", escape_path(checkpoint))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::*;

    #[test]
    fn every_flag_is_taken_from_the_run_or_changes_nothing() {
        let command = Args::augment_args(clap::Command::new("baseline"));
        let flags: Vec<&str> = command
            .get_arguments()
            .map(|a| a.get_id().as_str())
            .filter(|id| !TAKEN.contains(id))
            .collect();
        let allowed = [
            "dir",
            "index",
            "split",
            "threads",
            "path_column",
            "image_column",
            "label_column",
            "store",
            "runs",
            "repeat",
            "checkpoints",
            "fresh",
        ];
        let unknown: Vec<_> = flags.iter().filter(|id| !allowed.contains(id)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        for taken in TAKEN {
            let is_flag = |a: &clap::Arg| a.get_id() == taken;
            assert!(command.get_arguments().any(is_flag), "{taken}");
        }
    }
}
