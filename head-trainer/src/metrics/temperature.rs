//! Temperature scaling (Guo et al., 2017): one number that makes a head less, or more, sure.
//!
//! Logits are divided by T > 0 before the sigmoid or softmax. That moves no logit across zero and
//! changes no order within a row, so predictions, accuracy and ROC-AUC of a two-class head stay;
//! loss and calibration change. T is to be found on rows that the head was not trained on.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::calibration::{check_shape, outputs};

/// The lowest temperature tried; found where rows are told apart without a mistake, since the
/// loss then falls for as long as T does.
pub const MIN_TEMPERATURE: f64 = 1e-3;
/// The highest temperature tried; found where the logits point the wrong way on average.
pub const MAX_TEMPERATURE: f64 = 1e3;

/// Steps after which the search ends wherever it is; it takes about ten.
const MAX_STEPS: usize = 200;
/// Relative change of 1/T below which the search ends.
const TOLERANCE: f64 = 1e-12;

/// The temperature found on some rows, and what it changed there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Temperature {
    /// What to divide logits by.
    pub temperature: f64,
    /// Mean negative log-likelihood of the rows' classes at T = 1, in nats.
    pub loss_before: f64,
    /// The same at the temperature found; never above `loss_before`.
    pub loss_after: f64,
}

impl Temperature {
    /// Whether the search ended at [`MIN_TEMPERATURE`] or [`MAX_TEMPERATURE`], so that the number
    /// says nothing but "as far as it goes" and is not worth keeping.
    pub fn at_bound(&self) -> bool {
        self.temperature <= MIN_TEMPERATURE || self.temperature >= MAX_TEMPERATURE
    }
}

/// The temperature with the least mean negative log-likelihood of `labels` given logits / T,
/// between [`MIN_TEMPERATURE`] and [`MAX_TEMPERATURE`]. None for no rows.
///
/// For two classes `logits` holds one a row, that of class 1 against class 0; for K > 2, K a row.
/// The loss is convex in b = 1/T, so the least is found by Newton steps on b, each within the
/// bracket that the slopes so far allow, else by halving the bracket. Where T changes nothing (all
/// logits equal), or for the worse by rounding, it is 1. Runs on the current rayon pool and sums
/// in the order of the rows; the bits are the same for any number of threads.
///
/// # Panics
/// When the shapes do not fit, a label is no class or a logit is not finite.
pub fn fit_temperature(logits: &[f32], labels: &[u32], classes: usize) -> Option<Temperature> {
    check_shape(logits, labels, classes);
    assert!(
        logits.iter().all(|z| z.is_finite()),
        "a logit is no finite number"
    );
    if labels.is_empty() {
        return None;
    }
    let loss = |b: f64| mean_loss(logits, labels, classes, b);
    let before = loss(1.0);
    let b = minimum(&loss, before);
    let after = loss(b);
    let better = after.value < before.value;
    Some(Temperature {
        temperature: if better { 1.0 / b } else { 1.0 },
        loss_before: before.value,
        loss_after: if better { after.value } else { before.value },
    })
}

/// A loss at some b = 1/T, with its first and second derivative by b.
#[derive(Clone, Copy, Debug, Default)]
struct Loss {
    value: f64,
    slope: f64,
    curvature: f64,
}

/// b with the least `loss`, given `loss` at one.
fn minimum(loss: &impl Fn(f64) -> Loss, at_one: Loss) -> f64 {
    let (mut low, mut high) = (1.0 / MAX_TEMPERATURE, 1.0 / MIN_TEMPERATURE);
    if at_one.slope == 0.0 {
        return 1.0;
    }
    if at_one.slope < 0.0 && loss(high).slope <= 0.0 {
        return high;
    }
    if at_one.slope > 0.0 && loss(low).slope >= 0.0 {
        return low;
    }
    let (mut b, mut here, mut step) = (1.0, at_one, high - low);
    for _ in 0..MAX_STEPS {
        if here.slope > 0.0 {
            high = b;
        } else {
            low = b;
        }
        let newton = b - here.slope / here.curvature;
        // Before the bracket is asked: b is an end of it, and so is a step of nothing from b.
        if (newton - b).abs() <= TOLERANCE * b {
            return newton.clamp(low, high);
        }
        // False for a newton that is no number, too.
        let fine = newton > low && newton < high && (newton - b).abs() <= 0.5 * step;
        // The middle in proportion, since the bracket spans six orders of magnitude.
        let next = if fine { newton } else { (low * high).sqrt() };
        step = (next - b).abs();
        if step <= TOLERANCE * b {
            return next;
        }
        b = next;
        here = loss(b);
    }
    b
}

