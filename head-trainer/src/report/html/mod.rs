//! The report as one HTML page that needs nothing else: no network, no script, no font.
//!
//! Its style sheet is in the page and its figures are inline SVG. Everything that comes from a
//! file goes through [`escape`].

mod parts;

use super::Report;
use super::escape::escape;
use super::figure::theme;
use super::figures::GroupFigures;
use super::summary::{COLUMNS, rows};
use super::text::notice;
use parts::{figure, group_sections, table};

/// The style sheet, both themes.
fn css() -> String {
    format!(
        ":root{{{}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{}}}}}\n{}{}",
        theme::variables(false),
        theme::variables(true),
        include_str!("page.css"),
        theme::page_css()
    )
}

/// What a report is called.
fn title(report: &Report) -> String {
    match report.entries().count() {
        1 => "One run".to_owned(),
        count => format!("{count} runs compared"),
    }
}

/// The page; `figures` are those of each group.
pub fn page(report: &Report, figures: &[GroupFigures]) -> String {
    let title = title(report);
    let mut body = format!(
        "<header>\n<h1>{title}</h1>\n<p class=\"soft\">Headstart report, {}</p>\n</header>\n<main>\n",
        escape(&report.created_utc)
    );
    if let Some(notice) = notice(report) {
        body += &format!(
            "<p class=\"notice\" role=\"note\"><strong>Not all runs compare.</strong> {}. Each has \
             its own section below.</p>\n",
            escape(&notice)
        );
    }
    let is_one = report.groups.len() == 1;
    if is_one {
        body += &lead(&report.groups[0], &figures[0]);
    }
    body += "<h2 id=\"runs\">Runs</h2>\n";
    let caption = "Accuracies are of the finished models, with Wilson's 95 % interval in percent; \
                   time per epoch is the median.";
    let classes = report
        .entries()
        .map(|entry| theme::series_class(entry.color))
        .collect::<Vec<_>>();
    body += &table("cards", caption, &COLUMNS, &rows(report), &classes);
    for (group, figures) in report.groups.iter().zip(figures) {
        if !is_one {
            let (index, split) = group.data();
            body += &format!(
                "<h2 id=\"data-{0}\">Data {0}</h2>\n<p class=\"soft name\">index {index}<br>split \
                 {split}</p>\n",
                group.number
            );
            body += &lead(group, figures);
        }
        body += &group_sections(group, figures, if is_one { 2 } else { 3 });
    }
    body += &parts::provenance(report);
    body += "</main>\n<footer>Made by head-trainer report. This page is complete in itself and \
             fetches nothing.</footer>\n";
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta \
         name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<meta \
         name=\"color-scheme\" content=\"light dark\">\n<title>Headstart: {title}</title>\n\
         <style>\n{}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        css()
    )
}

/// Findings, beside the figure that shows them.
fn lead(group: &super::Group, figures: &GroupFigures) -> String {
    let findings = super::findings::findings(group);
    let sentences: String = findings
        .iter()
        .map(|s| format!("<p>{}</p>\n", escape(s)))
        .collect();
    let shown = figures
        .intervals
        .as_ref()
        .map(|f| figure(f, ""))
        .unwrap_or_default();
    format!(
        "<div class=\"grid lead\">\n<div>\n{}{sentences}</div>\n{shown}</div>\n",
        parts::data_line(group)
    )
}
