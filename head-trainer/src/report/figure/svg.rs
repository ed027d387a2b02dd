//! SVG elements as text. They have classes and no colours: those are the style sheet's (see
//! `theme.rs`), so that a figure follows the page that it is in.

use std::fmt::Write as _;

use crate::report::escape::escape;

/// Which end of a text is at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Its beginning.
    Start,
    /// Its middle.
    Middle,
    /// Its end.
    End,
}

/// Elements in the making. Coordinates are `[x, y]` in user units, y downwards.
#[derive(Clone, Debug, Default)]
pub struct Svg {
    text: String,
}

impl Svg {
    /// A straight line.
    pub fn line(&mut self, class: &str, from: [f64; 2], to: [f64; 2]) {
        let ([x1, y1], [x2, y2]) = (from.map(number), to.map(number));
        self.element(&format!(
            r#"<line class="{class}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>"#
        ));
    }

    /// Straight lines from point to point.
    pub fn polyline(&mut self, class: &str, points: &[[f64; 2]]) {
        let point = |p: &[f64; 2]| format!("{},{}", number(p[0]), number(p[1]));
        let points: Vec<String> = points.iter().map(point).collect();
        self.element(&format!(
            r#"<polyline class="{class}" points="{}"/>"#,
            points.join(" ")
        ));
    }

    /// A closed shape.
    pub fn polygon(&mut self, class: &str, points: &[[f64; 2]]) {
        let point = |p: &[f64; 2]| format!("{},{}", number(p[0]), number(p[1]));
        let points: Vec<String> = points.iter().map(point).collect();
        self.element(&format!(
            r#"<polygon class="{class}" points="{}"/>"#,
            points.join(" ")
        ));
    }

    /// A rectangle from its upper left corner, filled to `opacity`.
    pub fn rect(&mut self, class: &str, at: [f64; 2], size: [f64; 2], opacity: f64) {
        let ([x, y], [width, height]) = (at.map(number), size.map(number));
        let mut opacity_text = String::new();
        if opacity < 1.0 {
            let _ = write!(opacity_text, r#" fill-opacity="{}""#, number(opacity));
        }
        self.element(&format!(
            r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}"{opacity_text}/>"#
        ));
    }

    /// A circle.
    pub fn circle(&mut self, class: &str, at: [f64; 2], radius: f64) {
        let ([cx, cy], r) = (at.map(number), number(radius));
        self.element(&format!(
            r#"<circle class="{class}" cx="{cx}" cy="{cy}" r="{r}"/>"#
        ));
    }

    /// A line of text whose baseline is at `at`.
    pub fn text(&mut self, class: &str, at: [f64; 2], anchor: Anchor, text: &str) {
        let [x, y] = at.map(number);
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => r#" text-anchor="middle""#,
            Anchor::End => r#" text-anchor="end""#,
        };
        let text = escape(text);
        self.element(&format!(
            r#"<text class="{class}" x="{x}" y="{y}"{anchor}>{text}</text>"#
        ));
    }

    /// The marker of series number `series` at `at`, `size` times as large as usual: shapes differ
    /// as colours do.
    pub fn marker(&mut self, class: &str, at: [f64; 2], series: usize, size: f64) {
        let [x, y] = at;
        let s = |length: f64| length * size;
        match series % 4 {
            0 => self.circle(class, at, s(3.0)),
            1 => self.rect(class, [x - s(2.7), y - s(2.7)], [s(5.4), s(5.4)], 1.0),
            2 => self.polygon(
                class,
                &[
                    [x, y - s(3.8)],
                    [x + s(3.6), y + s(2.6)],
                    [x - s(3.6), y + s(2.6)],
                ],
            ),
            _ => self.polygon(
                class,
                &[
                    [x, y - s(3.9)],
                    [x + s(3.9), y],
                    [x, y + s(3.9)],
                    [x - s(3.9), y],
                ],
            ),
        }
    }

    fn element(&mut self, element: &str) {
        self.text.push_str(element);
        self.text.push('\n');
    }

    /// The elements, a line each.
    pub fn finish(self) -> String {
        self.text
    }
}

/// A coordinate with two digits after the point at most: `12.5`, `3`.
pub fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    match text {
        "-0" => "0".to_owned(),
        text => text.to_owned(),
    }
}

/// About how wide a text is, at a size of one: no font is at hand. Wide rather than narrow, so
/// that what is given that much room has enough.
pub fn width_of(text: &str) -> f64 {
    let of = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | '\'' | '|' => 0.33,
        ' ' | 'f' | 't' | 'r' | '-' | '(' | ')' => 0.42,
        'm' | 'w' | 'M' | 'W' | '%' | '…' => 0.98,
        c if u32::from(c) >= 0x1100 => 1.0,
        c if c.is_uppercase() => 0.72,
        _ => 0.63,
    };
    text.chars().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, -0.001, 12.0, 1.25, 1.0 / 3.0].map(number),
            ["0", "0", "12", "1.25", "0.33"]
        );
    }

    #[test]
    fn text_is_escaped() {
        let mut svg = Svg::default();
        svg.text("t", [1.0, 2.0], Anchor::End, "<&>");
        let expected =
            "<text class=\"t\" x=\"1\" y=\"2\" text-anchor=\"end\">&lt;&amp;&gt;</text>\n";
        assert_eq!(svg.finish(), expected);
    }
}
