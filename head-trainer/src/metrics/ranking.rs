//! How well scores put positive rows before negative ones, whatever the threshold: ROC-AUC and
//! average precision.
//!
//! Only the order of the scores counts, so logits do as well as probabilities. For two classes
//! give logits: a sigmoid in f32 rounds all above 17 to one and makes ties that the head does not
//! have. For more classes give probabilities, as scikit-learn wants: a softmax changes the order
//! of one class's scores across rows, and it is the probabilities that a person ranks by.
//!
//! All counts are integers, so nothing depends on the order of tied rows.

use rayon::prelude::*;

use super::confusion::mean_of_defined;

/// The rows of one score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tie {
    pub score: f32,
    pub positives: u64,
    pub negatives: u64,
}

/// Rows by score, the highest first. Takes 8 bytes a row.
pub(super) struct Ranked(Vec<(f32, bool)>);

impl Ranked {
    /// Sorts rows.
    ///
    /// # Panics
    /// When the slices differ in length or a score is no number.
    pub fn of(scores: &[f32], positive: &[bool]) -> Ranked {
        assert_eq!(scores.len(), positive.len(), "one label for each score");
        assert!(!scores.iter().any(|s| s.is_nan()), "a score is no number");
        let mut rows: Vec<(f32, bool)> = scores
            .iter()
            .copied()
            .zip(positive.iter().copied())
            .collect();
        rows.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        Ranked(rows)
    }

    /// The distinct scores, highest first, with their rows; -0 and 0 are one score.
    pub fn ties(&self) -> impl Iterator<Item = Tie> {
        let groups = self.0.chunk_by(|a, b| a.0 == b.0);
        groups.map(|rows| {
            let positives = rows.iter().filter(|(_, positive)| *positive).count() as u64;
            Tie {
                score: rows[0].0,
                positives,
                negatives: rows.len() as u64 - positives,
            }
        })
    }

    /// Numbers of positive and negative rows.
    pub fn totals(&self) -> (u64, u64) {
        let positives = self.0.iter().filter(|(_, positive)| *positive).count() as u64;
        (positives, self.0.len() as u64 - positives)
    }
}

/// Area under the receiver operating characteristic (`roc_auc_score`): the share of pairs of a
/// positive and a negative row in which the positive one has the higher score, a tie counting
/// half (Mann-Whitney). None where one of the two classes is missing.
///
/// # Panics
/// When the slices differ in length or a score is NaN; infinities are scores.
pub fn roc_auc(scores: &[f32], positive: &[bool]) -> Option<f64> {
    let ranked = Ranked::of(scores, positive);
    let (positives, negatives) = ranked.totals();
    let mut negatives_below = negatives;
    let mut half_wins = 0_u128;
    for tie in ranked.ties() {
        negatives_below -= tie.negatives;
        let of_each = 2 * u128::from(negatives_below) + u128::from(tie.negatives);
        half_wins += u128::from(tie.positives) * of_each;
    }
    let half_pairs = 2 * u128::from(positives) * u128::from(negatives);
    (half_pairs > 0).then(|| half_wins as f64 / half_pairs as f64)
}

/// The receiver operating characteristic (`roc_curve`): `[false positive rate, true positive rate]`
/// when all rows of at least a score are called positive, from (0, 0) over the distinct scores from
/// the highest down to (1, 1); points within a straight line are left out. None where one of the
/// two classes is missing. The area under it is [`roc_auc`].
///
/// # Panics
/// As [`roc_auc`].
pub fn roc_curve(scores: &[f32], positive: &[bool]) -> Option<Vec<[f64; 2]>> {
    let ranked = Ranked::of(scores, positive);
    let (positives, negatives) = ranked.totals();
    if positives == 0 || negatives == 0 {
        return None;
    }
    let mut corners: Vec<[u64; 2]> = vec![[0, 0]]; // rows called positive: [wrongly, rightly]
    for tie in ranked.ties() {
        let [wrong, right] = corners[corners.len() - 1];
        let next = [wrong + tie.negatives, right + tie.positives];
        if let [.., [x, y], [x1, y1]] = corners[..]
            && u128::from(x1 - x) * u128::from(next[1] - y)
                == u128::from(y1 - y) * u128::from(next[0] - x)
        {
            corners.pop();
        }
        corners.push(next);
    }
    let share = |[wrong, right]: [u64; 2]| {
        [
            wrong as f64 / negatives as f64,
            right as f64 / positives as f64,
        ]
    };
    Some(corners.into_iter().map(share).collect())
}

