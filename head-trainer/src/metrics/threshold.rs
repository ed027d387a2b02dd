//! The probability above which a row is called class 1, chosen on validation rows.
//!
//! One half is right for a calibrated head whose two mistakes cost the same and for nothing else.
//! For two classes only. If a head has a temperature too, a threshold is chosen on the
//! probabilities after it.

use serde::{Deserialize, Serialize};

use super::confusion::ConfusionMatrix;
use super::ranking::Ranked;

/// What a threshold is to be best at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Criterion {
    /// Youden's J (1950), recall of class 1 + recall of class 0 - 1: the most balanced accuracy.
    Youden,
    /// F1 of class 1.
    F1,
    /// Share of rows whose class is right.
    Accuracy,
    /// Mean cost of a row, the least of which is best; a right row costs nothing.
    Cost {
        /// Cost of a row of class 0 called class 1.
        false_positive: f64,
        /// Cost of a row of class 1 called class 0.
        false_negative: f64,
    },
}

impl std::str::FromStr for Criterion {
    type Err = String;

    /// `youden`, `f1`, `accuracy` or `cost:FP:FN`, the costs of a false positive and a false
    /// negative.
    fn from_str(text: &str) -> Result<Criterion, String> {
        let cost = |text: &str| {
            text.parse()
                .ok()
                .filter(|c: &f64| c.is_finite() && *c >= 0.0)
        };
        let costs = text.strip_prefix("cost:").and_then(|rest| {
            let (positive, negative) = rest.split_once(':')?;
            Some(Criterion::Cost {
                false_positive: cost(positive)?,
                false_negative: cost(negative)?,
            })
        });
        match (text, costs) {
            ("youden", _) => Ok(Criterion::Youden),
            ("f1", _) => Ok(Criterion::F1),
            ("accuracy", _) => Ok(Criterion::Accuracy),
            (_, Some(cost)) if cost.is_usable() => Ok(cost),
            _ => Err(
                "expected youden, f1, accuracy or cost:FP:FN, say cost:1:5 where a false negative \
                 costs five false positives"
                    .to_owned(),
            ),
        }
    }
}

/// A threshold and what it does on the rows that it was chosen on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// A row is class 1 where its probability is above this; in [0, 1]. To be compared in f64.
    pub threshold: f64,
    /// What the criterion is there: J, F1, accuracy or mean cost of a row.
    pub value: f64,
    /// The counts there.
    pub confusion: ConfusionMatrix,
}

/// The threshold that is best by `criterion`; none where one of the two classes is missing, which
/// is nothing to choose by.
///
/// Tried is one threshold for each way to cut the rows: the midpoint of every two neighbouring
/// distinct probabilities, of the lowest and 0, and of the highest and 1. A probability is above
/// a threshold or it is not, as in Keras, so that none in [0, 1] has a row of probability 0 above
/// it. Of thresholds that are equally good, the one nearest to one half is chosen, and the lower
/// of two as near. Time O(N log N).
///
/// # Panics
/// When the slices differ in length, a probability is not in [0, 1], or a cost is negative or not
/// finite or both are zero.
pub fn choose_threshold(
    probabilities: &[f32],
    positive: &[bool],
    criterion: Criterion,
) -> Option<Choice> {
    let stray = probabilities.iter().find(|p| !(0.0..=1.0).contains(*p));
    assert_eq!(stray, None, "a probability outside [0, 1]");
    criterion.check();
    let ranked = Ranked::of(probabilities, positive);
    let (positives, negatives) = ranked.totals();
    if positives == 0 || negatives == 0 {
        return None;
    }
    // From the highest threshold down, so that a later one is lower.
    let mut cut = Cut {
        positives,
        negatives,
        hits: 0,
        false_alarms: 0,
    };
    let mut above = 1.0_f64;
    let mut best: Option<(f64, f64, Cut)> = None;
    for tie in ranked.ties().map(Some).chain([None]) {
        let below = tie.map_or(0.0, |tie| f64::from(tie.score));
        if tie.is_none() && above == 0.0 {
            break; // the last rows have probability 0
        }
        let threshold = (above + below) / 2.0;
        let value = criterion.value(&cut);
        let better = best.is_none_or(|(best_threshold, best_value, _)| {
            let nearer = (threshold - 0.5).abs() <= (best_threshold - 0.5).abs();
            criterion.prefers(value, best_value) || (value == best_value && nearer)
        });
        if better {
            best = Some((threshold, value, cut));
        }
        if let Some(tie) = tie {
            cut.hits += tie.positives;
            cut.false_alarms += tie.negatives;
            above = below;
        }
    }
    best.map(|(threshold, value, cut)| Choice {
        threshold,
        value,
        confusion: cut.confusion(),
    })
}

