//! Which library to load: the one that `ORT_DYLIB_PATH` names, else the fetched one.
//!
//! It looks at files only; whether the library loads and is new enough is the engine's to find
//! out.

use std::path::{Path, PathBuf};

use super::ORT_DYLIB_PATH;
use super::error::RuntimeError;
use super::install;
use super::platform::{Flavour, Platform};
use super::table::Pinned;
use crate::net::Environment;

/// A library, and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The library's file.
    pub path: PathBuf,
    /// How it was found.
    pub source: Source,
}

/// How a library was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `ORT_DYLIB_PATH` names it.
    Override,
    /// It was fetched.
    Fetched,
}

/// The library that this process should load.
///
/// # Errors
/// One line with the remedy: the override names no file, the platform is not supported, or
/// nothing was fetched yet.
pub fn locate(data_dir: &Path, flavour: Flavour) -> Result<Located, RuntimeError> {
    locate_with(&Environment::of_process(), data_dir, flavour, || {
        Pinned::find(Platform::current()?, flavour).cloned()
    })
}

/// As [`locate`], for another environment and another pinned wheel of the `flavour`; `pinned` is
/// not asked when the environment names a library.
///
/// # Errors
/// As [`locate`].
pub fn locate_with(
    environment: &Environment,
    data_dir: &Path,
    flavour: Flavour,
    pinned: impl FnOnce() -> Result<Pinned, RuntimeError>,
) -> Result<Located, RuntimeError> {
    if let Some(path) = override_path(environment)? {
        return Ok(Located {
            path,
            source: Source::Override,
        });
    }
    let pinned = pinned()?;
    match install::installed(data_dir, &pinned) {
        Some(path) => Ok(Located {
            path: std::path::absolute(&path).unwrap_or(path),
            source: Source::Fetched,
        }),
        None => Err(RuntimeError::NotInstalled {
            flavour,
            folder: install::folder(data_dir, &pinned),
        }),
    }
}

/// The library that the environment names, made absolute, if it names one.
pub(super) fn override_path(environment: &Environment) -> Result<Option<PathBuf>, RuntimeError> {
    let Some(named) = environment.get_os(ORT_DYLIB_PATH) else {
        return Ok(None);
    };
    let path = PathBuf::from(named);
    if !path.is_file() {
        return Err(RuntimeError::OverrideMissing { path });
    }
    Ok(Some(std::path::absolute(&path).unwrap_or(path)))
}
