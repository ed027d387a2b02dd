//! `head-trainer runs best`.

use std::cmp::Ordering;
use std::path::Path;

use anyhow::ensure;
use extractor::cli::common::{Outcome, OutputArgs};
use extractor::files::{counted, escape_path};
use serde_json::{Value, json};

use super::{Filter, Run};
use crate::cli::table::{loss, percent};
use crate::metrics::Basic;

/// Flags of `head-trainer runs best`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filter: Filter,
    /// What the best is judged by, on the validation side.
    #[arg(long, value_enum, default_value = "val-accuracy")]
    by: By,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum By {
    /// The highest accuracy; of equal ones the lowest loss, then the oldest.
    ValAccuracy,
    /// The lowest loss; of equal ones the oldest.
    ValLoss,
}

impl By {
    /// Less is better.
    fn order(self, a: &Basic, b: &Basic) -> Ordering {
        let by_loss = a.loss.total_cmp(&b.loss);
        match self {
            By::ValAccuracy => b.accuracy.total_cmp(&a.accuracy).then(by_loss),
            By::ValLoss => by_loss,
        }
    }
}

impl Args {
    pub(super) fn run(self, root: &Path, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let runs = Run::all(root, &self.filter)?;
        let mut data: Vec<_> = Vec::new(); // in the order of the first run on each
        let judged = runs.iter().filter(|run| run.validation().is_some());
        for run in judged.clone() {
            if !data.contains(&run.data()) {
                data.push(run.data());
            }
        }
        ensure!(
            !data.is_empty(),
            "no run with a validation side in {} fits (hint: head-trainer runs list)",
            escape_path(root)
        );
        if data.len() > 1 {
            tracing::warn!(
                "the runs are on {} different index/split: the best of each, as their figures do \
                 not compare (hint: --index or --like takes one)",
                data.len()
            );
        }
        let (mut values, mut texts): (Vec<Value>, Vec<String>) = (Vec::new(), Vec::new());
        for data in data {
            let among: Vec<(&Run, Basic)> = judged
                .clone()
                .filter(|run| run.data() == data)
                .filter_map(|run| Some((run, run.validation()?)))
                .collect();
            let best = among.iter().min_by(|a, b| self.by.order(&a.1, &b.1));
            let &(run, metrics) = best.expect("a run is on it");
            texts.push(text(run, metrics, among.len()));
            let mut value = run.summary(false);
            value["among"] = json!(among.len());
            values.push(value);
        }
        output.print(&json!({ "best": values }), &texts.join("\n"))?;
        Ok(Outcome::Done)
    }
}

fn text(run: &Run, metrics: Basic, among: usize) -> String {
    let (index, split) = run.data();
    format!(
        "best of    {} on index {}, split {}\nvalidation accuracy {}, loss {}\nrun        {}\n",
        counted(among, "run"),
        &index.to_string()[..8],
        &split.to_string()[..8],
        percent(Some(metrics.accuracy)),
        loss(Some(metrics.loss)),
        escape_path(&run.folder)
    )
}
