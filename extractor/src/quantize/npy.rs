//! Arrays as files that NumPy reads (the NPY format, version 1.0): to hand them to Python.
//!
//! Must not know what is in them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::files::FileError;

/// Writes `values`, an array of `shape` in C order.
///
/// # Errors
/// When the file cannot be written.
///
/// # Panics
/// When there are more or fewer values than the shape says.
pub fn write_f32(path: &Path, shape: &[usize], values: &[f32]) -> Result<(), FileError> {
    write(path, "<f4", shape, values, |v| v.to_le_bytes())
}

/// [`write_f32`] for whole numbers.
///
/// # Errors
/// The same.
///
/// # Panics
/// The same.
pub fn write_u32(path: &Path, shape: &[usize], values: &[u32]) -> Result<(), FileError> {
    write(path, "<u4", shape, values, |v| v.to_le_bytes())
}

fn write<T: Copy>(
    path: &Path,
    kind: &str,
    shape: &[usize],
    values: &[T],
    bytes: impl Fn(T) -> [u8; 4],
) -> Result<(), FileError> {
    assert_eq!(shape.iter().product::<usize>(), values.len(), "{shape:?}");
    let written = File::create(path).and_then(|file| {
        let mut file = BufWriter::new(file);
        file.write_all(&header(kind, shape))?;
        for value in values {
            file.write_all(&bytes(*value))?;
        }
        file.flush()
    });
    written.map_err(FileError::new("write", path))
}

/// Magic string, version, length, and a Python dictionary that ends in a line break at a multiple of 64 bytes.
fn header(kind: &str, shape: &[usize]) -> Vec<u8> {
    let axes: String = shape.iter().map(|axis| format!("{axis},")).collect();
    let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({axes}), }}");
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend((length as u16).to_le_bytes());
    header.extend(format!("{text:<width$}\n", width = length - 1).bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array1, Array3};
    use ndarray_npy::ReadNpyExt as _;

    #[test]
    fn a_reader_finds_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        let open = || File::open(&path).unwrap();
        let values: Vec<f32> = (0..30).map(|i| i as f32 / 7.0 - 1.0).collect();
        write_f32(&path, &[2, 3, 5], &values).unwrap();
        let read = Array3::<f32>::read_npy(open()).unwrap();
        assert_eq!(read, Array3::from_shape_vec((2, 3, 5), values).unwrap());
        write_u32(&path, &[3], &[0, 7, u32::MAX]).unwrap();
        let read = Array1::<u32>::read_npy(open()).unwrap();
        assert_eq!(read.to_vec(), [0, 7, u32::MAX]);
        assert_eq!(std::fs::metadata(&path).unwrap().len() % 64, 12);
    }
}
