//! The sessions of an extraction: as many as are asked for, else as many as its first batches show to
//! be best.
//!
//! Must not know of images or stores.

use std::path::Path;

use anyhow::anyhow;

use super::memory;
use crate::backbone::{Backbone, Model};
use crate::cli::engine::{Wanted, open_session, say_what_runs};
use crate::engine::Cause;
use crate::features::Sessions;

/// How the backbone is to be run.
pub(super) struct Running<'a> {
    pub model: Model,
    pub wanted: Wanted,
    pub batch_size: usize,
    /// Sessions; to be found out if `None`.
    pub sessions: Option<usize>,
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
}

/// Opens the sessions and hands them to `work`.
///
/// # Errors
/// When one cannot be opened, or that of `work`.
pub(super) fn with_sessions<T>(
    running: &Running,
    work: impl FnOnce(&mut Sessions) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let open = |threads: usize| running.open(threads);
    let threads = running.wanted.threads;
    let sessions = Sessions::fixed(running.sessions.unwrap_or(1), threads, &open);
    let mut sessions = sessions.map_err(|e| anyhow!(e))?;
    say_what_runs(sessions.backbone(), running.wanted.precision);
    let provider = sessions.info().provider;
    // A GPU works on one batch at a time.
    if running.sessions.is_none() && provider != "CUDA" {
        // What the CPU's provider optimised is kept and mapped.
        let most = memory::most_sessions(&running.model, running.batch_size, provider == "CPU");
        sessions = sessions.or_more(most, &open);
    }
    work(&mut sessions)
}
