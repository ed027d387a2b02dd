//! The figures of runs that compare.

mod learning;

use super::figure::Figure;
use super::figure::axis::{Axis, Unit};
use super::figure::curves::{Curves, Labels, Series, Stroke};
use super::figure::histogram::Histogram;
use super::figure::intervals::{Intervals, Row};
use super::figure::matrix::{MOST_CLASSES, Matrix};
use super::scores::{histograms, reliabilities, roc};
use super::summary::percent;
use super::{Entry, Group};

/// Width of a figure: text in it can be read on a phone, too.
const WIDTH: f64 = 440.0;
/// The colour of what is wrong, or of the other class.
const NEUTRAL: usize = 7;
/// More runs than this have no ranges in one figure.
const MOST_RANGES: usize = 2;

/// The figures of a group.
#[derive(Clone, Debug)]
pub struct GroupFigures {
    /// Accuracy with intervals; none if no side was judged.
    pub intervals: Option<Figure>,
    /// Accuracy and loss over epochs and over time.
    pub learning: Vec<Figure>,
    /// ROC curves and calibration.
    pub ranking: Vec<Figure>,
    /// Of each run: score histogram and confusion matrix.
    pub of_runs: Vec<Vec<Figure>>,
}

impl GroupFigures {
    /// Draws them.
    pub fn new(group: &Group) -> GroupFigures {
        let suffix = match group.number {
            1 => String::new(),
            number => format!("-{number}"),
        };
        let named = |name: &str| format!("{name}{suffix}");
        GroupFigures {
            intervals: intervals(named("accuracy-intervals"), group),
            learning: learning::figures(group, named),
            ranking: [
                roc_curves(named("roc"), group),
                calibration(named("calibration"), group),
            ]
            .into_iter()
            .flatten()
            .collect(),
            of_runs: group.entries.iter().map(of_run).collect(),
        }
    }

    /// All of them, in the order of the page.
    pub fn all(&self) -> impl Iterator<Item = &Figure> {
        let of_runs = self.of_runs.iter().flatten();
        self.intervals
            .iter()
            .chain(&self.learning)
            .chain(&self.ranking)
            .chain(of_runs)
    }
}

fn intervals(name: String, group: &Group) -> Option<Figure> {
    let mut rows: Vec<Row> = Vec::new();
    for entry in &group.entries {
        let metrics = &entry.run.metrics;
        let label = entry.label();
        let sides = [("test", &metrics.test), ("validation", &metrics.validation)];
        let judged = sides
            .into_iter()
            .filter_map(|(side, m)| Some((side, m.as_ref()?)));
        for (i, (side, metrics)) in judged.enumerate() {
            let bounds = metrics.accuracy_interval;
            rows.push(Row {
                label: if i == 0 {
                    format!("{label}, {side}")
                } else {
                    side.to_owned()
                },
                color: entry.color,
                is_filled: i == 0,
                value: metrics.accuracy,
                bounds: [bounds.low, bounds.high],
                text: percent(metrics.accuracy),
            });
        }
    }
    let bounds: Vec<f64> = rows.iter().flat_map(|row| row.bounds).collect();
    let said = |row: &Row| {
        let [low, high] = row.bounds.map(percent);
        format!("{} {} ({low} to {high})", row.label, row.text)
    };
    let desc = rows.iter().map(said).collect::<Vec<_>>().join("; ");
    let figure = Intervals {
        name,
        title: "Accuracy with 95 % intervals".to_owned(),
        desc: format!("{desc}."),
        width: WIDTH,
        x: Axis::linear("accuracy", Unit::Percent, &bounds, 4),
        rows,
    };
    (!bounds.is_empty()).then(|| figure.figure())
}

fn roc_curves(name: String, group: &Group) -> Option<Figure> {
    let mut series = Vec::new();
    let mut labels = Vec::new();
    for entry in &group.entries {
        let Some(held_out) = &entry.run.held_out else {
            continue;
        };
        let Some(curve) = roc(held_out) else { continue };
        let auc = entry.run.judged().and_then(|(_, metrics)| metrics.roc_auc);
        let auc = auc.map_or(String::new(), |auc| format!(", AUC {auc:.4}"));
        let label = format!("{}{auc}", entry.label());
        series.push(Series::new(Some(&label), entry.color, Stroke::Plain, curve));
        labels.push(label);
    }
    let classes = group.classes().len();
    let averaged = if classes > 2 {
        " (mean of each class against the rest)"
    } else {
        ""
    };
    let curves = Curves {
        name,
        title: format!("ROC{averaged}"),
        desc: format!("{}.", labels.join("; ")),
        size: [WIDTH, 330.0],
        x: Axis::fixed("false positive rate", Unit::Percent, 0.0, 1.0, 5),
        y: Axis::fixed("true positive rate", Unit::Percent, 0.0, 1.0, 5),
        guide: Some([[0.0, 0.0], [1.0, 1.0]]),
        series,
        labels: Labels::Corner,
    };
    (!labels.is_empty()).then(|| curves.figure())
}

