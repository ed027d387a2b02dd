//! `head-trainer runs show`.

use std::path::{Path, PathBuf};

use extractor::cli::common::{Outcome, OutputArgs};
use extractor::files::{escape, escape_path};
use serde_json::{Map, Value, json};

use super::Run;
use crate::cli::table::{Column, leaf, leaves, loss, percent, table};
use crate::run::Trained;
use crate::shell::quoted;

/// Flags of `head-trainer runs show`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run: its folder, its name, or the beginning of its name or digest.
    #[arg(value_name = "RUN")]
    run: PathBuf,
}

/// Fields of a record by the section that they are shown in; those of no section come last.
const SECTIONS: [(&str, &[&str]); 5] = [
    (
        "made of",
        &["key", "places", "split_plan", "classes", "counts"],
    ),
    ("features", &["provenance", "store"]),
    (
        "model",
        &["channels", "trainable_parameters", "total_parameters"],
    ),
    (
        "result",
        &["metrics", "convergence", "best_epoch", "decision"],
    ),
    ("program", &["versions", "secs"]),
];

/// Fields that are shown in a way of their own.
const SHOWN: [&str; 4] = ["format", "digest", "created_utc", "history"];

impl Args {
    pub(super) fn run(self, root: &Path, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let run = Run::find(root, &self.run)?;
        output.print(
            &json!({ "run": escape_path(&run.folder), "record": run.record }),
            &text(&run),
        )?;
        Ok(Outcome::Done)
    }
}

fn text(run: &Run) -> String {
    let record = &run.record;
    let folder = escape_path(&run.folder);
    let verb = match record.key.config {
        Trained::Head(_) => "train",
        Trained::Baseline { .. } => "baseline",
    };
    let mut text = format!(
        "run      {folder}\ncreated  {}\ndigest   {}\nrepeat   head-trainer {verb} --repeat {}\n",
        escape(record.created_utc.as_bytes()),
        record.digest,
        quoted(run.folder.as_os_str())
    );
    let Value::Object(mut fields) = json!(record) else {
        unreachable!("a record is an object");
    };
    let history = history(run);
    fields.retain(|name, _| !SHOWN.contains(&name.as_str()));
    for (title, names) in SECTIONS {
        if title == "result" {
            text += &format!("\nhistory\n{history}");
        }
        let section: Map<String, Value> = names
            .iter()
            .filter_map(|name| fields.remove_entry(*name))
            .collect();
        text += &lines(title, section);
    }
    text += &lines("more", fields);
    text
}

/// A section: its title and a line for each leaf that says something.
fn lines(title: &str, section: Map<String, Value>) -> String {
    let leaves: Vec<(String, Value)> = leaves(&Value::Object(section))
        .into_iter()
        .filter(|(_, value)| !value.is_null() && *value != json!({}))
        .collect();
    let width = leaves.iter().map(|(path, _)| path.len()).max().unwrap_or(0);
    let line = |(path, value): &(String, Value)| {
        format!("  {path:<width$}  {}\n", escape(leaf(value).as_bytes()))
    };
    match leaves.is_empty() {
        true => String::new(),
        false => format!("\n{title}\n{}", leaves.iter().map(line).collect::<String>()),
    }
}

fn history(run: &Run) -> String {
    let columns = [
        Column::Right("  epoch"),
        Column::Right("train loss"),
        Column::Right("train acc"),
        Column::Right("val loss"),
        Column::Right("val acc"),
    ];
    let history = &run.record.history;
    let rows = history.iter().map(|epoch| {
        vec![
            format!("{}/{}", epoch.epoch, history.len()),
            loss(Some(epoch.train_loss)),
            percent(Some(epoch.train_accuracy)),
            loss(epoch.validation_loss),
            percent(epoch.validation_accuracy),
        ]
    });
    table(&columns, &rows.collect::<Vec<_>>())
}
