//! Where a verb's tables go: to a folder that was named, or to a new one that appears once it is
//! complete.

use std::path::{Path, PathBuf};

use anyhow::Context;
use extractor::digest::Digest;
use extractor::files::create_folder;

use crate::run::Draft;

/// A folder that can be written, before the costly work begins.
pub(super) enum Out {
    /// A folder that was named.
    Named(PathBuf),
    /// A new one.
    New(Draft),
}

impl Out {
    /// The folder `named`, or a new one below `root`.
    pub fn new(named: Option<&Path>, root: &Path) -> anyhow::Result<Out> {
        match named {
            Some(folder) => {
                create_folder(folder)?;
                Ok(Out::Named(folder.to_owned()))
            }
            None => Ok(Out::New(Draft::new(root)?)),
        }
    }

    /// The folder as it is called for now.
    pub fn path(&self) -> &Path {
        match self {
            Out::Named(folder) => folder,
            Out::New(draft) => draft.path(),
        }
    }

    /// What it is called from now on: a new one after the time and `digest`.
    pub fn publish(self, digest: &Digest) -> anyhow::Result<PathBuf> {
        match self {
            Out::Named(folder) => Ok(folder),
            Out::New(draft) => draft
                .publish_as(digest)
                .context("cannot keep what was found"),
        }
    }
}