/// Mean loss of all rows at b = 1/T.
fn mean_loss(logits: &[f32], labels: &[u32], classes: usize, b: f64) -> Loss {
    let rows = logits.par_chunks_exact(outputs(classes)).zip(labels);
    let losses: Vec<Loss> = rows
        .map(|(row, &label)| match row {
            [z] => binary_loss(f64::from(if label == 1 { *z } else { -z }), b),
            row => softmax_loss(row, label as usize, b),
        })
        .collect();
    let count = losses.len() as f64;
    let mut sum = Loss::default();
    for loss in losses {
        sum.value += loss.value;
        sum.slope += loss.slope;
        sum.curvature += loss.curvature;
    }
    Loss {
        value: sum.value / count,
        slope: sum.slope / count,
        curvature: sum.curvature / count,
    }
}

/// ln(1 + e^-bs), where the logit `s` is positive for the row's class.
fn binary_loss(s: f64, b: f64) -> Loss {
    let e = libm::exp(-(b * s).abs());
    let (smaller, larger) = (e / (1.0 + e), 1.0 / (1.0 + e));
    let wrong = if s > 0.0 { smaller } else { larger }; // the other class's probability
    Loss {
        value: (-b * s).max(0.0) + libm::log1p(e),
        slope: -s * wrong,
        curvature: s * s * smaller * larger,
    }
}