/// Area under the precision-recall curve as average precision (`average_precision_score`):
/// Σ (R_i - R_{i-1}) P_i over the distinct scores from the highest down, where R_i and P_i are
/// recall and precision when all rows of at least the i-th score are called positive.
///
/// A step function and not trapezoids, which promise precision between two scores that no
/// threshold reaches (Davis and Goadrich, 2006). None where one of the two classes is missing;
/// scikit-learn says 0 without positive rows and 1 without negative ones.
///
/// # Panics
/// As [`roc_auc`].
pub fn average_precision(scores: &[f32], positive: &[bool]) -> Option<f64> {
    let ranked = Ranked::of(scores, positive);
    let (positives, negatives) = ranked.totals();
    let (mut hits, mut called) = (0_u64, 0_u64);
    let mut sum = 0.0_f64;
    for tie in ranked.ties() {
        hits += tie.positives;
        called += tie.positives + tie.negatives;
        sum += tie.positives as f64 * (hits as f64 / called as f64);
    }
    (positives > 0 && negatives > 0).then(|| sum / positives as f64)
}

/// `measure` ([`roc_auc`] or [`average_precision`]) of each class against all others.
///
/// `scores_nk` is `[N, K]`, row-major. Runs on the current rayon pool; the bits are the same for
/// any number of threads.
///
/// # Panics
/// When `scores_nk` is not of that shape, and as `measure`.
pub fn one_vs_rest(
    scores_nk: &[f32],
    labels: &[u32],
    classes: usize,
    measure: impl Fn(&[f32], &[bool]) -> Option<f64> + Sync,
) -> Vec<Option<f64>> {
    assert_eq!(
        scores_nk.len(),
        labels.len() * classes,
        "one score for each row and class"
    );
    (0..classes)
        .into_par_iter()
        .map(|class| {
            let rows = scores_nk.chunks_exact(classes);
            let scores: Vec<f32> = rows.map(|row| row[class]).collect();
            let positive: Vec<bool> = labels.iter().map(|&y| y as usize == class).collect();
            measure(&scores, &positive)
        })
        .collect()
}

/// Mean ROC-AUC of each class against all others (`roc_auc_score` with `multi_class="ovr"`).
///
/// Over the classes that have one: one that no row has, or every row, is left out, where
/// scikit-learn refuses. None if none has.
///
/// # Panics
/// As [`one_vs_rest`].
pub fn macro_roc_auc(scores_nk: &[f32], labels: &[u32], classes: usize) -> Option<f64> {
    mean_of_defined(one_vs_rest(scores_nk, labels, classes, roc_auc))
}

