//! Stage one's runner: decode and preprocess images in worker threads, run the backbone, write the
//! rows.
//!
//! Reads as reader -> mapper -> writer: [`plan()`] lists the work, a loading thread has input batches
//! filled, the sessions of the backbone run them, each on its own thread, and the calling thread writes
//! shards; bounded queues lie between, and buffers go back to where they are filled. Must not know where
//! the index came from or what the features are for.

pub(crate) mod input;
mod kept;
mod pace;
mod plan;
mod rows;
mod sessions;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;

use crate::backbone::{BackboneError, MapShape};
use crate::engine::Cause;
use crate::images::Images;
use crate::index::Index;
use crate::store::{Dtype, StoreError, StoreKey};
use crate::timings::Clock;
use input::{InputBatch, Loader};
pub use kept::Arranging;
pub use pace::{Arrangement, Pace};
pub use plan::{Plan, Work, plan, plan_of};
use sessions::Feed;
pub use sessions::Sessions;

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
    /// The backbone, which ran before, cannot be opened again.
    #[error("the backbone cannot be opened again")]
    Sessions(#[source] Cause),
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
    /// Counts where the time goes.
    pub clock: &'a Clock,
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
/// do not depend on the number of sessions and threads, on their neighbours in a batch or on earlier
/// interruptions.
///
/// # Errors
/// [`FeaturesError`]; shards published before it are kept, and the next run goes on from there.
pub fn extract(
    job: &Job,
    sessions: &mut Sessions,
    index: &Index,
    missing: &Work,
    report: &dyn Report,
) -> Result<Extracted, FeaturesError> {
    let backbone = sessions.backbone();
    let writer = rows::RowWriter::new(job, backbone, report);
    let (used, spare_inputs) = mpsc::channel();
    let (free, spare_features) = mpsc::channel();
    let loader = Loader {
        images: job.images,
        index,
        exif: job.key.exif,
        preprocessor: backbone.preprocessor(),
        batch_size: backbone.batch_size,
        clock: job.clock,
        spare: spare_inputs,
    };
    let expected = missing.rows().div_ceil(backbone.batch_size);
    // A batch in every session's hands, and one that waits for it on each side.
    let depth = sessions.most() + 1;
    let (to_backbone, batches) = mpsc::sync_channel::<InputBatch>(depth);
    let (results, to_writer) = mpsc::sync_channel(depth);
    for _ in 0..2 * depth {
        let _ = free.send(Vec::new()); // its other end is in our hands
    }
    let feed = Feed {
        batches: Mutex::new(batches),
        results,
        spare: Mutex::new(spare_features),
        used,
        stop: job.stop,
        clock: job.clock,
    };
    std::thread::scope(|scope| {
        // A failed send means that the other side stopped.
        scope.spawn(move || loader.load(missing, |batch| to_backbone.send(batch).is_ok()));
        let running = scope.spawn(move || sessions.run(&feed, expected));
        let extracted = writer.write_all(to_writer, free);
        match running.join() {
            Ok(ran) => extracted
                .and_then(|extracted| ran.map(|()| extracted).map_err(FeaturesError::Sessions)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
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
    // Without an early end the test is vectorised; almost every map passes.
    let all_fit = map.iter().fold(true, |all, v| all & range.contains(v));
    if all_fit {
        return Ok(());
    }
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
