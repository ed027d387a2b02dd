//! `extractor backbone quantize`: flags as typed, then the steps one after the other.

mod verdict;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail};

use super::source::Source;
use crate::backbone::quantized::{Finished, Quantized, check_is_float};
use crate::backbone::{Backbone, Model, Overrides};
use crate::cli::common::{Outcome, OutputArgs, set_threads, skipped_line};
use crate::cli::engine::{Wanted, open_backbone};
use crate::cli::features::parse_size;
use crate::cli::index;
use crate::cli::place::IndexPlace;
use crate::cli::signals::Signals;
use crate::decode::Exif;
use crate::files::{FileError, counted, escape_path};
use crate::images::{Columns, DataSet};
use crate::preprocess::Preset;
use crate::progress::Progress;
use crate::quantize::choose::{Orders, PER_CLASS, orders};
use crate::quantize::compare::{Pooled, compare};
use crate::quantize::left_out::LeftOut;
use crate::quantize::load::{Loaded, Loader};
use crate::quantize::python::{self, Python, PythonError};
use crate::quantize::{Heads, Method, Quantised, Quantiser, judge, npy};
use verdict::{Judged, Written, accuracies, points};

const PROMISE: &str = "nothing is written";

/// Flags of `extractor backbone quantize`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The float32 backbone: an ONNX file, with its description (.toml) beside it.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Images like those that it will see: a folder with one sub-folder a class, a manifest or an archive.
    #[arg(value_name = "DATA")]
    data: PathBuf,
    /// Images that the ranges of its activations are taken from.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    calibrate: u32,
    /// How the ranges are taken from them.
    #[arg(long, value_enum, default_value = "percentile")]
    method: Method,
    /// Labelled images, others where there are enough, over which both models are compared.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(20..=1_000_000))]
    judge: u32,
    /// Percentage points of head accuracy that the 8-bit backbone may lose; if it loses more, it is not written.
    /// Compared with the measured difference itself, whatever its standard error.
    #[arg(long, value_name = "POINTS", default_value_t = 1.0, allow_negative_numbers = true, value_parser = finite)]
    max_drop: f64,
    /// A split; images of its test side are neither calibrated nor judged with.
    #[arg(long, value_name = "FILE")]
    split: Option<PathBuf>,
    /// Where the 8-bit backbone goes; its description lies beside it [default: DATA_DIR/backbones/NAME.onnx].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Name [default: the model's and -int8].
    #[arg(long)]
    name: Option<String>,
    /// Preprocessing [default: what the backbone's description says].
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Height and width of the input, for a backbone that leaves them open: 100x100.
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    input_size: Option<[usize; 2]>,
    /// What to do with the orientation noted in an image's EXIF block.
    #[arg(long, value_enum, default_value_t)]
    exif: Exif,
    /// Where the index goes [default: DATA_DIR/indexes/NAME-DIGEST.arrow].
    #[arg(long, value_name = "FILE")]
    index: Option<PathBuf>,
    /// Images a run of both models.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch_size: u16,
    /// Threads [default: as many as this process was given].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// A Python of 3.9 or later that starts the quantiser; it finds or is one of 3.11 to 3.13.
    #[arg(long, value_name = "FILE", default_value = "python3")]
    python: PathBuf,
    /// The quantiser's environment, made the first time (110 MB of downloads) [default: DATA_DIR/python/quantize].
    #[arg(long, value_name = "DIR", env = "HEADSTART_QUANTIZE_VENV")]
    venv: Option<PathBuf>,
    #[command(flatten)]
    columns: Columns,
}

fn finite(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(points) if points.is_finite() => Ok(points),
        _ => Err(format!("`{text}` is no number of points, such as 0.5")),
    }
}

