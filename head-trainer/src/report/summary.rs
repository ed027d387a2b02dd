//! The table of all runs: one row each, in cells of text that pages and terminals share.

use extractor::files::grouped;
use serde_json::{Value, json};

use super::{Entry, Report};
use crate::metrics::Metrics;
use crate::metrics::interval::Interval;
use crate::split::Side;

/// A cell: what is said first, and what is said smaller.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    /// The value.
    pub main: String,
    /// What goes with it; empty if nothing does.
    pub more: String,
}

impl Cell {
    fn new(main: impl Into<String>, more: impl Into<String>) -> Cell {
        Cell {
            main: main.into(),
            more: more.into(),
        }
    }

    /// Both in one line.
    pub fn line(&self) -> String {
        match self.more.is_empty() {
            true => self.main.clone(),
            false => format!("{} ({})", self.main, self.more),
        }
    }
}

/// A column's title, and whether it holds numbers.
pub type Column = (&'static str, bool);

/// The columns of [`rows`].
pub const COLUMNS: [Column; 10] = [
    ("run", false),
    ("trained", false),
    ("parameters", true),
    ("epochs", true),
    ("time per epoch", true),
    ("training time", true),
    ("features, once", true),
    ("best epoch's validation", true),
    ("validation accuracy", true),
    ("test accuracy", true),
];

/// What nothing is known of.
const NONE: &str = "–";

/// A row for each run, in the order of the report.
pub fn rows(report: &Report) -> Vec<[Cell; 10]> {
    report
        .entries()
        .map(|entry| row(entry, report.groups.len() > 1))
        .collect()
}

fn row(entry: &Entry, with_data: bool) -> [Cell; 10] {
    let run = &entry.run;
    let secs = |secs: Option<f64>| secs.map_or(NONE.to_owned(), duration);
    let parameters = match run.total_parameters {
        Some(total) => format!("of {}", grouped(total)),
        None => "+ frozen backbone".to_owned(),
    };
    let epochs = match (run.has_epochs, run.best_epoch) {
        (false, _) => Cell::new(NONE, ""),
        (true, None) => Cell::new(run.history.len().to_string(), ""),
        (true, Some(best)) => Cell::new(run.history.len().to_string(), format!("kept {best}")),
    };
    let load = run.secs.load.map_or(String::new(), |load| {
        format!("+ {} reading", duration(load))
    });
    let features = match (run.secs.needs_features, run.secs.features) {
        (false, _) => "none needed".to_owned(),
        (true, Some(secs)) => duration(secs),
        (true, None) => "not recorded".to_owned(),
    };
    let data = match with_data {
        true => format!("{}, data {}", run.name, data_name(run.data)),
        false => run.name.clone(),
    };
    [
        Cell::new(&entry.letter, ""),
        Cell::new(&run.kind, data),
        Cell::new(grouped(run.trainable_parameters), parameters),
        epochs,
        Cell::new(secs(run.epoch_secs()), ""),
        Cell::new(secs(run.secs.training), load),
        Cell::new(features, ""),
        best_epoch(entry),
        accuracy(run.metrics.validation.as_ref()),
        accuracy(run.metrics.test.as_ref()),
    ]
}

/// The beginnings of two digests.
pub fn data_name((index, split): (extractor::digest::Digest, extractor::digest::Digest)) -> String {
    format!("{}/{}", &index.to_string()[..8], &split.to_string()[..8])
}

fn accuracy(metrics: Option<&Metrics>) -> Cell {
    metrics.map_or(Cell::new(NONE, ""), |metrics| {
        Cell::new(
            percent(metrics.accuracy),
            interval(metrics.accuracy_interval),
        )
    })
}

/// The best validation accuracy of all epochs.
fn best_epoch(entry: &Entry) -> Cell {
    match entry.run.best_validation() {
        Some((epoch, accuracy, bounds)) if entry.run.has_epochs => {
            let bounds = bounds.map_or(String::new(), |b| format!(": {}", interval(b)));
            Cell::new(percent(accuracy), format!("epoch {epoch}{bounds}"))
        }
        _ => Cell::new(NONE, ""),
    }
}

/// The table as JSON.
pub fn json(report: &Report) -> Value {
    let run = |entry: &Entry| {
        let run = &entry.run;
        let metrics = &run.metrics;
        let best = run.best_validation().map(|(epoch, accuracy, interval)| {
            json!({"epoch": epoch, "accuracy": accuracy, "accuracy_interval": interval})
        });
        let mistake = |mistake: &super::Mistake| {
            json!({
                "id": mistake.id,
                "path": mistake.path,
                "label": run.classes[mistake.label as usize],
                "predicted": run.classes[mistake.predicted as usize],
                "probability": mistake.probability,
            })
        };
        json!({
            "letter": entry.letter,
            "run": run.folder.display().to_string(),
            "digest": run.digest,
            "trained": run.kind,
            "index": run.data.0,
            "split": run.data.1,
            "trainable_parameters": run.trainable_parameters,
            "total_parameters": run.total_parameters,
            "epochs": run.has_epochs.then_some(run.history.len()),
            "epoch_secs": run.epoch_secs(),
            "training_secs": run.secs.training,
            "load_secs": run.secs.load,
            "features_secs": run.secs.features,
            "best_epoch": best,
            "metrics": metrics,
            "held_out": run.held_out.as_ref().map(|held_out| held_out.side),
            "mistakes": entry.mistakes.iter().map(mistake).collect::<Vec<_>>(),
            "commands": run.commands,
        })
    };
    json!({
        "runs": report.entries().map(run).collect::<Vec<_>>(),
        "comparable": report.groups.len() == 1,
    })
}

/// The columns of [`metrics_rows`].
pub const METRICS: [Column; 12] = [
    ("run", false),
    ("side", false),
    ("images", true),
    ("accuracy", true),
    ("95 % interval", true),
    ("loss", true),
    ("balanced", true),
    ("macro F1", true),
    ("ROC-AUC", true),
    ("PR-AUC", true),
    ("Brier", true),
    ("ECE", true),
];

/// The finished models' metrics: a row for each run and side, test first.
pub fn metrics_rows(entries: &[Entry]) -> Vec<[Cell; 12]> {
    let mut rows = Vec::new();
    for entry in entries {
        let metrics = &entry.run.metrics;
        for (side, metrics) in [
            (Side::Test, &metrics.test),
            (Side::Validation, &metrics.validation),
            (Side::Train, &metrics.train),
        ] {
            let Some(metrics) = metrics else { continue };
            let share = |share: Option<f64>| Cell::new(share.map_or(NONE.to_owned(), percent), "");
            let area = |area: Option<f64>| {
                Cell::new(
                    area.map_or(NONE.to_owned(), |area| format!("{area:.4}")),
                    "",
                )
            };
            rows.push([
                Cell::new(&entry.letter, ""),
                Cell::new(side.name(), ""),
                Cell::new(grouped(metrics.images), ""),
                share(Some(metrics.accuracy)),
                Cell::new(interval(metrics.accuracy_interval), ""),
                area(Some(metrics.loss)),
                share(metrics.balanced_accuracy),
                area(metrics.macro_f1),
                area(metrics.roc_auc),
                area(metrics.pr_auc),
                area(Some(metrics.brier)),
                area(Some(metrics.calibration_error)),
            ]);
        }
    }
    rows
}

/// A share as `12.34 %`.
pub fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// An interval as `12.3 to 45.6`, in percent.
pub fn interval(interval: Interval) -> String {
    format!(
        "{:.1} to {:.1}",
        100.0 * interval.low,
        100.0 * interval.high
    )
}

/// `88.75 % (84.1 to 92.2)`
pub fn share_with_interval(share: f64, bounds: Interval) -> String {
    format!("{} ({})", percent(share), interval(bounds))
}

/// Seconds as people say them: `12 ms`, `0.31 s`, `42 s`, `3 min 5 s`, `2 h 10 min`.
pub fn duration(secs: f64) -> String {
    let whole = secs.round() as u64;
    match secs {
        s if !s.is_finite() || s < 0.0 => NONE.to_owned(),
        s if s < 0.0995 => format!("{:.*} ms", if s < 0.00995 { 1 } else { 0 }, 1000.0 * s),
        s if s < 9.995 => format!("{s:.2} s"),
        s if s < 99.95 => format!("{s:.1} s"),
        _ if whole < 3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let secs = [0.0012, 0.0123, 0.31, 9.999, 42.04, 185.0, 7800.0, f64::NAN];
        let expected = [
            "1.2 ms",
            "12 ms",
            "0.31 s",
            "10.0 s",
            "42.0 s",
            "3 min 5 s",
            "2 h 10 min",
            "–",
        ];
        assert_eq!(secs.map(duration), expected);
    }

    #[test]
    fn cells_are_lines() {
        assert_eq!(Cell::new("1", "2").line(), "1 (2)");
        assert_eq!(Cell::new("1", "").line(), "1");
    }
}