/// Rows above and below a threshold.
#[derive(Clone, Copy)]
struct Cut {
    positives: u64,
    negatives: u64,
    hits: u64,
    false_alarms: u64,
}

impl Cut {
    fn confusion(&self) -> ConfusionMatrix {
        let counts = vec![
            vec![self.negatives - self.false_alarms, self.false_alarms],
            vec![self.positives - self.hits, self.hits],
        ];
        ConfusionMatrix::try_from(counts).expect("counts of rows that exist")
    }
}

impl Criterion {
    /// Whether costs are finite, not negative and not both zero.
    pub fn is_usable(self) -> bool {
        let Criterion::Cost {
            false_positive,
            false_negative,
        } = self
        else {
            return true;
        };
        let fine = |cost: f64| cost.is_finite() && cost >= 0.0;
        fine(false_positive) && fine(false_negative) && false_positive + false_negative > 0.0
    }

    fn check(self) {
        assert!(self.is_usable(), "no usable costs: {self:?}");
    }

    /// One division of integers where it can be, so that equal shares are equal numbers.
    fn value(self, cut: &Cut) -> f64 {
        let Cut {
            positives,
            negatives,
            hits,
            false_alarms,
        } = *cut;
        match self {
            Criterion::Youden => {
                let product = |a: u64, b: u64| i128::from(a) * i128::from(b);
                let gain = product(hits, negatives) - product(false_alarms, positives);
                gain as f64 / product(positives, negatives) as f64
            }
            Criterion::F1 => 2.0 * hits as f64 / (positives + hits + false_alarms) as f64,
            Criterion::Accuracy => {
                (hits + negatives - false_alarms) as f64 / (positives + negatives) as f64
            }
            Criterion::Cost {
                false_positive,
                false_negative,
            } => {
                let cost = false_alarms as f64 * false_positive
                    + (positives - hits) as f64 * false_negative;
                cost / (positives + negatives) as f64
            }
        }
    }

