//! `extractor features`.

mod engine;
mod memory;
mod share;
mod warnings;

use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use serde_json::json;

use super::common::{Bar, Outcome, OutputArgs, retry, set_threads, skipped_line};
use super::engine::{Wanted, in_precision};
use super::index;
use super::place::{IndexPlace, Stores, Uploading};
use super::signals::Signals;
use crate::backbone::{Model, Overrides};
use crate::decode::Exif;
use crate::engine::{Precision, Provider};
use crate::features::{self, Counts, Extracted, Job};
use crate::files::{counted, grouped};
use crate::images::Columns;
use crate::part::Part;
use crate::preprocess::Preset;
use crate::progress::Progress;
use crate::store::{self, Cost, Dtype, Store, StoreError, StoreJson, StoreKey, key, writer};
use crate::timings::Clock;
use crate::view::{View, Views};
use engine::{Running, with_sessions};
use share::{Chosen, Share};
use warnings::{warn_of, warn_of_classes};

/// What a signal does to an extraction.
const PROMISE: &str = "the batch in flight is finished and what is complete is kept";
/// And to the uploads after it.
const UPLOADING: &str = "what is complete is uploaded, or kept for the next run";

/// Flags of `extractor features`, as typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The images: a folder with one sub-folder a class, a manifest (.csv, .tsv, .parquet, a folder
    /// of .parquet), or a .zip or .tar archive, which is read in place; or the URL of one.
    #[arg(value_name = "DATA")]
    dir: PathBuf,
    /// The backbone: an ONNX file, with its description (.toml) beside it.
    #[arg(long, value_name = "FILE")]
    backbone: PathBuf,
    /// Folder of feature stores, one sub-folder a key, or its URL: s3://BUCKET/KEY, gs://..., az://...
    /// [default: DATA_DIR/features].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Where the index goes [default: DATA_DIR/indexes/NAME-DIGEST.arrow].
    #[arg(long, value_name = "FILE")]
    index: Option<PathBuf>,
    /// Preprocessing [default: what the backbone's description says].
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Height and width of the input, for a backbone that leaves them open: 100x100.
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    input_size: Option<[usize; 2]>,
    /// What to do with the orientation noted in an image's EXIF block.
    #[arg(long, value_enum, default_value_t)]
    exif: Exif,
    /// Element type of the stored features.
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Dtype,
    /// Views to compute of each image, such as identity,hflip,crop:4 (README: Views); identity is
    /// always among them. Those that are in the store are not computed again.
    #[arg(long, value_name = "LIST", default_value = "identity")]
    views: Views,
    /// Execution provider.
    #[arg(long, value_enum, default_value = "auto")]
    ep: Provider,
    /// Arithmetic of the backbone; part of the store's key. bf16 is OpenVINO's (extractor runtime fetch
    /// --flavour openvino) on a processor with AVX512_BF16 or AMX, tf32 is CUDA's.
    #[arg(long, value_enum, default_value_t)]
    precision: Precision,
    /// Images a run of the backbone.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch_size: u16,
    /// Threads [default: as many as this process was given, by its container or Slurm too].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Sessions of the backbone that share the threads [default: measured on the first batches].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    sessions: Option<u16>,
    /// Say where the time went, stage by stage.
    #[arg(long)]
    timings: bool,
    /// Compute part I of N alone, from 0/N on; an index that is there is used as it is [default: what
    /// the variables of a Slurm array or an indexed Kubernetes job say, else all].
    #[arg(long, value_name = "I/N")]
    shard: Option<Part>,
    /// Say what is in the store and what would be computed; nothing but the index is written, and no
    /// engine is opened.
    #[arg(long)]
    dry_run: bool,
    /// Stop with exit 1 at the first broken image.
    #[arg(long)]
    strict: bool,
    /// Read every file again instead of trusting unchanged time stamps.
    #[arg(long)]
    rehash: bool,
    #[command(flatten)]
    columns: Columns,
    /// Size of a shard, for tests.
    #[arg(long, hide = true, default_value_t = writer::SHARD_BYTES, value_name = "N")]
    shard_bytes: usize,
}

pub(super) fn parse_size(text: &str) -> Result<[usize; 2], String> {
    let wrong = || format!("`{text}` is not HxW, such as 100x100");
    let (height, width) = text.split_once('x').ok_or_else(wrong)?;
    match (height.parse(), width.parse()) {
        (Ok(height), Ok(width)) => Ok([height, width]),
        _ => Err(wrong()),
    }
}

