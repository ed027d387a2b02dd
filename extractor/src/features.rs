//! Stage one's runner: decode and preprocess images in worker threads, run the backbone, write the
//! rows.
//!
//! Reads as reader -> mapper -> writer: [`plan()`] lists the work, a loading thread fills input
//! batches, the calling thread runs the backbone and writes shards. Must not know where the index
//! came from or what the features are for.

mod input;
mod plan;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use crate::backbone::{Backbone, BackboneError, MapShape};
use crate::digest::ImageId;
use crate::images::Images;
use crate::index::{Entry, Index};
use crate::store::{Dtype, Provenance, Rejected, ShardWriter, StoreError, StoreKey, rejected};
use crate::view::View;
use input::{InputBatch, Loader, Part, Trouble};
pub use plan::{Plan, Work, plan, plan_of};

/// Counts of one run, in images (ids, not files).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Had a row of every wanted view already.
    pub cached: usize,
    /// Got the last of them now.
    pub new: usize,
    /// Lack a row: broken, or rejected in an earlier run.
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

/// Called as work is done.
pub trait Report {
    /// `n` rows were dealt with: written or not.
    fn done(&self, n: usize);
    /// An image was rejected.
    fn rejected(&self, path: &[u8], reason: &str);
}

/// What an extraction did.
#[derive(Debug, Default)]
pub struct Extracted {
    /// Rows written.
    pub rows: usize,
    /// Images that have all wanted rows now.
    pub images: usize,
    /// Images rejected, with paths.
    pub rejected: Vec<(Vec<u8>, String)>,
    /// How many of them because their bytes could not be had.
    pub absent: usize,
    /// How many of those may be had at another try.
    pub transient: usize,
    /// Shape of the maps, if any was computed.
    pub shape: Option<MapShape>,
    /// Shards published.
    pub shards: Vec<PathBuf>,
}

/// Computes the rows of `missing`, a plan's work for `index`, and adds them to the store. The rows
/// do not depend on the number of threads, on their neighbours in a batch or on earlier
/// interruptions.
///
/// # Errors
/// [`FeaturesError`]; shards published before it are kept, and the next run goes on from there.
pub fn extract(
    job: &Job,
    backbone: &mut Backbone,
    index: &Index,
    missing: &Work,
    report: &dyn Report,
) -> Result<Extracted, FeaturesError> {
    let loader = Loader {
        images: job.images,
        index,
        exif: job.key.exif,
        preprocessor: backbone.preprocessor(),
        batch_size: backbone.batch_size,
    };
    let (sender, receiver) = mpsc::sync_channel::<InputBatch>(2);
    std::thread::scope(|scope| {
        // A failed send means that the other side stopped.
        scope.spawn(move || loader.load(missing, |batch| sender.send(batch).is_ok()));
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
        failed: None,
        extracted: Extracted::default(),
    };
    let mut next = || match job.stop.load(Ordering::Relaxed) {
        true => None,
        false => batches.recv().ok(),
    };
    let written = std::iter::from_fn(&mut next).try_for_each(|batch| rows.write(backbone, &batch));
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
    failed: Option<Failed>,
    extracted: Extracted,
}

/// What later runs are told of a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// Nothing: the image could not be read just now.
    None,
    /// That it was rejected; the next run tries again.
    TryAgain,
    /// That it was rejected; the reason follows from the image's bytes.
    Final,
}

/// The image rejected last, whose other views may be yet to come.
struct Failed {
    id: ImageId,
    /// It has no row at all.
    whole: bool,
}

