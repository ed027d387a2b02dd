//! The sessions of an extraction: as many as are asked for, else as many as its first batches show to
//! be best.
//!
//! Must not know of images or stores.

use std::path::Path;

use anyhow::anyhow;

use super::memory;
use crate::backbone::{Backbone, Model};
use crate::cli::engine::{open_session, say_what_runs};
use crate::engine::{Cause, Provider};
use crate::features::Sessions;

/// How the backbone is to be run.
pub(super) struct Wanted<'a> {
    pub model: Model,
    pub provider: Provider,
    pub threads: usize,
    pub batch_size: usize,
    /// Sessions; to be found out if `None`.
    pub sessions: Option<usize>,
    pub data_dir: &'a Path,
}

impl Wanted<'_> {
    fn open(&self, threads: usize) -> Result<Backbone, Cause> {
        let model = self.model.clone();
        let (batch_size, data_dir) = (self.batch_size, self.data_dir);
        Ok(open_session(
            model,
            self.provider,
            threads,
            batch_size,
            data_dir,
        )?)
    }
}

/// Opens the sessions and hands them to `work`.
///
/// # Errors
/// When one cannot be opened, or that of `work`.
pub(super) fn with_sessions<T>(
    wanted: &Wanted,
    work: impl FnOnce(&mut Sessions) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let open = |threads: usize| wanted.open(threads);
    let mut sessions = Sessions::fixed(wanted.sessions.unwrap_or(1), wanted.threads, &open)
        .map_err(|e| anyhow!(e))?;
    say_what_runs(sessions.backbone());
    // A GPU works on one batch at a time.
    let on_cpu = sessions.backbone().engine().info().provider != "CUDA";
    if wanted.sessions.is_none() && on_cpu {
        let most = memory::most_sessions(&wanted.model, wanted.batch_size);
        sessions = sessions.or_more(most, &open);
    }
    work(&mut sessions)
}
