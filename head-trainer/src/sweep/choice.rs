//! Which candidate is the best, and which one to take.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::grid::{kind, simplicity};
use super::outcome::{Mean, Outcome, Scored};

/// What candidates are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The mean loss, lower is better.
    Loss,
    /// The mean accuracy, higher is better.
    Accuracy,
}

impl By {
    /// Badness of a candidate.
    fn cost(self, scored: &Scored) -> f64 {
        match self {
            By::Loss => scored.loss.mean,
            By::Accuracy => -scored.accuracy.mean,
        }
    }

    fn other(self) -> By {
        match self {
            By::Loss => By::Accuracy,
            By::Accuracy => By::Loss,
        }
    }

    fn standard_error(self, scored: &Scored) -> Option<f64> {
        let Mean { standard_error, .. } = match self {
            By::Loss => scored.loss,
            By::Accuracy => scored.accuracy,
        };
        standard_error
    }
}

/// An outcome and what it can be compared with: how simple a head is means something among those of
/// one store, one solver and one way to see the features alone.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Number of the store.
    pub store: usize,
    /// What came of the candidate.
    pub outcome: &'a Outcome,
}

impl Entry<'_> {
    fn scored(&self) -> Option<&Scored> {
        self.outcome.result.as_ref().ok()
    }

    fn is_like(&self, other: &Entry<'_>) -> bool {
        self.store == other.store && kind(&self.outcome.config) == kind(&other.outcome.config)
    }

    /// Greater for the simpler one.
    fn simpler(&self, other: &Entry<'_>) -> Ordering {
        let (a, b) = (
            simplicity(&self.outcome.config),
            simplicity(&other.outcome.config),
        );
        let parts = [(a.0, b.0), (a.1, b.1), (a.2, b.2)];
        let orders = parts.map(|(a, b)| a.total_cmp(&b));
        orders.into_iter().fold(Ordering::Equal, Ordering::then)
    }
}

/// Numbers of the entries, best first. Of equals by one measure the better one by the other comes
/// first, then the simpler one among those that differ in nothing else, then the earlier one. Those
/// that failed come last, in their order.
pub fn ranked(entries: &[Entry<'_>], by: By) -> Vec<usize> {
    // Entries of a kind have the number of the first of them, so that the order is a total one.
    let mut kinds: Vec<usize> = Vec::with_capacity(entries.len());
    let mut firsts: Vec<usize> = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        let first = firsts.iter().find(|i| entries[**i].is_like(entry)).copied();
        kinds.push(first.unwrap_or_else(|| {
            firsts.push(number);
            number
        }));
    }
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by(|&a, &b| match (entries[a].scored(), entries[b].scored()) {
        (Some(of_a), Some(of_b)) => by
            .cost(of_a)
            .total_cmp(&by.cost(of_b))
            .then_with(|| by.other().cost(of_a).total_cmp(&by.other().cost(of_b)))
            .then_with(|| kinds[a].cmp(&kinds[b]))
            .then_with(|| entries[b].simpler(&entries[a])),
        (of_a, of_b) => of_a.is_none().cmp(&of_b.is_none()),
    });
    order
}

/// The number of the entry to take: the best one; with `one_standard_error`, the simplest of those
/// of its kind (same store, same solver, features seen in the same way) whose mean is within one
/// standard error of the best one's (L. Breiman et al., *Classification and Regression Trees*,
/// 1984, section 3.4.3). None if all failed.
///
/// Standard errors say what varies from part to part. With folds, those are the images, and that
/// the heads of two folds share most of theirs makes it an underestimate (Y. Bengio and Y.
/// Grandvalet, "No unbiased estimator of the variance of k-fold cross-validation", 2004). With
/// seeds, the images are the same ones every time, and it is but the luck of initial weights and
/// the order of images.
pub fn choose(entries: &[Entry<'_>], by: By, one_standard_error: bool) -> Option<usize> {
    let order = ranked(entries, by);
    let best = *order.first()?;
    let scored = entries[best].scored()?;
    let error = by.standard_error(scored).filter(|_| one_standard_error);
    let Some(error) = error else {
        return Some(best);
    };
    let limit = by.cost(scored) + error;
    let is_near = |entry: &Entry<'_>| {
        let cost = entry.scored().map(|scored| by.cost(scored));
        cost.is_some_and(|cost| cost <= limit) && entry.is_like(&entries[best])
    };
    let mut chosen = best;
    for &i in order.iter().filter(|i| is_near(&entries[**i])) {
        if entries[i].simpler(&entries[chosen]).is_gt() {
            chosen = i;
        }
    }
    Some(chosen)
}
