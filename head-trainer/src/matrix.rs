//! A borrowed matrix of pooled features: rows are gathered by number and never copied.
//!
//! They lie in one slice, or in several that each hold some of them. This file knows nothing of
//! labels or solvers.

use arrow::buffer::ScalarBuffer;

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
}
