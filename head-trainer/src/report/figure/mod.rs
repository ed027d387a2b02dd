//! Figures as SVG: axes with round ticks, curves, mirrored histograms, confusion matrices and
//! intervals.
//!
//! A figure is text in an SVG's own units, made to be shown about as wide as it says: text in it
//! is then of a size that can be read, on a phone too. It holds no colours but classes, which a
//! page styles with [`theme::page_css`] and a file by itself with [`theme::file_css`]. Nothing
//! here knows runs, heads or metrics.

pub mod axis;
pub mod curves;
pub mod histogram;
pub mod intervals;
pub mod matrix;
mod plot;
pub mod svg;
pub mod theme;

use super::escape::escape;
use svg::number;

/// A finished figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What it is called among the figures of a report, and as a file: `a-z`, `0-9` and `-`.
    pub name: String,
    /// What it shows, shortly.
    pub title: String,
    /// What there is to see, for those who cannot see it.
    pub desc: String,
    /// Width and height in user units, about CSS pixels.
    pub size: [f64; 2],
    /// Its elements.
    pub body: String,
}

impl Figure {
    /// For a page, whose style sheet it shares.
    pub fn inline(&self) -> String {
        self.svg("", "", "")
    }

    /// A file by itself, light or dark as its viewer is.
    pub fn file(&self) -> String {
        let css = theme::file_css();
        self.svg(r#" xmlns="http://www.w3.org/2000/svg""#, &css, &self.title)
    }

    /// A file for a renderer that knows neither variables nor media.
    pub(super) fn print(&self) -> String {
        let css = theme::light_css();
        self.svg(r#" xmlns="http://www.w3.org/2000/svg""#, &css, &self.title)
    }

    /// By itself, with a background and, in a strip above, its heading.
    fn svg(&self, namespace: &str, css: &str, heading: &str) -> String {
        let (name, title, desc) = (&self.name, escape(&self.title), escape(&self.desc));
        let strip = if heading.is_empty() { 0.0 } else { HEADING };
        let (left, top) = (0.0 - PADDING, 0.0 - PADDING - strip);
        let (box_of, size, ground) = match css {
            "" => (
                [0.0, 0.0, self.size[0], self.size[1]],
                String::new(),
                String::new(),
            ),
            _ => {
                let [w, h] = [
                    self.size[0] + 2.0 * PADDING,
                    self.size[1] + 2.0 * PADDING + strip,
                ];
                let corner = [left, top, w, h].map(number);
                let [x, y, width, height] = &corner;
                (
                    [left, top, w, h],
                    format!(r#" width="{width}" height="{height}""#),
                    format!(
                        "<style>{css}</style>\n<rect class=\"ground\" x=\"{x}\" y=\"{y}\" \
                         width=\"{width}\" height=\"{height}\"/>\n<text class=\"heading\" x=\"0\" \
                         y=\"-10\">{}</text>\n",
                        escape(heading)
                    ),
                )
            }
        };
        let view = box_of.map(number).join(" ");
        format!(
            "<svg{namespace} class=\"figure\" viewBox=\"{view}\"{size} role=\"img\" \
             aria-labelledby=\"{name}-title {name}-desc\">\n<title id=\"{name}-title\">{title}\
             </title>\n<desc id=\"{name}-desc\">{desc}</desc>\n{ground}{}</svg>\n",
            self.body
        )
    }
}

/// Room around a figure by itself.
const PADDING: f64 = 12.0;
/// Room for its heading.
const HEADING: f64 = 18.0;
