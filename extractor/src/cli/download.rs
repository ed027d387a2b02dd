//! What is shown while a file is downloaded.

use crate::fetch::Event;
use crate::files::{escape_path, grouped};
use crate::progress::Progress;

/// A bar, or lines, and the notes between.
pub struct Shown {
    quiet: bool,
    bar: Option<Progress>,
    done_bytes: u64,
}

impl Shown {
    /// Nothing to show yet.
    pub fn new(quiet: bool) -> Shown {
        Shown {
            quiet,
            bar: None,
            done_bytes: 0,
        }
    }

    /// Shows what happens.
    pub fn hear(&mut self, event: Event) {
        match event {
            Event::Progress {
                done_bytes,
                total_bytes,
            } => {
                let bar = self.bar.get_or_insert_with(|| match total_bytes {
                    Some(total) => {
                        let left = total.saturating_sub(self.done_bytes);
                        Progress::new("downloading", "bytes", left, self.quiet)
                    }
                    None => Progress::unbounded("downloading", "bytes", self.quiet),
                });
                bar.add(done_bytes.saturating_sub(self.done_bytes));
                self.done_bytes = done_bytes;
            }
            Event::Downloading {
                from,
                to,
                have_bytes,
            } => {
                self.finish();
                self.done_bytes = have_bytes;
                let rest = match have_bytes {
                    0 => String::new(),
                    n => format!(", from byte {} on", grouped(n)),
                };
                tracing::info!("downloading {from} to {}{rest}", escape_path(&to));
            }
            Event::Waiting { folder } => {
                tracing::info!(
                    "waiting for another process that writes {}",
                    escape_path(&folder)
                );
            }
            Event::AlreadyThere { path } => {
                tracing::info!("{} is there already", escape_path(&path));
            }
            Event::Retry { reason } => {
                self.finish();
                // What helps is said once, by the error at the end.
                let reason = reason.split(" (hint").next().unwrap_or_default();
                tracing::info!("trying again: {reason}");
            }
            Event::StartingOver { reason } => {
                self.finish();
                tracing::info!("starting from the beginning: {reason}");
            }
            Event::Checking => {
                self.finish();
                tracing::debug!("computing the SHA-256");
            }
        }
    }

    /// Clears the bar.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}
