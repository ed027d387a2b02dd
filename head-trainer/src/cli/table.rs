//! Tables and records as text.

use extractor::files::escape;
use serde_json::Value;

/// A column of a table.
pub(in crate::cli) enum Column {
    /// Words.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
}

/// A table as lines: columns two spaces apart, nothing at a line's end; cells are escaped.
pub(in crate::cli) fn table(columns: &[Column], rows: &[Vec<String>]) -> String {
    let escaped = |row: &Vec<String>| row.iter().map(|cell| escape(cell.as_bytes())).collect();
    aligned(columns, &rows.iter().map(escaped).collect::<Vec<_>>())
}

/// [`table`] of cells that are escaped already.
pub(in crate::cli) fn aligned(columns: &[Column], rows: &[Vec<String>]) -> String {
    let titles = columns.iter().map(|column| match column {
        Column::Left(title) | Column::Right(title) => (*title).to_owned(),
    });
    let titles: Vec<String> = titles.collect();
    let lines = || [&titles].into_iter().chain(rows);
    let width = |i: usize| lines().map(|line| line[i].chars().count()).max();
    let widths: Vec<usize> = (0..columns.len()).filter_map(width).collect();
    let mut text = String::new();
    for line in lines() {
        let mut out = String::new();
        for (i, ((cell, column), &width)) in line.iter().zip(columns).zip(&widths).enumerate() {
            out += if i == 0 { "" } else { "  " };
            out += &match column {
                Column::Left(_) => format!("{cell:<width$}"),
                Column::Right(_) => format!("{cell:>width$}"),
            };
        }
        text += out.trim_end();
        text.push('\n');
    }
    text
}

/// A share as `12.34 %`.
pub(in crate::cli) fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{:.2} %", 100.0 * share))
}

/// A loss.
pub(in crate::cli) fn loss(loss: Option<f64>) -> String {
    loss.map_or("-".to_owned(), |loss| format!("{loss:.4}"))
}

/// The leaves of `value`, each under its path (`key.config.standardize`); a list of plain values
/// is a leaf, and so is what is empty.
pub(in crate::cli) fn leaves(value: &Value) -> Vec<(String, Value)> {
    fn walk(path: &str, value: &Value, leaves: &mut Vec<(String, Value)>) {
        let below = |name: &str| match path {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (name, value) in fields {
                    walk(&below(name), value, leaves);
                }
            }
            Value::Array(items) if items.iter().any(|i| i.is_object() || i.is_array()) => {
                for (i, value) in items.iter().enumerate() {
                    walk(&below(&i.to_string()), value, leaves);
                }
            }
            leaf => leaves.push((path.to_owned(), leaf.clone())),
        }
    }
    let mut leaves = Vec::new();
    walk("", value, &mut leaves);
    leaves
}

/// A leaf as people read it.
pub(in crate::cli) fn leaf(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(leaf).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_is_aligned() {
        let columns = [Column::Left("run"), Column::Right("loss")];
        let rows = [["a\nb", "1"], ["ä", "0.25"]].map(|row| row.map(str::to_owned).to_vec());
        let expected = "run   loss\na\\nb     1\nä     0.25\n";
        assert_eq!(table(&columns, &rows), expected);
    }

    #[test]
    fn leaves_have_paths() {
        let value = json!({"a": {"b": 1, "c": [2, 3]}, "d": [{"e": null}], "f": {}});
        let leaves = leaves(&value);
        let leaves: Vec<(&str, String)> = leaves
            .iter()
            .map(|(path, value)| (&path[..], leaf(value)))
            .collect();
        let expected = [("a.b", "1"), ("a.c", "2, 3"), ("d.0.e", "-"), ("f", "{}")];
        assert_eq!(
            leaves,
            expected.map(|(path, value)| (path, value.to_owned()))
        );
    }
}