fn calibration(name: String, group: &Group) -> Option<Figure> {
    let with_ranges = group.entries.len() <= MOST_RANGES;
    let mut series = Vec::new();
    let mut labels = Vec::new();
    for entry in &group.entries {
        let (Some(held_out), Some((_, metrics))) = (&entry.run.held_out, entry.run.judged()) else {
            continue;
        };
        let bins = reliabilities(held_out, &entry.run.decision);
        let label = format!("{}, ECE {:.4}", entry.label(), metrics.calibration_error);
        let points = bins.iter().map(|bin| [bin.confidence, bin.right]).collect();
        let mut curve = Series::new(Some(&label), entry.color, Stroke::Solid, points);
        // The more images a bin has, the larger its marker.
        let most = bins.iter().map(|bin| bin.images).max().unwrap_or(1) as f64;
        curve.sizes = bins
            .iter()
            .map(|bin| 0.6 + (bin.images as f64 / most).sqrt())
            .collect();
        if with_ranges {
            curve.ranges = bins
                .iter()
                .map(|bin| [bin.interval.low, bin.interval.high])
                .collect();
        }
        series.push(curve);
        labels.push(label);
    }
    let least = if group.classes().len() == 2 { 0.5 } else { 0.0 };
    let curves = Curves {
        name,
        title: "Calibration: how sure and how often right".to_owned(),
        desc: format!("{}.", labels.join("; ")),
        size: [WIDTH, 330.0],
        x: Axis::fixed("confidence", Unit::Percent, least, 1.0, 5),
        y: Axis::fixed("share right", Unit::Percent, 0.0, 1.0, 5),
        guide: Some([[least, least], [1.0, 1.0]]),
        series,
        labels: Labels::Corner,
    };
    (!labels.is_empty()).then(|| curves.figure())
}

/// Score histogram and confusion matrix of a run, where it has them.
fn of_run(entry: &Entry) -> Vec<Figure> {
    let name = |name: &str| format!("{}-{name}", entry.letter.to_lowercase());
    [
        histogram(name("scores"), entry),
        confusion(name("confusion"), entry),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn histogram(name: String, entry: &Entry) -> Option<Figure> {
    let run = &entry.run;
    let held_out = run.held_out.as_ref()?;
    let found = histograms(held_out, &run.decision);
    let (title, kinds, mark) = match &run.classes[..] {
        [class_0, class_1] => (
            format!("probability of {class_1}"),
            [class_1.clone(), class_0.clone()],
            Some((run.decision.threshold, "threshold".to_owned())),
        ),
        _ => (
            "confidence".to_owned(),
            ["right".to_owned(), "wrong".to_owned()],
            None,
        ),
    };
    let short = |text: &str| super::escape::shortened(text, 24);
    let [up, down] = kinds.map(|kind| short(&kind));
    let total = |counts: &[u64]| counts.iter().sum::<u64>();
    let histogram = Histogram {
        name,
        title: format!("{}: images by score, {}", entry.letter, held_out.side),
        desc: format!(
            "Up: {} images, {up}. Down: {} images, {down}.",
            total(&found.up),
            total(&found.down)
        ),
        size: [WIDTH, 260.0],
        x: Axis::fixed(&short(&title), Unit::Percent, 0.0, 1.0, 5),
        up: found.up,
        down: found.down,
        kinds: [(up, entry.color), (down, NEUTRAL)],
        mark,
    };
    Some(histogram.figure())
}

fn confusion(name: String, entry: &Entry) -> Option<Figure> {
    let (side, metrics) = entry.run.judged()?;
    let classes = &entry.run.classes;
    if classes.len() > MOST_CLASSES {
        return None;
    }
    let counts: Vec<Vec<u64>> = metrics.confusion.clone().into();
    let matrix = Matrix {
        name,
        title: format!("{}: confusion matrix, {side}", entry.letter),
        desc: format!(
            "{} of {} images right.",
            metrics.confusion.correct(),
            metrics.confusion.total()
        ),
        classes: classes.clone(),
        counts,
        colors: [entry.color, NEUTRAL],
        width: WIDTH,
    };
    Some(matrix.figure())
}
