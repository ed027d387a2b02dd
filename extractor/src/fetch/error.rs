//! Why a file or a data set could not be fetched. One line each; URLs arrive without passwords.

use std::path::PathBuf;

use crate::digest::Digest;
use crate::files::{FileError, escape_path, grouped};
use crate::images::InputError;
use crate::net::{Hinted, NetError};
use crate::runtime::RuntimeError;

/// Nothing was fetched, or not all of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Neither a known name, nor an address, nor a file.
    #[error("`{what}` is neither a known {kind} ({}), nor an http or https address, nor a file", known.join(", "))]
    Unknown {
        /// What was asked for.
        what: String,
        /// `data set` or `backbone`.
        kind: &'static str,
        /// What is known.
        known: Vec<String>,
    },
    /// A known name and another digest than its own.
    #[error(
        "{name} has SHA-256 {sha256} and no other (hint: for another file, name its address or the file)"
    )]
    Pinned {
        /// The name.
        name: String,
        /// Its digest.
        sha256: Digest,
    },
    /// The mirror's address is none.
    #[error(
        "HEADSTART_MIRROR is `{value}`, expected an address such as https://mirror.example/headstart"
    )]
    Mirror {
        /// Its value, without passwords.
        value: String,
    },
    /// An address that ends in no name for a file.
    #[error("{url} names no file (hint: give --out FILE)")]
    NoName {
        /// The address.
        url: String,
    },
    /// The server cannot be reached or gives no answer of use.
    #[error(transparent)]
    Net(Hinted),
    /// The transfer broke off, again and again.
    #[error(
        "{url} broke off after {} {} (hint: run the same command again; what came is kept)",
        grouped(*got_bytes), of(*expected_bytes)
    )]
    Short {
        /// Where it came from.
        url: String,
        /// What came, earlier attempts included.
        got_bytes: u64,
        /// What should have come.
        expected_bytes: Option<u64>,
    },
    /// The file is larger or smaller than the one wanted.
    #[error(
        "{url} has {} bytes, expected {} (hint: the server has another file; get it elsewhere)", grouped(*got_bytes), grouped(*expected_bytes)
    )]
    WrongSize {
        /// Where it came from.
        url: String,
        /// What the server says or gives; one more than expected stands for any larger size.
        got_bytes: u64,
        /// What is pinned.
        expected_bytes: u64,
    },
    /// The disk has no room for it, which is found out before it is read.
    #[error(
        "{} has {} bytes free, and {url} needs {} (hint: free some space and run the same command again, or \
         name a folder on another disk with --data-dir)",
        escape_path(folder), grouped(*free_bytes), grouped(*needed_bytes)
    )]
    NoSpace {
        /// Where it would go.
        folder: PathBuf,
        /// Where it would come from.
        url: String,
        /// What is free there.
        free_bytes: u64,
        /// What it takes beyond what came before.
        needed_bytes: u64,
    },
    /// The file is not the one wanted.
    #[error(
        "{url} has SHA-256 {got}, expected {expected}; it was thrown away (hint: the server's file is \
         damaged, was changed or was tampered with; get it elsewhere)"
    )]
    WrongHash {
        /// Where it came from.
        url: String,
        /// The file's digest.
        got: Digest,
        /// The wanted one.
        expected: Digest,
    },
    /// A file that is there is not the one wanted. It is left alone.
    #[error(
        "{} is there and has SHA-256 {got}, expected {expected} (hint: move it away, or give --out FILE)",
        escape_path(path)
    )]
    Occupied {
        /// The file.
        path: PathBuf,
        /// Its digest.
        got: Digest,
        /// The wanted one.
        expected: Digest,
    },
    /// A file is there, and no digest says which it is.
    #[error(
        "{} is there, and nothing says that it is what {url} has (hint: name the file itself, say which with \
         --sha256 HEX, or give --out FILE)",
        escape_path(path)
    )]
    There {
        /// The file.
        path: PathBuf,
        /// What was wanted.
        url: String,
    },
    /// The server answers a request for the rest of a file with some other part.
    #[error(
        "{url} answers with other bytes than those asked for (hint: run the same command again)"
    )]
    WrongRange {
        /// Where it came from.
        url: String,
    },
    /// A file of ours cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// pip's configuration, whose proxy and certificates count here too, is malformed.
    #[error(transparent)]
    Pip(Box<RuntimeError>),
    /// What was fetched cannot be listed.
    #[error(transparent)]
    Input(#[from] InputError),
}

fn of(expected_bytes: Option<u64>) -> String {
    match expected_bytes {
        Some(bytes) => format!("of {} bytes", grouped(bytes)),
        None => "bytes".to_owned(),
    }
}

impl FetchError {
    /// Whether it may succeed some time later, from where it broke off.
    pub fn may_pass(&self) -> bool {
        match self {
            FetchError::Net(hinted) => hinted.error.may_pass(),
            FetchError::Short { .. } | FetchError::WrongRange { .. } => true,
            _ => false,
        }
    }

    /// Whether it may succeed a moment later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            FetchError::Net(hinted) => hinted.error.is_passing(),
            other => other.may_pass(),
        }
    }
}

impl From<NetError> for FetchError {
    fn from(error: NetError) -> FetchError {
        let hint = match &error {
            NetError::Unreachable { .. } => {
                "is this machine offline, or behind a proxy? set HTTPS_PROXY, or HEADSTART_MIRROR to a \
                 server within reach, or fetch the file elsewhere and name it instead"
            }
            NetError::Stalled { .. } => "run the same command again; what came is kept",
            NetError::Status { status: 407, .. } => {
                "put the proxy's user name and password into HTTPS_PROXY"
            }
            NetError::Status {
                status: 429 | 500..,
                ..
            } => "try again later",
            NetError::Status { .. } => "set HEADSTART_MIRROR to a server that has it",
            NetError::CertificatesRead { .. } | NetError::NoCertificate { .. } => {
                "check PIP_CERT, `cert` in pip.conf and REQUESTS_CA_BUNDLE, which count here too"
            }
            _ => "",
        };
        let hint = hint.to_owned();
        FetchError::Net(Hinted { error, hint })
    }
}
