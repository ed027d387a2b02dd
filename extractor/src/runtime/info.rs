//! What `extractor runtime info` says: the platform, what is pinned, and what would be loaded.
//!
//! It gathers and words; it fetches nothing and loads nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use super::ORT_DYLIB_PATH;
use super::error::RuntimeError;
use super::install;
use super::locate::{Located, Source, locate_with};
use super::platform::{Flavour, Platform};
use super::table::Pinned;
use crate::net::Environment;

/// The state of the runtime on this machine.
#[derive(Debug)]
pub struct RuntimeInfo {
    /// This platform, if it is supported.
    pub platform: Result<Platform, RuntimeError>,
    /// The flavours of this platform.
    pub flavours: Vec<FlavourInfo>,
    /// The library that would be loaded, or why there is none.
    pub located: Result<Located, RuntimeError>,
}

/// One flavour of ONNX Runtime on this platform.
#[derive(Debug, Clone)]
pub struct FlavourInfo {
    /// Which.
    pub flavour: Flavour,
    /// The wheel it comes from.
    pub pinned: Pinned,
    /// The folder it goes to.
    pub folder: PathBuf,
    /// Whether it is there.
    pub is_installed: bool,
}

/// Looks at the runtime in `data_dir`; `flavour` is the one to be loaded.
pub fn info(data_dir: &Path, flavour: Flavour) -> RuntimeInfo {
    let platform = Platform::current();
    let flavours = platform.iter().flat_map(|platform| {
        Flavour::ALL
            .into_iter()
            .filter_map(|flavour| Some((flavour, Pinned::find(*platform, flavour).ok()?)))
    });
    let flavours = flavours
        .map(|(flavour, pinned)| FlavourInfo {
            flavour,
            pinned: pinned.clone(),
            folder: install::folder(data_dir, pinned),
            is_installed: install::installed(data_dir, pinned).is_some(),
        })
        .collect();
    RuntimeInfo {
        located: locate_with(&Environment::of_process(), data_dir, flavour, || {
            Pinned::find(Platform::current()?, flavour).cloned()
        }),
        flavours,
        platform,
    }
}

impl fmt::Display for RuntimeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.platform {
            Ok(platform) => writeln!(f, "platform   {platform}")?,
            Err(error) => writeln!(f, "platform   {error}")?,
        }
        for flavour in &self.flavours {
            let state = if flavour.is_installed {
                "in"
            } else {
                "not fetched into"
            };
            writeln!(
                f,
                "{:<10} ONNX Runtime {}, {state} {}",
                flavour.flavour.to_string(),
                flavour.pinned.version,
                flavour.folder.display()
            )?;
        }
        match &self.located {
            Ok(Located { path, source }) => {
                let how = match source {
                    Source::Override => ORT_DYLIB_PATH,
                    Source::Fetched => "fetched",
                };
                write!(f, "loads      {} ({how})", path.display())
            }
            Err(error) => write!(f, "loads      nothing: {error}"),
        }
    }
}
