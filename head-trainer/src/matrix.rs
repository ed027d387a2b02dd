//! A borrowed matrix of pooled features and the two kernels that a linear head needs.
//!
//! Rows are gathered by number and never copied, out of one slice or out of several that each hold
//! some of them. The kernels add in an order that is written
//! down here and nowhere depends on threads or on the processor's vector width: products go into
//! sixteen independent lanes, which are then added pairwise. That is also what lets a compiler
//! use vector instructions without being allowed to reorder sums. This file knows nothing of
//! labels or solvers.

use std::ops::AddAssign;

use arrow::buffer::ScalarBuffer;

/// Lanes of independent partial sums; part of what a result's last bit is.
const LANES: usize = 16;

/// Pooled features of N images, borrowed: row-major `[N, C]`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    values: Values<'a>,
    channels: usize, // C
}

#[derive(Clone, Copy, Debug)]
enum Values<'a> {
    Flat(&'a [f32]), // [N, C]
    Gathered {
        parts: &'a [ScalarBuffer<f32>], // [rows of the part, C] each
        places: &'a [Place],            // [N]
    },
}

/// Where a row of [`Rows::gathered`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the part.
    pub part: u32,
    /// Number of the row in it.
    pub row: u32,
}

/// The slice is no matrix of the stated width.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{values} feature values do not make whole rows of {channels} channels")]
pub struct ShapeError {
    values: usize,
    channels: usize,
}

impl<'a> Rows<'a> {
    /// Sees `features_nc` as rows of `channels` values.
    ///
    /// # Errors
    /// When `channels` is zero or does not divide the number of values.
    pub fn new(features_nc: &'a [f32], channels: usize) -> Result<Rows<'a>, ShapeError> {
        whole_rows(features_nc, channels)?;
        Ok(Rows {
            values: Values::Flat(features_nc),
            channels,
        })
    }

    /// Sees as row number i the one at `places[i]` in `parts`, each of which is rows of `channels`
    /// values.
    ///
    /// # Errors
    /// When `channels` is zero or does not divide the number of values of every part.
    pub fn gathered(
        parts: &'a [ScalarBuffer<f32>],
        places: &'a [Place],
        channels: usize,
    ) -> Result<Rows<'a>, ShapeError> {
        parts
            .iter()
            .try_for_each(|part| whole_rows(part, channels))?;
        Ok(Rows {
            values: Values::Gathered { parts, places },
            channels,
        })
    }

    /// Number of rows, N.
    pub fn count(&self) -> usize {
        match self.values {
            Values::Flat(features_nc) => features_nc.len() / self.channels,
            Values::Gathered { places, .. } => places.len(),
        }
    }

    /// Number of channels, C.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Row number `row`, `[C]`.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn row(&self, row: u32) -> &'a [f32] {
        let (features_nc, row): (&'a [f32], u32) = match self.values {
            Values::Flat(features_nc) => (features_nc, row),
            Values::Gathered { parts, places } => {
                let place = places[row as usize];
                (&parts[place.part as usize], place.row)
            }
        };
        let start = row as usize * self.channels;
        &features_nc[start..start + self.channels]
    }

    /// Whether every value of row `row` is a finite number.
    pub fn is_finite(&self, row: u32) -> bool {
        const EXPONENT: u32 = 0x7f80_0000; // all ones: infinite or not a number
        !self
            .row(row)
            .iter()
            .fold(false, |bad, x| bad | (x.to_bits() & EXPONENT == EXPONENT))
    }
}

fn whole_rows(values: &[f32], channels: usize) -> Result<(), ShapeError> {
    match channels > 0 && values.len().is_multiple_of(channels) {
        true => Ok(()),
        false => Err(ShapeError {
            values: values.len(),
            channels,
        }),
    }
}

/// Sum of `a[c] * b[c]`, in the fixed order that the file's header describes.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
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
}

/// The sum of the lanes, a power of two of them: the upper half is added to the lower one until
/// one is left.
pub(crate) fn add_pairwise<T: Copy + AddAssign, const LANES: usize>(mut lanes: [T; LANES]) -> T {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape_is_checked() {
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let rows = Rows::new(&values, 3).unwrap();
        assert_eq!((rows.count(), rows.channels()), (2, 3));
        assert_eq!(rows.row(1), [4.0, 5.0, 6.0]);
        assert!(Rows::new(&values, 4).is_err());
        assert!(Rows::new(&values, 0).is_err());
        assert_eq!(Rows::new(&[], 4).unwrap().count(), 0);
    }

    #[test]
    fn gathered_rows_are_where_their_places_say() {
        let parts = [vec![1.0, 2.0, 3.0, 4.0], vec![], vec![5.0, 6.0]].map(ScalarBuffer::from);
        let place = |part, row| Place { part, row };
        let places = [place(2, 0), place(0, 1), place(0, 0), place(2, 0)];
        let rows = Rows::gathered(&parts, &places, 2).unwrap();
        assert_eq!((rows.count(), rows.channels()), (4, 2));
        let all: Vec<&[f32]> = (0..4).map(|row| rows.row(row)).collect();
        assert_eq!(all, [[5.0, 6.0], [3.0, 4.0], [1.0, 2.0], [5.0, 6.0]]);
        assert_eq!(Rows::gathered(&[], &[], 2).unwrap().count(), 0);
        assert!(Rows::gathered(&parts, &places, 3).is_err());
        assert!(Rows::gathered(&parts, &places, 0).is_err());
    }

    #[test]
    fn infinities_and_nan_are_found() {
        let values = [1.0, f32::MAX, f32::NAN, 0.0, f32::NEG_INFINITY, 0.0];
        let rows = Rows::new(&values, 2).unwrap();
        assert_eq!(
            [0, 1, 2].map(|row| rows.is_finite(row)),
            [true, false, false]
        );
    }

    #[test]
    fn dot_by_hand_at_every_remainder() {
        for count in 0..40_u16 {
            // 0*1 + 1*2 + ... = Σ i(i+1); small integers are exact in f32.
            let a: Vec<f32> = (0..count).map(f32::from).collect();
            let b: Vec<f32> = (0..count).map(|i| f32::from(i + 1)).collect();
            let expected: u32 = (0..u32::from(count)).map(|i| i * (i + 1)).sum();
            assert_eq!(dot(&a, &b), expected as f32);
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
}
