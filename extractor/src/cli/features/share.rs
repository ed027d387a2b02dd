//! What of a data set this process computes: all of it, or the part that a flag or a batch
//! scheduler gave it, and the index that says which images these are.
//!
//! Must not know of backbones or stores.

use std::path::{Path, PathBuf};

use anyhow::bail;

use super::Args;
use crate::cli::common::OutputArgs;
use crate::cli::index;
use crate::features::Extracted;
use crate::files::{counted, escape_path};
use crate::images::{DataSet, Dealt};
use crate::index::{Index, Indexed, part_path};
use crate::part::Part;

/// This process's share.
pub(super) struct Share<'a> {
    pub part: Part,
    /// Where the index lies.
    pub index_path: PathBuf,
    pub indexed: Indexed,
    /// Which of the index's images are ours.
    pub dealt: Dealt<'a>,
    /// Who said which part, and what it was taken from.
    pub source: String,
    /// The index was found and its images were not looked for.
    given: bool,
}

impl<'a> Share<'a> {
    /// The part that `args` or else the environment names. An index of the whole that is there is
    /// used as it is, so that none of many jobs walks the data set; without one, the part alone is
    /// indexed.
    pub fn of(
        args: &Args,
        images: &'a DataSet,
        whole: &Path,
        output: &OutputArgs,
    ) -> anyhow::Result<Share<'a>> {
        let (part, source) = part(args)?;
        let share = |index_path: PathBuf, indexed, dealt, given| Share {
            source: match given {
                true => format!("{}, by {source}", escape_path(whole)),
                false => format!("{}, by {source}", escape_path(&images.path)),
            },
            part,
            index_path,
            indexed,
            dealt,
            given,
        };
        if part.is_whole() {
            let indexed = index::make(images, whole, args.strict, args.rehash, output)?;
            return Ok(share(whole.to_owned(), indexed, Dealt::all(), false));
        }
        tracing::info!("computing part {part}, as {source} says");
        if whole.exists() && !args.rehash {
            let indexed = Indexed::of_index(Index::read(whole)?);
            return Ok(share(whole.to_owned(), indexed, images.dealt(part), true));
        }
        let path = part_path(whole, part);
        let indexed = index::make_part(images, part, &path, args.strict, args.rehash, output)?;
        Ok(share(path, indexed, Dealt::all(), false))
    }

    /// Checks after an extraction of `wanted` images that the index is one of this data set.
    pub fn is_there(&self, done: &Extracted, wanted: usize, dir: &Path) -> anyhow::Result<()> {
        if self.given && done.absent == wanted && done.transient == 0 && wanted > 0 {
            bail!(
                "of the {} that the index {} names for this part none is in {} (hint: is it mounted \
                 here, and is the index of this data set? extractor index writes it anew)",
                counted(wanted, "image"),
                escape_path(&self.index_path),
                escape_path(dir)
            );
        }
        Ok(())
    }
}

fn part(args: &Args) -> anyhow::Result<(Part, &'static str)> {
    if let Some(part) = args.shard {
        return Ok((part, "--shard"));
    }
    let found = Part::of_environment(|name| std::env::var(name).ok())?;
    Ok(found.unwrap_or((Part::WHOLE, "")))
}
