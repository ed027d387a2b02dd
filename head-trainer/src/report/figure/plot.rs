//! The frame of a figure with two axes: grid, ticks, titles, and where values lie in it.

use super::axis::Axis;
use super::svg::{Anchor, Svg, width_of};

/// Size of text, as in `theme.css`.
pub(super) const TEXT: f64 = 12.0;

/// The area between two axes.
pub(super) struct Plot<'a> {
    pub x: &'a Axis,
    pub y: &'a Axis,
    /// Its upper left corner.
    pub corner: [f64; 2],
    /// Its width and height.
    pub extent: [f64; 2],
}

impl<'a> Plot<'a> {
    /// In a figure of `size`, with `right` left free beside it.
    pub fn new(size: [f64; 2], right: f64, x: &'a Axis, y: &'a Axis) -> Plot<'a> {
        let widths = y.ticks.iter().map(|tick| width_of(&tick.label) * TEXT);
        let left = widths.fold(0.0, f64::max) + 8.0;
        let top = if y.title.is_empty() { 8.0 } else { 24.0 };
        let bottom = if x.title.is_empty() { 20.0 } else { 36.0 };
        Plot {
            x,
            y,
            corner: [left, top],
            extent: [size[0] - left - right, size[1] - top - bottom],
        }
    }

    /// Where a pair of values lies.
    pub fn at(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [
            self.corner[0] + self.extent[0] * self.x.position(x),
            self.corner[1] + self.extent[1] * (1.0 - self.y.position(y)),
        ]
    }

    /// The x of its right edge.
    pub fn right(&self) -> f64 {
        self.corner[0] + self.extent[0]
    }

    /// The y of its lower edge.
    pub fn bottom(&self) -> f64 {
        self.corner[1] + self.extent[1]
    }

    /// Draws grid, axes, ticks and titles.
    pub fn draw(&self, svg: &mut Svg) {
        let [left, top] = self.corner;
        for tick in &self.y.ticks {
            let y = self.at([self.x.low, tick.at])[1];
            svg.line("grid", [left, y], [self.right(), y]);
            svg.text("tick", [left - 6.0, y + 4.0], Anchor::End, &tick.label);
        }
        let bottom = self.bottom();
        svg.line("axis", [left, bottom], [self.right(), bottom]);
        let mut free_from = f64::NEG_INFINITY; // labels must not touch
        for tick in &self.x.ticks {
            let x = self.at([tick.at, self.y.low])[0];
            svg.line("axis", [x, bottom], [x, bottom + 4.0]);
            let half = width_of(&tick.label) * TEXT / 2.0;
            if x - half >= free_from {
                svg.text("tick", [x, bottom + 16.0], Anchor::Middle, &tick.label);
                free_from = x + half + 4.0;
            }
        }
        if !self.y.title.is_empty() {
            svg.text("title", [0.0, top - 12.0], Anchor::Start, &self.y.title);
        }
        if !self.x.title.is_empty() {
            let middle = left + self.extent[0] / 2.0;
            svg.text(
                "title",
                [middle, bottom + 32.0],
                Anchor::Middle,
                &self.x.title,
            );
        }
    }
}

/// Moves `wanted` heights, ascending, apart by at least `gap` within `low..=high`, and as little
/// as that allows. Where there is no room for all, they are evenly close.
pub(super) fn spread(wanted: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let between = wanted.len().saturating_sub(1) as f64;
    let gap = gap.min((high - low) / between.max(1.0));
    let mut placed = wanted.to_vec();
    let mut least = low;
    for place in &mut placed {
        *place = place.max(least);
        least = *place + gap;
    }
    let mut most = high;
    for place in placed.iter_mut().rev() {
        *place = place.min(most);
        most = *place - gap;
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_moved_apart_and_stay_inside() {
        assert_eq!(spread(&[10.0, 50.0], 12.0, 0.0, 100.0), [10.0, 50.0]);
        assert_eq!(
            spread(&[10.0, 11.0, 12.0], 10.0, 0.0, 100.0),
            [10.0, 20.0, 30.0]
        );
        assert_eq!(spread(&[95.0, 99.0], 10.0, 0.0, 100.0), [90.0, 100.0]);
        assert_eq!(spread(&[5.0; 3], 10.0, 0.0, 10.0), [0.0, 5.0, 10.0]);
        assert!(spread(&[], 10.0, 0.0, 10.0).is_empty());
    }
}