/// Mean average precision of each class against all others (`average_precision_score` with
/// `average="macro"`), over the classes that have one as for [`macro_roc_auc`].
///
/// # Panics
/// As [`one_vs_rest`].
pub fn macro_average_precision(scores_nk: &[f32], labels: &[u32], classes: usize) -> Option<f64> {
    mean_of_defined(one_vs_rest(scores_nk, labels, classes, average_precision))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const P: bool = true;
    const N: bool = false;

    #[test]
    fn auc_by_hand() {
        // Of four pairs one is lost: 0.35 to 0.4.
        assert_eq!(roc_auc(&[0.1, 0.4, 0.35, 0.8], &[N, N, P, P]), Some(0.75));
        // One pair of four is a tie.
        assert_eq!(roc_auc(&[0.1, 0.4, 0.4, 0.8], &[N, N, P, P]), Some(0.875));
        assert_eq!(roc_auc(&[1.0, 2.0, 3.0], &[N, N, P]), Some(1.0));
        assert_eq!(roc_auc(&[3.0, 2.0, 1.0], &[N, N, P]), Some(0.0));
        assert_eq!(roc_auc(&[5.0; 7], &[P, N, N, P, N, N, N]), Some(0.5));
        assert_eq!(roc_auc(&[-0.0, 0.0], &[P, N]), Some(0.5));
        let infinite = [f32::NEG_INFINITY, 0.0, f32::INFINITY];
        assert_eq!(roc_auc(&infinite, &[N, N, P]), Some(1.0));
    }

    #[test]
    fn average_precision_by_hand() {
        // Recall goes to 1/2 at precision 1, then to 1 at precision 2/3.
        let found = average_precision(&[0.1, 0.4, 0.35, 0.8], &[N, N, P, P]);
        assert_eq!(found, Some((1.0 + 2.0 / 3.0) / 2.0));
        // The tie is one step: to 1 at 2/3, whichever of its rows comes first.
        for labels in [[N, N, P, P], [N, P, N, P]] {
            let found = average_precision(&[0.1, 0.4, 0.4, 0.8], &labels);
            assert_eq!(found, Some((1.0 + 2.0 / 3.0) / 2.0));
        }
        assert_eq!(average_precision(&[5.0; 4], &[P, N, N, N]), Some(0.25));
        assert_eq!(
            average_precision(&[3.0, 2.0, 1.0], &[N, N, P]),
            Some(1.0 / 3.0)
        );
    }

    #[test]
    fn a_missing_class_leaves_both_undefined() {
        for measure in [roc_auc, average_precision] {
            assert_eq!(measure(&[], &[]), None);
            assert_eq!(measure(&[1.0, 2.0], &[P, P]), None);
            assert_eq!(measure(&[1.0, 2.0], &[N, N]), None);
        }
    }

    #[test]
    fn a_curve_by_hand() {
        let scores = [0.9, 0.8, 0.7, 0.6, 0.6, 0.1];
        let found = roc_curve(&scores, &[P, P, N, P, N, N]).unwrap();
        let third = 1.0 / 3.0;
        let expected = [
            [0.0, 0.0],
            [0.0, 2.0 * third],
            [third, 2.0 * third],
            [2.0 * third, 1.0],
            [1.0, 1.0],
        ];
        assert_eq!(found, expected);
        assert_eq!(roc_curve(&[1.0; 4], &[P, N, N, N]).unwrap().len(), 2);
        assert_eq!(roc_curve(&[1.0, 2.0], &[P, P]), None);
    }

    #[test]
    #[should_panic(expected = "a score is no number")]
    fn nan_is_refused() {
        roc_auc(&[1.0, f32::NAN], &[P, N]);
    }

    #[test]
    fn one_against_the_rest_by_hand() {
        let scores_nk = [
            0.5, 0.25, 0.25, 0.0, // 0
            0.25, 0.5, 0.25, 0.0, // 1
            0.5, 0.25, 0.25, 0.0, // 1
            0.0, 0.25, 0.75, 0.0, // 2
        ];
        let labels = [0, 1, 1, 2];
        // Class 0 ties with one of three; class 1: one of two rows wins twice and one ties twice.
        let found = one_vs_rest(&scores_nk, &labels, 4, roc_auc);
        assert_eq!(found, [Some(2.5 / 3.0), Some(0.75), Some(1.0), None]);
        let mean = (2.5 / 3.0 + 0.75 + 1.0) / 3.0;
        assert_eq!(macro_roc_auc(&scores_nk, &labels, 4), Some(mean));
        // Class 0: 1/2. Class 1: half at 1, half at 2/4. Class 2: 1.
        let mean = (0.5 + 0.75 + 1.0) / 3.0;
        assert_eq!(macro_average_precision(&scores_nk, &labels, 4), Some(mean));
        assert_eq!(macro_roc_auc(&[], &[], 3), None);
    }

    /// Few distinct scores, so that ties are common.
    fn rows() -> impl Strategy<Value = (Vec<f32>, Vec<bool>)> {
        let row = ((-8..8_i32).prop_map(|s| s as f32 / 4.0), any::<bool>());
        proptest::collection::vec(row, 0..50).prop_map(|rows| rows.into_iter().unzip())
    }

    fn auc_by_pairs(scores: &[f32], positive: &[bool]) -> Option<f64> {
        let (mut won, mut pairs) = (0.0, 0.0);
        for (a, _) in scores.iter().zip(positive).filter(|(_, p)| **p) {
            for (b, _) in scores.iter().zip(positive).filter(|(_, p)| !**p) {
                pairs += 1.0;
                won += if a > b { 1.0 } else { 0.5 * f64::from(a == b) };
            }
        }
        (pairs > 0.0).then(|| won / pairs)
    }

    fn average_precision_by_thresholds(scores: &[f32], positive: &[bool]) -> Option<f64> {
        let count = |at: f32, wanted: &[bool]| {
            let rows = scores.iter().zip(positive);
            rows.filter(|(s, p)| **s >= at && wanted.contains(p))
                .count() as f64
        };
        let all = count(f32::NEG_INFINITY, &[P]);
        if all == 0.0 || count(f32::NEG_INFINITY, &[N]) == 0.0 {
            return None;
        }
        let mut thresholds = scores.to_vec();
        thresholds.sort_by(|a, b| b.total_cmp(a));
        thresholds.dedup();
        let (mut sum, mut recall) = (0.0, 0.0);
        for at in thresholds {
            let precision = count(at, &[P]) / count(at, &[P, N]);
            sum += (count(at, &[P]) / all - recall) * precision;
            recall = count(at, &[P]) / all;
        }
        Some(sum)
    }

    fn close(a: Option<f64>, b: Option<f64>) -> bool {
        match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() < 1e-14,
            (a, b) => a == b,
        }
    }

    proptest! {
        #[test]
        fn auc_is_the_share_of_pairs((scores, positive) in rows()) {
            prop_assert_eq!(roc_auc(&scores, &positive), auc_by_pairs(&scores, &positive));
        }

        #[test]
        fn the_area_under_the_curve_is_the_auc((scores, positive) in rows()) {
            let area = roc_curve(&scores, &positive).map(|curve| -> f64 {
                let trapezoid = |w: &[[f64; 2]]| (w[1][0] - w[0][0]) * (w[0][1] + w[1][1]) / 2.0;
                curve.windows(2).map(trapezoid).sum()
            });
            prop_assert!(close(area, roc_auc(&scores, &positive)));
        }

        #[test]
        fn average_precision_is_its_definition((scores, positive) in rows()) {
            let slow = average_precision_by_thresholds(&scores, &positive);
            prop_assert!(close(average_precision(&scores, &positive), slow));
        }

        #[test]
        fn only_the_order_counts((scores, positive) in rows(), turn in 0..50_usize) {
            let mapped: Vec<f32> = scores.iter().map(|s| s * s * s + 3.0 * s - 7.0).collect();
            let (mut turned, mut labels) = (scores.clone(), positive.clone());
            let by = turn % scores.len().max(1);
            turned.rotate_left(by);
            labels.rotate_left(by);
            for measure in [roc_auc, average_precision] {
                let found = measure(&scores, &positive);
                prop_assert_eq!(measure(&mapped, &positive), found);
                prop_assert_eq!(measure(&turned, &labels), found);
                prop_assert!(found.is_none_or(|x| (0.0..=1.0).contains(&x)));
            }
        }

        #[test]
        fn swapped_labels_are_the_other_side((scores, positive) in rows()) {
            let swapped: Vec<bool> = positive.iter().map(|p| !p).collect();
            let other = roc_auc(&scores, &swapped).map(|auc| 1.0 - auc);
            prop_assert!(close(roc_auc(&scores, &positive), other));
        }
    }
}
