//! How long a server that fails is waited for.

use std::time::Duration;

use super::RemoteError;

/// Names of the variables.
const RETRY: &str = "HEADSTART_REMOTE_RETRY_SECS";
const TIMEOUT: &str = "HEADSTART_REMOTE_TIMEOUT_SECS";

/// The slowest upload that is taken for one that goes on.
const LEAST_BYTES_A_SEC: u64 = 1 << 20;

/// Patience with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a request that fails is tried again, from when it failed first:
    /// `HEADSTART_REMOTE_RETRY_SECS`, 180 seconds.
    pub retry: Duration,
    /// How long a server may send nothing: `HEADSTART_REMOTE_TIMEOUT_SECS`, 30 seconds.
    pub timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            retry: Duration::from_secs(180),
            timeout: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// As the environment says.
    ///
    /// # Errors
    /// [`RemoteError::Variable`].
    pub fn from_env() -> Result<Limits, RemoteError> {
        let usual = Limits::default();
        Ok(Limits {
            retry: seconds(RETRY, usual.retry)?,
            timeout: seconds(TIMEOUT, usual.timeout)?,
        })
    }

    /// How long an upload may take before it is taken for one that stalls.
    pub fn upload(&self, bytes: usize) -> Duration {
        self.timeout + Duration::from_secs(bytes as u64 / LEAST_BYTES_A_SEC)
    }
}

fn seconds(name: &'static str, usual: Duration) -> Result<Duration, RemoteError> {
    match std::env::var_os(name).filter(|value| !value.is_empty()) {
        None => Ok(usual),
        Some(value) => parse(&value.to_string_lossy()).ok_or(RemoteError::Variable {
            name,
            value: value.to_string_lossy().into_owned(),
        }),
    }
}

fn parse(text: &str) -> Option<Duration> {
    let secs: u64 = text.parse().ok()?;
    (1..=86_400)
        .contains(&secs)
        .then(|| Duration::from_secs(secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_seconds() {
        assert_eq!(parse("1"), Some(Duration::from_secs(1)));
        assert_eq!(parse("86400"), Some(Duration::from_secs(86_400)));
        for text in ["", "0", "-1", "1.5", "86401", "30s"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_large_upload_has_more_time() {
        let limits = Limits::default();
        assert_eq!(limits.upload(0), limits.timeout);
        assert_eq!(limits.upload(256 << 20), Duration::from_secs(30 + 256));
    }
}
