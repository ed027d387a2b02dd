//! Matrix products: the one wrapper around the `gemm` crate, and one of the few files with
//! `unsafe`.
//!
//! The crate's kernel takes bare pointers, sizes and strides. Here a matrix is a slice with sizes
//! and strides that were checked against the slice's length, so that no caller can make the kernel
//! touch anything outside. A factor's rows may overlap, which is what makes a convolution a product
//! without a copy; a result's may not. One thread does each product, and its bits depend on the
//! numbers and sizes alone. This file knows nothing of layers.

#![allow(unsafe_code)]

/// A factor: element (r, c) is `values[r * row_stride + c * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Factor<'a> {
    values: &'a [f32],
    size: [usize; 2],    // rows, columns
    strides: [usize; 2], // between rows, between columns
}

impl<'a> Factor<'a> {
    /// A matrix of `size` (rows, columns) at `strides`; rows and columns may overlap.
    ///
    /// # Panics
    /// When an element lies outside `values`.
    pub fn new(values: &'a [f32], size: [usize; 2], strides: [usize; 2]) -> Factor<'a> {
        assert!(
            reach(size, strides).is_some_and(|reach| reach <= values.len()),
            "a factor of {size:?} at {strides:?} does not fit {} numbers",
            values.len()
        );
        Factor {
            values,
            size,
            strides,
        }
    }

    /// A matrix of `size`, its rows one after the other.
    ///
    /// # Panics
    /// When an element lies outside `values`.
    pub fn rows(values: &'a [f32], size: [usize; 2]) -> Factor<'a> {
        Factor::new(values, size, [size[1], 1])
    }

    /// Rows and columns swapped.
    pub fn transposed(self) -> Factor<'a> {
        let ([rows, columns], [row_stride, col_stride]) = (self.size, self.strides);
        Factor {
            values: self.values,
            size: [columns, rows],
            strides: [col_stride, row_stride],
        }
    }
}

/// Numbers from the first to the last element; none if there is no such `usize`.
fn reach([rows, columns]: [usize; 2], [row_stride, col_stride]: [usize; 2]) -> Option<usize> {
    let (Some(last_row), Some(last_column)) = (rows.checked_sub(1), columns.checked_sub(1)) else {
        return Some(0);
    };
    let down = last_row.checked_mul(row_stride)?;
    let reach = down.checked_add(last_column.checked_mul(col_stride)?)?;
    // The kernel computes with isize.
    (reach < isize::MAX as usize).then_some(reach + 1)
}

/// Writes `left * right` to the first rows of `result`, which lie one after the other there; with
/// `add`, adds it to what they hold.
///
/// # Panics
/// When the factors do not fit each other or the result does not fit `result`.
pub(super) fn multiply(left: Factor<'_>, right: Factor<'_>, result: &mut [f32], add: bool) {
    let ([rows, depth], [right_rows, columns]) = (left.size, right.size);
    assert_eq!(depth, right_rows, "columns of the left, rows of the right");
    assert!(
        reach([rows, columns], [columns, 1]).is_some_and(|reach| reach <= result.len()),
        "a result of {rows} x {columns} does not fit {} numbers",
        result.len()
    );
    let stride = |stride: usize| isize::try_from(stride).expect("a stride within a slice");
    // A matrix of one row may have any stride between rows: nothing was checked and nothing is
    // read at it.
    let strides = |factor: &Factor<'_>| {
        let [row, column] = factor.strides;
        let [rows, columns] = factor.size;
        [
            if rows > 1 { stride(row) } else { 0 },
            if columns > 1 { stride(column) } else { 0 },
        ]
    };
    let ([left_rs, left_cs], [right_rs, right_cs]) = (strides(&left), strides(&right));
    // SAFETY: every element that the sizes and strides name lies inside its slice: `Factor::new`
    // checked that for the factors, the assertion above for the result. The result is borrowed
    // mutably, so that neither factor overlaps it; its rows are `columns` apart and so do not
    // overlap each other. All f32 bit patterns are valid. Offsets fit isize (`reach`).
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            result.as_mut_ptr(),
            1,
            stride(columns),
            add,
            left.values.as_ptr(),
            left_cs,
            left_rs,
            right.values.as_ptr(),
            right_cs,
            right_rs,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(left: Factor<'_>, right: Factor<'_>) -> Vec<f32> {
        let at = |f: &Factor<'_>, r: usize, c: usize| f.values[r * f.strides[0] + c * f.strides[1]];
        let [rows, depth] = left.size;
        let mut result = Vec::new();
        for r in 0..rows {
            for c in 0..right.size[1] {
                result.push((0..depth).map(|k| at(&left, r, k) * at(&right, k, c)).sum());
            }
        }
        result
    }

    /// Small integers, so that every order of additions gives the same sum; the sizes reach the
    /// kernels for one column, for short sums, for small and for large products.
    #[test]
    fn products_by_hand() {
        let values: Vec<f32> = (0..9000).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
        for rows in [1, 2, 7, 49, 130] {
            for depth in [0, 1, 3, 27, 96] {
                for columns in [1, 3, 9, 32, 64] {
                    // Overlapping rows on the left, as in a convolution.
                    let left = Factor::new(&values, [rows, depth], [5, 1]);
                    let right = Factor::rows(&values[1..], [depth, columns]);
                    let expected = plain(left, right);
                    let mut result = vec![f32::NAN; rows * columns + 1];
                    multiply(left, right, &mut result, false);
                    assert_eq!(result[..rows * columns], expected);
                    assert!(result[rows * columns].is_nan());
                    multiply(left, right, &mut result, true);
                    let twice: Vec<f32> = expected.iter().map(|x| 2.0 * x).collect();
                    assert_eq!(result[..rows * columns], twice);
                    let left = Factor::new(&values, [depth, rows], [5, 1]).transposed();
                    multiply(left, right, &mut result, false);
                    assert_eq!(result[..rows * columns], plain(left, right));
                }
            }
        }
    }

    #[test]
    fn nothing_outside_is_touched() {
        let values = [0.0; 12];
        let refused =
            |work: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err();
        assert!(refused(&|| {
            Factor::rows(&values, [4, 4]);
        }));
        assert!(refused(&|| {
            Factor::new(&values, [2, 3], [10, 1]);
        }));
        assert!(refused(&|| {
            Factor::new(&values, [3, 1], [usize::MAX, 1]);
        }));
        assert!(refused(&|| {
            Factor::new(&values, [usize::MAX, usize::MAX], [1, 1]);
        }));
        let factor = Factor::rows(&values, [3, 4]);
        assert!(refused(&|| multiply(factor, factor, &mut [0.0; 12], false)));
        let right = factor.transposed();
        assert!(refused(&|| multiply(factor, right, &mut [0.0; 8], false)));
        multiply(factor, right, &mut [0.0; 9], false);
    }
}
