//! Everything that can go wrong between no library and a library in place.
//!
//! One line each: what, which value, and what to do next. URLs arrive here without passwords.

use std::io;
use std::path::PathBuf;

use super::platform::{Flavour, Platform};
use crate::net::{Hinted, NetError};

/// The library could not be fetched or found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// No wheel is pinned for this platform.
    #[error(
        "no ONNX Runtime is pinned for {os} {arch}, only for linux-x86_64, linux-aarch64 \
         (both with glibc), macos-x86_64 and macos-arm64 (hint: set ORT_DYLIB_PATH to an ONNX \
         Runtime library that you have; that works on any platform)"
    )]
    UnsupportedPlatform {
        /// The operating system.
        os: String,
        /// The processor.
        arch: String,
    },
    /// The platform has no such flavour.
    #[error(
        "no ONNX Runtime with {0} is pinned for {platform}, only for linux-x86_64 (hint: use \
         the CPU flavour, or set ORT_DYLIB_PATH to a library with {0} that you have)",
        flavour.title()
    )]
    NoFlavour {
        /// The flavour asked for.
        flavour: Flavour,
        /// The platform asked for.
        platform: Platform,
    },
    /// `ORT_DYLIB_PATH` names nothing, or no file.
    #[error(
        "ORT_DYLIB_PATH names {path}, which is no file (hint: set it to ONNX Runtime's library \
         itself, such as libonnxruntime.so, or unset it and run extractor runtime fetch)"
    )]
    OverrideMissing {
        /// The value of the variable.
        path: PathBuf,
    },
    /// No override and nothing fetched.
    #[error(
        "ONNX Runtime's library is not in {folder} (hint: run extractor runtime fetch{} (or make \
         runtime{}), or set ORT_DYLIB_PATH to a library that you have)",
        flag(" --flavour ", *flavour),
        flag(" EP=", *flavour)
    )]
    NotInstalled {
        /// The flavour looked for.
        flavour: Flavour,
        /// Where a fetched library would be.
        folder: PathBuf,
    },
    /// One of pip's configuration files could not be read.
    #[error("pip's configuration {path} cannot be read")]
    PipConfigRead {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One of pip's configuration files is not in pip's format.
    #[error(
        "pip's configuration {path} is malformed (hint: correct it, or set PIP_CONFIG_FILE to \
         /dev/null to go without)"
    )]
    PipConfigSyntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<ini::ParseError>,
    },
    /// A setting of pip's is not usable.
    #[error("{setting} is `{value}`, expected {expected}")]
    Setting {
        /// The setting's name.
        setting: String,
        /// Its value, without passwords.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A page or a file cannot be had.
    #[error(transparent)]
    Net(Hinted),
    /// A local page or wheel cannot be read.
    #[error("{path} cannot be read (hint: check PIP_INDEX_URL and PIP_FIND_LINKS)")]
    LocalRead {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The index's page cannot be understood.
    #[error("{url} is not the page of a package index (hint: check PIP_INDEX_URL)")]
    BadIndexPage {
        /// The page.
        url: String,
        /// Why.
        source: Box<serde_json::Error>,
    },
    /// The index does not have the wheel.
    #[error(
        "{place} does not list {wheel} (hint: set PIP_INDEX_URL to an index that has it, such \
         as https://pypi.org/simple, or set ORT_DYLIB_PATH to a library that you have)"
    )]
    NotListed {
        /// The page or folder.
        place: String,
        /// The file name looked for.
        wheel: String,
    },
    /// pip may not use an index, and its folders do not have the wheel.
    #[error(
        "pip's configuration says no-index and find-links does not have {wheel} (hint: put it \
         there, or set ORT_DYLIB_PATH to a library that you have)"
    )]
    NoSource {
        /// The file name looked for.
        wheel: String,
    },
    /// The file is shorter or longer than the pinned one.
    #[error(
        "{url} gave {got_bytes} bytes of {expected_bytes} (hint: the transfer broke off or the \
         mirror has another file; try again or set PIP_INDEX_URL to another index)"
    )]
    WrongSize {
        /// Where the file came from.
        url: String,
        /// What came; one more than expected stands for any larger size.
        got_bytes: u64,
        /// What is pinned.
        expected_bytes: u64,
    },
    /// The file is not the pinned one.
    #[error(
        "{url} has SHA-256 {got}, expected {expected}; it was thrown away (hint: the mirror's \
         copy is damaged or was tampered with; set PIP_INDEX_URL to another index)"
    )]
    WrongHash {
        /// Where the file came from.
        url: String,
        /// The file's digest.
        got: crate::digest::Digest,
        /// The pinned digest.
        expected: crate::digest::Digest,
    },
    /// The wheel cannot be unpacked.
    #[error("{wheel} cannot be unpacked")]
    Unpack {
        /// The wheel's file name.
        wheel: String,
        /// Why.
        source: Box<zip::result::ZipError>,
    },
    /// The wheel lacks the library.
    #[error(
        "{wheel} has no {member} (hint: the pinned table is wrong; report it, and set \
         ORT_DYLIB_PATH meanwhile)"
    )]
    MissingMember {
        /// The wheel's file name.
        wheel: String,
        /// The path looked for.
        member: String,
    },
    /// The destination cannot be written.
    #[error(
        "cannot write {path} (hint: check permissions and free space, or choose another data \
         folder)"
    )]
    Destination {
        /// What was being written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How another flavour than the usual one is named to a command.
fn flag(name: &str, flavour: Flavour) -> String {
    match flavour {
        Flavour::Cpu => String::new(),
        other => format!("{name}{other}"),
    }
}

impl From<NetError> for RuntimeError {
    fn from(error: NetError) -> RuntimeError {
        let hint = match &error {
            NetError::CertificatesRead { .. } => {
                "check PIP_CERT, `cert` in pip.conf and REQUESTS_CA_BUNDLE"
            }
            NetError::NoCertificate { .. } => {
                "PIP_CERT and `cert` in pip.conf name a file in PEM format"
            }
            NetError::Unreachable { .. } => {
                "check network and proxy, set PIP_INDEX_URL to an index within reach, or set \
                 ORT_DYLIB_PATH to a library that you have"
            }
            NetError::Stalled { .. } => {
                "try again, raise PIP_TIMEOUT, set PIP_INDEX_URL to a faster index, or set \
                 ORT_DYLIB_PATH to a library that you have"
            }
            NetError::Status { status, .. } => status_hint(*status),
            NetError::TooManyRedirects { .. } => "check PIP_INDEX_URL",
            NetError::LocalRead { .. } => "check PIP_INDEX_URL and PIP_FIND_LINKS",
            _ => "",
        };
        let hint = hint.to_owned();
        RuntimeError::Net(Hinted { error, hint })
    }
}

fn status_hint(status: u16) -> &'static str {
    match status {
        401 | 403 => {
            "put the index's user name and password into PIP_INDEX_URL, or set ORT_DYLIB_PATH to \
             a library that you have"
        }
        407 => "put the proxy's user name and password into HTTPS_PROXY",
        404 | 410 => {
            "set PIP_INDEX_URL to an index that has it, such as https://pypi.org/simple, or set \
             ORT_DYLIB_PATH to a library that you have"
        }
        _ => {
            "try again later, set PIP_INDEX_URL to another index, or set ORT_DYLIB_PATH to a \
             library that you have"
        }
    }
}