impl Args {
    pub(super) fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let signals = Signals::install()?;
        let ended = signals.gently(PROMISE, |stop| self.quantize(stop, output));
        match (signals.received(), ended) {
            (Some(signal), Err(_)) => Ok(Outcome::Interrupted(signal)),
            (_, ended) => ended,
        }
    }

    fn quantize(&self, stop: &AtomicBool, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let threads = set_threads(self.threads)?;
        let overrides = Overrides {
            preset: self.preset,
            input_size: self.input_size,
        };
        // All that can fail cheaply fails before the images are read.
        let model = Model::read(&self.model, &overrides)?;
        let context = || format!("cannot quantise {}", escape_path(&self.model));
        check_is_float(&model.bytes()?).with_context(context)?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => format!("{}-int8", model.spec.name),
        };
        let how = format!("{} images, {}", self.calibrate, self.method);
        let quantized = Quantized::of(&model, &name, &how)?;
        let source = Source {
            path: self.model.clone(),
            sha256: model.spec.digest,
            address: None,
        };
        let out = source.place(self.out.clone(), &name, output)?;
        quantized.check_place(&out)?;
        let split = self.split.as_deref().map(LeftOut::read).transpose()?;
        python::check(&self.python)?;
        let batch_size = usize::from(self.batch_size);
        let float = open(&self.model, &overrides, threads, batch_size, output)?;

        let place = IndexPlace::open(self.index.as_deref(), &self.data, output)?;
        let data = DataSet::open_at(&self.data, &self.columns, &output.data_dir)?;
        let indexed = index::make(&data, &place.path, false, false, output)?;
        place.publish()?;
        let index = &indexed.index;
        let left_out = split.map(|split| split.ids(index)).transpose()?;
        let orders = orders(
            index,
            self.judge as usize,
            left_out.as_ref().unwrap_or(&HashSet::new()),
        );
        self.check_enough(&orders)?;

        let folder = tempfile::Builder::new()
            .prefix("headstart-quantize-")
            .tempdir()
            .context("cannot make a temporary folder (hint: TMPDIR names another place)")?;
        let usual = || output.data_dir.join("python").join("quantize");
        let venv = self.venv.clone().unwrap_or_else(usual);
        let work = Work {
            args: self,
            data: &data,
            loader: Loader {
                images: &data,
                index,
                exif: self.exif,
                preprocessor: model.spec.preprocessor(),
            },
            python: Python::new(&self.python, &venv, folder.path(), stop)?,
            folder: folder.path(),
            stop,
            quiet: output.quiet,
        };
        let mut skipped = 0;
        let (finished, quantised, calibrated) = work
            .quantise(&model, quantized, &orders, &mut skipped)
            .with_context(context)?;
        let made = folder.path().join("int8.onnx");
        finished.write(&made)?;
        let int8 = open(&made, &Overrides::default(), threads, batch_size, output)?;
        let (pooled, heads) = work.compare([float, int8], &orders, &mut skipped)?;
        let judged = Judged {
            both: pooled
                .positions
                .iter()
                .filter(|i| calibrated.contains(i))
                .count(),
            left_out: left_out.map(|ids| ids.len()),
            pooled,
            heads,
            quantised,
            threads,
        };
        if judged.heads.loss_points() > self.max_drop {
            bail!(
                "int8 costs {}, more than --max-drop {}: {} (hint: --calibrate more images, --method {}, or allow \
                 it with --max-drop)",
                points(judged.heads.loss_points()),
                self.max_drop,
                accuracies(&judged.heads),
                match self.method {
                    Method::Percentile => "minmax",
                    Method::Minmax => "percentile",
                }
            );
        }
        if 100.0 * judged.heads.standard_error > self.max_drop {
            tracing::warn!(
                "{} leave the difference uncertain (hint: more labelled images, or --judge more of them)",
                counted(judged.heads.images, "image")
            );
        }
        let description = finished.write(&out)?;
        let written = Written {
            float: &model,
            name: &name,
            finished: &finished,
            model: &out,
            description: &description,
        };
        judged.print(self, &written, output)?;
        match skipped + indexed.skipped.len() {
            0 => Ok(Outcome::Done),
            n => {
                tracing::warn!("{} skipped, each named above", counted(n, "image"));
                Ok(Outcome::Skipped)
            }
        }
    }

    fn check_enough(&self, orders: &Orders) -> anyhow::Result<()> {
        let data = escape_path(&self.data);
        if orders.judged_classes < 2 {
            bail!(
                "what int8 costs cannot be measured on {data}: it has {} of at least {PER_CLASS} images, and a head \
                 tells two or more apart (hint: name a data set with labels)",
                crate::files::counted_as(orders.judged_classes, "class", "classes")
            );
        }
        if orders.calibrate.len() < self.calibrate as usize {
            bail!(
                "{data} has {} to calibrate with, not {} (hint: --calibrate fewer)",
                counted(orders.calibrate.len(), "image"),
                self.calibrate
            );
        }
        Ok(())
    }
}

fn open(
    path: &Path,
    overrides: &Overrides,
    threads: usize,
    batch_size: usize,
    output: &OutputArgs,
) -> anyhow::Result<Backbone> {
    let model = Model::read(path, overrides)?;
    open_backbone(
        model,
        Wanted::on_the_cpu(threads),
        batch_size,
        &output.data_dir,
    )
}

