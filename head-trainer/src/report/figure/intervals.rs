//! Values with intervals, a line each, on one scale: what may be told apart and what may not.

use super::Figure;
use super::axis::Axis;
use super::plot::TEXT;
use super::svg::{Anchor, Svg, width_of};
use super::theme::series_class;

/// A value and its interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it is of.
    pub label: String,
    /// Number of its colour and marker.
    pub color: usize,
    /// Whether its marker is filled.
    pub is_filled: bool,
    /// The value.
    pub value: f64,
    /// The interval's bounds.
    pub bounds: [f64; 2],
    /// The value as text.
    pub text: String,
}

/// A figure of intervals.
#[derive(Clone, Debug, PartialEq)]
pub struct Intervals {
    /// See [`Figure`].
    pub name: String,
    /// See [`Figure`].
    pub title: String,
    /// See [`Figure`].
    pub desc: String,
    /// Width; the height follows from the rows.
    pub width: f64,
    /// The common scale.
    pub x: Axis,
    /// From the top down.
    pub rows: Vec<Row>,
}

/// Height of a row.
const HEIGHT: f64 = 22.0;

impl Intervals {
    /// Draws it.
    pub fn figure(self) -> Figure {
        let widest = |text: fn(&Row) -> &str| {
            self.rows
                .iter()
                .map(|row| width_of(text(row)) * TEXT * 1.06)
                .fold(0.0, f64::max)
        };
        let left = widest(|row| &row.label) + 10.0;
        let right = self.width - widest(|row| &row.text) - 12.0;
        let bottom = 4.0 + HEIGHT * self.rows.len() as f64;
        let x = |value: f64| left + (right - left) * self.x.position(value);
        let mut svg = Svg::default();
        for tick in &self.x.ticks {
            svg.line("grid", [x(tick.at), 4.0], [x(tick.at), bottom]);
            svg.text(
                "tick",
                [x(tick.at), bottom + 15.0],
                Anchor::Middle,
                &tick.label,
            );
        }
        svg.line("axis", [left, bottom], [right, bottom]);
        svg.text(
            "title",
            [(left + right) / 2.0, bottom + 31.0],
            Anchor::Middle,
            &self.x.title,
        );
        for (i, row) in self.rows.iter().enumerate() {
            let y = 4.0 + HEIGHT * (i as f64 + 0.5);
            let color = series_class(row.color);
            let label = if row.is_filled {
                format!("end {color}")
            } else {
                "tick".to_owned()
            };
            svg.text(&label, [left - 10.0, y + 4.0], Anchor::End, &row.label);
            let [low, high] = row.bounds.map(x);
            svg.line(&format!("span {color}"), [low, y], [high, y]);
            let marker = if row.is_filled { "dot" } else { "ring" };
            svg.marker(
                &format!("{marker} {color}"),
                [x(row.value), y],
                row.color,
                1.2,
            );
            svg.text("", [self.width, y + 4.0], Anchor::End, &row.text);
        }
        Figure {
            name: self.name,
            title: self.title,
            desc: self.desc,
            size: [self.width, bottom + 36.0],
            body: svg.finish(),
        }
    }
}
