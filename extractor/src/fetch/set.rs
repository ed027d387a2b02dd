//! A data set's archive put in place, and recorded beside it which of its images count.
//!
//! An archive that lies somewhere already is used where it lies.

use std::path::{Path, PathBuf};

use url::Url;

use super::download::{Conditions, Event, Remote, download};
use super::error::FetchError;
use super::known::{self, KnownSet};
use crate::digest::Digest;
use crate::files::FileError;
use crate::images::{Columns, DataSet, InputError, Keep, Selection};
use crate::net::shown;

/// What to fetch.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// A data set that is known.
    Known(KnownSet),
    /// Any address, and the digest that its file should have.
    Address(Url, Option<Digest>),
    /// A file that is there, and the digest that it should have.
    File(PathBuf, Option<Digest>),
}

/// A data set in place.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The archive.
    pub archive: PathBuf,
    /// Its digest.
    pub sha256: Digest,
    /// Which images count.
    pub keep: Keep,
    /// Images that do.
    pub kept: usize,
    /// Images that do not.
    pub left_out: usize,
}

impl Wanted {
    /// What a person means: a known name, an address, or a file.
    ///
    /// # Errors
    /// When it is none of these, or a known one is to have another digest.
    pub fn of(what: &str, sha256: Option<Digest>) -> Result<Wanted, FetchError> {
        let sets = known::data_sets();
        if let Some(set) = sets.iter().find(|set| set.name == what) {
            return match sha256.is_none_or(|sha256| sha256 == set.sha256) {
                true => Ok(Wanted::Known(set.clone())),
                false => Err(FetchError::Pinned {
                    name: set.name.clone(),
                    sha256: set.sha256,
                }),
            };
        }
        if Path::new(what).exists() {
            return Ok(Wanted::File(what.into(), sha256));
        }
        match address(what) {
            Some(url) => Ok(Wanted::Address(url, sha256)),
            None => Err(FetchError::Unknown {
                what: what.to_owned(),
                kind: "data set",
                known: sets.into_iter().map(|set| set.name).collect(),
            }),
        }
    }

    /// Where its archive goes by default: into `data_dir`, under its own name.
    ///
    /// # Errors
    /// When an address ends in no name.
    pub fn place(&self, data_dir: &Path) -> Result<PathBuf, FetchError> {
        let url = match self {
            Wanted::Known(set) => &set.url,
            Wanted::Address(url, _) => url,
            Wanted::File(path, _) => return Ok(path.clone()),
        };
        Ok(data_dir.join(file_name(url)?))
    }
}

/// Puts the archive at `to` and records which of its images count: `keep`, else what is known of it,
/// else all. `listed` hears of every image that was looked at.
///
/// # Errors
/// When the archive cannot be had, is another one, or cannot be listed.
pub fn fetch(
    wanted: &Wanted,
    keep: Option<Keep>,
    to: &Path,
    conditions: &Conditions,
    report: &mut dyn FnMut(Event),
    listed: impl Fn() + Sync,
) -> Result<Fetched, FetchError> {
    let (source, sha256) = match wanted {
        Wanted::Known(set) => {
            let environment = &conditions.environment;
            let remote = known::remote(&set.url, set.size_bytes, set.sha256, environment)?;
            let sha256 = download(&remote, to, conditions, report)?;
            (Some(shown(&remote.url)), sha256)
        }
        Wanted::Address(url, sha256) => {
            let remote = Remote {
                url: url.clone(),
                size_bytes: None,
                sha256: *sha256,
            };
            (Some(shown(url)), download(&remote, to, conditions, report)?)
        }
        Wanted::File(path, expected) => {
            report(Event::Checking);
            let got = Digest::of_file(path).map_err(FileError::new("read", path))?;
            match *expected {
                Some(expected) if expected != got => {
                    return Err(FetchError::Occupied {
                        path: path.clone(),
                        got,
                        expected,
                    });
                }
                _ => (None, got),
            }
        }
    };
    let keep = match (keep, wanted) {
        (Some(keep), _) => keep,
        (None, Wanted::Known(set)) => set.keep,
        // A rule that was chosen before stays until another one is named.
        (None, _) => Selection::beside(to)?
            .filter(|selection| selection.sha256 == sha256)
            .map_or_else(|| known_keep(&sha256), |selection| selection.keep),
    };
    let data = DataSet::open_whole(to, &Columns::default())?;
    let left_out = data.left_out_by(keep, listed)?;
    let images = data.images_listed();
    if images == 0 {
        return Err(InputError::refused(to, "has no image").into());
    }
    let selection = Selection::new(to, sha256, source, keep, &left_out)?;
    selection.write(to)?;
    Ok(Fetched {
        archive: to.to_owned(),
        sha256,
        keep,
        kept: images - left_out.len(),
        left_out: left_out.len(),
    })
}

/// What is kept of an archive by default: what is known of one of this digest, else all.
fn known_keep(sha256: &Digest) -> Keep {
    let sets = known::data_sets();
    let set = sets.iter().find(|set| set.sha256 == *sha256);
    set.map_or(Keep::All, |set| set.keep)
}

/// `text` as an address of the web.
pub fn address(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    ["http", "https"].contains(&url.scheme()).then_some(url)
}

/// The name that an address gives its file.
///
/// # Errors
/// When it gives none.
pub fn file_name(url: &Url) -> Result<String, FetchError> {
    let last = url.path().rsplit('/').next().unwrap_or_default();
    let name = percent_encoding::percent_decode_str(last).decode_utf8_lossy();
    let is_name = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']);
    match is_name {
        true => Ok(name.into_owned()),
        false => Err(FetchError::NoName { url: shown(url) }),
    }
}
