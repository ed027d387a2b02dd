//! `extractor store gc`.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::super::common::{Outcome, OutputArgs};
use super::super::place::local_index;
use super::{only_whole_store, parse_time, paths, removed_text};
use crate::files::{escape_path, grouped};
use crate::index::Index;
use crate::store::gc::{Options, collect};
use crate::store::{IDENTITY, Store};

/// Flags of `extractor store gc`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The store, or the folder it lies in if it is the only one there.
    store: PathBuf,
    /// Every index whose rows are kept; all others go.
    #[arg(long, value_name = "INDEX", required = true, num_args = 1..)]
    keep: Vec<PathBuf>,
    /// Do it. Without, nothing is changed.
    #[arg(long)]
    yes: bool,
    /// Leave shards alone that are younger than this, or replaced by one that is: 45s, 30m, 24h,
    /// 7d. 0s only if nobody else uses the store now.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_time)]
    grace: Duration,
}

impl Args {
    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let folder = only_whole_store(&self.store)?;
        let mut keep = HashSet::new();
        {
            let store = Store::open(&folder)?;
            for path in &self.keep {
                let index = Index::read(&local_index(path, output)?)?;
                let mut ids = index.iter().map(|e| e.id);
                if !ids.any(|id| store.locate(&id, IDENTITY).is_some()) {
                    tracing::warn!(
                        "no image of the index {} has a row in this store",
                        escape_path(path)
                    );
                }
                keep.extend(index.iter().map(|e| e.id));
            }
        }
        for path in unnamed(&self.keep, &output.data_dir.join("indexes")) {
            tracing::warn!(
                "the index {} is not kept; rows that only it needs go",
                escape_path(&path)
            );
        }
        let options = Options {
            grace: self.grace,
            yes: self.yes,
        };
        let collected = collect(&folder, &keep, &options)?;
        let mut text = format!(
            "store     {}\nkept      {} images\nunneeded  {} images: {} shards not needed, {} partly\n",
            escape_path(&folder),
            grouped(collected.kept_images as u64),
            grouped(collected.unneeded_images as u64),
            grouped(collected.unneeded.len() as u64),
            grouped(collected.partly_needed.len() as u64),
        );
        let partly = collected.partly_needed.iter().map(|p| (p, "partly needed"));
        let unneeded = collected.unneeded.iter().map(|p| (p, "not needed"));
        for (path, what) in unneeded.chain(partly) {
            let name = path.file_name().unwrap_or_default();
            text += &format!("shard     {} {what}\n", escape_path(Path::new(name)));
        }
        if self.yes {
            text += &format!(
                "dropped   {} images\n",
                grouped(collected.dropped_images as u64)
            );
        }
        let what = if self.yes { "removed" } else { "to remove" };
        text += &removed_text(&collected.removed, what);
        if collected.young > 0 {
            text += &format!(
                "waiting   {} partly needed shards younger than the grace period (run the same \
                 command again later)\n",
                grouped(collected.young as u64),
            );
        }
        if !self.yes {
            text += "hint      nothing was changed; --yes does it\n";
        }
        output.print(
            &json!({
                "store": escape_path(&folder),
                "done": self.yes,
                "kept_images": collected.kept_images,
                "unneeded_images": collected.unneeded_images,
                "dropped_images": collected.dropped_images,
                "unneeded": paths(&collected.unneeded),
                "partly_needed": paths(&collected.partly_needed),
                "written": paths(&collected.written),
                "removed": collected.removed,
            }),
            &text,
        )?;
        Ok(Outcome::Done)
    }
}

/// Indexes beside the named ones, or in the folder `usual`, that are not named.
fn unnamed(named: &[PathBuf], usual: &Path) -> Vec<PathBuf> {
    let named: HashSet<PathBuf> = named.iter().flat_map(|p| p.canonicalize()).collect();
    let beside = named.iter().flat_map(|p| p.parent()).map(Path::to_owned);
    let folders: HashSet<PathBuf> = beside.chain(usual.canonicalize().ok()).collect();
    let mut others: Vec<PathBuf> = folders
        .into_iter()
        .flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "arrow") && path.is_file())
        .filter(|path| path.canonicalize().is_ok_and(|path| !named.contains(&path)))
        .filter(|path| Index::read(path).is_ok())
        .collect();
    others.sort();
    others
}