impl Args {
    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let started = Instant::now();
        let signals = Signals::install()?;
        let threads = set_threads(self.threads)?;
        if let Some(sessions) = self.sessions.filter(|n| usize::from(*n) > threads) {
            bail!(
                "{sessions} sessions cannot share {} (hint: --threads gives more)",
                counted(threads, "thread")
            );
        }
        let wanted = Wanted {
            provider: self.ep.for_precision(self.precision)?,
            precision: self.precision,
            threads,
        };
        let overrides = Overrides {
            preset: self.preset,
            input_size: self.input_size,
        };
        // What is wrong with the backbone is said before the images are read.
        let model = Model::read(&self.backbone, &overrides)?;
        warn_of(&model);
        let stores = Stores::open(self.store.as_deref(), output)?;
        let key = StoreKey::new(&model.spec, self.exif, self.dtype).with_precision(self.precision);
        // A server that refuses is known before the images are read.
        let (root, folder) = stores.to_plan_with(&key, output)?;
        let index_place = IndexPlace::open(self.index.as_deref(), &self.dir, output)?;
        let chosen = Chosen::of(&self, &index_place)?;
        let images = chosen.open(&self.dir, &self.columns, &output.data_dir)?;
        let share = Share::of(&self, chosen, &images, &index_place, output)?;
        let indexed = &share.indexed;
        let index = &indexed.index;

        let name = model.spec.name.clone();
        let json = StoreJson {
            key: key.clone(),
            backbone_name: name.clone(),
            backbone_trained: model.spec.trained,
        };
        let store = match Store::open(&folder) {
            Ok(store) => Some(store),
            // Shards without a `store.json`, which was damaged and set aside: they say themselves
            // what they are.
            Err(StoreError::None(_)) if folder.is_dir() && store::has_rows(&folder)? => {
                key::create(&root, &json)?;
                stores.to_write_to(&json)?.finish()?;
                Some(Store::open(&folder)?)
            }
            Err(StoreError::None(_)) => None,
            Err(other) => return Err(other.into()),
        };
        let store = store.map(Store::to_try_again);
        if let Some(warning) = store.as_ref().and_then(Store::mixture) {
            tracing::warn!("{warning}");
        }
        memory::warn(&model, self.batch_size, index.len());
        if share.part.is_whole() {
            warn_of_classes(indexed, &self.dir);
        }
        let views = self.views.clone().with_identity();
        let unit = if views.is_identity() {
            "images"
        } else {
            "rows"
        };
        let plan = features::plan_of(index, store.as_ref(), &views, |e| share.dealt.has(e.path));
        for (position, reason) in &plan.rejected {
            let line = skipped_line(index.entry(*position as usize).path, reason);
            eprintln!("{line}");
            anyhow::ensure!(!self.strict, "{line} (--strict stops here)");
        }

        let total = plan.cached + plan.rejected.len() + plan.missing.len();
        let (rows_to_do, cached_rows) = (plan.missing.rows(), plan.cached_rows);
        let mut counts = Counts {
            cached: plan.cached,
            new: 0,
            rejected: plan.rejected.len(),
        };
        let mut extraction = None;
        let clock = Clock::since(started);
        let planned_secs = started.elapsed().as_secs_f64();
        let mut engine_secs = None;
        if !plan.missing.is_empty() && !self.dry_run {
            // No store is made before there is something to put into it.
            let batch_size = model.batch_size(self.batch_size.into());
            let running = Running {
                model,
                wanted,
                batch_size,
                sessions: self.sessions.map(usize::from),
                batches: plan.missing.rows().div_ceil(batch_size),
                data_dir: &output.data_dir,
            };
            let ((extracted, info, arrangement, secs), writing) =
                with_sessions(&running, |sessions| {
                    engine_secs = Some(started.elapsed().as_secs_f64());
                    let writing = stores.to_write_to(&json)?;
                    let bar = Progress::new("extracting", unit, rows_to_do as u64, output.quiet);
                    let bar = Bar(bar);
                    let start = Instant::now();
                    let extracted = signals.gently(PROMISE, |stop| {
                        let report = Uploading::new(&bar, &writing, stop);
                        let job = Job {
                            images: &images,
                            folder: &writing.folder,
                            key: &key,
                            strict: self.strict,
                            shard_bytes: self.shard_bytes,
                            stop: &report.stop,
                            clock: &clock,
                        };
                        features::extract(&job, sessions, index, &plan.missing, &report)
                    });
                    bar.0.finish();
                    let info = sessions.info().clone();
                    let secs = start.elapsed().as_secs_f64();
                    Ok(((extracted, info, sessions.arrangement(), secs), writing))
                })?;
            let extracted = match extracted {
                Ok(extracted) => extracted,
                Err(e) => {
                    // What was published before it is kept.
                    signals.gently(UPLOADING, |_| writing.finish())?;
                    return Err(e.into());
                }
            };
            counts.new = extracted.images;
            counts.rejected += extracted.rejected.len();
            if extracted.rows > 0 {
                let ended = SystemTime::now().duration_since(UNIX_EPOCH);
                let cost = Cost {
                    ended_unix_secs: ended.map_or(0, |time| time.as_secs()),
                    rows: extracted.rows as u64,
                    secs,
                    provider: info.provider.to_owned(),
                    processor: features::processor(),
                    threads: threads as u64,
                };
                cost.write(&writing.folder)?;
            }
            signals.gently(UPLOADING, |_| writing.finish())?;
            share.is_there(&extracted, plan.missing.len(), &self.dir)?;
            if let Some(e) = images.take_failure() {
                return Err(anyhow::Error::from(e).context("the images cannot be read any more"));
            }
            extraction = Some((extracted, info, arrangement, secs));
        }
        let shape = match &extraction {
            Some((
                Extracted {
                    shape: Some(shape), ..
                },
                ..,
            )) => Some(*shape),
            _ => store.as_ref().and_then(Store::map_shape),
        };

