//! The writer's side of an extraction: which features become rows of the store, which images are
//! rejected and why, in the order of the work.
//!
//! Must not know how images are loaded or which engine ran.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender};

use super::input::{InputBatch, Part, Trouble};
use super::sessions::Computed;
use super::{Extracted, FeaturesError, Job, Report, processor, representable};
use crate::backbone::{Backbone, MapShape};
use crate::digest::ImageId;
use crate::index::Entry;
use crate::store::{Provenance, Rejected, ShardWriter, rejected};
use crate::timings::Stage;
use crate::view::View;

/// Where rows and rejections go.
pub(super) struct RowWriter<'a> {
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

impl<'a> RowWriter<'a> {
    /// A writer of what `backbone` computes.
    pub fn new(job: &'a Job<'a>, backbone: &Backbone, report: &'a dyn Report) -> RowWriter<'a> {
        let info = backbone.engine().info();
        RowWriter {
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
        }
    }

    /// Writes batch after batch in the order of the work, whatever the order in which they come, and
    /// publishes the rest. Buffers that are written are `free` again.
    pub fn write_all(
        mut self,
        computed: Receiver<Computed>,
        free: Sender<Vec<f32>>,
    ) -> Result<Extracted, FeaturesError> {
        let mut early: BTreeMap<usize, Computed> = BTreeMap::new();
        let mut next = 0;
        let result = computed.into_iter().try_for_each(|one| {
            early.insert(one.batch.number, one);
            while let Some(one) = early.remove(&next) {
                let features = self.write(one)?;
                // Nobody minds if the sessions have ended.
                let _ = free.send(features);
                next += 1;
            }
            Ok(())
        });
        drop(free); // before the sessions wait for one in vain
        // What is complete is published even if a later batch failed.
        let published = self.publish();
        result.and(published).map(|()| self.extracted)
    }

    /// Writes a batch and gives its buffer back.
    fn write(&mut self, computed: Computed) -> Result<Vec<f32>, FeaturesError> {
        let (clock, batch) = (self.job.clock, &computed.batch);
        let (shape, mut features) = (computed.shape?, computed.features);
        let (rows, slots) = clock.time(Stage::Check, || self.rows(batch, shape, &mut features))?;
        if let Some(shape) = shape {
            let (job, provenance) = (self.job, &self.provenance);
            let shards = self.shards.get_or_insert_with(|| {
                ShardWriter::new(job.folder, job.key, provenance, shape, job.shard_bytes)
            });
            let rows: Vec<(ImageId, &str)> = rows.iter().map(|(id, v)| (*id, &v[..])).collect();
            features = clock.time(Stage::Write, || shards.write(&rows, features))?;
            self.extracted.shape = Some(shape);
            self.extracted.rows += rows.len();
        }
        self.report.done(slots);
        Ok(features)
    }

    /// The rows that a batch gives, whose maps `features` ([slots, h, w, c]) holds in the end, [rows, h,
    /// w, c]; and how many slots were dealt with.
    fn rows(
        &mut self,
        batch: &InputBatch,
        shape: Option<MapShape>,
        features: &mut Vec<f32>,
    ) -> Result<(Vec<(ImageId, String)>, usize), FeaturesError> {
        let mut rows: Vec<(ImageId, String)> = Vec::new();
        let mut slot = 0;
        for part in &batch.parts {
            match (&part.loaded, shape) {
                (Ok(()), Some(shape)) => {
                    for (i, view) in part.views.iter().enumerate() {
                        let from = (slot + i) * shape.len();
                        let map = &features[from..from + shape.len()];
                        if self.accepts(&part.entry, *view, map)? {
                            // Maps move up to where a row is missing.
                            let to = rows.len() * shape.len();
                            if to < from {
                                features.copy_within(from..from + shape.len(), to);
                            }
                            rows.push((part.entry.id, view.to_string()));
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
        features.truncate(rows.len() * shape.map_or(0, |shape| shape.len()));
        Ok((rows, slot))
    }

    /// Whether a view's features become a row. An image whose identity cannot be stored gets no
    /// row at all, so that what is stored does not depend on where a run was interrupted.
    fn accepts(&mut self, entry: &Entry, view: View, map: &[f32]) -> Result<bool, FeaturesError> {
        let failed = self.failed.as_ref();
        if failed.is_some_and(|failed| failed.id == entry.id && failed.whole) {
            return Ok(false);
        }
        let Err(reason) = representable(map, self.job.key.dtype) else {
            return Ok(true);
        };
        // Another engine or processor may give a number where this one gives none.
        let memory = match map.iter().all(|v| v.is_finite()) {
            true => Memory::Final,
            false => Memory::TryAgain,
        };
        match view {
            View::Identity => self.reject(entry, None, reason, memory)?,
            view => {
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
