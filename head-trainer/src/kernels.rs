//! The inner loops over features: sums of products in a fixed order, at the processor's speed.
//!
//! The order of additions is written down here and depends neither on threads nor on the
//! processor: products go into a fixed number of independent lanes, which are then added
//! pairwise, and a product is rounded before it is added (no fused multiply-add). So a compiler
//! may use vectors of any width, and `pulp` picks the widest that the processor has at run time;
//! the bits stay the same. This file knows nothing of labels or solvers.

use std::ops::AddAssign;

use pulp::Arch;

use crate::matrix::Rows;

/// Lanes of independent partial sums of f32; part of what a result's last bit is.
const LANES: usize = 16;

/// Lanes of independent partial sums of f64; part of what a result's last bit is.
const WIDE_LANES: usize = 8;

/// Sum of `a[c] * b[c]`, in the fixed order that the file's header describes.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    Arch::new().dispatch(
        #[inline(always)]
        || {
            let (a_blocks, a_rest) = a.as_chunks::<LANES>();
            let (b_blocks, b_rest) = b.as_chunks::<LANES>();
            let mut lanes = [0.0_f32; LANES];
            for (a, b) in a_blocks.iter().zip(b_blocks) {
                for lane in 0..LANES {
                    lanes[lane] += a[lane] * b[lane];
                }
            }
            for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
                lanes[lane] += a * b;
            }
            add_pairwise(lanes)
        },
    )
}

/// `sum[c] += Σ factors[i] * row(indices[i])[c]`, in the order of `indices`.
///
/// Four rows at a time, so that `sum` is loaded and stored a quarter as often; the order of the
/// additions is the same as with one row at a time.
pub fn add_scaled_rows(sum_c: &mut [f32], rows: Rows<'_>, indices: &[u32], factors: &[f32]) {
    debug_assert_eq!(indices.len(), factors.len());
    let channels = rows.channels();
    assert_eq!(sum_c.len(), channels, "one sum for each channel");
    let (index_blocks, index_rest) = indices.as_chunks::<4>();
    let (factor_blocks, factor_rest) = factors.as_chunks::<4>();
    Arch::new().dispatch(
        #[inline(always)]
        || {
            for (index, factor) in index_blocks.iter().zip(factor_blocks) {
                let [r0, r1, r2, r3] = index.map(|row| &rows.row(row)[..channels]);
                let [f0, f1, f2, f3] = *factor;
                for c in 0..channels {
                    sum_c[c] = (((sum_c[c] + f0 * r0[c]) + f1 * r1[c]) + f2 * r2[c]) + f3 * r3[c];
                }
            }
            for (&row, &factor) in index_rest.iter().zip(factor_rest) {
                for (sum, x) in sum_c.iter_mut().zip(rows.row(row)) {
                    *sum += factor * x;
                }
            }
        },
    );
}

/// Sums of `weights[c] * row[c]` in f64 for four rows at once. Each is what it would be alone.
#[inline(always)]
pub(crate) fn dot_four(weights_c: &[f64], rows: [&[f32]; 4]) -> [f64; 4] {
    let (weight_blocks, weight_rest) = weights_c.as_chunks::<WIDE_LANES>();
    let blocks = rows.map(|row| &row.as_chunks::<WIDE_LANES>().0[..weight_blocks.len()]);
    let mut lanes = [[0.0_f64; WIDE_LANES]; 4];
    for (block, w) in weight_blocks.iter().enumerate() {
        for (lanes, blocks) in lanes.iter_mut().zip(&blocks) {
            let x = &blocks[block];
            for lane in 0..WIDE_LANES {
                lanes[lane] += w[lane] * f64::from(x[lane]);
            }
        }
    }
    let done = weights_c.len() - weight_rest.len();
    for (lanes, row) in lanes.iter_mut().zip(rows) {
        for (lane, (w, x)) in weight_rest.iter().zip(&row[done..]).enumerate() {
            lanes[lane] += w * f64::from(*x);
        }
    }
    lanes.map(add_pairwise)
}

/// `sum[c] += Σ factors[i] * rows[i][c]` in f64 for four rows: the sums of two pairs are added.
#[inline(always)]
pub(crate) fn add_four(sum_c: &mut [f64], rows: [&[f32]; 4], factors: [f64; 4]) {
    let channels = sum_c.len();
    let [r0, r1, r2, r3] = rows.map(|row| &row[..channels]);
    let [f0, f1, f2, f3] = factors;
    for c in 0..channels {
        let first = f0 * f64::from(r0[c]) + f1 * f64::from(r1[c]);
        let second = f2 * f64::from(r2[c]) + f3 * f64::from(r3[c]);
        sum_c[c] += first + second;
    }
}

/// Runs `work`, whose inner loops are `#[inline(always)]`, with the widest vectors there are.
pub(crate) fn vectorised<T>(work: impl FnOnce() -> T) -> T {
    Arch::new().dispatch(work)
}

/// The sum of the lanes, a power of two of them: the upper half is added to the lower one until
/// one is left.
#[inline(always)]
fn add_pairwise<T: Copy + AddAssign, const LANES: usize>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            let upper = lanes[lane + width];
            lanes[lane] += upper;
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_by_hand_at_every_remainder() {
        for count in 0..40_u16 {
            // 0*1 + 1*2 + ... = Σ i(i+1); small integers are exact in f32.
            let a: Vec<f32> = (0..count).map(f32::from).collect();
            let b: Vec<f32> = (0..count).map(|i| f32::from(i + 1)).collect();
            let expected: u32 = (0..u32::from(count)).map(|i| i * (i + 1)).sum();
            assert_eq!(dot(&a, &b), expected as f32);
            let wide: Vec<f64> = a.iter().map(|a| f64::from(*a)).collect();
            let ones = vec![1.0; usize::from(count)];
            let sum = (0..u32::from(count)).sum::<u32>();
            let dots = dot_four(&wide, [&b, &ones, &b, &ones]);
            assert_eq!(dots, [expected, sum, expected, sum].map(f64::from));
        }
    }

    #[test]
    fn four_rows_at_once_add_like_one_at_a_time() {
        let values: Vec<f32> = (0..11 * 5).map(|i| (i as f32 * 0.7).sin()).collect();
        let rows = Rows::new(&values, 5).unwrap();
        let indices: Vec<u32> = (0..11).rev().collect();
        let factors: Vec<f32> = (0..11).map(|i| (i as f32).cos()).collect();
        let mut sum = vec![0.5_f32; 5];
        add_scaled_rows(&mut sum, rows, &indices, &factors);
        let mut expected = vec![0.5_f32; 5];
        for (&row, factor) in indices.iter().zip(&factors) {
            for (e, x) in expected.iter_mut().zip(rows.row(row)) {
                *e += factor * x;
            }
        }
        assert_eq!(sum, expected);
    }

    /// What the compiler makes of it for this processor adds as plain code does.
    #[test]
    fn vectors_change_no_bit() {
        let values: Vec<f32> = (0..4 * 1003).map(|i| (i as f32 * 0.31).sin()).collect();
        let weights: Vec<f64> = (0..1003).map(|i| f64::from(i).cos()).collect();
        let rows = [0, 1, 2, 3].map(|i| &values[i * 1003..(i + 1) * 1003]);
        let plain = dot_four(&weights, rows);
        assert_eq!(vectorised(|| dot_four(&weights, rows)), plain);
        let (mut a, mut b) = (weights.clone(), weights.clone());
        add_four(&mut a, rows, plain);
        vectorised(|| add_four(&mut b, rows, plain));
        assert_eq!(a, b);
    }
}
