//! The first sentences of a report: what a reader in a hurry should know, and no more than the
//! numbers say.

use super::scores::right_alone;
use super::summary::{duration, share_with_interval};
use super::{Entry, Group};
use crate::metrics::Metrics;

/// Sentences on the runs of a group.
pub(super) fn findings(group: &Group) -> Vec<String> {
    let mut said = Vec::new();
    let mut ranked: Vec<(&Entry, &Metrics)> = group
        .entries
        .iter()
        .filter_map(|entry| Some((entry, entry.run.metrics.validation.as_ref()?)))
        .collect();
    let accuracy = |(entry, _): &(&Entry, &Metrics)| {
        entry
            .run
            .metrics
            .comparable()
            .map_or(f64::NEG_INFINITY, |basic| basic.accuracy)
    };
    ranked.sort_by(|a, b| accuracy(b).total_cmp(&accuracy(a))); // stable
    let told = |metrics: &Metrics| share_with_interval(metrics.accuracy, metrics.accuracy_interval);
    match ranked[..] {
        [] => {}
        [(entry, metrics)] => {
            said.push(format!(
                "{}: validation accuracy {}.",
                entry.label(),
                told(metrics)
            ));
        }
        [first, second, ..] if accuracy(&first) == accuracy(&second) => {
            said.push(format!(
                "{} and {} have the same validation accuracy, {}, and no run has a higher one.",
                first.0.label(),
                second.0.label(),
                told(first.1)
            ));
        }
        [(first, best), (second, next), ..] => {
            said.push(format!(
                "{} has the highest validation accuracy, {}; {} follows with {}.",
                first.label(),
                told(best),
                second.label(),
                told(next)
            ));
            let (a, b) = (best.accuracy_interval, next.accuracy_interval);
            said.push(match a.low > b.high {
                true => "Their 95 % intervals do not overlap.".to_owned(),
                false => "Their 95 % intervals overlap: the order may be chance.".to_owned(),
            });
        }
    }
    for entry in &group.entries {
        if let Some(share) = entry.run.lag {
            said.push(format!(
                "{}: its batch normalisation's moving moments hold {:.0} % of their first values still, so \
                 validation and test look worse than they would: train longer, or with a smaller momentum.",
                entry.label(),
                100.0 * share
            ));
        }
    }
    if let Some((best, _)) = ranked.first()
        && let Some(test) = &best.run.metrics.test
    {
        said.push(format!(
            "On the test side {} has {}.",
            best.letter,
            told(test)
        ));
    }
    if let [(a, _), (b, _), ..] = ranked[..]
        && let (Some(of_a), Some(of_b)) = (&a.run.held_out, &b.run.held_out)
        && let Some([only_a, only_b]) =
            right_alone((of_a, &a.run.decision), (of_b, &b.run.decision))
    {
        said.push(format!(
            "Of the {} {} images, {only_a} are right in {} alone and {only_b} in {} alone.",
            of_a.labels.len(),
            of_a.side,
            a.letter,
            b.letter
        ));
    }
    let baselines = ranked
        .iter()
        .skip(2)
        .filter(|(entry, _)| !entry.run.secs.needs_features);
    for (entry, metrics) in baselines {
        said.push(format!(
            "{} has {} on the validation side.",
            entry.label(),
            told(metrics)
        ));
    }
    let times: Vec<String> = group
        .entries
        .iter()
        .filter_map(|entry| {
            let secs = &entry.run.secs;
            let features = secs.features.map_or(String::new(), |features| {
                format!(" (its features, once, {})", duration(features))
            });
            let training = duration(secs.training?);
            Some(format!("{} {training}{features}", entry.letter))
        })
        .collect();
    if !times.is_empty() {
        said.push(format!("Training took: {}.", times.join(", ")));
    }
    said
}
