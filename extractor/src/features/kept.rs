//! What a trial found out, kept in a file, so that the next extraction starts with what is best.
//!
//! Must not know where the file lies, or what else than the engine a pace depends on: its name says that.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::pace::Pace;
use super::sessions::{Open, Sessions};
use crate::causes::chain;
use crate::engine::{Cause, EngineInfo};
use crate::files::{create_folder, write_atomically};

/// What was measured longer ago is measured again.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How the sessions of an extraction are found.
pub struct Arranging<'a> {
    /// The file of what was measured.
    pub place: PathBuf,
    /// Threads of all sessions together.
    pub threads: usize,
    /// How many batches there are to do, about.
    pub batches: usize,
    /// How many sessions there may be at most on this engine.
    pub most: &'a dyn Fn(&EngineInfo) -> usize,
    /// Opens a session.
    pub open: Open<'a>,
}

/// The file's content.
#[derive(Serialize, Deserialize)]
struct Kept {
    engine: String,
    provider: String,
    most_sessions: usize,
    pace: Pace,
}

impl<'a> Arranging<'a> {
    /// As many sessions as were measured to be best for so many batches; where nothing is known, one that
    /// will be tried against more of them.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn sessions(&self) -> Result<Sessions<'a>, Cause> {
        let open = |sessions| Sessions::fixed(sessions, self.threads, self.open);
        let kept = self.read();
        let best = kept.as_ref().and_then(|kept| kept.pace.best(self.batches));
        let wanted = best.map_or(1, |best| best.sessions);
        let mut sessions = match open(wanted) {
            Err(e) if wanted > 1 => {
                tracing::debug!("no {wanted} sessions: {}", chain(&*e));
                open(1)?
            }
            opened => opened?,
        };
        let most = (self.most)(sessions.info());
        let fits = |kept: &Kept| {
            let EngineInfo {
                engine, provider, ..
            } = sessions.info();
            (&kept.engine, &*kept.provider, kept.most_sessions) == (engine, provider, most)
        };
        if kept.as_ref().is_some_and(fits) {
            return Ok(sessions);
        }
        if sessions.arrangement().sessions > 1 {
            drop(sessions);
            sessions = open(1)?;
        }
        Ok(sessions.or_more(most, self.open))
    }

    /// Keeps what these sessions found out, if they did.
    ///
    /// # Errors
    /// When the file cannot be written; the old one is as it was.
    pub fn keep(&self, sessions: &Sessions) -> Result<(), Cause> {
        let Some(pace) = sessions.pace() else {
            return Ok(());
        };
        let kept = Kept {
            engine: sessions.info().engine.clone(),
            provider: sessions.info().provider.to_owned(),
            most_sessions: (self.most)(sessions.info()),
            pace: pace.clone(),
        };
        create_folder(self.place.parent().unwrap_or(Path::new(".")))?;
        let text = serde_json::to_vec_pretty(&kept)?;
        Ok(write_atomically(&self.place, &text)?)
    }

    /// What is kept, if it is recent and can be read.
    fn read(&self) -> Option<Kept> {
        let modified = fs::metadata(&self.place).and_then(|m| m.modified()).ok()?;
        let age = modified.elapsed().unwrap_or_default(); // clocks differ between machines
        let text = fs::read(&self.place).ok().filter(|_| age < KEPT_FOR)?;
        let kept: Kept = serde_json::from_slice(&text).ok()?;
        let most = kept.most_sessions.min(self.threads.max(1));
        kept.pace.is_of(most).then_some(kept)
    }
}
