//! Whether probabilities mean what they say: Brier score and expected calibration error.
//!
//! Probabilities come as a head gives them: for two classes one a row, that of class 1; for more,
//! K a row. A head can rank every image right and still be sure of too much;
//! [`super::temperature`] mends that.

/// Bins of [`expected_calibration_error`].
pub const BINS: usize = 15;

/// Numbers that a head gives for one row: one for two classes, else one for each class.
pub(super) fn outputs(classes: usize) -> usize {
    assert!(classes >= 2, "{classes} classes are nothing to tell apart");
    if classes == 2 { 1 } else { classes }
}

/// Refuses values that are not `labels.len()` rows and labels that are no class.
pub(super) fn check_shape(values: &[f32], labels: &[u32], classes: usize) {
    assert_eq!(
        values.len(),
        labels.len() * outputs(classes),
        "a row of outputs for each label"
    );
    let stray = labels.iter().find(|&&label| label as usize >= classes);
    assert_eq!(stray, None, "a label that is not one of {classes} classes");
}

fn check_probabilities(probabilities: &[f32]) {
    let stray = probabilities.iter().find(|p| !(0.0..=1.0).contains(*p));
    assert_eq!(stray, None, "a probability outside [0, 1]");
}

/// Brier score, the mean squared error of the probabilities; 0 is perfect. None for no rows.
///
/// - Two classes: mean of (p - y)², y being 0 or 1. In [0, 1]; a head that always says one half
///   has 1/4.
/// - K > 2 classes: mean over rows of `Σ_k (p_k - y_k)²`, y being 1 for the row's class and 0
///   elsewhere: Brier's own definition (1950). In [0, 2]; a head that always says 1/K has 1 - 1/K.
///
/// The second is twice the first where both apply, since both classes are wrong by the same. This
/// is scikit-learn's `brier_score_loss` with its default `scale_by_half="auto"` for any K.
///
/// # Panics
/// When the shapes do not fit, a label is no class or a probability is not in [0, 1].
pub fn brier(probabilities: &[f32], labels: &[u32], classes: usize) -> Option<f64> {
    check_shape(probabilities, labels, classes);
    check_probabilities(probabilities);
    let rows = probabilities.chunks_exact(outputs(classes));
    let mut sum = 0.0_f64;
    for (row, &label) in rows.zip(labels) {
        // With a single output, it is class 1's.
        let first = if classes == 2 { 1 } else { 0 };
        for (class, &p) in (first..).zip(row) {
            let error = f64::from(p) - f64::from(u8::from(class == label));
            sum += error * error;
        }
    }
    (!labels.is_empty()).then(|| sum / labels.len() as f64)
}

/// Expected calibration error (Guo et al., 2017): the mean distance between how sure a head is
/// and how often it is right. None for no rows.
///
/// Rows are put into [`BINS`] bins of equal width by their confidence, the probability of the
/// predicted class; bin m of 1 to M is ((m - 1) / M, m / M]. The result is the sum over bins of
/// |bin| / N * |share right - mean confidence|, in [0, 1].
///
/// For two classes the confidence is max(p, 1 - p) and thus at least one half, so that the bins
/// below stay empty. (Others bin p itself there, with other results.) Class 1 is predicted where
/// p > 1/2; of more classes the one with the highest probability, the first of equals.
///
/// # Panics
/// As [`brier`].
pub fn expected_calibration_error(
    probabilities: &[f32],
    labels: &[u32],
    classes: usize,
) -> Option<f64> {
    // |bin| / N * |right / |bin| - confidences / |bin||
    let sum: f64 = reliability(probabilities, labels, classes)
        .iter()
        .map(|bin| (bin.right as f64 - bin.confidences).abs())
        .sum();
    (!labels.is_empty()).then(|| sum / labels.len() as f64)
}

/// Rows of about the same confidence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bin {
    /// How many.
    pub rows: u64,
    /// How many of them are right.
    pub right: u64,
    /// Their confidences, summed.
    pub confidences: f64,
}

/// The bins of [`expected_calibration_error`], by rising confidence: a reliability diagram.
///
/// # Panics
/// As [`brier`].
pub fn reliability(probabilities: &[f32], labels: &[u32], classes: usize) -> [Bin; BINS] {
    check_shape(probabilities, labels, classes);
    check_probabilities(probabilities);
    let rows = probabilities.chunks_exact(outputs(classes));
    let mut bins = [Bin::default(); BINS];
    for (row, &label) in rows.zip(labels) {
        let (class, confidence) = decision(row);
        let bin = &mut bins[bin(confidence)];
        bin.rows += 1;
        bin.right += u64::from(class == label);
        bin.confidences += confidence;
    }
    bins
}

/// The predicted class and its probability.
fn decision(row: &[f32]) -> (u32, f64) {
    if let [p] = row {
        let p = f64::from(*p);
        return if p > 0.5 { (1, p) } else { (0, 1.0 - p) };
    }
    let mut best = (0, row[0]);
    for (class, &p) in (0..).zip(row) {
        if p > best.1 {
            best = (class, p);
        }
    }
    (best.0, f64::from(best.1))
}

