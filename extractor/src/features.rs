//! Stage one's runner: which images of an index lack a row, decode and preprocess them in worker
//! threads, run the backbone, write the rows.
//!
//! Reads as reader -> mapper -> writer: [`plan`] lists the work, a decoding thread fills input
//! batches, the calling thread runs the backbone and writes shards. Must not know where the index
//! came from or what the features are for.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use rayon::prelude::*;

use crate::backbone::{Backbone, BackboneError, MapShape};
use crate::decode::{self, Exif, RgbImage};
use crate::digest::{Digest, ImageId};
use crate::images::{ImageBytes, Images};
use crate::index::{Entry, Index};
use crate::preprocess::Preprocessor;
use crate::store::{
    Dtype, IDENTITY, Provenance, Rejected, ShardWriter, Store, StoreError, StoreKey, rejected,
};

/// Counts of one run, in images (ids, not files).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Had a row already.
    pub cached: usize,
    /// Got a row now.
    pub new: usize,
    /// Have no row: broken, or rejected in an earlier run.
    pub rejected: usize,
}

/// Extraction stopped. Published shards are kept.
#[derive(Debug, thiserror::Error)]
pub enum FeaturesError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The backbone failed.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// With `--strict`, the first broken image ends the run.
    #[error("{path}: {reason} (--strict stops here; without it the image is skipped)")]
    Strict {
        /// The image's path, escaped.
        path: String,
        /// Why.
        reason: String,
    },
}

/// The images of an index, sorted by what the store knows of them.
#[derive(Debug, Default)]
pub struct Plan {
    /// Positions in the index of what is to be computed, ascending, one an id.
    pub missing: Vec<u32>,
    /// Images with a row.
    pub cached: usize,
    /// Positions of images known to have none, with the reason.
    pub rejected: Vec<(u32, String)>,
}

/// What of `index` is not in `store` yet; all of it, if there is no store yet.
pub fn plan(index: &Index, store: Option<&Store>) -> Plan {
    let mut plan = Plan::default();
    for position in index.unique() {
        let id = index.entry(position as usize).id;
        let Some(store) = store else {
            plan.missing.push(position);
            continue;
        };
        if store.locate(&id, IDENTITY).is_some() {
            plan.cached += 1;
        } else if let Some(reason) = store.rejected(&id) {
            plan.rejected.push((position, reason.to_owned()));
        } else {
            plan.missing.push(position);
        }
    }
    plan
}

/// What an extraction works with.
pub struct Job<'a> {
    /// Where the images' bytes are.
    pub images: &'a dyn Images,
    /// The store's folder, made with [`crate::store::key::create`].
    pub folder: &'a Path,
    /// The store's key.
    pub key: &'a StoreKey,
    /// Stop at the first broken image.
    pub strict: bool,
    /// A shard is closed when its features reach this size.
    pub shard_bytes: usize,
    /// Once true, the batch in flight is finished, what is complete is published, and no other
    /// batch is begun.
    pub stop: &'a AtomicBool,
}

/// Called as work is done: rows written, or an image rejected.
pub trait Report {
    /// `n` images were dealt with.
    fn done(&self, n: usize);
    /// An image was rejected.
    fn rejected(&self, path: &[u8], reason: &str);
}

/// Why an image has no input.
enum Trouble {
    /// It cannot be decoded: that follows from its bytes.
    Broken(String),
    /// Its bytes could not be had; nothing is known about the id.
    Absent(String),
}

/// A full input batch on its way to the backbone.
struct InputBatch<'a> {
    /// Entries in order; those without trouble have input.
    entries: Vec<(Entry<'a>, Result<(), Trouble>)>,
    input: Vec<f32>, // [batch_size, H, W, 3] or [batch_size, 3, H, W]
}

/// What an extraction did.
#[derive(Debug, Default)]
pub struct Extracted {
    /// Rows written.
    pub rows: usize,
    /// Images rejected, with paths.
    pub rejected: Vec<(Vec<u8>, String)>,
    /// Shape of the maps, if any was computed.
    pub shape: Option<MapShape>,
    /// Shards published.
    pub shards: Vec<PathBuf>,
}

/// Computes the rows of `missing`, positions in `index`, and adds them to the store. The rows do not depend on the number
/// of threads, on their neighbours in a batch or on earlier interruptions.
///
/// # Errors
/// [`FeaturesError`]; shards published before it are kept, and the next run goes on from there.
pub fn extract(
    job: &Job,
    backbone: &mut Backbone,
    index: &Index,
    missing: &[u32],
    report: &dyn Report,
) -> Result<Extracted, FeaturesError> {
    let preprocessor = backbone.preprocessor();
    let batch_size = backbone.batch_size;
    let (sender, receiver) = mpsc::sync_channel::<InputBatch>(2);
    std::thread::scope(|scope| {
        let (images, exif) = (job.images, job.key.exif);
        scope.spawn(move || {
            for positions in missing.chunks(batch_size) {
                let entries: Vec<Entry> =
                    positions.iter().map(|p| index.entry(*p as usize)).collect();
                // A failed send means that the other side stopped with an error.
                if sender
                    .send(load_batch(
                        images,
                        &entries,
                        batch_size,
                        exif,
                        &preprocessor,
                    ))
                    .is_err()
                {
                    break;
                }
            }
        });
        let extracted = write_rows(job, backbone, &receiver, report);
        drop(receiver);
        extracted
    })
}

