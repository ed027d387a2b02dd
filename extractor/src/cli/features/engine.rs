//! The sessions of an extraction: as many as are asked for, else as many as earlier extractions or its own
//! first batches show to be best.
//!
//! Must not know of images or stores.

use std::path::{Path, PathBuf};

use anyhow::anyhow;

use super::memory;
use crate::backbone::{Backbone, Model};
use crate::causes::chain;
use crate::cli::engine::{Wanted, open_session, say_what_runs};
use crate::digest::Digest;
use crate::engine::{Cause, EngineInfo, processor_features};
use crate::features::{Arranging, Sessions, processor};

/// How the backbone is to be run.
pub(super) struct Running<'a> {
    pub model: Model,
    pub wanted: Wanted,
    /// Images in every run.
    pub batch_size: usize,
    /// Sessions; to be found out if `None`.
    pub sessions: Option<usize>,
    /// How many batches there are to do.
    pub batches: usize,
    pub data_dir: &'a Path,
}

impl Running<'_> {
    fn open(&self, threads: usize) -> Result<Backbone, Cause> {
        let wanted = Wanted {
            threads,
            ..self.wanted
        };
        let model = self.model.clone();
        Ok(open_session(model, wanted, self.batch_size, self.data_dir)?)
    }

    /// How many sessions there may be at most.
    fn most(&self, info: &EngineInfo) -> usize {
        match info.provider {
            "CUDA" => 1, // a GPU works on one batch at a time
            // What the CPU's provider optimised is kept and mapped.
            provider => memory::most_sessions(&self.model, self.batch_size, provider == "CPU"),
        }
    }

    /// Where it is kept how fast the sessions are: a name for all that this depends on and that is known
    /// before one is open.
    fn place(&self) -> PathBuf {
        let Wanted {
            provider,
            precision,
            threads,
        } = self.wanted;
        let (spec, batch_size) = (&self.model.spec, self.batch_size);
        let (size, tensor) = (spec.input_size, &spec.feature_tensor);
        let processor = format!("{} {}", processor(), processor_features());
        let all = format!(
            "{} {size:?} {tensor} {batch_size} {provider:?} {precision} {threads} {processor}",
            spec.digest
        );
        let name = Digest::of(all.as_bytes()).short();
        self.data_dir.join("sessions").join(format!("{name}.json"))
    }
}

/// Opens the sessions and hands them to `work`.
///
/// # Errors
/// When one cannot be opened, or that of `work`.
pub(super) fn with_sessions<T>(
    running: &Running,
    work: impl FnOnce(&mut Sessions) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let threads = running.wanted.threads;
    let arranging = Arranging {
        place: running.place(),
        threads,
        batches: running.batches,
        most: &|info| running.most(info),
        open: &|threads| running.open(threads),
    };
    let sessions = match running.sessions {
        Some(sessions) => Sessions::fixed(sessions, threads, arranging.open),
        None => arranging.sessions(),
    };
    let mut sessions = sessions.map_err(|e| anyhow!(e))?;
    say_what_runs(sessions.backbone(), running.wanted.precision);
    let done = work(&mut sessions)?;
    if let Err(e) = arranging.keep(&sessions) {
        let reason = chain(&*e);
        tracing::debug!("what was measured of the sessions is not kept: {reason}");
    }
    Ok(done)
}
