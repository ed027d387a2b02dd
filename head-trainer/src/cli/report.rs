//! `head-trainer report`: several runs on one page, which needs nothing else.

mod pictures;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, ensure};
use extractor::cli::common::{Outcome, OutputArgs};
use extractor::digest::ImageId;
use extractor::files::{counted, create_folder, escape, escape_path, folder_of, write_atomically};
use extractor::index::Index;
use serde_json::{Value, json};

use super::runs::what;
use super::table::{Column, leaf, leaves, table};
use crate::report::figure::Figure;
use crate::report::figures::GroupFigures;
use crate::report::png::Painter;
use crate::report::{Mistake, Report, RunData, Words, html, scores, summary, text};
use crate::run::{self, RunRecord};
use crate::utc::{TimeForm, utc};

/// Flags of `head-trainer report`, as typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The runs, in the order to show them: a folder, a name, or the beginning of a name or digest
    /// [default: the newest head and the newest baseline on the newest run's index and split].
    #[arg(value_name = "RUN")]
    wanted: Vec<PathBuf>,
    /// Folder of the runs [default: DATA_DIR/runs].
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,
    /// The page [default: a new one in DATA_DIR/reports].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write each figure to DIR as SVG, too.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Write each figure to DIR as PNG, too.
    #[arg(long, value_name = "DIR")]
    png: Option<PathBuf>,
    /// Write the table of runs as Markdown; `-` is standard output, in place of the table.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Show this many of each run's most confident mistakes.
    #[arg(long, value_name = "N", default_value_t = 12)]
    mistakes: usize,
}

impl Args {
    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let root = self
            .runs
            .clone()
            .unwrap_or_else(|| output.data_dir.join("runs"));
        let mut folders: Vec<PathBuf> = Vec::new();
        for wanted in &self.wanted {
            let folder = run::find(&root, wanted)?;
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
        if folders.is_empty() {
            folders = run::newest(&root)?;
            ensure!(
                !folders.is_empty(),
                "there is no run in {} (hint: head-trainer train DATA, or name runs)",
                escape_path(&root)
            );
        }
        let mut runs = Vec::new();
        for folder in &folders {
            let run = RunData::read(folder, words)?;
            let mistakes = mistakes(&run, self.mistakes);
            runs.push((run, mistakes));
        }
        let now = SystemTime::now();
        let report = Report::new(utc(now, TimeForm::Record), runs);
        let out = self.out.clone().unwrap_or_else(|| {
            let name = format!(
                "{}-{}.html",
                utc(now, TimeForm::Name),
                report.digest().short()
            );
            output.data_dir.join("reports").join(name)
        });
        // What cannot be written shows before anything is drawn.
        let files = [
            Some(&out),
            self.markdown.as_ref().filter(|file| !is_stdout(file)),
        ];
        let parents = files.into_iter().flatten().map(|file| folder_of(file));
        for folder in parents
            .chain(self.svg.as_deref())
            .chain(self.png.as_deref())
        {
            create_folder(folder)?;
        }

        let figures: Vec<GroupFigures> = report.groups.iter().map(GroupFigures::new).collect();
        write_atomically(&out, html::page(&report, &figures).as_bytes())?;
        let all: Vec<&Figure> = figures.iter().flat_map(GroupFigures::all).collect();
        let written = self.write_figures(&all)?;
        let markdown = text::markdown(&report);
        if let Some(file) = self.markdown.as_ref().filter(|file| !is_stdout(file)) {
            write_atomically(file, markdown.as_bytes())?;
        }
        let mut value = summary::json(&report);
        value["report"] = json!(escape_path(&out));
        value["figures"] = json!(written);
        let page = format!("report  {}\n", escape_path(&out));
        let text = match self.markdown.as_ref().is_some_and(|file| is_stdout(file)) {
            true => markdown,
            false => format!("{}{page}", terminal(&report)),
        };
        output.print(&value, &text)?;
        Ok(Outcome::Done)
    }