/// The bin whose interval, open below and closed above, holds `confidence`; 0 is in the first.
fn bin(confidence: f64) -> usize {
    // Exact where an edge is near: p or 1 - p of 24 or 28 bits by 4 bits are fewer than 53.
    let above = (confidence * BINS as f64).ceil() as usize;
    above.clamp(1, BINS) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(found: Option<f64>, expected: f64) {
        let found = found.unwrap();
        assert!((found - expected).abs() < 1e-7, "{found} {expected}");
    }

    #[test]
    fn brier_by_hand() {
        let labels = [1, 0, 1, 0];
        let found = brier(&[1.0, 0.0, 0.5, 0.25], &labels, 2);
        assert_eq!(found, Some((0.25 + 0.0625) / 4.0));
        assert_eq!(brier(&[0.5; 4], &labels, 2), Some(0.25));
        assert_eq!(brier(&[0.0, 1.0, 0.0, 1.0], &labels, 2), Some(1.0));

        let probabilities_nk = [0.5, 0.25, 0.25, 0.0, 0.0, 1.0];
        let found = brier(&probabilities_nk, &[0, 1], 3);
        assert_eq!(found, Some((0.25 + 2.0 * 0.0625 + 2.0) / 2.0));
    }

    #[test]
    fn calibration_error_by_hand() {
        // Confidences 0.75 (right), 0.75 (wrong), 0.875 (right), 0.625 (right): bins (11/15,
        // 12/15], (13/15, 14/15] and (9/15, 10/15].
        let found = expected_calibration_error(&[0.75, 0.25, 0.875, 0.375], &[1, 1, 1, 0], 2);
        assert_eq!(found, Some((0.5 + 0.125 + 0.375) / 4.0));
        // Sure, and right half of the time.
        let found = expected_calibration_error(&[1.0, 0.0], &[1, 1], 2);
        assert_eq!(found, Some(0.5));
        // One half is class 0.
        assert_eq!(expected_calibration_error(&[0.5], &[0], 2), Some(0.5));
        assert_eq!(expected_calibration_error(&[0.5], &[1], 2), Some(0.5));
        // Three classes: 0.5 for class 0, the first of equals (right), and 0.75 (wrong).
        let probabilities_nk = [0.5, 0.5, 0.0, 0.0, 0.25, 0.75];
        let found = expected_calibration_error(&probabilities_nk, &[0, 1], 3);
        assert_eq!(found, Some((0.5 + 0.75) / 2.0));
    }

    #[test]
    fn rows_of_one_bin_make_up_for_each_other() {
        // Four rows at 0.75 of which three are right.
        let found = expected_calibration_error(&[0.75; 4], &[1, 1, 0, 1], 2);
        assert_eq!(found, Some(0.0));
        // Nearly the same confidences, but of two bins: |0 - 0.66| and |1 - 0.67|.
        let found = expected_calibration_error(&[0.66, 0.67], &[0, 1], 2);
        close(found, (0.66 + 0.33) / 2.0);
    }

    #[test]
    fn bins_are_closed_above() {
        assert_eq!(bin(0.0), 0);
        assert_eq!(bin(f64::MIN_POSITIVE), 0);
        assert_eq!(bin(0.6), 8);
        assert_eq!(bin(0.6 + 1e-9), 9);
        assert_eq!(bin(1.0), 14);
    }

    #[test]
    fn no_rows_have_neither() {
        for classes in [2, 3] {
            assert_eq!(brier(&[], &[], classes), None);
            assert_eq!(expected_calibration_error(&[], &[], classes), None);
        }
    }

    #[test]
    #[should_panic(expected = "a probability outside [0, 1]")]
    fn nan_is_refused() {
        brier(&[f32::NAN], &[1], 2);
    }

    #[test]
    #[should_panic(expected = "a label that is not one of 3 classes")]
    fn a_stray_label_is_refused() {
        brier(&[0.5, 0.25, 0.25], &[3], 3);
    }

    proptest! {
        #[test]
        fn both_stay_in_range(rows in proptest::collection::vec((0.0..=1.0_f32, 0..2_u32), 1..60)) {
            let (probabilities, labels): (Vec<f32>, Vec<u32>) = rows.into_iter().unzip();
            let error = expected_calibration_error(&probabilities, &labels, 2).unwrap();
            let score = brier(&probabilities, &labels, 2).unwrap();
            prop_assert!((0.0..=1.0).contains(&error));
            prop_assert!((0.0..=1.0).contains(&score));
            // No finer grouping than one bin, no coarser than rows alone.
            let (mut sure, mut right) = (0.0, 0.0);
            for (p, y) in probabilities.iter().zip(&labels) {
                let (class, confidence) = decision(&[*p]);
                sure += confidence;
                right += f64::from(u8::from(class == *y));
            }
            prop_assert!(error >= (sure - right).abs() / labels.len() as f64 - 1e-12);
        }

        /// A class more that nothing is said of: the K-class definitions on two classes.
        #[test]
        fn three_classes_contain_two(rows in proptest::collection::vec((0..=64_u8, 0..2_u32), 1..60)) {
            let labels: Vec<u32> = rows.iter().map(|(_, y)| *y).collect();
            let one: Vec<f32> = rows.iter().map(|(p, _)| f32::from(*p) / 64.0).collect();
            let three: Vec<f32> = one.iter().flat_map(|p| [1.0 - p, *p, 0.0]).collect();
            let twice = brier(&one, &labels, 2).map(|score| 2.0 * score);
            prop_assert_eq!(brier(&three, &labels, 3), twice);
            prop_assert_eq!(
                expected_calibration_error(&three, &labels, 3),
                expected_calibration_error(&one, &labels, 2)
            );
        }
    }
}
