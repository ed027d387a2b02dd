//! SIGINT and SIGTERM: the first ends a long step gently, the next one ends the program.
//!
//! Outside of [`Signals::gently`] there is nothing worth finishing, and a signal ends the program
//! at once, with the same exit code.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// What comes this soon after the first signal is that signal again: a batch system tells every
/// process of a job, and make passes on what it was told.
const SAME_SIGNAL: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The signals that ask the program to end.
pub struct Signals {
    stop: Arc<AtomicBool>,
    at_once: Arc<AtomicBool>,
    received: Arc<AtomicUsize>,
}

impl Signals {
    /// Catches SIGINT and SIGTERM from now on.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn install() -> anyhow::Result<Signals> {
        let signals = Signals {
            stop: Arc::default(),
            at_once: Arc::new(AtomicBool::new(true)),
            received: Arc::default(),
        };
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first action reads what was so before this signal.
            flag::register_conditional_shutdown(signal, 128 + signal, signals.at_once.clone())
                .and_then(|_| {
                    flag::register_usize(signal, signals.received.clone(), signal as usize)
                })
                .and_then(|_| flag::register(signal, signals.stop.clone()))
                .context("cannot catch signals")?;
        }
        Ok(signals)
    }

    /// Runs `work` with a flag that the first signal sets; a later one ends the program. `promise`
    /// tells people what happens at the first one.
    pub fn gently<T>(&self, promise: &str, work: impl FnOnce(&AtomicBool) -> T) -> T {
        self.at_once.store(false, Ordering::SeqCst);
        let done = AtomicBool::new(false);
        let result = thread::scope(|scope| {
            let watch = scope.spawn(|| self.watch(promise, &done));
            let _end = End(&done, watch.thread());
            work(&self.stop)
        });
        self.at_once.store(true, Ordering::SeqCst);
        result
    }

    fn watch(&self, promise: &str, done: &AtomicBool) {
        while !done.load(Ordering::SeqCst) {
            if self.stop.load(Ordering::SeqCst) {
                tracing::warn!("stopping: {promise} (a second signal stops at once)");
                thread::park_timeout(SAME_SIGNAL);
                self.at_once.store(true, Ordering::SeqCst);
                return;
            }
            thread::park_timeout(LOOK_EVERY);
        }
    }

    /// Number of the signal that was received, if one was.
    pub fn received(&self) -> Option<u8> {
        match self.received.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal as u8),
        }
    }
}

/// Ends the watch, also when the work panics.
struct End<'a>(&'a AtomicBool, &'a thread::Thread);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        self.1.unpark();
    }
}