        let mut text = format!(
            "store     {}\nindex     {}\nbackbone  {name}, preset {}, input {}x{}\nimages    {} \
             (cached {}, new {}, rejected {})\n",
            stores.shown(&key),
            share.index,
            key.preset,
            key.input_size[0],
            key.input_size[1],
            grouped((counts.cached + counts.new + counts.rejected) as u64),
            grouped(counts.cached as u64),
            grouped(counts.new as u64),
            grouped(counts.rejected as u64),
        );
        let new_rows = extraction.as_ref().map_or(0, |(e, ..)| e.rows);
        if !views.is_identity() {
            text += &format!(
                "views     {views}\nrows      {} (cached {}, new {})\n",
                grouped((cached_rows + new_rows) as u64),
                grouped(cached_rows as u64),
                grouped(new_rows as u64),
            );
        }
        match share.part.is_whole() {
            true => text += &(index::class_lines(index, total) + &index::left_out_line(&images)),
            false => text += &format!("part      {}, of {}\n", share.part, share.source),
        }
        if let Some(shape) = shape {
            let bytes = shape.len() * key.dtype.size_bytes();
            text += &format!(
                "maps      {shape} {}, {} bytes a row\n",
                key.dtype,
                grouped(bytes as u64)
            );
        }
        let left = total - (counts.cached + counts.new + counts.rejected);
        if let Some((extracted, info, arrangement, secs)) = &extraction {
            text += &format!(
                "engine    {}, {} provider{}, {arrangement}\ntime      {secs:.1} s, {:.1} {}/s\n",
                info.engine,
                info.provider,
                in_precision(key.precision),
                extracted.rows as f64 / secs,
                unit,
            );
            if self.timings {
                let ready = engine_secs.unwrap_or_default();
                text += &format!(
                    "start     planned after {planned_secs:.2} s, engine ready after {ready:.2} s, first \
                     batch after {:.2} s\n{}",
                    clock.first_batch_secs().unwrap_or_default(),
                    clock.table(extracted.rows, *secs, threads),
                );
            }
        } else {
            text += match left {
                0 => "engine    not needed\n",
                _ => "engine    not opened (dry run)\n",
            };
        }
        if left > 0 {
            let what = match self.dry_run {
                true => format!("to compute, {} in all", counted(rows_to_do, "row")),
                false => "(run the same command again)".to_owned(),
            };
            text += &format!("left      {} images {what}\n", grouped(left as u64));
        }
        output.print(
            &json!({
                "store": stores.shown(&key),
                "index": share.index,
                "part": share.part,
                "index_digest": index.digest(),
                "backbone": name,
                "key": key,
                "counts": counts,
                "left": left,
                "dry_run": self.dry_run,
                "views": views.iter().map(View::to_string).collect::<Vec<_>>(),
                "rows": { "cached": cached_rows, "new": new_rows },
                "skipped_files": indexed.skipped.len(),
                "left_out": images.left_out.map_or(0, |left_out| left_out.images),
                "map_shape": shape.map(|s| [s.height, s.width, s.channels]),
                "shards_written": extraction.as_ref().map_or(0, |(e, ..)| e.shards.len()),
                "engine": extraction.as_ref().map(|(_, info, ..)| &info.engine),
                "provider": extraction.as_ref().map(|(_, info, ..)| info.provider),
                "arrangement": extraction.as_ref().map(|(_, _, arrangement, _)| arrangement),
                "start": {
                    "planned_secs": planned_secs,
                    "engine_secs": engine_secs,
                    "first_batch_secs": clock.first_batch_secs(),
                },
                "timings": extraction.as_ref().map(|_| clock.to_json()),
                "extract_secs": extraction.as_ref().map(|(.., secs)| secs),
                "total_secs": started.elapsed().as_secs_f64(),
            }),
            &text,
        )?;
        if let Some(signal) = signals.received() {
            return Ok(Outcome::Interrupted(signal));
        }
        let transient = extraction.as_ref().map_or(0, |(e, ..)| e.transient) + indexed.transient;
        match counts.rejected + indexed.skipped.len() {
            _ if transient > 0 => Ok(retry(transient)),
            0 => Ok(Outcome::Done),
            n => {
                tracing::warn!("{} skipped, each named above", counted(n, "image"));
                Ok(Outcome::Skipped)
            }
        }
    }
}
