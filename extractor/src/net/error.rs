//! What can go wrong between a request and the last byte of its answer.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A file could not be had over the network. URLs arrive here without passwords.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// A proxy's address is not usable.
    #[error("{setting} is `{value}`, expected {expected}")]
    Setting {
        /// The setting's name.
        setting: String,
        /// Its value, without passwords.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The configured certificates cannot be read.
    #[error("certificates {} cannot be read", path.display())]
    CertificatesRead {
        /// The configured bundle.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configured file of certificates holds none.
    #[error("{} holds no certificate", path.display())]
    NoCertificate {
        /// The configured bundle.
        path: PathBuf,
    },
    /// No connection, or it broke.
    #[error("cannot get {url}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// The server took too long.
    #[error("{url} sent nothing, or next to nothing, for {}s", waited.as_secs_f32())]
    Stalled {
        /// What was asked for.
        url: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The server answered with something else than the file.
    #[error("{url} answered with status {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// Redirected without end.
    #[error("{url} redirects more than {limit} times")]
    TooManyRedirects {
        /// What was asked for.
        url: String,
        /// How many redirects are followed.
        limit: usize,
    },
    /// A redirect leads to something that is no address.
    #[error("{url} redirects to `{location}`, which is no address that can be followed")]
    BadRedirect {
        /// What was asked for.
        url: String,
        /// Where it leads.
        location: String,
    },
    /// A file that a `file` address names cannot be read.
    #[error("{} cannot be read", path.display())]
    LocalRead {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl NetError {
    /// Whether this is no more than the end of a connection.
    pub fn is_end(&self) -> bool {
        let NetError::Unreachable { source, .. } = self else {
            return false;
        };
        matches!(source.as_ref(), ureq::Error::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof)
    }

    /// Whether the same request may succeed some time later: what a person without a network reads.
    pub fn may_pass(&self) -> bool {
        match self {
            NetError::Unreachable { source, .. } => match source.as_ref() {
                ureq::Error::Io(e) => e.kind() != io::ErrorKind::InvalidData,
                ureq::Error::HostNotFound
                | ureq::Error::Timeout(_)
                | ureq::Error::ConnectionFailed => true,
                _ => false,
            },
            other => other.is_passing(),
        }
    }

    /// Whether the same request may succeed a moment later.
    pub fn is_passing(&self) -> bool {
        match self {
            NetError::Stalled { .. } => true,
            NetError::Status { status, .. } => *status == 429 || *status >= 500,
            NetError::Unreachable { source, .. } => match source.as_ref() {
                ureq::Error::Io(e) => !matches!(
                    e.kind(),
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::InvalidData
                ),
                _ => false,
            },
            _ => false,
        }
    }
}

/// Trouble, and what a person may do about it.
#[derive(Debug)]
pub struct Hinted {
    /// What went wrong.
    pub error: NetError,
    /// What to do; empty for nothing.
    pub hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hint.as_str() {
            "" => self.error.fmt(f),
            hint => write!(f, "{} (hint: {hint})", self.error),
        }
    }
}

impl Error for Hinted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}
