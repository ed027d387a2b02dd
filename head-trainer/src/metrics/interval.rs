//! How far a share may be from the truth, given how few images it was counted on.

use serde::{Deserialize, Serialize};

/// The standard normal's quantile for 95 % between -z and z.
pub const Z_95: f64 = 1.959_963_984_540_054;

/// Bounds of a share, in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower bound.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
}

/// Wilson's score interval for `hits` of `total` (Wilson, 1927): all shares that lie within `z`
/// of their own standard deviations from hits / total. None for a total of nothing.
///
/// Unlike hits / total ± z deviations, it is never empty at 0 % or 100 % and never leaves [0, 1].
/// It is scipy's `binomtest(hits, total).proportion_ci(method="wilson")`, without the continuity
/// correction. It takes rows for independent: images of one burst make it too narrow.
///
/// # Panics
/// When there are more hits than `total`, or `z` is no positive number.
pub fn wilson(hits: u64, total: u64, z: f64) -> Option<Interval> {
    assert!(hits <= total, "{hits} hits of {total}");
    assert!(z.is_finite() && z > 0.0, "z is {z}");
    if total == 0 {
        return None;
    }
    let (k, n, zz) = (hits as f64, total as f64, z * z);
    let middle = (k + zz / 2.0) / (n + zz);
    let half = z / (n + zz) * (k * (n - k) / n + zz / 4.0).sqrt();
    // At either end the bound is the end itself, and near it within; rounding says otherwise.
    let low = if hits == 0 {
        0.0
    } else {
        (middle - half).max(0.0)
    };
    let high = if hits == total {
        1.0
    } else {
        (middle + half).min(1.0)
    };
    Some(Interval { low, high })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }

    #[test]
    fn by_hand() {
        // z = 2: (1 + 2) / (4 + 4) -+ 2 / 8 * sqrt(3/4 + 1).
        let found = wilson(1, 4, 2.0).unwrap();
        close(found.low, 0.375 - 7_f64.sqrt() / 8.0);
        close(found.high, 0.375 + 7_f64.sqrt() / 8.0);
        // None of n: [0, z^2 / (n + z^2)].
        let none = wilson(0, 12, 2.0).unwrap();
        assert_eq!(none.low, 0.0);
        close(none.high, 0.25);
        let all = wilson(12, 12, 2.0).unwrap();
        close(all.low, 0.75);
        assert_eq!(all.high, 1.0);
        assert_eq!(wilson(0, 0, Z_95), None);
    }

    #[test]
    #[should_panic(expected = "3 hits of 2")]
    fn more_hits_than_trials_are_refused() {
        wilson(3, 2, Z_95);
    }

    proptest! {
        #[test]
        fn bounds_solve_their_equation(total in 1..5000_u64, at in 0.0..=1.0_f64, z in 0.1..4.0_f64) {
            let hits = ((total as f64 * at) as u64).min(total);
            let share = hits as f64 / total as f64;
            let Interval { low, high } = wilson(hits, total, z).unwrap();
            prop_assert!(0.0 <= low && low <= share && share <= high && high <= 1.0);
            for bound in [low, high] {
                // (share - bound)^2 = z^2 bound (1 - bound) / n
                let distance = (share - bound) * (share - bound);
                let variance = z * z * bound * (1.0 - bound) / total as f64;
                prop_assert!((distance - variance).abs() < 1e-13);
            }
            let mirrored = wilson(total - hits, total, z).unwrap();
            prop_assert!((mirrored.low - (1.0 - high)).abs() < 1e-14);
        }
    }
}
