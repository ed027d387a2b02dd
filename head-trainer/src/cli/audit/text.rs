//! An audit's result as text for people.

use std::fmt::Write as _;

use extractor::files::{counted, counted_as, escape, escape_path, grouped};

use super::images;
use crate::audit::Audit;
use crate::audit::report::Report;
use crate::cli::table::{Column, aligned};
use crate::dataset::Dataset;

pub(super) fn text(
    audit: &Audit,
    dataset: &Dataset,
    report: &Report,
    top: usize,
    folder: &str,
) -> String {
    let mut text = String::new();
    let store = &dataset.store;
    let _ = writeln!(text, "store       {}", escape_path(store.folder()));
    let _ = writeln!(
        text,
        "images      {} of {}{}",
        grouped(dataset.ids.len() as u64),
        counted_as(dataset.classes.len(), "class", "classes"),
        match audit.kept_together {
            0 => String::new(),
            images => format!(", {} in one fold with their like", grouped(images as u64)),
        }
    );
    let head = audit.held_out.chosen;
    let _ = writeln!(
        text,
        "heads       l2 {}; accuracy {:.2} %, loss {:.4} on images that they did not see",
        head.l2,
        100.0 * head.accuracy,
        head.loss
    );
    let alone = dataset.ids.len() - audit.held_out.judged.len();
    if alone > 0 {
        let _ = writeln!(
            text,
            "not judged  {} whose class has no others",
            counted(alone, "image")
        );
    }
    let confident = report.label_errors.iter().filter(|e| e.confident).count();
    let _ = writeln!(
        text,
        "labels      {} doubtful, {} of them confidently; about {:.0} are wrong",
        grouped(report.label_errors.len() as u64),
        grouped(confident as u64),
        audit.errors.estimated_errors()
    );
    let near = &report.near_duplicates;
    let listed = match near.len() as u64 == audit.near.total {
        true => String::new(),
        false => format!(
            " ({} listed: each image's nearest)",
            grouped(near.len() as u64)
        ),
    };
    let crossing = near.iter().filter(|p| p.crosses_split).count();
    let differing = near.iter().filter(|p| p.labels_differ).count();
    let _ = writeln!(
        text,
        "look alike  {}{listed}: {} across the split, {} with two labels",
        counted(audit.near.total as usize, "pair"),
        grouped(crossing as u64),
        grouped(differing as u64)
    );
    let exact = &report.exact_duplicates;
    let _ = writeln!(
        text,
        "copies      {} under several paths, {} with two labels",
        counted(images(exact, |_| true), "image"),
        grouped(images(exact, |copy| copy.labels_differ) as u64)
    );
    text += &label_errors(report, top);
    text += &pairs(report, top);
    text += &conflicts(report, top);
    let _ = writeln!(text, "\ntables in {folder}");
    if store.backbone_trained() == Some(false) {
        text += "The backbone is untrained: what looks alike to it says little.\n";
    }
    text
}

/// The most doubtful labels.
fn label_errors(report: &Report, top: usize) -> String {
    let rows = report.label_errors.iter().take(top).map(|e| {
        vec![
            e.rank.to_string(),
            name(&e.given),
            format!("{:.3}", e.given_probability),
            name(&e.suggested),
            format!("{:.3}", e.suggested_probability),
            e.side.to_string(),
            e.path.clone(),
        ]
    });
    let columns = [
        Column::Right("rank"),
        Column::Left("given"),
        Column::Right("prob."),
        Column::Left("suggested"),
        Column::Right("prob."),
        Column::Left("side"),
        Column::Left("path"),
    ];
    titled("labels that are probably wrong", &columns, rows.collect())
}

/// The most similar of the pairs that matter.
fn pairs(report: &Report, top: usize) -> String {
    let pairs = report.near_duplicates.iter();
    let matter = pairs.filter(|p| p.crosses_split || p.labels_differ);
    let rows = matter.take(top).map(|p| {
        vec![
            format!("{:.4}", p.similarity),
            name(&p.label_a),
            p.side_a.to_string(),
            p.path_a.clone(),
            name(&p.label_b),
            p.side_b.to_string(),
            p.path_b.clone(),
        ]
    });
    let columns = [
        Column::Right("cosine"),
        Column::Left("label"),
        Column::Left("side"),
        Column::Left("path"),
        Column::Left("label"),
        Column::Left("side"),
        Column::Left("path"),
    ];
    let title = "images that look alike, across the split or with two labels";
    titled(title, &columns, rows.collect())
}

/// Images with two labels.
fn conflicts(report: &Report, top: usize) -> String {
    let copies = report.exact_duplicates.iter();
    let differing = copies.filter(|copy| copy.labels_differ);
    let rows = differing.take(top).map(|copy| {
        vec![
            copy.id[..12].to_owned(),
            copy.label.as_deref().map_or("-".to_owned(), name),
            copy.path.clone(),
        ]
    });
    let columns = [
        Column::Left("image"),
        Column::Left("label"),
        Column::Left("path"),
    ];
    let title = "the same image with two labels, left out of training";
    titled(title, &columns, rows.collect())
}

/// A class; paths are escaped already.
fn name(class: &str) -> String {
    escape(class.as_bytes())
}

fn titled(title: &str, columns: &[Column], rows: Vec<Vec<String>>) -> String {
    match rows.is_empty() {
        true => String::new(),
        false => format!("\n{title}\n{}", aligned(columns, &rows)),
    }
}
