//! A borrowed matrix of pooled features: rows are gathered by number and never copied.
//!
//! This file knows nothing of labels or solvers.

/// Pooled features of N images, borrowed: row-major `[N, C]`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    features_nc: &'a [f32], // [N, C]
    channels: usize,        // C
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
        if channels == 0 || !features_nc.len().is_multiple_of(channels) {
            return Err(ShapeError {
                values: features_nc.len(),
                channels,
            });
        }
        Ok(Rows {
            features_nc,
            channels,
        })
    }

    /// Number of rows, N.
    pub fn count(&self) -> usize {
        self.features_nc.len() / self.channels
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
        let start = row as usize * self.channels;
        &self.features_nc[start..start + self.channels]
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
    fn infinities_and_nan_are_found() {
        let values = [1.0, f32::MAX, f32::NAN, 0.0, f32::NEG_INFINITY, 0.0];
        let rows = Rows::new(&values, 2).unwrap();
        assert_eq!(
            [0, 1, 2].map(|row| rows.is_finite(row)),
            [true, false, false]
        );
    }
}
