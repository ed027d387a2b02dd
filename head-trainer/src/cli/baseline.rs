//! `head-trainer baseline`.

mod inputs;
mod text;
mod training;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::ensure;
use extractor::cli::common::{Outcome, OutputArgs};
use extractor::cli::signals::Signals;
use extractor::decode::Exif;
use extractor::files::{counted, escape_path};
use extractor::images::Columns;
use serde_json::json;

use self::training::{Around, LAG, train};
use super::choices::ChoiceArgs;
use super::data::ImageArgs;
use super::train::ProtocolName;
use super::train::repeat::{self, Repeat};
use crate::baseline::{self, BaselineConfig};
use crate::dataset::PixelSet;
use crate::protocol::{Protocol, Tutorial};
use crate::run::Draft;
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
    /// Height and width that images are resized to [default: those of the newest head on the same
    /// index, else 100x100].
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    size: Option<Size>,
    /// What to do with the orientation noted in an image's EXIF block [default: what was done for the
    /// newest head on the same index, else ignore].
    #[arg(long, value_enum)]
    exif: Option<Exif>,
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
    /// How much of batch normalisation's moving mean and variance each batch leaves [default: Keras's
    /// 0.99; 0.9 for a training of fewer than 459 steps, after which 0.99 would leave more than 1 %
    /// of their first values].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    momentum: Option<f64>,
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
    #[command(flatten)]
    choices: ChoiceArgs,
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

/// The largest image side: a batch of such takes some 3 GB in training.
const MOST_SIDE: usize = 512;

/// Height and width.
#[derive(Clone, Copy, Debug)]
struct Size([usize; 2]);

/// The momentum of batch normalisation for a training of so many steps.
fn usual_momentum(steps: u64) -> f64 {
    let keras = BaselineConfig::default();
    match keras.lag(steps) > LAG {
        true => 0.9,
        false => keras.momentum,
    }
}

fn parse_size(text: &str) -> Result<Size, String> {
    let sides = baseline::LEAST_SIDE..=MOST_SIDE;
    let (least, most) = (sides.start(), sides.end());
    let wrong = || format!("`{text}` is not HxW, such as 100x100, of {least} to {most} pixels");
    let (height, width) = text.split_once('x').ok_or_else(wrong)?;
    match (height.parse(), width.parse()) {
        (Ok(height), Ok(width)) if [height, width].iter().all(|side| sides.contains(side)) => {
            Ok(Size([height, width]))
        }
        _ => Err(wrong()),
    }
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
        let (mut config, choices) = match &repeat {
            Some(repeat) => (repeat.baseline()?, repeat.choices()),
            None => (self.config()?, self.choices.choices()),
        };
        self.images.set_threads()?;
        let draft = Draft::new(&runs)?;
        let inputs = match &repeat {
            Some(repeat) => self.repeated(repeat, output)?,
            None => self.inputs(&signals, &runs, output)?,
        };
        let Some(inputs) = inputs else {
            return Ok(Outcome::Interrupted(signals.received().unwrap_or(2)));
        };
        let set = PixelSet::load(inputs.store, &inputs.index, &inputs.split)?;
        if repeat.is_none() && self.momentum.is_none() {
            config.momentum = usual_momentum(config.steps(set.rows_on(Side::Train).len()));
        }
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
        let value = json!({ "run": escape_path(&folder), "record": record });
        let text = text::text(&set, &record, &escape_path(&folder));
        repeat::print(repeat.as_ref(), &folder, value, text, output)?;
        match inputs.skipped {
            0 => Ok(Outcome::Done),
            n => {
                tracing::warn!("{} skipped, each named above", counted(n, "image"));
                Ok(Outcome::Skipped)
            }
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
            momentum: self.momentum.unwrap_or(BaselineConfig::default().momentum),
            protocol,
            class_weight: self.class_weight.clone(),
            seed: self.seed,
        };
        config.check()?;
        Ok(config)
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
