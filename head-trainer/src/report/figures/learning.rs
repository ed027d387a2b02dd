//! Accuracy and loss as training went on, over epochs and over time.

use super::WIDTH;
use crate::report::figure::Figure;
use crate::report::figure::axis::{Axis, Unit};
use crate::report::figure::curves::{Curves, Labels, Series, Stroke};
use crate::report::summary::percent;
use crate::report::{Entry, Group};
use crate::solver::Epoch;

/// The four figures; `named` completes a name.
pub(super) fn figures(group: &Group, named: impl Fn(&str) -> String) -> Vec<Figure> {
    let wanted = [
        (ACCURACY, Over::Epochs, "epochs"),
        (LOSS, Over::Epochs, "epochs"),
        (ACCURACY, Over::Time, "time"),
        (LOSS, Over::Time, "time"),
    ];
    wanted
        .into_iter()
        .map(|(told, over, by)| {
            learning_curves(named(&format!("{}-{by}", told.name)), group, told, over)
        })
        .collect()
}

/// Something that every epoch tells.
#[derive(Clone, Copy)]
struct Told {
    name: &'static str,
    unit: Unit,
    train: fn(&Epoch) -> f64,
    validation: fn(&Epoch) -> Option<f64>,
    text: fn(f64) -> String,
}

const ACCURACY: Told = Told {
    name: "accuracy",
    unit: Unit::Percent,
    train: |epoch| epoch.train_accuracy,
    validation: |epoch| epoch.validation_accuracy,
    text: percent,
};

const LOSS: Told = Told {
    name: "loss",
    unit: Unit::Number,
    train: |epoch| epoch.train_loss,
    validation: |epoch| epoch.validation_loss,
    text: |loss| format!("{loss:.4}"),
};

#[derive(Clone, Copy, PartialEq)]
enum Over {
    Epochs,
    Time,
}

/// The x of every entry of the history.
fn places(entry: &Entry, over: Over) -> Vec<f64> {
    let run = &entry.run;
    let mut secs = 0.0;
    let place = |epoch: &Epoch| {
        secs += epoch.secs;
        match over {
            Over::Epochs => f64::from(epoch.epoch),
            Over::Time if !run.has_epochs => run.secs.training.unwrap_or(secs),
            Over::Time => secs,
        }
    };
    run.history.iter().map(place).collect()
}

fn learning_curves(name: String, group: &Group, told: Told, over: Over) -> Figure {
    let is_alone = group.entries.len() == 1;
    let mut series = Vec::new();
    let mut said = Vec::new();
    for entry in &group.entries {
        let (run, label) = (&entry.run, entry.label());
        let places = places(entry, over);
        let at = |value: fn(&Epoch) -> f64| {
            let points = places
                .iter()
                .zip(&run.history)
                .map(|(x, epoch)| [*x, value(epoch)]);
            points.collect::<Vec<_>>()
        };
        let validation: Vec<[f64; 2]> = places
            .iter()
            .zip(&run.history)
            .filter_map(|(x, epoch)| Some([*x, (told.validation)(epoch)?]))
            .collect();
        let train = at(told.train);
        let train_label = match (is_alone, validation.is_empty()) {
            (true, _) => Some("training".to_owned()),
            (false, true) => Some(format!("{label}, training")),
            (false, false) => None,
        };
        if let (Some(first), Some(last)) = (validation.first(), validation.last()) {
            let text = |point: &[f64; 2]| (told.text)(point[1]);
            said.push(match validation.len() {
                1 => format!("{label} {}", text(last)),
                _ => format!("{label} from {} to {}", text(first), text(last)),
            });
        }
        series.push(Series::new(
            train_label.as_deref(),
            entry.color,
            Stroke::Dashed,
            train,
        ));
        let stroke = match (run.has_epochs, over) {
            (false, Over::Epochs) => Stroke::Level,
            _ => Stroke::Solid,
        };
        let label = if is_alone { "validation" } else { &label };
        series.push(Series::new(Some(label), entry.color, stroke, validation));
    }
    let values = |axis: usize| -> Vec<f64> {
        series
            .iter()
            .flat_map(|s| s.points.iter().map(move |p| p[axis]))
            .collect()
    };
    let (xs, ys) = (values(0), values(1));
    let x = match over {
        Over::Epochs => {
            let last = xs.iter().copied().fold(1.0, f64::max);
            match last > 1.0 {
                true => Axis::fixed("epoch", Unit::Count, 1.0, last, 8),
                false => Axis::fixed("epoch", Unit::Count, 0.0, 2.0, 2),
            }
        }
        Over::Time => Axis::positive("training time", Unit::Seconds, &xs, 6),
    };
    let positive = Axis::positive(told.name, told.unit, &ys, 5);
    let y = match positive.is_log && told.unit == Unit::Number {
        true => positive,
        false => Axis::linear(told.name, told.unit, &ys, 5),
    };
    let (what, by) = match over {
        Over::Epochs => (told.name, "epochs"),
        Over::Time => (told.name, "training time"),
    };
    let what = format!("{}{} over {by}", what[..1].to_uppercase(), &what[1..]);
    let desc = match said.is_empty() {
        true => "Training side only.".to_owned(),
        false => format!("Validation {}: {}.", told.name, said.join("; ")),
    };
    let curves = Curves {
        name,
        title: what,
        desc,
        size: [WIDTH, 250.0],
        x,
        y,
        guide: None,
        series,
        labels: Labels::Ends,
    };
    curves.figure()
}
