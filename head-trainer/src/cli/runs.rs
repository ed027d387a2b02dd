//! `head-trainer runs`: which runs there are, what each was, which was best and what differed.
//!
//! A run whose record cannot be read is named on stderr and passed over. The test side shows
//! where a run is shown, and elsewhere only when asked for: to choose a run by it would make it a
//! second validation side.

mod best;
mod diff;
mod list;
mod show;

use std::path::{Path, PathBuf};

use anyhow::bail;
use extractor::cli::common::{Outcome, OutputArgs};
use extractor::digest::Digest;
use extractor::files::escape_path;
use extractor::index::Index;
use extractor::view::{View, Views};
use serde_json::{Value, json};

pub(super) use self::list::what;
use crate::metrics::Basic;
use crate::run::{self, RunRecord};

/// Flags of `head-trainer runs`, as typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
    /// Folder of the runs [default: DATA_DIR/runs].
    #[arg(long, global = true, value_name = "DIR")]
    runs: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// A line for each run.
    List(list::Args),
    /// Everything that a run's record says.
    Show(show::Args),
    /// What differs between two runs, in what they were made of and in what came out.
    Diff(diff::Args),
    /// The best run by its validation side; runs on different data each among their own.
    Best(best::Args),
}

impl Args {
    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let root = self.runs.unwrap_or_else(|| output.data_dir.join("runs"));
        match self.verb {
            Verb::List(args) => args.run(&root, output),
            Verb::Show(args) => args.run(&root, output),
            Verb::Diff(args) => args.run(&root, output),
            Verb::Best(args) => args.run(&root, output),
        }
    }
}

/// Which runs a verb looks at.
#[derive(Debug, clap::Args)]
struct Filter {
    /// Only runs on this index: its file, or the beginning of its digest.
    #[arg(long, value_name = "FILE|DIGEST")]
    index: Option<PathBuf>,
    /// Only runs on the index and the split of this run.
    #[arg(long, value_name = "RUN")]
    like: Option<PathBuf>,
}

/// A run that was read.
struct Run {
    folder: PathBuf,
    record: RunRecord,
}

impl Run {
    /// The run that `wanted` means; see [`run::find`].
    fn find(root: &Path, wanted: &Path) -> anyhow::Result<Run> {
        let folder = run::find(root, wanted)?;
        let record = RunRecord::read(&folder)?;
        Ok(Run { folder, record })
    }

    /// All under `root` that pass `filter`, oldest first.
    fn all(root: &Path, filter: &Filter) -> anyhow::Result<Vec<Run>> {
        let index = filter.index.as_deref().map(index_digest).transpose()?;
        let like = match &filter.like {
            Some(wanted) => Some(Run::find(root, wanted)?.data()),
            None => None,
        };
        let mut runs = Vec::new();
        for folder in run::list(root)? {
            let record = match RunRecord::read(&folder) {
                Ok(record) => record,
                Err(error) => {
                    tracing::warn!("passed over: {:#}", anyhow::Error::from(error));
                    continue;
                }
            };
            let run = Run { folder, record };
            let of_index = |digest: &String| run.record.key.index.to_string().starts_with(digest);
            if index.as_ref().is_none_or(of_index) && like.is_none_or(|data| data == run.data()) {
                runs.push(run);
            }
        }
        runs.sort_by(|a, b| a.order().cmp(&b.order()));
        Ok(runs)
    }

    /// Age, and the name for those of one second.
    fn order(&self) -> (&str, &Path) {
        (&self.record.created_utc, &self.folder)
    }

    /// Index and split: figures of runs that differ here do not compare.
    fn data(&self) -> (Digest, Digest) {
        (self.record.key.index, self.record.key.split)
    }

    /// The folder's own name.
    fn name(&self) -> String {
        let name = self.folder.file_name().unwrap_or(self.folder.as_os_str());
        escape_path(Path::new(name))
    }

    /// Loss and accuracy on the validation side before any temperature or threshold was chosen
    /// there, so that a choice is no advantage.
    fn validation(&self) -> Option<Basic> {
        self.record.metrics.comparable()
    }

    /// What `provenance` says under `name`.
    fn provenance(&self, name: &str) -> &str {
        self.record.provenance.get(name).map_or("-", String::as_str)
    }

    /// The views, shortly.
    fn views(&self) -> String {
        let names = &self.record.key.views;
        let views: Result<Vec<View>, _> = names.iter().map(|name| name.parse::<View>()).collect();
        match views {
            Ok(views) => views.into_iter().collect::<Views>().to_string(),
            Err(_) => names.join(", "),
        }
    }

    /// What a list says of the run, with the test side if `test`.
    fn summary(&self, test: bool) -> Value {
        let record = &self.record;
        let mut summary = json!({
            "run": escape_path(&self.folder),
            "digest": record.digest,
            "created_utc": record.created_utc,
            "key": record.key,
            "provenance": record.provenance,
            "counts": record.counts,
            "metrics": { "train": record.metrics.train, "validation": record.metrics.validation },
        });
        if test {
            summary["metrics"]["test"] = json!(record.metrics.test);
        }
        summary
    }
}

/// The beginning of an index's digest, from its file or as typed.
fn index_digest(wanted: &Path) -> anyhow::Result<String> {
    if wanted.is_file() {
        return Ok(Index::read(wanted)?.digest().to_string());
    }
    match wanted.to_str() {
        Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(hex.to_ascii_lowercase()),
        _ => bail!(
            "{} is neither an index file nor the beginning of a digest",
            escape_path(wanted)
        ),
    }
}