    fn prefers(self, value: f64, other: f64) -> bool {
        match self {
            Criterion::Cost { .. } => value < other,
            _ => value > other,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const P: bool = true;
    const N: bool = false;

    fn cost(false_positive: f64, false_negative: f64) -> Criterion {
        Criterion::Cost {
            false_positive,
            false_negative,
        }
    }

    fn chosen(
        probabilities: &[f32],
        positive: &[bool],
        criterion: Criterion,
    ) -> (f64, f64, Vec<Vec<u64>>) {
        let choice = choose_threshold(probabilities, positive, criterion).unwrap();
        (choice.threshold, choice.value, choice.confusion.into())
    }

    #[test]
    fn by_hand() {
        let p = [0.125, 0.25, 0.375, 0.625, 0.75];
        let y = [N, N, P, N, P];
        // J: 2/3 above 0.25, 1/2 above 0.625.
        let found = chosen(&p, &y, Criterion::Youden);
        assert_eq!(found, (0.3125, 2.0 / 3.0, vec![vec![2, 1], vec![0, 2]]));
        // F1: 2*2/(2+3) = 0.8 there, 2*1/(2+1) = 2/3 above 0.625.
        let found = chosen(&p, &y, Criterion::F1);
        assert_eq!(found, (0.3125, 0.8, vec![vec![2, 1], vec![0, 2]]));
        // Accuracy: 4/5 in both places; 0.6875 and 0.3125 are as near to 0.5, the lower is taken.
        let found = chosen(&p, &y, Criterion::Accuracy);
        assert_eq!(found, (0.3125, 0.8, vec![vec![2, 1], vec![0, 2]]));
        // A false positive at twice the price is worth missing one.
        let found = chosen(&p, &y, cost(2.0, 1.0));
        assert_eq!(found, (0.6875, 1.0 / 5.0, vec![vec![3, 0], vec![1, 1]]));
    }

    #[test]
    fn the_ends_are_tried() {
        // Misses cost nothing: above the highest. Alarms cost nothing: below the lowest.
        let (p, y) = ([0.25, 0.5], [P, N]);
        assert_eq!(chosen(&p, &y, cost(1.0, 0.0)).0, 0.75);
        assert_eq!(chosen(&p, &y, cost(0.0, 1.0)).0, 0.125);
        // One is above no threshold but one; zero is above none.
        let (p, y) = ([0.0, 1.0], [P, N]);
        assert_eq!(
            chosen(&p, &y, cost(1.0, 0.0)),
            (1.0, 0.0, vec![vec![1, 0], vec![1, 0]])
        );
        assert_eq!(
            chosen(&p, &y, cost(0.0, 1.0)),
            (0.5, 0.5, vec![vec![0, 1], vec![1, 0]])
        );
    }

    #[test]
    fn equally_good_means_nearest_to_one_half() {
        // J is zero both ways: 0.75 and 0.25, of which the lower; then 0.625 and 0.125.
        assert_eq!(chosen(&[0.5; 4], &[P, N, N, P], Criterion::Youden).0, 0.25);
        assert_eq!(
            chosen(&[0.25; 4], &[P, N, N, P], Criterion::Youden).0,
            0.625
        );
    }

    #[test]
    fn a_missing_class_leaves_nothing_to_choose() {
        for criterion in [
            Criterion::Youden,
            Criterion::F1,
            Criterion::Accuracy,
            cost(1.0, 1.0),
        ] {
            assert_eq!(choose_threshold(&[], &[], criterion), None);
            assert_eq!(choose_threshold(&[0.1, 0.9], &[P, P], criterion), None);
            assert_eq!(choose_threshold(&[0.1, 0.9], &[N, N], criterion), None);
        }
    }

    #[test]
    #[should_panic(expected = "a probability outside [0, 1]")]
    fn nan_is_refused() {
        choose_threshold(&[f32::NAN], &[P], Criterion::F1);
    }

    #[test]
    #[should_panic(expected = "no usable costs")]
    fn costs_of_nothing_are_refused() {
        choose_threshold(&[0.5], &[P], cost(0.0, 0.0));
    }

    #[test]
    fn criteria_have_names() {
        let json = |criterion: Criterion| serde_json::to_string(&criterion).unwrap();
        assert_eq!(json(Criterion::F1), r#""f1""#);
        assert_eq!(
            json(cost(1.0, 5.0)),
            r#"{"cost":{"false_positive":1.0,"false_negative":5.0}}"#
        );
    }

    /// The value of `criterion` from the definitions, with what is called class 1 counted anew.
    fn value(p: &[f32], y: &[bool], threshold: f64, criterion: Criterion) -> f64 {
        let count = |called: bool, label: bool| {
            let rows = p.iter().zip(y);
            rows.filter(|(p, y)| (f64::from(**p) > threshold) == called && **y == label)
                .count() as f64
        };
        let (tp, fp, fnn, tn) = (count(P, P), count(P, N), count(N, P), count(N, N));
        match criterion {
            Criterion::Youden => tp / (tp + fnn) + tn / (tn + fp) - 1.0,
            Criterion::F1 => 2.0 * tp / (2.0 * tp + fp + fnn),
            Criterion::Accuracy => (tp + tn) / (tp + tn + fp + fnn),
            Criterion::Cost {
                false_positive,
                false_negative,
            } => (fp * false_positive + fnn * false_negative) / p.len() as f64,
        }
    }

    proptest! {
        #[test]
        fn no_threshold_is_better(
            rows in proptest::collection::vec((0..=16_u8, any::<bool>()), 2..40),
            which in 0..4_usize,
            costs in (1..8_u8, 1..8_u8),
        ) {
            let costs = cost(f64::from(costs.0), f64::from(costs.1));
            let criterion = [Criterion::Youden, Criterion::F1, Criterion::Accuracy, costs][which];
            let (p, y): (Vec<f32>, Vec<bool>) =
                rows.into_iter().map(|(p, y)| (f32::from(p) / 16.0, y)).unzip();
            let found = choose_threshold(&p, &y, criterion);
            prop_assert_eq!(found.is_some(), y.contains(&P) && y.contains(&N));
            if let Some(found) = found {
                let reached = value(&p, &y, found.threshold, criterion);
                prop_assert!((found.value - reached).abs() < 1e-12);
                let predicted: Vec<u32> =
                    p.iter().map(|&p| u32::from(f64::from(p) > found.threshold)).collect();
                let labels: Vec<u32> = y.iter().map(|&y| u32::from(y)).collect();
                prop_assert_eq!(ConfusionMatrix::of(&labels, &predicted, 2), found.confusion);
                for at in 0..=64 {
                    let other = value(&p, &y, f64::from(at) / 64.0, criterion);
                    prop_assert!(!criterion.prefers(other, found.value)
                        || (other - found.value).abs() < 1e-12);
                }
                // Of the midpoints that are as good, none is nearer to one half.
                let mut ends: Vec<f64> = p.iter().map(|p| f64::from(*p)).chain([0.0, 1.0]).collect();
                ends.sort_by(f64::total_cmp);
                ends.dedup();
                for pair in ends.windows(2) {
                    let middle = (pair[0] + pair[1]) / 2.0;
                    if (value(&p, &y, middle, criterion) - found.value).abs() < 1e-12 {
                        let (near, far) = ((found.threshold - 0.5).abs(), (middle - 0.5).abs());
                        prop_assert!(near < far || (near == far && found.threshold <= middle));
                    }
                }
            }
        }
    }
}
