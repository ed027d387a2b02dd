//! Reads a Parquet column of bytes value by value, within limits.
//!
//! Parquet packs without bounds: a few bytes of a file may stand for gigabytes of one page, and one
//! value of a dictionary for millions of rows. So each page's header is looked at before the page is
//! unpacked, and values are slices of their page, one at a time, which no row copies. Must not know
//! what the values mean.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Type;
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

use crate::images::archive::At;

/// What a page may take in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// A page of values, unpacked.
    pub page_bytes: u64,
    /// A dictionary, unpacked.
    pub dictionary_bytes: u64,
}

/// A file whose page headers are checked as they are read.
pub(super) struct Pages {
    pub at: At,
    pub limits: Limits,
}

impl Length for Pages {
    fn len(&self) -> u64 {
        self.at.len
    }
}

impl ChunkReader for Pages {
    type T = Checked;

    // Called for page headers alone.
    fn get_read(&self, start: u64) -> Result<Checked> {
        Ok(Checked {
            reader: BufReader::new(self.at.from(start)),
            limits: Some(self.limits),
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.at.get_bytes(start, length)
    }
}

/// A page header that is checked before its first byte is given away.
pub(super) struct Checked {
    reader: BufReader<At>,
    limits: Option<Limits>, // none: it was checked
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(limits) = self.limits.take() {
            check(self.reader.fill_buf()?, limits).map_err(io::Error::other)?;
        }
        self.reader.read(buffer)
    }
}

fn check(header: &[u8], limits: Limits) -> std::result::Result<(), String> {
    const DICTIONARY: i64 = 2;
    let claims = Claims::read(header).ok_or("a page has a header that cannot be read")?;
    let limit = match claims.kind {
        DICTIONARY => limits.dictionary_bytes,
        _ => limits.page_bytes,
    };
    let unpacked = u64::try_from(claims.unpacked_bytes).map_err(|_| "a page has no size")?;
    if unpacked > limit {
        return Err(format!(
            "a page of {unpacked} bytes, unpacked, is larger than the limit of {limit} (hint: \
             write the file again with smaller pages)"
        ));
    }
    // The smallest values take two bytes.
    if claims.kind == DICTIONARY && claims.values > claims.unpacked_bytes / 2 {
        return Err("a dictionary claims more values than it has bytes for".to_owned());
    }
    Ok(())
}

/// What a page header says. It is a struct in Thrift's compact protocol: kind (field 1), unpacked
/// and packed size (2, 3), a checksum (4, optional), then a struct for each kind of page (5: data,
/// 6: index, 7: dictionary, 8: data of version 2), whose field 1 is the number of values.
#[derive(Debug, Default, PartialEq, Eq)]
struct Claims {
    kind: i64,
    unpacked_bytes: i64,
    values: i64,
}

impl Claims {
    fn read(header: &[u8]) -> Option<Claims> {
        const INTEGER: u8 = 5;
        const STRUCT: u8 = 12;
        let mut claims = Claims::default();
        let mut rest = header;
        let mut field = 0;
        loop {
            let (&byte, after) = rest.split_first()?;
            rest = after;
            field += byte >> 4; // the difference to the field before
            match (byte & 15, field) {
                (INTEGER, 1) => claims.kind = number(&mut rest)?,
                (INTEGER, 2) => claims.unpacked_bytes = number(&mut rest)?,
                (INTEGER, 3 | 4) => drop(number(&mut rest)?),
                (STRUCT, 6) => return Some(claims),
                (STRUCT, 5 | 7 | 8) => {
                    rest = rest.strip_prefix(&[1 << 4 | INTEGER])?;
                    claims.values = number(&mut rest)?;
                    return Some(claims);
                }
                _ => return None,
            }
        }
    }
}

/// A 32-bit number: seven bits a byte, the lowest first, the sign in the lowest of all.
fn number(rest: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..35).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

/// A column of bytes in one row group.
pub(super) struct Column {
    reader: ColumnReaderImpl<ByteArrayType>,
    levels: Vec<i16>,
    values: Vec<ByteArray>,
}

impl Column {
    /// The column `leaf` from the row group's first row on.
    pub fn open(
        at: &At,
        metadata: &ParquetMetaData,
        group: usize,
        leaf: usize,
        limits: Limits,
    ) -> Result<Column> {
        let group = metadata.row_group(group);
        let chunk = group.column(leaf);
        let column = chunk.column_descr_ptr();
        if column.physical_type() != Type::BYTE_ARRAY || column.max_rep_level() > 0 {
            let reason = "a column does not hold one value of bytes a row";
            return Err(ParquetError::General(reason.to_owned()));
        }
        let rows = usize::try_from(group.num_rows())?;
        let at = at.clone();
        let pages = SerializedPageReader::new(Arc::new(Pages { at, limits }), chunk, rows, None)?;
        Ok(Column {
            reader: ColumnReaderImpl::new(column, Box::new(pages)),
            levels: Vec::new(),
            values: Vec::new(),
        })
    }

    /// Leaves rows out.
    pub fn skip(&mut self, rows: usize) -> Result<()> {
        match self.reader.skip_records(rows)? == rows {
            true => Ok(()),
            false => Err(too_few()),
        }
    }

    /// The next row's value, unless it is null.
    pub fn next(&mut self) -> Result<Option<ByteArray>> {
        self.levels.clear();
        self.values.clear();
        let levels = Some(&mut self.levels);
        let (rows, ..) = self
            .reader
            .read_records(1, levels, None, &mut self.values)?;
        match rows {
            1 => Ok(self.values.pop()),
            _ => Err(too_few()),
        }
    }
}

fn too_few() -> ParquetError {
    ParquetError::EOF("a column has not as many values as there are rows".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        page_bytes: 1000,
        dictionary_bytes: 100,
    };

    #[test]
    fn headers() {
        // Data, 1000 bytes (2000 doubled is 0xd0 0x0f), 3 packed, 7 values.
        let data = [0x15, 0, 0x15, 0xd0, 0x0f, 0x15, 6, 0x2c, 0x15, 14];
        let claims = Claims {
            kind: 0,
            unpacked_bytes: 1000,
            values: 7,
        };
        assert_eq!(Claims::read(&data), Some(claims));
        assert_eq!(check(&data, LIMITS), Ok(()));
        let large = [0x15, 0, 0x15, 0xd2, 0x0f, 0x15, 6, 0x2c, 0x15, 14];
        assert!(check(&large, LIMITS).unwrap_err().contains("1001 bytes"));
        let negative = [0x15, 0, 0x15, 1, 0x15, 6, 0x2c, 0x15, 14];
        assert!(check(&negative, LIMITS).is_err());
        // A dictionary with a checksum, 100 bytes, 50 and 51 values.
        let mut dictionary = [0x15, 4, 0x15, 200, 1, 0x15, 6, 0x15, 0, 0x3c, 0x15, 100];
        assert_eq!(check(&dictionary, LIMITS), Ok(()));
        dictionary[11] = 102;
        assert!(
            check(&dictionary, LIMITS)
                .unwrap_err()
                .contains("more values")
        );
        for cut in 0..data.len() {
            assert!(check(&data[..cut], LIMITS).is_err());
        }
    }
}
