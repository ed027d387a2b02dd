//! What scores of held-out images come to: curves, bins, the most confident mistakes.

use extractor::digest::ImageId;

use super::load::HeldOut;
use crate::explain::mistakes_in;
use crate::head::Decision;
use crate::metrics::calibration::{Bin, reliability};
use crate::metrics::interval::{Interval, Z_95, wilson};
use crate::metrics::ranking::roc_curve;

/// Bins of a score histogram.
pub const BINS: usize = 25;
/// Places along the false positive rate at which curves of several classes are averaged.
const GRID: usize = 200;
/// Points of a curve are at least this far apart: what nobody sees is left out.
const APART: f64 = 1.0 / 1000.0;

/// The ROC curve of class 1; of more than two classes the mean, at equal false positive rates, of
/// each class's against the rest. None where no class has one.
pub fn roc(held_out: &HeldOut) -> Option<Vec<[f64; 2]>> {
    let classes = held_out.logits.classes();
    if classes == 2 {
        let positive: Vec<bool> = held_out.labels.iter().map(|label| *label == 1).collect();
        return roc_curve(held_out.logits.values(), &positive).map(thinned);
    }
    let probabilities = held_out.logits.probabilities();
    let of_class = |class: usize| {
        let scores: Vec<f32> = probabilities
            .chunks_exact(classes)
            .map(|row| row[class])
            .collect();
        let positive: Vec<bool> = held_out
            .labels
            .iter()
            .map(|l| *l as usize == class)
            .collect();
        roc_curve(&scores, &positive)
    };
    let curves: Vec<Vec<[f64; 2]>> = (0..classes).filter_map(of_class).collect();
    let mean = |i: usize| {
        let x = i as f64 / GRID as f64;
        let sum: f64 = curves.iter().map(|curve| height_at(curve, x)).sum();
        [x, sum / curves.len() as f64]
    };
    (!curves.is_empty()).then(|| {
        [[0.0, 0.0]]
            .into_iter()
            .chain((0..=GRID).map(mean))
            .collect()
    })
}

/// The height of a rising curve at `x`, the upper end of a vertical piece.
fn height_at(curve: &[[f64; 2]], x: f64) -> f64 {
    let after = curve.partition_point(|point| point[0] <= x);
    let [x0, y0] = curve[after.saturating_sub(1)];
    match curve.get(after) {
        None => y0,
        Some([x1, y1]) => y0 + (y1 - y0) * (x - x0) / (x1 - x0),
    }
}

/// The curve without points that lie as good as on the one before.
fn thinned(curve: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    let mut kept: Vec<[f64; 2]> = Vec::new();
    let last = curve.len() - 1;
    for (i, point) in curve.into_iter().enumerate() {
        let is_near = |p: &[f64; 2]| (0..2).all(|axis| (p[axis] - point[axis]).abs() < APART);
        if i == last || !kept.last().is_some_and(is_near) {
            kept.push(point);
        }
    }
    kept
}

/// Images of about the same confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reliability {
    /// How many.
    pub images: u64,
    /// Their mean confidence: the probability of the class that each was taken for.
    pub confidence: f64,
    /// The share of them that is right.
    pub right: f64,
    /// Wilson's 95 % interval of that share.
    pub interval: Interval,
}

/// The bins that hold images, by rising confidence: those of the expected calibration error.
pub fn reliabilities(held_out: &HeldOut, decision: &Decision) -> Vec<Reliability> {
    let scaled = held_out.logits.divided_by(decision.temperature);
    let classes = scaled.classes();
    let probabilities = match classes {
        2 => scaled.probabilities_of_1(),
        _ => scaled.probabilities(),
    };
    let of = |bin: &Bin| {
        Some(Reliability {
            images: bin.rows,
            confidence: bin.confidences / bin.rows as f64,
            right: bin.right as f64 / bin.rows as f64,
            interval: wilson(bin.right, bin.rows, Z_95)?,
        })
    };
    reliability(&probabilities, &held_out.labels, classes)
        .iter()
        .filter_map(of)
        .collect()
}

