//! What came of a training, as text for people: the same for heads and the baseline.

use std::fmt::Write as _;

use extractor::files::{escape, grouped};

use super::table::{Column, loss, percent, table};
use crate::dataset::LeftOut;
use crate::head::Decision;
use crate::metrics::interval::Interval;
use crate::metrics::{ClassMetrics, Metrics};
use crate::run::{FinalMetrics, RunRecord};
use crate::solver::Epoch;

/// A side's metrics in a line.
fn line(metrics: &Metrics) -> String {
    let hundredths = |share: f64| format!("{:.2}", 100.0 * share);
    let Interval { low, high } = metrics.accuracy_interval;
    let auc = metrics
        .roc_auc
        .map_or("-".to_owned(), |auc| format!("{auc:.4}"));
    format!(
        "accuracy {} % ({} to {}), loss {:.4}, ROC-AUC {auc}, ECE {:.4}",
        hundredths(metrics.accuracy),
        hundredths(low),
        hundredths(high),
        metrics.loss,
        metrics.calibration_error
    )
}

/// A line for each class.
fn classes_text(names: &[String], metrics: &Metrics) -> String {
    let columns = [
        Column::Left("class"),
        Column::Right("images"),
        Column::Right("precision"),
        Column::Right("recall"),
        Column::Right("F1"),
    ];
    let row = |(name, class): (&String, &ClassMetrics)| {
        let shares = [class.precision, class.recall, class.f1].map(percent);
        let mut row = vec![name.clone(), grouped(class.images)];
        row.extend(shares);
        row
    };
    let rows: Vec<Vec<String>> = names.iter().zip(&metrics.classes).map(row).collect();
    format!("\n{}", table(&columns, &rows))
}

/// The images of each side and the names of the classes.
pub(super) fn images(record: &RunRecord) -> String {
    let sum = |counts: &[u64]| grouped(counts.iter().sum());
    let numbered = record.classes.iter().enumerate();
    let classes: Vec<String> = numbered
        .map(|(i, name)| format!("{} = {i}", escape(name.as_bytes())))
        .collect();
    format!(
        "images     train {}, validation {}, test {} ({})\n",
        sum(&record.counts.train),
        sum(&record.counts.validation),
        sum(&record.counts.test),
        classes.join(", "),
    )
}

/// What was left out of training, in a line; nothing if nothing was.
pub(super) fn left_out(out: LeftOut) -> String {
    match out == LeftOut::default() {
        true => String::new(),
        false => format!(
            "left out   {} rejected, {} with two labels, {} without a label\n",
            grouped(out.rejected as u64),
            grouped(out.conflicting as u64),
            grouped(out.unlabelled as u64)
        ),
    }
}

/// Epochs, metrics of every side, and what was chosen.
pub(super) fn result(record: &RunRecord) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "\n   epoch  train loss  train acc    val loss    val acc"
    );
    let of = record.history.len();
    for epoch in &record.history {
        let Epoch {
            epoch: number,
            train_loss,
            train_accuracy,
            validation_loss,
            validation_accuracy,
            ..
        } = epoch;
        let (loss, accuracy) = (loss(*validation_loss), percent(*validation_accuracy));
        let _ = writeln!(
            text,
            "{:>8}  {train_loss:>10.4}  {:>9}  {loss:>10}  {accuracy:>9}",
            format!("{number}/{of}"),
            percent(Some(*train_accuracy)),
        );
    }
    if let Some(best) = record.best_epoch.filter(|best| *best as usize != of) {
        let _ = writeln!(
            text,
            "\nthe head is that of epoch {best}, whose validation loss is the lowest"
        );
    }
    if let Some(c) = &record.convergence {
        let _ = writeln!(
            text,
            "\nobjective {:.6}, gradient norm {:.1e}{}",
            c.objective,
            c.gradient_norm,
            if c.converged {
                ""
            } else {
                " (not converged: raise --max-iterations or --l2)"
            }
        );
    }
    text.push('\n');
    let FinalMetrics {
        train,
        validation,
        test,
        validation_before_choices: _,
    } = &record.metrics;
    for (name, metrics) in [("train", train), ("validation", validation), ("test", test)] {
        if let Some(metrics) = metrics {
            let _ = writeln!(text, "{name:<11}{}", line(metrics));
        }
    }
    if let Some(metrics) = test
        .as_ref()
        .or(validation.as_ref())
        .filter(|m| m.classes.len() > 2)
    {
        text += &classes_text(&record.classes, metrics);
    }
    let decision = record.decision;
    if decision != Decision::default() {
        let Decision {
            temperature,
            threshold,
        } = decision;
        let _ = writeln!(
            text,
            "decision   temperature {temperature:.4}, threshold {threshold:.4}"
        );
    }
    text
}
