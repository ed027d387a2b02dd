//! What of a data set this process computes: all of it, or the part that a flag or a batch
//! scheduler gave it, and the index that says which images these are.
//!
//! Must not know of backbones or stores.

use std::path::Path;

use anyhow::bail;

use super::Args;
use crate::cli::common::OutputArgs;
use crate::cli::index;
use crate::cli::place::IndexPlace;
use crate::features::Extracted;
use crate::files::{counted, escape_path};
use crate::images::{Columns, DataSet, Dealt, InputError};
use crate::index::{Index, Indexed, part_path};
use crate::part::Part;

/// Which part, and how its images are found.
#[derive(Clone, Copy)]
pub(super) struct Chosen {
    part: Part,
    /// Who said so.
    source: &'static str,
    /// An index of the whole is there and used as it is, so that none of many jobs walks the data set.
    indexed: bool,
}

impl Chosen {
    /// The part that `args` or else the environment names.
    pub fn of(args: &Args, index: &IndexPlace) -> anyhow::Result<Chosen> {
        let (part, source) = match args.shard {
            Some(part) => (part, "--shard"),
            None => {
                let found = Part::of_environment(|name| std::env::var(name).ok())?;
                found.unwrap_or((Part::WHOLE, ""))
            }
        };
        if !part.is_whole() {
            tracing::info!("computing part {part}, as {source} says");
        }
        Ok(Chosen {
            part,
            source,
            indexed: !part.is_whole() && !args.rehash && index.path.exists(),
        })
    }

    /// Opens the data set, which need not be listed where there is an index.
    pub fn open(
        &self,
        place: &Path,
        columns: &Columns,
        data_dir: &Path,
    ) -> Result<DataSet, InputError> {
        match self.indexed {
            true => DataSet::open_indexed(place, columns, data_dir),
            false => DataSet::open_at(place, columns, data_dir),
        }
    }
}

/// This process's share.
pub(super) struct Share<'a> {
    pub part: Part,
    pub indexed: Indexed,
    /// Which of the index's images are ours.
    pub dealt: Dealt<'a>,
    /// What people call the index.
    pub index: String,
    /// Who said which part, and what it was taken from.
    pub source: String,
    given: bool,
}

impl<'a> Share<'a> {
    /// What was chosen of `images`, with its index: the one that is there, else one of the whole or of
    /// this part alone, which is made now.
    pub fn of(
        args: &Args,
        chosen: Chosen,
        images: &'a DataSet,
        whole: &IndexPlace,
        output: &OutputArgs,
    ) -> anyhow::Result<Share<'a>> {
        let Chosen { part, source, .. } = chosen;
        let (indexed, dealt, index) = if part.is_whole() {
            let indexed = index::make(images, &whole.path, args.strict, args.rehash, output)?;
            whole.publish()?;
            (indexed, Dealt::all(), whole.shown())
        } else if chosen.indexed {
            let indexed = Indexed::of_index(Index::read(&whole.path)?);
            (indexed, images.dealt(part), whole.shown())
        } else {
            let path = part_path(&whole.path, part);
            let (strict, rehash) = (args.strict, args.rehash);
            let indexed = index::make_part(images, part, &path, strict, rehash, output)?;
            (indexed, Dealt::all(), escape_path(&path))
        };
        let taken_from = match chosen.indexed {
            true => index.clone(),
            false => escape_path(&images.path),
        };
        Ok(Share {
            part,
            indexed,
            dealt,
            index,
            source: format!("{taken_from}, by {source}"),
            given: chosen.indexed,
        })
    }

    /// Checks after an extraction of `wanted` images that the index is one of this data set.
    pub fn is_there(&self, done: &Extracted, wanted: usize, dir: &Path) -> anyhow::Result<()> {
        if self.given && done.absent == wanted && done.transient == 0 && wanted > 0 {
            bail!(
                "of the {} that the index {} names for this part none is in {} (hint: is it mounted \
                 here, and is the index of this data set? extractor index writes it anew)",
                counted(wanted, "image"),
                self.index,
                escape_path(dir)
            );
        }
        Ok(())
    }
}