/// What the steps work with.
struct Work<'a> {
    args: &'a Args,
    data: &'a DataSet,
    loader: Loader<'a>,
    python: Python<'a>,
    folder: &'a Path,
    stop: &'a AtomicBool,
    quiet: bool,
}

impl Work<'_> {
    /// Calibrates and quantises. Returns also the images that it calibrated with, by position in the index.
    fn quantise(
        &self,
        model: &Model,
        quantized: Quantized,
        orders: &Orders,
        skipped: &mut usize,
    ) -> anyhow::Result<(Finished, Quantised, HashSet<u32>)> {
        const MODEL: &str = "float.onnx";
        let put = |name: &str, bytes: &[u8]| {
            let path = self.folder.join(name);
            std::fs::write(&path, bytes).map_err(FileError::new("write", &path))
        };
        put(MODEL, &model.bytes()?)?;
        let (batches, calibrated) = self.calibration(model, &orders.calibrate, skipped)?;
        tracing::info!(
            "quantising with {} images, {}",
            self.args.calibrate,
            self.args.method
        );
        let quantiser = Quantiser {
            model: MODEL,
            input: &model.spec.input,
            batches: &batches,
            method: self.args.method,
        };
        let result = "quantized-qdq.onnx";
        let quantised = quantiser.run(result, &self.python)?;
        let path = self.folder.join(result);
        let bytes = std::fs::read(&path).map_err(FileError::new("read", &path))?;
        Ok((quantized.finish(&bytes)?, quantised, calibrated))
    }

    /// Writes the images to calibrate with as batches. Returns the files' names and the images' positions.
    fn calibration(
        &self,
        model: &Model,
        order: &[u32],
        skipped: &mut usize,
    ) -> anyhow::Result<(Vec<String>, HashSet<u32>)> {
        // Small, as all activations of a batch are in memory at once.
        let batch = model.spec.batch.unwrap_or(8);
        let wanted = self.args.calibrate as usize;
        let slot = self.loader.preprocessor.len();
        let shape = self.loader.preprocessor.shape(batch);
        let (mut names, mut positions) = (Vec::new(), HashSet::new());
        let mut write = |loaded: &Loaded| -> Result<(), FileError> {
            let name = format!("batch-{:05}.npy", names.len());
            let mut input = loaded.input.clone();
            // A last batch that is too small has its images again.
            while input.len() < batch * slot {
                let more = (batch * slot - input.len()).min(loaded.input.len());
                input.extend_from_slice(&loaded.input[..more]);
            }
            npy::write_f32(&self.folder.join(&name), &shape, &input)?;
            names.push(name);
            positions.extend(&loaded.positions);
            Ok(())
        };
        let mut skip = |path: &[u8], reason: &str| {
            *skipped += 1;
            eprintln!("{}", skipped_line(path, reason));
        };
        let loader = &self.loader;
        let count = loader.load(order, (wanted, batch), self.stop, &mut skip, &mut write)?;
        self.go_on()?;
        if count < wanted {
            bail!(
                "{} can be decoded, not {wanted} (hint: --calibrate fewer)",
                counted(count, "image")
            );
        }
        Ok((names, positions))
    }

    /// Runs both models over the images to judge by, and fits heads on what they give.
    fn compare(
        &self,
        mut backbones: [Backbone; 2],
        orders: &Orders,
        skipped: &mut usize,
    ) -> anyhow::Result<(Pooled, Heads)> {
        let wanted = orders.judge.len().min(self.args.judge as usize);
        let progress = Progress::new("comparing", "images", wanted as u64, self.quiet);
        let mut skip = |path: &[u8], reason: &str| {
            *skipped += 1;
            progress.line(&skipped_line(path, reason));
        };
        let pooled = compare(
            &mut backbones,
            &self.loader,
            (&orders.judge, wanted),
            self.stop,
            &mut skip,
            &mut |n| progress.add(n as u64),
        )?;
        progress.finish();
        self.go_on()?;
        drop(backbones);
        tracing::info!("fitting heads on both");
        let heads = judge(&pooled, &self.python).context("the two models cannot be compared")?;
        Ok((pooled, heads))
    }

    /// Whether loading ended as it should: not stopped, and with a source that can still be read.
    fn go_on(&self) -> anyhow::Result<()> {
        if self.stop.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(PythonError::Stopped.into());
        }
        match self.data.take_failure() {
            Some(e) => Err(anyhow::Error::from(e).context("the images cannot be read any more")),
            None => Ok(()),
        }
    }
}