/// Counts of images by score, in [`BINS`] bins of equal width over [0, 1].
#[derive(Clone, Debug, PartialEq)]
pub struct Histograms {
    /// Two classes: images of class 1 by their probability of it. More: images taken for the right
    /// class, by confidence.
    pub up: Vec<u64>,
    /// Two classes: images of class 0 by their probability of class 1. More: images taken for a
    /// wrong class, by confidence.
    pub down: Vec<u64>,
}

/// The histograms of the scores.
pub fn histograms(held_out: &HeldOut, decision: &Decision) -> Histograms {
    let mut found = Histograms {
        up: vec![0; BINS],
        down: vec![0; BINS],
    };
    for (logits, &label) in held_out.logits.iter().zip(&held_out.labels) {
        let probabilities = decision.probabilities(logits);
        let class = decision.class(logits);
        let (score, is_up) = match probabilities.len() {
            2 => (probabilities[1], label == 1),
            _ => (probabilities[class as usize], class == label),
        };
        let bin = ((f64::from(score) * BINS as f64) as usize).min(BINS - 1);
        let counts = if is_up {
            &mut found.up
        } else {
            &mut found.down
        };
        counts[bin] += 1;
    }
    found
}

/// An image that was taken for a class that it is not of.
#[derive(Clone, Debug, PartialEq)]
pub struct Mistake {
    /// The image.
    pub id: ImageId,
    /// Its path, where an index tells it; escaped as a line of text.
    pub path: Option<String>,
    /// Its class.
    pub label: u32,
    /// The class that it was taken for.
    pub predicted: u32,
    /// The probability of that class.
    pub probability: f64,
    /// A small picture of it, JPEG.
    pub thumbnail: Option<Vec<u8>>,
    /// The same with its class-activation map, JPEG.
    pub overlay: Option<Vec<u8>>,
}

/// The `most` mistakes that the model was surest of, the surest first; no pictures yet.
pub fn mistakes(held_out: &HeldOut, decision: &Decision, most: usize) -> Vec<Mistake> {
    let HeldOut {
        ids,
        labels,
        logits,
        ..
    } = held_out;
    let all = mistakes_in(ids, labels, logits, decision).into_iter();
    all.take(most)
        .map(|mistake| Mistake {
            id: mistake.id,
            path: None,
            label: mistake.label,
            predicted: mistake.predicted,
            probability: f64::from(mistake.probability),
            thumbnail: None,
            overlay: None,
        })
        .collect()
}

/// Of images that both runs judged: how many are right in the first alone, and in the second alone.
pub fn right_alone(a: (&HeldOut, &Decision), b: (&HeldOut, &Decision)) -> Option<[u64; 2]> {
    if a.0.side != b.0.side || a.0.ids != b.0.ids || a.0.labels != b.0.labels {
        return None;
    }
    let right = |(held_out, decision): (&HeldOut, &Decision)| -> Vec<bool> {
        let rows = held_out.logits.iter().zip(&held_out.labels);
        rows.map(|(logits, label)| decision.class(logits) == *label)
            .collect()
    };
    let both = right(a).into_iter().zip(right(b));
    Some(both.fold([0, 0], |[first, second], (a, b)| {
        [first + u64::from(a && !b), second + u64::from(b && !a)]
    }))
}

#[cfg(test)]
mod tests {
    use extractor::digest::Digest;

    use super::*;
    use crate::metrics::Logits;
    use crate::split::Side;

    fn held_out(logits: &[f32], outputs: usize, labels: &[u32]) -> HeldOut {
        HeldOut {
            side: Side::Test,
            ids: (0..labels.len() as u8).map(|i| Digest::of(&[i])).collect(),
            labels: labels.to_vec(),
            logits: Logits::new(logits.to_vec(), outputs),
        }
    }

