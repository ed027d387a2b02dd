//! A confusion matrix: true classes down, predicted ones across.

use super::Figure;
use super::plot::TEXT;
use super::svg::{Anchor, Svg, width_of};
use super::theme::series_class;
use crate::report::escape::shortened;

/// Counts by true class (row) and predicted class (column).
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// See [`Figure`].
    pub name: String,
    /// See [`Figure`].
    pub title: String,
    /// See [`Figure`].
    pub desc: String,
    /// Names of the classes, K.
    pub classes: Vec<String>,
    /// `[K][K]`
    pub counts: Vec<Vec<u64>>,
    /// Numbers of the colours of what is right and of what is wrong.
    pub colors: [usize; 2],
    /// Width with few classes; it grows with many.
    pub width: f64,
}

/// Most classes that a matrix can be read of.
pub const MOST_CLASSES: usize = 20;
/// Characters of a name that are shown.
const NAME: usize = 14;
/// The darkest shade: text on it is still read.
const SHADE: f64 = 0.5;

impl Matrix {
    /// Draws it. Its width grows with the classes.
    pub fn figure(self) -> Figure {
        let k = self.classes.len();
        let names: Vec<String> = self
            .classes
            .iter()
            .map(|name| shortened(name, NAME))
            .collect();
        let widest = names
            .iter()
            .map(|name| width_of(name) * TEXT)
            .fold(0.0, f64::max);
        let left = widest.max(24.0) + 8.0;
        let cell = ((self.width - left) / k as f64).clamp(34.0, 150.0);
        let height = (cell * 0.62).max(26.0);
        // Names across stand on their side where they do not fit.
        let is_turned = widest > cell - 4.0;
        let top = 18.0 + if is_turned { widest + 6.0 } else { 18.0 };
        let mut svg = Svg::default();
        svg.text("title", [left, 10.0], Anchor::Start, "taken for");
        svg.text("title", [left - 8.0, top - 6.0], Anchor::End, "true");
        let (right_class, wrong_class) =
            (series_class(self.colors[0]), series_class(self.colors[1]));
        for (row, (name, counts)) in names.iter().zip(&self.counts).enumerate() {
            let y = top + height * row as f64;
            let of_class: u64 = counts.iter().sum();
            svg.text("", [left - 8.0, y + height / 2.0 + 4.0], Anchor::End, name);
            for (column, &count) in counts.iter().enumerate() {
                let x = left + cell * column as f64;
                let share = count as f64 / of_class.max(1) as f64;
                let class = if row == column {
                    &right_class
                } else {
                    &wrong_class
                };
                svg.rect(
                    &format!("cell {class}"),
                    [x, y],
                    [cell, height],
                    SHADE * share,
                );
                if count == 0 && k > 2 {
                    continue;
                }
                let middle = x + cell / 2.0;
                let with_share = cell >= 60.0 && of_class > 0;
                let base = y + height / 2.0 + if with_share { -2.0 } else { 4.0 };
                svg.text("count", [middle, base], Anchor::Middle, &count.to_string());
                if with_share {
                    let text = format!("{:.1} %", 100.0 * share);
                    svg.text("tick", [middle, base + 15.0], Anchor::Middle, &text);
                }
            }
        }
        let mut body = svg.finish();
        for (column, name) in names.iter().enumerate() {
            let x = left + cell * (column as f64 + 0.5);
            body += &across(name, [x, top - 6.0], is_turned);
        }
        Figure {
            name: self.name,
            title: self.title,
            desc: self.desc,
            size: [
                (left + cell * k as f64 + 1.0).max(self.width),
                top + height * k as f64 + 2.0,
            ],
            body,
        }
    }
}

/// A name above its column.
fn across(name: &str, [x, y]: [f64; 2], is_turned: bool) -> String {
    let mut svg = Svg::default();
    if !is_turned {
        svg.text("", [x, y], Anchor::Middle, name);
        return svg.finish();
    }
    svg.text("", [0.0, 4.0], Anchor::Start, name);
    let [x, y] = [x, y].map(super::svg::number);
    format!(
        "<g transform=\"translate({x} {y}) rotate(-90)\">{}</g>\n",
        svg.finish().trim_end()
    )
}
