//! `head-trainer runs diff`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use extractor::cli::common::{Outcome, OutputArgs};
use extractor::files::escape_path;
use serde_json::{Value, json};

use super::Run;
use crate::cli::table::{Column, leaf, leaves, table};
use crate::run::model_file;

/// Flags of `head-trainer runs diff`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A run: its folder, its name, or the beginning of its name or digest.
    #[arg(value_name = "A")]
    a: PathBuf,
    /// The run to compare it with.
    #[arg(value_name = "B")]
    b: PathBuf,
    /// Compare the test side, too.
    #[arg(long)]
    test: bool,
}

/// Fields that say what came out; all others say what a run was made of.
const RESULTS: [&str; 4] = ["metrics", "convergence", "best_epoch", "decision"];

/// Fields that any two runs differ in, or that follow from the others; where the inputs lay is no
/// part of what they were.
const IGNORED: [&str; 5] = ["digest", "created_utc", "history", "places", "secs"];

/// A field that differs; `None` where a run lacks it.
struct Difference {
    field: String,
    a: Option<Value>,
    b: Option<Value>,
}

impl Args {
    pub(super) fn run(self, root: &Path, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let a = Run::find(root, &self.a)?;
        let b = Run::find(root, &self.b)?;
        if a.data() != b.data() {
            tracing::warn!("the runs are on different index/split: their figures do not compare");
        }
        let (results, made_of): (Vec<_>, Vec<_>) = differences(&a, &b)
            .into_iter()
            .filter(|d| self.test || !d.field.starts_with("metrics.test"))
            .partition(|d| RESULTS.contains(&top(&d.field)));
        let model = |run: &Run| fs::read(model_file(&run.folder, &run.record.key.config)).ok();
        let same_head = model(&a).zip(model(&b)).map(|(a, b)| a == b);
        let fields = |differences: &[Difference]| -> BTreeMap<String, Value> {
            let pair = |d: &Difference| (d.field.clone(), json!([d.a, d.b]));
            differences.iter().map(pair).collect()
        };
        let value = json!({
            "a": escape_path(&a.folder),
            "b": escape_path(&b.folder),
            "made_of": fields(&made_of),
            "results": fields(&results),
            "same_head": same_head,
        });
        output.print(&value, &text(&a, &b, &made_of, &results, same_head))?;
        Ok(Outcome::Done)
    }
}

/// The part before the first dot.
fn top(field: &str) -> &str {
    field.split('.').next().unwrap_or(field)
}

fn differences(a: &Run, b: &Run) -> Vec<Difference> {
    let fields = |run: &Run| -> BTreeMap<String, Value> {
        let leaves = leaves(&json!(run.record)).into_iter();
        leaves
            .filter(|(field, _)| !IGNORED.contains(&top(field)))
            .collect()
    };
    let (a, b) = (fields(a), fields(b));
    let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
    names.sort();
    names.dedup();
    let difference = |field: &String| Difference {
        field: field.clone(),
        a: a.get(field).cloned(),
        b: b.get(field).cloned(),
    };
    names
        .into_iter()
        .map(difference)
        .filter(|d| d.a != d.b)
        .collect()
}

fn text(
    a: &Run,
    b: &Run,
    made_of: &[Difference],
    results: &[Difference],
    same_head: Option<bool>,
) -> String {
    let mut text = format!(
        "A  {}\nB  {}\n\n",
        escape_path(&a.folder),
        escape_path(&b.folder)
    );
    if made_of.is_empty() {
        text += "made of the same\n";
    } else {
        let columns = [
            Column::Left("made of"),
            Column::Left("A"),
            Column::Left("B"),
        ];
        let row = |d: &Difference| vec![d.field.clone(), cell(&d.a), cell(&d.b)];
        text += &table(&columns, &made_of.iter().map(row).collect::<Vec<_>>());
    }
    text.push('\n');
    if !results.is_empty() {
        let columns = [
            Column::Left("came out"),
            Column::Right("A"),
            Column::Right("B"),
            Column::Right("B - A"),
        ];
        let row = |d: &Difference| vec![d.field.clone(), cell(&d.a), cell(&d.b), change(d)];
        text += &table(&columns, &results.iter().map(row).collect::<Vec<_>>());
    }
    let nouns = [a, b].map(|run| run.record.key.config.noun());
    let nouns = match nouns[0] == nouns[1] {
        true => format!("{}s", nouns[0]),
        false => "models".to_owned(),
    };
    text += &match same_head {
        Some(true) => format!("the {nouns} are the same, bit for bit\n"),
        Some(false) => format!("the {nouns} differ\n"),
        None => format!("the {nouns} were not compared: one cannot be read\n"),
    };
    text
}

/// A value in a table: digests by their beginnings, long numbers to six decimals.
fn cell(value: &Option<Value>) -> String {
    match value {
        None => "-".to_owned(),
        Some(Value::String(text))
            if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) =>
        {
            text[..12].to_owned()
        }
        Some(Value::Number(number)) if number.is_f64() && number.to_string().len() > 8 => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            match number.abs() < 1e-3 {
                true => format!("{number:.6e}"),
                false => format!("{number:.6}"),
            }
        }
        Some(other) => leaf(other),
    }
}

fn change(difference: &Difference) -> String {
    let number = |value: &Option<Value>| value.as_ref().and_then(Value::as_f64);
    let is_whole = |value: &Option<Value>| value.as_ref().is_some_and(|v| !v.is_f64());
    match (number(&difference.a), number(&difference.b)) {
        (Some(a), Some(b)) if is_whole(&difference.a) => format!("{:+}", b - a),
        (Some(a), Some(b)) => format!("{:+.6}", b - a),
        _ => String::new(),
    }
}
