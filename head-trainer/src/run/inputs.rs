//! Where a run's inputs lie, and whether they are still what they were.
//!
//! What a run was made of is known by digest, so it may lie anywhere; where it lay is only the
//! first place to look. Must not know what the inputs are needed for.

use std::fmt;
use std::path::{Path, PathBuf};

use extractor::digest::Digest;
use extractor::files::{escape_path, unescape_path};
use extractor::index::{Index, IndexError};
use extractor::store::{self, StoreError};

use super::RunRecord;
use crate::split::file::{SplitFile, SplitFileError};

/// One of the things that a run is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The feature store.
    Store,
    /// The index.
    Index,
    /// The split.
    Split,
}

impl Input {
    /// All of them.
    pub const ALL: [Input; 3] = [Input::Store, Input::Index, Input::Split];

    /// The flag that says where it lies.
    fn flag(self) -> &'static str {
        match self {
            Input::Store => "--store",
            Input::Index => "--index",
            Input::Split => "--split",
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Input::Store => "feature store",
            Input::Index => "index",
            Input::Split => "split",
        })
    }
}

/// An input that is not what it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    input: Input,
    path: PathBuf,
    now: Digest,
    then: Digest,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (input, path) = (self.input, escape_path(&self.path));
        let (now, then) = (self.now.short(), self.then.short());
        write!(f, "the {input} {path} has digest {now}, it had {then}")
    }
}

/// The inputs are not there, or not what they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputsError {
    /// One is not there.
    #[error("its {input} {} is not there (hint: say where it lies with {})", escape_path(path), input.flag())]
    NotThere {
        /// Which.
        input: Input,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Some are other ones.
    #[error("{} (hint: say with {} where the run's own lies, or train anew)", list(.0, "; ", Changed::to_string), list(.0, " and ", |c| c.input.flag().to_owned()))]
    Changed(Vec<Changed>),
    /// No store of several has the run's key.
    #[error("none of the stores in {} has the run's key {} (hint: say with --store where it lies, or train anew)", escape_path(place), key.short())]
    NoStore {
        /// Where they lie.
        place: PathBuf,
        /// The key's digest.
        key: Digest,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The split.
    #[error(transparent)]
    Split(#[from] SplitFileError),
}

fn list(changed: &[Changed], between: &str, word: impl Fn(&Changed) -> String) -> String {
    changed.iter().map(word).collect::<Vec<_>>().join(between)
}

/// Where a run's inputs lie.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// The feature store's folder, or one that holds it.
    pub store: PathBuf,
    /// The index file.
    pub index: PathBuf,
    /// The split file.
    pub split: PathBuf,
    /// The backbone's file, if the record says.
    pub backbone: Option<PathBuf>,
}

impl Inputs {
    /// Where the run's record says that they lay.
    pub fn recorded(record: &RunRecord) -> Inputs {
        let path = |text: &String| unescape_path(text).unwrap_or_else(|| PathBuf::from(text));
        Inputs {
            store: path(&record.places.store),
            index: path(&record.places.index),
            split: path(&record.places.split),
            backbone: record.places.backbone.as_ref().map(path),
        }
    }

    /// The same with those that lie elsewhere by now.
    pub fn moved_to(
        self,
        store: Option<&Path>,
        index: Option<&Path>,
        split: Option<&Path>,
    ) -> Inputs {
        let or = |moved: Option<&Path>, path| moved.map_or(path, Path::to_owned);
        Inputs {
            store: or(store, self.store),
            index: or(index, self.index),
            split: or(split, self.split),
            backbone: self.backbone,
        }
    }

    /// Checks that the `wanted` ones are those of the run; [`Inputs::store`] is then the store
    /// itself, if it is wanted.
    ///
    /// # Errors
    /// When one is not there, cannot be read or is another one.
    pub fn checked(mut self, record: &RunRecord, wanted: &[Input]) -> Result<Inputs, InputsError> {
        let key = &record.key;
        for &input in wanted {
            let path = self.path(input);
            if !path.exists() {
                let path = path.to_owned();
                return Err(InputsError::NotThere { input, path });
            }
        }
        if wanted.contains(&Input::Store) {
            self.store = store_of(&self.store, key.store_key)?;
        }
        let mut changed = Vec::new();
        for &input in wanted {
            let path = self.path(input);
            let (now, then) = match input {
                Input::Store => (store::key::read(path)?.key.digest(), key.store_key),
                Input::Index => (Index::read(path)?.digest(), key.index),
                Input::Split => (SplitFile::read(path)?.origin.digest, key.split),
            };
            if now != then {
                let path = path.to_owned();
                changed.push(Changed {
                    input,
                    path,
                    now,
                    then,
                });
            }
        }
        match changed.is_empty() {
            true => Ok(self),
            false => Err(InputsError::Changed(changed)),
        }
    }

    fn path(&self, input: Input) -> &Path {
        match input {
            Input::Store => &self.store,
            Input::Index => &self.index,
            Input::Split => &self.split,
        }
    }
}

/// The store below `place` (or `place` itself) that has `key`; if none has, the only one.
fn store_of(place: &Path, key: Digest) -> Result<PathBuf, InputsError> {
    let mut stores = store::find(place)?;
    let has_key =
        |folder: &PathBuf| store::key::read(folder).is_ok_and(|json| json.key.digest() == key);
    if let Some(i) = stores.iter().position(has_key) {
        return Ok(stores.swap_remove(i));
    }
    match stores.len() {
        1 => Ok(stores.remove(0)),
        _ => Err(InputsError::NoStore {
            place: place.to_owned(),
            key,
        }),
    }
}
