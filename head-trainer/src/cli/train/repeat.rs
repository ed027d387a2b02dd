//! `head-trainer train --repeat RUN`: the same training again, from what the run's folder says.
//!
//! Store, index and split must still be what they were, byte for byte, wherever they lie now;
//! what has changed is named before anything is read at length. The new run's head is then
//! compared with the old one's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use extractor::files::escape_path;
use extractor::view::View;
use serde_json::{Value, json};

use crate::dataset::{SplitSource, WantedViews};
use crate::decide::Choices;
use crate::run::{self, Input, Inputs, RunRecord, head_file};
use crate::solver::FitConfig;

/// Flags that say where things lie or how to go about it, and so go with `--repeat`.
#[cfg(test)]
const ALLOWED: [&str; 7] = [
    "dir", "index", "store", "split", "runs", "threads", "repeat",
];

/// The flags that `--repeat` takes from the run: all that change a result.
pub(super) const TAKEN: [&str; 26] = [
    "backbone",
    "preset",
    "dtype",
    "split_mode",
    "split_seed",
    "split_fractions",
    "resplit",
    "views",
    "solver",
    "seed",
    "standardize",
    "class_weight",
    "temperature",
    "threshold",
    "schedule",
    "dropout",
    "patience",
    "protocol",
    "epochs",
    "batch_size",
    "learning_rate",
    "steps_per_epoch",
    "shuffle_buffer",
    "l2",
    "max_iterations",
    "gradient_tolerance",
];

/// A run to repeat.
pub(super) struct Repeat {
    folder: PathBuf,
    record: RunRecord,
    head: Option<Vec<u8>>, // the bytes of its file, if it is there
}

impl Repeat {
    /// Reads the run that `wanted` means; see [`run::find`].
    pub(super) fn read(root: &Path, wanted: &Path) -> anyhow::Result<Repeat> {
        let folder = run::find(root, wanted)?;
        let record = RunRecord::read(&folder)?;
        let head = fs::read(head_file(&folder)).ok();
        let name = escape_path(&folder);
        if head.is_none() {
            tracing::warn!("{name} has no head that this one could be compared with");
        }
        let (then, now) = (
            record.versions.get("head-trainer"),
            env!("CARGO_PKG_VERSION"),
        );
        if then.is_none_or(|then| then != now) {
            let then = then.map_or("another version", String::as_str);
            tracing::warn!(
                "{name} was made by head-trainer {then}, this is {now}: bits may differ"
            );
        }
        Ok(Repeat {
            folder,
            record,
            head,
        })
    }

    /// The configuration.
    pub(super) fn config(&self) -> FitConfig {
        self.record.key.config.clone()
    }

    /// What is chosen after training.
    pub(super) fn choices(&self) -> Choices {
        self.record.key.choices
    }

    /// The index file, as the run says.
    pub(super) fn index(&self) -> PathBuf {
        Inputs::recorded(&self.record).index
    }

    /// The views.
    pub(super) fn views(&self) -> anyhow::Result<WantedViews> {
        let names = self.record.key.views.iter();
        let views: Result<_, _> = names.map(|name| name.parse::<View>()).collect();
        Ok(WantedViews::Only(views?))
    }

    /// Store and split to repeat the run with, if index, store and split are what they were.
    /// `store` and `split` say where they lie now, if elsewhere than they did.
    pub(super) fn inputs(
        &self,
        index: &Path,
        store: Option<&Path>,
        split: Option<&Path>,
    ) -> anyhow::Result<(PathBuf, SplitSource)> {
        let inputs = Inputs::recorded(&self.record)
            .moved_to(store, Some(index), split)
            .checked(&self.record, &Input::ALL)
            .with_context(|| format!("cannot repeat {}", escape_path(&self.folder)))?;
        Ok((inputs.store, SplitSource::Given(inputs.split)))
    }

    /// Whether the head in `folder` is the repeated run's, bit for bit; adds to a result's JSON
    /// and text what it says. None if there is nothing to compare it with.
    pub(super) fn compare(
        &self,
        folder: &Path,
        value: &mut Value,
        text: &mut String,
    ) -> anyhow::Result<Option<bool>> {
        let path = head_file(folder);
        let now = fs::read(&path).with_context(|| format!("cannot read {}", escape_path(&path)))?;
        let same = self.head.as_ref().map(|then| *then == now);
        let repeated = escape_path(&self.folder);
        *text += &format!(
            "repeats    {repeated}: {}\n",
            match same {
                Some(true) => "the head is the same, bit for bit",
                Some(false) => "the head is another",
                None => "it has no head to compare",
            }
        );
        value["repeats"] = json!({ "run": repeated, "same_head": same });
        Ok(same)
    }

    /// Fails if the heads were compared and differ.
    pub(super) fn check(&self, folder: &Path, same: Option<bool>) -> anyhow::Result<()> {
        let (old, new) = (escape_path(&self.folder), escape_path(folder));
        ensure!(
            same != Some(false),
            "the head of {new} is not that of {old}, bit for bit (hint: head-trainer runs diff \
             {old} {new}; were the features computed anew, by another engine or processor?)"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Args as _;

    use super::super::Args;
    use super::*;

    #[test]
    fn every_flag_is_taken_from_the_run_or_changes_nothing() {
        let command = Args::augment_args(clap::Command::new("train"));
        let mut flags: Vec<&str> = command
            .get_arguments()
            .map(|a| a.get_id().as_str())
            .collect();
        let mut known = [&TAKEN[..], &ALLOWED[..]].concat();
        flags.sort_unstable();
        known.sort_unstable();
        assert_eq!(flags, known);
    }
}