    /// Writes the figures that were asked for by themselves: their paths by kind.
    fn write_figures(&self, figures: &[&Figure]) -> anyhow::Result<BTreeMap<&str, Vec<String>>> {
        let mut written: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut write = |kind: &'static str, folder: &Path, name: &str, bytes: &[u8]| {
            let path = folder.join(format!("{name}.{kind}"));
            written.entry(kind).or_default().push(escape_path(&path));
            write_atomically(&path, bytes)
        };
        if let Some(folder) = &self.svg {
            for figure in figures {
                write("svg", folder, &figure.name, figure.file().as_bytes())?;
            }
        }
        if let Some(folder) = &self.png {
            let painter = Painter::new();
            for figure in figures {
                write("png", folder, &figure.name, &painter.png(figure)?)?;
            }
        }
        Ok(written)
    }
}

fn is_stdout(file: &Path) -> bool {
    file == Path::new("-")
}

/// A record in words.
fn words(record: &RunRecord) -> Words {
    let mut value = json!(record);
    if let Value::Object(fields) = &mut value {
        // What figures, tables and commands show.
        for shown in ["history", "metrics", "classes", "format"] {
            fields.remove(shown);
        }
    }
    let said = |(_, value): &(String, Value)| !value.is_null() && *value != json!({});
    let facts = leaves(&value).into_iter().filter(said);
    Words {
        trained: what(&record.key.config),
        facts: facts
            .map(|(path, value)| (path, escape(leaf(&value).as_bytes())))
            .collect(),
    }
}

/// The most confident mistakes of a run, with the paths that its index tells, as long as that is
/// the index of the run.
fn mistakes(run: &RunData, most: usize) -> Vec<Mistake> {
    let Some(held_out) = &run.held_out else {
        return Vec::new();
    };
    let mut mistakes = scores::mistakes(held_out, &run.decision, most);
    if mistakes.is_empty() {
        return mistakes;
    }
    let place = Path::new(&run.places.index);
    let index = match Index::read(place).context("the mistakes of a run have no paths") {
        Ok(index) if index.digest() == run.data.0 => index,
        Ok(_) => {
            tracing::warn!(
                "the index {} is not the run's any more: its mistakes have no paths",
                run.places.index
            );
            return mistakes;
        }
        Err(error) => {
            tracing::warn!("{error:#}");
            return mistakes;
        }
    };
    let mut paths: BTreeMap<ImageId, Vec<Vec<u8>>> = mistakes
        .iter()
        .map(|mistake| (mistake.id, Vec::new()))
        .collect();
    for entry in index.iter() {
        if let Some(paths) = paths.get_mut(&entry.id) {
            paths.push(entry.path.to_vec());
        }
    }
    for mistake in &mut mistakes {
        let first = paths.get(&mistake.id).and_then(|paths| paths.first());
        mistake.path = first.map(|path| escape(path));
    }
    pictures::add(run, &mut mistakes, &paths);
    mistakes
}

/// The table of runs for a terminal.
fn terminal(report: &Report) -> String {
    let columns = summary::COLUMNS.map(|(title, is_number)| match is_number {
        true => Column::Right(title),
        false => Column::Left(title),
    });
    let table_rows: Vec<[summary::Cell; 10]> = summary::rows(report);
    // What goes with a value is on the page; here only intervals are.
    let cell = |(i, cell): (usize, &summary::Cell)| match i {
        7.. => cell.line(),
        _ => cell.main.clone(),
    };
    let rows: Vec<Vec<String>> = table_rows
        .iter()
        .map(|row| row.iter().enumerate().map(cell).collect())
        .collect();
    let mut text = table(&columns, &rows);
    text.push('\n');
    for entry in report.entries() {
        text += &format!("{:<6}  {}\n", entry.letter, escape_path(&entry.run.folder));
    }
    if let Some(notice) = text::notice(report) {
        text += &format!("\nnote: {}: {notice}\n", counted(rows.len(), "run"));
    }
    text
}