/// `ln Σ_k e^(b z_k) - b z_label`; the slope is `Σ_k p_k (z_k - z_label)` and the curvature the
/// variance of the logits under p.
fn softmax_loss(row: &[f32], label: usize, b: f64) -> Loss {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let below = |z: f32| f64::from(z) - f64::from(top);
    let (mut sum, mut mean, mut square) = (0.0, 0.0, 0.0);
    for &z in row {
        let e = libm::exp(b * below(z));
        sum += e;
        mean += e * below(z);
    }
    mean /= sum;
    for &z in row {
        let distance = below(z) - mean;
        square += libm::exp(b * below(z)) * distance * distance;
    }
    let label = below(row[label]);
    Loss {
        value: libm::log(sum) - b * label,
        slope: mean - label,
        curvature: square / sum,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(found: f64, expected: f64, tolerance: f64) {
        let distance = (found - expected).abs();
        assert!(
            distance <= tolerance * expected.abs().max(1.0),
            "{found} {expected}"
        );
    }

    #[test]
    fn two_classes_by_hand() {
        // Three of four are of class 1, at logit 2 ln 3: σ(z / T) = 3/4 for T = 2.
        let z = 2.0 * 3_f32.ln();
        let found = fit_temperature(&[z; 4], &[1, 1, 0, 1], 2).unwrap();
        close(found.temperature, 2.0, 1e-6);
        // σ(z) = 9/10.
        close(
            found.loss_before,
            -(0.9_f64.ln() * 3.0 + 0.1_f64.ln()) / 4.0,
            1e-6,
        );
        close(
            found.loss_after,
            -(0.75_f64.ln() * 3.0 + 0.25_f64.ln()) / 4.0,
            1e-6,
        );
        assert!(!found.at_bound());
    }

    #[test]
    fn three_classes_by_hand() {
        // Classes 0, 1 and 2 in 1/6, 2/6 and 3/6 of the rows, and logits of half those logarithms.
        let logits: Vec<f32> = [1_f32, 2.0, 3.0].map(|c| c.ln() / 2.0).repeat(6);
        let found = fit_temperature(&logits, &[2, 1, 0, 2, 1, 2], 3).unwrap();
        close(found.temperature, 0.5, 1e-6);
        let entropy =
            -(0.5_f64.ln() / 2.0 + (1.0_f64 / 3.0).ln() / 3.0 + (1.0_f64 / 6.0).ln() / 6.0);
        close(found.loss_after, entropy, 1e-6);
    }

    #[test]
    fn without_a_minimum_it_stops_at_the_bound() {
        let found = fit_temperature(&[1.0, -2.0], &[1, 0], 2).unwrap();
        assert_eq!(found.temperature, MIN_TEMPERATURE);
        assert!(found.at_bound());
        let found = fit_temperature(&[1.0, -2.0], &[0, 1], 2).unwrap();
        assert_eq!(found.temperature, MAX_TEMPERATURE);
        let found = fit_temperature(&[0.0, 1.0, 0.5, 2.0, 0.0, 0.0], &[1, 0], 3).unwrap();
        assert_eq!(found.temperature, MIN_TEMPERATURE);
        assert_eq!(found.loss_after, 0.0);
    }

    #[test]
    fn where_nothing_depends_on_it_it_is_one() {
        let found = fit_temperature(&[0.0; 3], &[1, 0, 1], 2).unwrap();
        assert_eq!(found.temperature, 1.0);
        assert_eq!(found.loss_before, found.loss_after);
        close(found.loss_after, 2_f64.ln(), 1e-15);
        let found = fit_temperature(&[7.0; 6], &[1, 2], 3).unwrap();
        assert_eq!(found.temperature, 1.0);
        assert_eq!(fit_temperature(&[], &[], 2), None);
        assert_eq!(fit_temperature(&[], &[], 3), None);
    }

    #[test]
    fn the_largest_logits_do_no_harm() {
        let z = f32::MAX;
        let found = fit_temperature(&[z, -z, z], &[1, 0, 0], 2).unwrap();
        assert_eq!(found.temperature, MAX_TEMPERATURE);
        assert!(found.loss_after < found.loss_before && found.loss_before.is_finite());
        let found = fit_temperature(&[z, -z, 0.0, 0.0, z, z], &[1, 2], 3).unwrap();
        assert!(found.loss_after < found.loss_before && found.loss_before.is_finite());
    }

    #[test]
    #[should_panic(expected = "a logit is no finite number")]
    fn nan_is_refused() {
        fit_temperature(&[f32::NAN], &[1], 2);
    }

    #[test]
    fn the_search_is_short_and_ends_where_the_slope_does() {
        let logits: Vec<f32> = (0..90)
            .map(|i| ((i * i * 7) % 41) as f32 / 4.0 - 5.0)
            .collect();
        for (classes, scale) in [
            (2, 1.0),
            (3, 1.0),
            (2, 1e-2),
            (3, 1e-2),
            (2, 40.0),
            (3, 40.0),
        ] {
            let logits: Vec<f32> = logits.iter().map(|z| z * scale).collect();
            let rows = logits.chunks(outputs(classes)).enumerate();
            let labels: Vec<u32> = rows
                .map(|(i, row)| match row {
                    [z] => u32::from((*z > 0.0) != (i % 4 == 0)),
                    row if i % 3 == 0 => (i / 3 % row.len()) as u32,
                    row => (0..3).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap() as u32,
                })
                .collect();
            let evaluations = std::cell::Cell::new(0);
            let loss = |b: f64| {
                evaluations.set(evaluations.get() + 1);
                mean_loss(&logits, &labels, classes, b)
            };
            let end = loss(minimum(&loss, loss(1.0)));
            assert!(end.slope.abs() <= 1e-13 * f64::from(scale), "{end:?}");
            assert!(evaluations.get() <= 16, "{} evaluations", evaluations.get());
        }
    }

    #[test]
    fn slopes_are_differences() {
        let row = [0.5_f32, -1.25, 2.0];
        let of: [&dyn Fn(f64) -> Loss; 4] = [
            &|b| binary_loss(1.5, b),
            &|b| binary_loss(-0.75, b),
            &|b| softmax_loss(&row, 0, b),
            &|b| softmax_loss(&row, 2, b),
        ];
        for loss in of {
            for b in [0.01, 0.7, 3.0] {
                let h = 1e-5;
                let (below, above) = (loss(b - h), loss(b + h));
                close(loss(b).slope, (above.value - below.value) / (2.0 * h), 1e-9);
                close(
                    loss(b).curvature,
                    (above.slope - below.slope) / (2.0 * h),
                    1e-9,
                );
            }
        }
    }

    proptest! {
        /// Groups of equal rows whose classes are as frequent as softmax(z / T) says: T is the
        /// minimum of each group and so of all.
        #[test]
        fn a_planted_temperature_is_found(
            counts in proptest::collection::vec([1..9_u32, 1..9_u32, 1..9_u32], 1..12),
            temperature in 0.05..20.0_f64,
        ) {
            let logit = |a: u32, b: u32| (temperature * (f64::from(a) / f64::from(b)).ln()) as f32;
            let (mut two, mut labels_two) = (Vec::new(), Vec::new());
            let (mut three, mut labels_three) = (Vec::new(), Vec::new());
            for &[a, b, c] in &counts {
                for (label, count) in [(0_u32, a), (1, b), (2, c)] {
                    for _ in 0..count {
                        three.extend([logit(a, 1), logit(b, 1), logit(c, 1)]);
                        labels_three.push(label);
                        if label < 2 {
                            two.push(logit(b, a));
                            labels_two.push(label);
                        }
                    }
                }
            }
            let cases = [(two, labels_two, 2), (three, labels_three, 3)];
            for (logits, labels, classes) in cases {
                let found = fit_temperature(&logits, &labels, classes).unwrap();
                prop_assert!(found.loss_after <= found.loss_before);
                let flat = logits.chunks(outputs(classes)).all(|row| {
                    row.iter().all(|z| *z == row[0]) && (classes > 2 || row[0] == 0.0)
                });
                if flat {
                    prop_assert_eq!(found.temperature, 1.0);
                } else {
                    let share = found.temperature / temperature;
                    prop_assert!((share - 1.0).abs() < 1e-5, "{} {}", found.temperature, temperature);
                }
            }
        }

        #[test]
        fn no_other_temperature_is_better(
            rows in proptest::collection::vec((-9.0..9.0_f32, 0..2_u32), 1..40),
            other in -3.0..3.0_f64,
        ) {
            let (logits, labels): (Vec<f32>, Vec<u32>) = rows.into_iter().unzip();
            let found = fit_temperature(&logits, &labels, 2).unwrap();
            let at = mean_loss(&logits, &labels, 2, 10_f64.powf(other));
            prop_assert!(found.loss_after <= at.value + 1e-14);
        }
    }
}
