//! The table of all runs as Markdown.

use super::Report;
use super::summary::{COLUMNS, Column, rows};

/// What is said of runs on different data; none where all compare.
pub fn notice(report: &Report) -> Option<String> {
    let count = report.groups.len();
    (count > 1).then(|| format!("{count} different index/split: figures compare within one only"))
}

/// The table as GitHub's Markdown.
pub fn markdown(report: &Report) -> String {
    let mut text = String::new();
    if let Some(notice) = notice(report) {
        text += &format!("**Note:** {notice}.\n\n");
    }
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    text += &line(&COLUMNS.map(|(title, _)| title.to_owned()));
    let rule = |(_, is_number): Column| (if is_number { "---:" } else { "---" }).to_owned();
    text += &format!("|{}|\n", COLUMNS.map(rule).join("|"));
    for row in rows(report) {
        text += &line(&row.map(|cell| escaped(&cell.line())));
    }
    text
}

/// Text that Markdown shows as it is.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '~' => escaped.extend(['\\', c]),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_is_escaped() {
        assert_eq!(escaped("a|b_<c>\n"), r"a\|b\_&lt;c> ");
    }
}
