//! Curves over a common axis: learning curves, ROC curves, calibration.

use super::Figure;
use super::axis::Axis;
use super::plot::{Plot, TEXT, spread};
use super::svg::{Anchor, Svg, width_of};
use super::theme::series_class;

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stroke {
    /// A line with markers where there are few points.
    Solid,
    /// A line without markers.
    Plain,
    /// A thin dashed line.
    Dashed,
    /// A point, and a dotted line at its height.
    Level,
}

/// A curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its label; without one it has none.
    pub label: Option<String>,
    /// Number of its colour and marker.
    pub color: usize,
    /// How it is drawn.
    pub stroke: Stroke,
    /// Its points, by x. Those that are no numbers are left out.
    pub points: Vec<[f64; 2]>,
    /// A vertical range around each point, if there are any.
    pub ranges: Vec<[f64; 2]>,
    /// How large each point's marker is, if they differ; 1 is usual.
    pub sizes: Vec<f64>,
}

impl Series {
    /// A series without ranges.
    pub fn new(label: Option<&str>, color: usize, stroke: Stroke, points: Vec<[f64; 2]>) -> Series {
        Series {
            label: label.map(str::to_owned),
            color,
            stroke,
            points: points
                .into_iter()
                .filter(|p| p.iter().all(|v| v.is_finite()))
                .collect(),
            ranges: Vec::new(),
            sizes: Vec::new(),
        }
    }
}

/// Where labels go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labels {
    /// Beside the ends of their curves.
    Ends,
    /// In the lower right corner, where no good curve goes.
    Corner,
}

/// A figure of curves.
#[derive(Clone, Debug, PartialEq)]
pub struct Curves {
    /// See [`Figure`].
    pub name: String,
    /// See [`Figure`].
    pub title: String,
    /// See [`Figure`].
    pub desc: String,
    /// See [`Figure`].
    pub size: [f64; 2],
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// A line from and to values, behind the curves: chance, or perfection.
    pub guide: Option<[[f64; 2]; 2]>,
    /// The curves; later ones lie above.
    pub series: Vec<Series>,
    /// Where their labels go.
    pub labels: Labels,
}

/// A curve with more points than this has no markers.
const MARKED: usize = 24;
/// A curve that ends this far from its label has a dotted line to it.
const FAR: f64 = 24.0;
/// Lines of labels are this far apart.
const LINE: f64 = 14.0;

impl Curves {
    /// Draws it.
    pub fn figure(self) -> Figure {
        let labels = self.series.iter().filter_map(|s| s.label.as_deref());
        let widest = labels
            .map(|label| width_of(label) * TEXT * 1.06)
            .fold(0.0, f64::max);
        let right = match self.labels {
            Labels::Ends => (widest + 12.0).max(14.0),
            Labels::Corner => 14.0,
        };
        let plot = Plot::new(self.size, right, &self.x, &self.y);
        let mut svg = Svg::default();
        plot.draw(&mut svg);
        if let Some([from, to]) = self.guide {
            svg.line("guide", plot.at(from), plot.at(to));
        }
        for series in &self.series {
            draw(&mut svg, &plot, series);
        }
        match self.labels {
            Labels::Ends => self.label_ends(&mut svg, &plot),
            Labels::Corner => self.label_corner(&mut svg, &plot),
        }
        Figure {
            name: self.name,
            title: self.title,
            desc: self.desc,
            size: self.size,
            body: svg.finish(),
        }
    }

    fn labelled(&self) -> impl Iterator<Item = (&Series, &str)> {
        let labelled = |series: &'_ Series| !series.points.is_empty();
        let series = self.series.iter().filter(move |series| labelled(series));
        series.filter_map(|series| Some((series, series.label.as_deref()?)))
    }

    fn label_ends(&self, svg: &mut Svg, plot: &Plot<'_>) {
        for (series, _) in self.labelled().filter(|(s, _)| s.stroke != Stroke::Level) {
            let end = series.points.last().map(|point| plot.at(*point));
            if let Some([x, y]) = end.filter(|[x, _]| plot.right() - x > FAR) {
                let class = format!("level {}", series_class(series.color));
                svg.line(&class, [x + 6.0, y], [plot.right(), y]);
            }
        }
        let mut ends: Vec<(f64, usize, &str)> = self
            .labelled()
            .filter_map(|(series, label)| {
                let end = plot.at(*series.points.last()?);
                Some((end[1] + 4.0, series.color, label))
            })
            .collect();
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        let wanted: Vec<f64> = ends.iter().map(|end| end.0).collect();
        let (top, bottom) = (plot.corner[1] + 4.0, plot.bottom() + 2.0);
        for (y, (_, color, label)) in spread(&wanted, LINE, top, bottom).into_iter().zip(ends) {
            let class = format!("end {}", series_class(color));
            svg.text(&class, [plot.right() + 8.0, y], Anchor::Start, label);
        }
    }

    fn label_corner(&self, svg: &mut Svg, plot: &Plot<'_>) {
        let labels: Vec<(usize, &str)> = self.labelled().map(|(s, l)| (s.color, l)).collect();
        for (i, (color, label)) in labels.iter().enumerate() {
            let y = plot.bottom() - 10.0 - LINE * (labels.len() - 1 - i) as f64;
            let class = format!("end {}", series_class(*color));
            svg.text(&class, [plot.right() - 8.0, y], Anchor::End, label);
        }
    }
}

fn draw(svg: &mut Svg, plot: &Plot<'_>, series: &Series) {
    let color = series_class(series.color);
    let points: Vec<[f64; 2]> = series.points.iter().map(|p| plot.at(*p)).collect();
    let Some(&last) = points.last() else { return };
    for (point, [low, high]) in points.iter().zip(&series.ranges) {
        let y = |value: f64| plot.at([plot.x.low, value])[1];
        svg.line(
            &format!("span {color}"),
            [point[0], y(*low)],
            [point[0], y(*high)],
        );
    }
    match series.stroke {
        Stroke::Dashed if points.len() > 1 => svg.polyline(&format!("thin {color}"), &points),
        Stroke::Dashed => svg.marker(&format!("ring {color}"), last, series.color, 1.0),
        Stroke::Level => {
            let (left, right) = (plot.corner[0], plot.right());
            svg.line(&format!("level {color}"), [left, last[1]], [right, last[1]]);
            svg.marker(&format!("dot {color}"), last, series.color, 1.0);
        }
        Stroke::Solid | Stroke::Plain => {
            if points.len() > 1 {
                svg.polyline(&format!("curve {color}"), &points);
            }
            if points.len() == 1 || series.stroke == Stroke::Solid && points.len() <= MARKED {
                for (i, point) in points.into_iter().enumerate() {
                    let size = series.sizes.get(i).copied().unwrap_or(1.0);
                    svg.marker(&format!("dot {color}"), point, series.color, size);
                }
            }
        }
    }
}