    #[test]
    fn curves_of_classes_are_averaged() {
        // Class 0 comes first; class 1 after one of the others, in a tie with the other one; class
        // 2 after one of the others.
        let logits = [9.0, 0.0, 0.0, 0.0, 0.0, 9.0, 0.0, 5.0, 9.0];
        let images = held_out(&logits, 3, &[0, 1, 2]);
        let curve = roc(&images).unwrap();
        assert_eq!((curve[0], curve[curve.len() - 1]), ([0.0, 0.0], [1.0, 1.0]));
        let at = |x: f64| curve.iter().rev().find(|p| p[0] <= x).unwrap()[1];
        for (x, sum) in [(0.0, 1.0), (0.25, 1.0), (0.5, 2.0), (0.75, 2.5)] {
            assert!((at(x) - sum / 3.0).abs() < 1e-9, "{x}: {}", at(x));
        }
        assert!(curve.is_sorted_by(|a, b| a[0] <= b[0] && a[1] <= b[1] + 1e-12));
        assert_eq!(roc(&held_out(&[1.0], 1, &[1])), None);
    }

    #[test]
    fn heights_are_between_points() {
        let curve = [[0.0, 0.0], [0.0, 0.5], [0.5, 0.5], [1.0, 1.0]];
        assert_eq!(
            [0.0, 0.25, 0.75, 1.0].map(|x| height_at(&curve, x)),
            [0.5, 0.5, 0.75, 1.0]
        );
    }

    #[test]
    fn scores_are_counted_by_class() {
        let images = held_out(&[9.0, -9.0, 9.0, 0.0], 1, &[1, 0, 0, 1]);
        let found = histograms(&images, &Decision::default());
        assert_eq!(
            (found.up[BINS - 1], found.up[BINS / 2], found.up[0]),
            (1, 1, 0)
        );
        assert_eq!((found.down[BINS - 1], found.down[0]), (1, 1));
        assert_eq!(found.up.iter().chain(&found.down).sum::<u64>(), 4);
        // Three classes: right up, wrong down.
        let images = held_out(&[9.0, 0.0, 0.0, 0.0, 9.0, 0.0], 3, &[0, 2]);
        let found = histograms(&images, &Decision::default());
        assert_eq!((found.up[BINS - 1], found.down[BINS - 1]), (1, 1));
    }

    #[test]
    fn the_surest_mistakes_come_first() {
        let images = held_out(&[1.0, -3.0, 2.0, 0.5, -1.0], 1, &[0, 1, 0, 1, 0]);
        let found = mistakes(&images, &Decision::default(), 2);
        let ids: Vec<ImageId> = found.iter().map(|mistake| mistake.id).collect();
        assert_eq!(ids, [images.ids[1], images.ids[2]]);
        assert_eq!((found[0].label, found[0].predicted), (1, 0));
        assert!((found[0].probability - 0.952_574).abs() < 1e-5);
        assert!(mistakes(&images, &Decision::default(), 9).len() == 3);
    }

    #[test]
    fn bins_that_hold_nothing_are_left_out() {
        let images = held_out(&[3.0, 3.0, -3.0, 0.1], 1, &[1, 0, 0, 1]);
        let found = reliabilities(&images, &Decision::default());
        assert_eq!(
            found.iter().map(|bin| bin.images).collect::<Vec<_>>(),
            [1, 3]
        );
        assert!((found[1].right - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn runs_are_compared_image_by_image() {
        let a = held_out(&[1.0, 1.0, -1.0, 1.0], 1, &[1, 0, 0, 1]);
        let b = held_out(&[1.0, -1.0, 1.0, -1.0], 1, &[1, 0, 0, 1]);
        let decision = Decision::default();
        assert_eq!(right_alone((&a, &decision), (&b, &decision)), Some([2, 1]));
        let other = held_out(&[1.0], 1, &[1]);
        assert_eq!(right_alone((&a, &decision), (&other, &decision)), None);
    }
}
