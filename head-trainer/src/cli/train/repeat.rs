//! `head-trainer train --repeat RUN`: the same training again, from what the run's folder says.
//!
//! Store, index and split must still be what they were, byte for byte, wherever they lie now;
//! what has changed is named before anything is read at length. The new run's head is then
//! compared with the old one's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use extractor::cli::common::OutputArgs;
use extractor::files::escape_path;
use extractor::view::View;
use serde_json::{Value, json};

use crate::baseline::BaselineConfig;
use crate::cli::stores;
use crate::dataset::{SplitSource, WantedViews};
use crate::decide::Choices;
use crate::run::{self, Input, Inputs, RunRecord, model_file};
use crate::solver::FitConfig;

/// Flags that say where things lie or how to go about it, and so go with `--repeat`.
#[cfg(test)]
const ALLOWED: [&str; 7] = [
    "dir", "index", "store", "split", "runs", "threads", "repeat",
];

/// The flags that `--repeat` takes from the run: all that change a result.
pub(super) const TAKEN: [&str; 27] = [
    "backbone",
    "preset",
    "dtype",
    "precision",
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

/// Prints a run's result, with what comparing it with the run that it repeats says, if it repeats
/// one.
///
/// # Errors
/// When the models were compared and differ.
pub(in crate::cli) fn print(
    repeat: Option<&Repeat>,
    folder: &Path,
    mut value: Value,
    mut text: String,
    output: &OutputArgs,
) -> anyhow::Result<()> {
    let Some(repeat) = repeat else {
        return output.print(&value, &text);
    };
    let same = repeat.compare(folder, &mut value, &mut text)?;
    output.print(&value, &text)?;
    repeat.check(folder, same)
}

/// A run to repeat.
pub(in crate::cli) struct Repeat {
    folder: PathBuf,
    record: RunRecord,
    model: Option<Vec<u8>>, // the bytes of its file, if it is there
}

impl Repeat {
    /// Reads the run that `wanted` means; see [`run::find`].
    pub(in crate::cli) fn read(root: &Path, wanted: &Path) -> anyhow::Result<Repeat> {
        let folder = run::find(root, wanted)?;
        let record = RunRecord::read(&folder)?;
        let model = fs::read(model_file(&folder, &record.key.config)).ok();
        let name = escape_path(&folder);
        ensure!(
            record.key.digest() == record.digest,
            "cannot repeat {name}: what its run.json says of the training was changed since, as its \
             digest shows"
        );
        if model.is_none() {
            tracing::warn!("{name} has no model that this one could be compared with");
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
            model,
        })
    }

    /// A place of the run's store as a local one: of an object store it is brought in.
    pub(in crate::cli) fn local_store(
        &self,
        place: &Path,
        output: &OutputArgs,
    ) -> anyhow::Result<PathBuf> {
        stores::local(place, self.record.key.store_key, output)
    }

    /// The head's configuration.
    pub(in crate::cli) fn head(&self) -> anyhow::Result<FitConfig> {
        let config = self.record.key.config.head();
        let name = escape_path(&self.folder);
        config.cloned().with_context(|| {
            format!("{name} is a baseline (hint: head-trainer baseline --repeat {name})")
        })
    }

    /// The baseline's configuration.
    pub(in crate::cli) fn baseline(&self) -> anyhow::Result<BaselineConfig> {
        let config = self.record.key.config.baseline();
        let name = escape_path(&self.folder);
        config
            .cloned()
            .with_context(|| format!("{name} is a head (hint: head-trainer train --repeat {name})"))
    }

    /// What is chosen after training.
    pub(in crate::cli) fn choices(&self) -> Choices {
        self.record.key.choices
    }

    /// The index file, as the run says.
    pub(in crate::cli) fn index(&self) -> PathBuf {
        Inputs::recorded(&self.record).index
    }

    /// Where the backbone lay, if the record says.
    pub(in crate::cli) fn backbone(&self) -> Option<PathBuf> {
        Inputs::recorded(&self.record).backbone
    }

    /// The views.
    pub(in crate::cli) fn views(&self) -> anyhow::Result<WantedViews> {
        let names = self.record.key.views.iter();
        let views: Result<_, _> = names.map(|name| name.parse::<View>()).collect();
        Ok(WantedViews::Only(views?))
    }

    /// Store and split to repeat the run with, if index, store and split are what they were.
    /// `store` and `split` say where they lie now, if elsewhere than they did.
    pub(in crate::cli) fn inputs(
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
    fn compare(
        &self,
        folder: &Path,
        value: &mut Value,
        text: &mut String,
    ) -> anyhow::Result<Option<bool>> {
        let path = model_file(folder, &self.record.key.config);
        let now = fs::read(&path).with_context(|| format!("cannot read {}", escape_path(&path)))?;
        let same = self.model.as_ref().map(|then| *then == now);
        let (repeated, noun) = (escape_path(&self.folder), self.record.key.config.noun());
        *text += &format!(
            "repeats    {repeated}: {}\n",
            match same {
                Some(true) => format!("the {noun} is the same, bit for bit"),
                Some(false) => format!("the {noun} is another"),
                None => format!("it has no {noun} to compare"),
            }
        );
        value["repeats"] = json!({ "run": repeated, "same_head": same });
        Ok(same)
    }

    /// Fails if the heads were compared and differ.
    fn check(&self, folder: &Path, same: Option<bool>) -> anyhow::Result<()> {
        let (old, new) = (escape_path(&self.folder), escape_path(folder));
        let noun = self.record.key.config.noun();
        ensure!(
            same != Some(false),
            "the {noun} of {new} is not that of {old}, bit for bit (hint: head-trainer runs diff \
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
