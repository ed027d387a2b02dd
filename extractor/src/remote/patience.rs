//! When to try again what failed, and when to give up.
//!
//! Must not know what is tried.

use std::time::{Duration, Instant};

use super::{Limits, RemoteError};

pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(200);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long a request is tried again.
#[derive(Debug)]
pub(super) struct Patience {
    limits: Limits,
    failed: Option<Instant>,
    pause: Duration,
}

impl Patience {
    /// Nothing has failed yet.
    pub fn new(limits: Limits) -> Patience {
        Patience {
            limits,
            failed: None,
            pause: FIRST_PAUSE,
        }
    }

    /// How long to wait before the next try, or the error where there is none.
    pub fn pause(&mut self, error: RemoteError) -> Result<Duration, RemoteError> {
        let waited = self.failed.get_or_insert_with(Instant::now).elapsed();
        if !error.is_transient() || waited >= self.limits.retry {
            return Err(error);
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        tracing::info!("{error:#}: trying again in {:.1} s", pause.as_secs_f64());
        Ok(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::{Scheme, Url};

    #[test]
    fn patience_ends() {
        let error = |transient| RemoteError::Request {
            action: "read",
            url: Url {
                scheme: Scheme::S3,
                bucket: "b".to_owned(),
                key: "k".to_owned(),
            },
            transient,
            source: "it fails".into(),
        };
        let mut patience = Patience::new(Limits::default());
        let pauses: Vec<Duration> = (0..8)
            .map(|_| patience.pause(error(true)).unwrap())
            .collect();
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert_eq!(pauses[1], 2 * FIRST_PAUSE);
        assert_eq!(pauses[7], LONGEST_PAUSE);
        assert!(patience.pause(error(false)).is_err());
        let none = Limits {
            retry: Duration::ZERO,
            ..Limits::default()
        };
        assert!(Patience::new(none).pause(error(true)).is_err());
    }
}
