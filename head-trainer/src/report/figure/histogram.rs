//! Two histograms back to back: one class upwards, the other downwards, so that neither hides the
//! other.

use super::Figure;
use super::axis::{Axis, Tick, Unit};
use super::plot::Plot;
use super::svg::{Anchor, Svg};
use super::theme::series_class;

/// Counts in bins of equal width over the whole horizontal axis, of two kinds.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
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
    /// Counts of the kind that goes up, of each bin.
    pub up: Vec<u64>,
    /// Counts of the kind that goes down.
    pub down: Vec<u64>,
    /// What the two are called, and the number of their colours.
    pub kinds: [(String, usize); 2],
    /// A value to mark, and what it is.
    pub mark: Option<(f64, String)>,
}

impl Histogram {
    /// Draws it.
    pub fn figure(self) -> Figure {
        let most = |counts: &[u64]| counts.iter().copied().max().unwrap_or(0) as f64;
        let y = axis(most(&self.up), most(&self.down));
        let plot = Plot::new(self.size, 14.0, &self.x, &y);
        let mut svg = Svg::default();
        plot.draw(&mut svg);
        let zero = plot.at([self.x.low, 0.0])[1];
        for (counts, sign, (_, color)) in [
            (&self.up, 1.0, &self.kinds[0]),
            (&self.down, -1.0, &self.kinds[1]),
        ] {
            let class = format!("bar {}", series_class(*color));
            let step = plot.extent[0] / counts.len() as f64;
            for (i, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                // A single image still shows.
                let height = (plot.at([self.x.low, sign * count as f64])[1] - zero)
                    .abs()
                    .max(1.0);
                let x = plot.corner[0] + step * i as f64;
                let top = if sign > 0.0 { zero - height } else { zero };
                svg.rect(&class, [x + 0.5, top], [step - 1.0, height], 1.0);
            }
        }
        svg.line("axis", [plot.corner[0], zero], [plot.right(), zero]);
        if let Some((at, text)) = &self.mark {
            let x = plot.at([*at, 0.0])[0];
            svg.line("guide", [x, plot.corner[1]], [x, plot.bottom()]);
            svg.text("tick", [x + 4.0, plot.corner[1] + 9.0], Anchor::Start, text);
        }
        // Each kind's name beside its tallest bar, on the side where there is more room.
        let step = plot.extent[0] / self.up.len().max(1) as f64;
        for ((name, color), counts, sign) in [
            (&self.kinds[0], &self.up, 1.0),
            (&self.kinds[1], &self.down, -1.0),
        ] {
            let tallest = (0..counts.len())
                .rev()
                .max_by_key(|&i| counts[i])
                .unwrap_or(0);
            let end = plot.at([self.x.low, sign * most(counts)])[1];
            let y = if sign > 0.0 {
                (end + 10.0).min(zero - 6.0)
            } else {
                end.max(zero + 14.0)
            };
            let class = format!("end {}", series_class(*color));
            let x = plot.corner[0] + step * tallest as f64;
            match tallest < counts.len() / 2 {
                true => svg.text(&class, [x + step + 6.0, y], Anchor::Start, name),
                false => svg.text(&class, [x - 6.0, y], Anchor::End, name),
            }
        }
        Figure {
            name: self.name,
            title: self.title,
            desc: self.desc,
            size: self.size,
            body: svg.finish(),
        }
    }
}

/// Counts in both directions from zero.
fn axis(up: f64, down: f64) -> Axis {
    let mut axis = Axis::linear("images", Unit::Count, &[-down, up.max(1.0)], 5);
    for Tick { at, label } in &mut axis.ticks {
        *label = format!("{:.0}", at.abs());
    }
    axis
}
