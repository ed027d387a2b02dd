//! `extractor fetch`.

use std::path::PathBuf;

use serde_json::json;

use super::common::{Outcome, OutputArgs, set_threads};
use super::download::Shown;
use crate::digest::Digest;
use crate::fetch::Conditions;
use crate::fetch::set::{self, Wanted};
use crate::files::{escape_path, grouped};
use crate::images::Keep;
use crate::progress::Progress;

/// Flags of `extractor fetch`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The data set: a name (cats-vs-dogs), the address of an archive, or an archive that is there.
    #[arg(value_name = "NAME|URL|FILE")]
    what: String,
    /// SHA-256 that the archive must have; one that is known by name has its own.
    #[arg(long, value_name = "HEX")]
    sha256: Option<Digest>,
    /// Which images count [default: jfif for cats-vs-dogs, which leaves 23,262 of 25,000 as
    /// tensorflow_datasets does; else all].
    #[arg(long, value_enum)]
    keep: Option<Keep>,
    /// Every image counts that can be decoded: --keep all.
    #[arg(long, conflicts_with = "keep")]
    keep_all: bool,
    /// Where the archive goes [default: DATA_DIR and its own name].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Args {
    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        set_threads(None)?;
        let wanted = Wanted::of(&self.what, self.sha256)?;
        if let (Wanted::File(..), Some(_)) = (&wanted, &self.out) {
            anyhow::bail!("--out does not go with a file that is there: it is used where it lies");
        }
        let keep = match self.keep_all {
            true => Some(Keep::All),
            false => self.keep,
        };
        let to = match self.out {
            Some(path) => path,
            None => wanted.place(&output.data_dir)?,
        };
        let mut shown = Shown::new(output.quiet);
        let looked = Progress::files("looking at", output.quiet);
        let fetched = set::fetch(
            &wanted,
            keep,
            &to,
            &Conditions::default(),
            &mut |event| shown.hear(event),
            || looked.add(1),
        );
        shown.finish();
        looked.finish();
        let fetched = fetched?;
        if let Wanted::Known(known) = &wanted
            && known.keep == fetched.keep
            && known.kept != fetched.kept as u64
        {
            tracing::warn!(
                "the rule {} leaves {} images, not the {} that are documented",
                fetched.keep,
                grouped(fetched.kept as u64),
                grouped(known.kept)
            );
        }
        let mut text = format!(
            "archive   {}\nsha256    {}\nimages    {}\n",
            escape_path(&fetched.archive),
            fetched.sha256,
            grouped(fetched.kept as u64),
        );
        if fetched.left_out > 0 {
            text += &format!(
                "left out  {} by the rule {} (--keep-all keeps them)\n",
                grouped(fetched.left_out as u64),
                fetched.keep
            );
        }
        output.print(
            &json!({
                "archive": escape_path(&fetched.archive),
                "sha256": fetched.sha256,
                "keep": fetched.keep,
                "images": fetched.kept,
                "left_out": fetched.left_out,
            }),
            &text,
        )?;
        Ok(Outcome::Done)
    }
}