impl RowWriter<'_> {
    fn write(&mut self, backbone: &mut Backbone, batch: &InputBatch) -> Result<(), FeaturesError> {
        let mut features = Vec::new(); // [batch_size, h, w, c]
        let any = batch.parts.iter().any(|part| part.loaded.is_ok());
        let shape = match any {
            true => Some(backbone.run(&batch.input, &mut features)?),
            false => None,
        };
        let mut rows: Vec<(ImageId, String)> = Vec::new();
        let mut maps = Vec::with_capacity(features.len()); // [rows, h, w, c]
        let mut slot = 0;
        for part in &batch.parts {
            match (&part.loaded, shape) {
                (Ok(()), Some(shape)) => {
                    let of_part = &features[slot * shape.len()..];
                    for (view, map) in part.views.iter().zip(of_part.chunks_exact(shape.len())) {
                        if self.accepts(&part.entry, *view, map)? {
                            rows.push((part.entry.id, view.to_string()));
                            maps.extend_from_slice(map);
                        }
                    }
                }
                (Err(Trouble::Broken(reason)), _) => self.broken(part, reason, Memory::Final)?,
                (Err(Trouble::Absent(why)), _) => {
                    if !part.continues {
                        self.extracted.absent += 1;
                        self.extracted.transient += usize::from(why.transient);
                    }
                    self.broken(part, &why.reason, Memory::None)?;
                }
                (Ok(()), None) => unreachable!("a batch with an image was run"),
            }
            slot += part.views.len();
            let failed = self.failed.as_ref();
            if part.ends && failed.is_none_or(|failed| failed.id != part.entry.id) {
                self.extracted.images += 1;
            }
        }
        if let Some(shape) = shape {
            let (job, provenance) = (self.job, &self.provenance);
            let shards = self.shards.get_or_insert_with(|| {
                ShardWriter::new(job.folder, job.key, provenance, shape, job.shard_bytes)
            });
            let rows: Vec<(ImageId, &str)> = rows.iter().map(|(id, v)| (*id, &v[..])).collect();
            shards.write(&rows, maps)?;
            self.extracted.shape = Some(shape);
            self.extracted.rows += rows.len();
        }
        self.report.done(slot);
        Ok(())
    }

    /// Whether a view's features become a row. An image whose identity cannot be stored gets no
    /// row at all, so that what is stored does not depend on where a run was interrupted.
    fn accepts(&mut self, entry: &Entry, view: View, map: &[f32]) -> Result<bool, FeaturesError> {
        let failed = self.failed.as_ref();
        if failed.is_some_and(|failed| failed.id == entry.id && failed.whole) {
            return Ok(false);
        }
        // Another engine or processor may give a number where this one gives none.
        let memory = match map.iter().all(|v| v.is_finite()) {
            true => Memory::Final,
            false => Memory::TryAgain,
        };
        match (representable(map, self.job.key.dtype), view) {
            (Ok(()), _) => return Ok(true),
            (Err(reason), View::Identity) => self.reject(entry, None, reason, memory)?,
            (Err(reason), view) => {
                let reason = format!("{reason} in the view {view}");
                self.reject(entry, Some(view.to_string()), reason, memory)?;
            }
        }
        Ok(false)
    }

    fn broken(&mut self, part: &Part, reason: &str, memory: Memory) -> Result<(), FeaturesError> {
        match part.continues {
            true => Ok(()), // said already
            false => self.reject(&part.entry, None, reason.to_owned(), memory),
        }
    }

    fn reject(
        &mut self,
        entry: &Entry,
        view: Option<String>,
        reason: String,
        memory: Memory,
    ) -> Result<(), FeaturesError> {
        self.report.rejected(entry.path, &reason);
        let whole = view.is_none();
        if memory != Memory::None {
            self.records.push(Rejected {
                id: entry.id,
                view,
                reason: reason.clone(),
                retry: memory == Memory::TryAgain,
            });
        }
        if self.job.strict {
            return Err(FeaturesError::Strict {
                path: crate::files::escape(entry.path),
                reason,
            });
        }
        // An image counts once, however many of its views fail.
        let failed = self.failed.replace(Failed {
            id: entry.id,
            whole,
        });
        if failed.is_none_or(|failed| failed.id != entry.id) {
            self.extracted.rejected.push((entry.path.to_vec(), reason));
        }
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
///
/// # Errors
/// The reason, as a lowercase fragment, for which an image with such features is rejected.
pub fn representable(map: &[f32], dtype: Dtype) -> Result<(), String> {
    let range = match dtype {
        Dtype::F32 => f32::MIN..=f32::MAX,
        Dtype::F16 => half::f16::MIN.to_f32()..=half::f16::MAX.to_f32(),
        Dtype::U8 => 0.0..=255.0,
    };
    match map.iter().find(|v| !range.contains(v)) {
        None => Ok(()),
        Some(v) if !v.is_finite() => Err(format!("the backbone gives a feature that is {v}")),
        Some(v) => Err(format!(
            "the backbone gives the feature {v}, which {dtype} cannot hold"
        )),
    }
}

/// Architecture and model of the processor, for provenance.
pub(crate) fn processor() -> String {
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
