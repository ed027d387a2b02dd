//! The parts of a shard that say which rows it has: all but the features, a few of its bytes.
//!
//! A file of the shard's length with just these in their places is its *outline*: it opens as the shard
//! does ([`super::Store::open`]), has the same rows, and holes where the features are. Must not know
//! where the bytes come from.

use std::ops::Range;

use arrow::datatypes::DataType;
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::read_footer_length;
use arrow::ipc::{root_as_footer, root_as_message};
use bytes::Bytes;

use crate::arrow_file::LEAST_BYTES;

/// The footer is read with this much before it, which is all of it but in very large shards.
const TAIL_BYTES: u64 = 16 << 10;
/// Magic and padding.
const HEAD_BYTES: u64 = 8;
const TRAILER_BYTES: usize = 10;
/// What ids and views of a row take where the views have short names.
const ROW_BYTES: u64 = 32 + 4 + 16;
/// The padding of a record batch's columns.
const PADDING_BYTES: u64 = 1024;

/// A piece of a file, and where it begins.
pub type Piece = (u64, Bytes);

/// The pieces of the outline of a shard of `length` bytes, of which `read` reads ranges. None if they
/// cannot be told, as the shard is tiny, damaged or not laid out as ours are.
///
/// # Errors
/// Those of `read`.
pub fn pieces<E>(
    length: u64,
    mut read: impl FnMut(&[Range<u64>]) -> Result<Vec<Bytes>, E>,
) -> Result<Option<Vec<Piece>>, E> {
    if length < LEAST_BYTES as u64 + HEAD_BYTES {
        return Ok(None);
    }
    let mut tail_start = length.saturating_sub(TAIL_BYTES).max(HEAD_BYTES);
    let mut got = read_at(&mut read, vec![0..HEAD_BYTES, tail_start..length])?;
    let Some(footer) = footer_start(length, &got[1].1) else {
        return Ok(None);
    };
    if footer < tail_start {
        tail_start = footer;
        got.truncate(1);
        got.extend(read_at(
            &mut read,
            std::iter::once(tail_start..length).collect(),
        )?);
    }
    let footer_at = (footer - tail_start) as usize;
    let parsed = crate::quietly::catch(|| blocks(&got[1].1[footer_at..], footer));
    let Some(blocks) = parsed.flatten() else {
        return Ok(None);
    };
    let guesses: Vec<Range<u64>> = blocks.iter().map(Block::guess).collect();
    let read_now = read_at(&mut read, guesses)?;
    let mut more = Vec::new();
    for (block, (start, bytes)) in blocks.iter().zip(&read_now) {
        let Some(end) = crate::quietly::catch(|| block.features_start(bytes)).flatten() else {
            return Ok(None);
        };
        let there = start + bytes.len() as u64;
        if end > there {
            more.push(there..end);
        }
    }
    got.extend(read_now);
    if !more.is_empty() {
        got.extend(read_at(&mut read, more)?);
    }
    Ok(Some(got))
}

fn read_at<E>(
    read: &mut impl FnMut(&[Range<u64>]) -> Result<Vec<Bytes>, E>,
    ranges: Vec<Range<u64>>,
) -> Result<Vec<Piece>, E> {
    if ranges.is_empty() {
        return Ok(Vec::new());
    }
    let starts = ranges.iter().map(|range| range.start);
    Ok(starts.zip(read(&ranges)?).collect())
}

fn footer_start(length: u64, tail: &[u8]) -> Option<u64> {
    let trailer = tail.last_chunk::<TRAILER_BYTES>()?;
    let footer_length = read_footer_length(*trailer).ok()? as u64;
    let start = (length - TRAILER_BYTES as u64).checked_sub(footer_length)?;
    (start >= HEAD_BYTES).then_some(start)
}

/// A record batch in the file.
struct Block {
    start: u64,
    metadata_bytes: u64,
    body_bytes: u64,
    map_bytes: u64, // of a row's features
}

/// The record batches that the footer at the beginning of `tail` lists, all before `end`.
fn blocks(tail: &[u8], end: u64) -> Option<Vec<Block>> {
    let footer = root_as_footer(tail.get(..tail.len() - TRAILER_BYTES)?).ok()?;
    let schema = try_fb_to_schema(footer.schema()?).ok()?;
    let map_bytes = match schema.field_with_name("features").ok()?.data_type() {
        DataType::FixedSizeList(item, n) => {
            u64::try_from(*n).ok()? * item.data_type().primitive_width()? as u64
        }
        _ => return None,
    };
    let block = |block: &arrow::ipc::Block| {
        let block = Block {
            start: u64::try_from(block.offset()).ok()?,
            metadata_bytes: u64::try_from(block.metaDataLength()).ok()?,
            body_bytes: u64::try_from(block.bodyLength()).ok()?,
            map_bytes: map_bytes.max(1),
        };
        let fits = block.end()? <= end && block.start >= HEAD_BYTES && block.metadata_bytes > 8;
        fits.then_some(block)
    };
    footer.recordBatches()?.into_iter().map(block).collect()
}

impl Block {
    fn end(&self) -> Option<u64> {
        let body = self.start.checked_add(self.metadata_bytes)?;
        body.checked_add(self.body_bytes)
    }

    /// Its metadata, and where ids and views should be.
    fn guess(&self) -> Range<u64> {
        let rows = self.body_bytes / self.map_bytes;
        let columns = (rows * ROW_BYTES + PADDING_BYTES).min(self.body_bytes);
        self.start..self.start + self.metadata_bytes + columns
    }

    /// Where the features begin, which are the last of its buffers. `bytes` begin with its metadata.
    fn features_start(&self, bytes: &[u8]) -> Option<u64> {
        let metadata = bytes.get(..self.metadata_bytes as usize)?;
        // An encapsulated message begins with a mark and its length.
        let message = root_as_message(metadata.get(8..)?).ok()?;
        let buffers = message.header_as_record_batch()?.buffers()?;
        let features = buffers.iter().next_back()?;
        let start = self.start + self.metadata_bytes + u64::try_from(features.offset()).ok()?;
        (start <= self.end()?).then_some(start)
    }
}