fn write_rows(
    job: &Job,
    backbone: &mut Backbone,
    batches: &mpsc::Receiver<InputBatch>,
    report: &dyn Report,
) -> Result<Extracted, FeaturesError> {
    let info = backbone.engine().info();
    let mut rows = RowWriter {
        job,
        report,
        provenance: Provenance {
            engine: info.engine.clone(),
            provider: info.provider.to_owned(),
            processor: processor(),
            headstart: env!("CARGO_PKG_VERSION").to_owned(),
            batch_size: backbone.batch_size,
        },
        shards: None,
        records: Vec::new(),
        extracted: Extracted::default(),
    };
    let mut next = || match job.stop.load(Ordering::Relaxed) {
        true => None,
        false => batches.recv().ok(),
    };
    let written = std::iter::from_fn(&mut next).try_for_each(|batch| rows.write(backbone, batch));
    // What is complete is published even if a later batch failed.
    let published = rows.publish();
    written.and(published).map(|()| rows.extracted)
}

/// Where rows and rejections go.
struct RowWriter<'a> {
    job: &'a Job<'a>,
    report: &'a dyn Report,
    provenance: Provenance,
    shards: Option<ShardWriter>,
    records: Vec<Rejected>,
    extracted: Extracted,
}

impl RowWriter<'_> {
    fn write(&mut self, backbone: &mut Backbone, batch: InputBatch) -> Result<(), FeaturesError> {
        let mut features = Vec::new(); // [batch_size, h, w, c]
        let any = batch.entries.iter().any(|(_, loaded)| loaded.is_ok());
        let shape = if any {
            Some(backbone.run(&batch.input, &mut features)?)
        } else {
            None
        };
        let mut ids: Vec<ImageId> = Vec::new();
        let mut rows = Vec::with_capacity(features.len()); // [ids, h, w, c]
        for (i, (entry, loaded)) in batch.entries.iter().enumerate() {
            match (loaded, shape) {
                (Ok(()), Some(shape)) => {
                    let map = &features[i * shape.len()..][..shape.len()];
                    match representable(map, self.job.key.dtype) {
                        Ok(()) => {
                            ids.push(entry.id);
                            rows.extend_from_slice(map);
                        }
                        Err(reason) => self.reject(entry, reason, true)?,
                    }
                }
                (Err(Trouble::Broken(reason)), _) => self.reject(entry, reason.clone(), true)?,
                (Err(Trouble::Absent(reason)), _) => self.reject(entry, reason.clone(), false)?,
                (Ok(()), None) => unreachable!("a batch with an image was run"),
            }
        }
        if let Some(shape) = shape {
            let (job, provenance) = (self.job, &self.provenance);
            let shards = self.shards.get_or_insert_with(|| {
                ShardWriter::new(job.folder, job.key, provenance, shape, job.shard_bytes)
            });
            shards.write(&ids, IDENTITY, rows)?;
            self.extracted.shape = Some(shape);
            self.extracted.rows += ids.len();
        }
        self.report.done(batch.entries.len());
        Ok(())
    }

    /// `remember`: the reason follows from the image's bytes, so the next run need not try again.
    fn reject(
        &mut self,
        entry: &Entry,
        reason: String,
        remember: bool,
    ) -> Result<(), FeaturesError> {
        self.report.rejected(entry.path, &reason);
        if remember {
            self.records.push(Rejected {
                id: entry.id,
                reason: reason.clone(),
            });
        }
        if self.job.strict {
            return Err(FeaturesError::Strict {
                path: crate::files::escape(entry.path),
                reason,
            });
        }
        self.extracted.rejected.push((entry.path.to_vec(), reason));
        Ok(())
    }

    fn publish(&mut self) -> Result<(), FeaturesError> {
        if let Some(shards) = self.shards.take() {
            self.extracted.shards = shards.finish()?;
        }
        rejected::write(self.job.folder, &self.records)?;
        Ok(())
    }
}

/// Whether every feature can be stored as `dtype`.
fn representable(map: &[f32], dtype: Dtype) -> Result<(), String> {
    let limit = match dtype {
        Dtype::F32 => f32::MAX,
        Dtype::F16 => half::f16::MAX.to_f32(),
    };
    match map.iter().find(|v| v.is_nan() || v.abs() > limit) {
        None => Ok(()),
        Some(v) if !v.is_finite() => Err(format!("the backbone gives a feature that is {v}")),
        Some(v) => Err(format!(
            "the backbone gives the feature {v}, too large for {dtype}"
        )),
    }
}

/// Reads, decodes and preprocesses up to `batch_size` images in parallel; slots without an image
/// stay zero.
fn load_batch<'a>(
    images: &dyn Images,
    entries: &[Entry<'a>],
    batch_size: usize,
    exif: Exif,
    preprocessor: &Preprocessor,
) -> InputBatch<'a> {
    let mut input = vec![0.0; batch_size * preprocessor.len()];
    let loaded = entries
        .par_iter()
        .zip(input.par_chunks_exact_mut(preprocessor.len()))
        .map(|(entry, slot)| {
            let loaded = load(images, entry, exif);
            (*entry, loaded.map(|image| preprocessor.apply(&image, slot)))
        })
        .collect();
    InputBatch {
        entries: loaded,
        input,
    }
}

fn load(images: &dyn Images, entry: &Entry, exif: Exif) -> Result<RgbImage, Trouble> {
    let bytes: ImageBytes = images.read(entry.path).map_err(Trouble::Absent)?;
    if Digest::of(&bytes) != entry.id {
        return Err(Trouble::Absent("changed since it was indexed".to_owned()));
    }
    decode::decode_oriented(&bytes, exif).map_err(|e| Trouble::Broken(e.to_string()))
}

/// Architecture and model of the processor, for provenance.
fn processor() -> String {
    let arch = std::env::consts::ARCH;
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find(|l| l.starts_with("model name"));
    match model.and_then(|l| l.split(':').nth(1)) {
        Some(model) => format!("{arch} {}", model.trim()),
        None => arch.to_owned(),
    }
}

#[cfg(test)]
mod tests;
