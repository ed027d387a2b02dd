//! An Arrow IPC file that is in memory or mapped: its schema and its record batches, whose columns
//! stay where they lie in it.
//!
//! The decoder is strict, and what it does not check of the file's frame is checked here. Must not
//! know what the columns mean.

use std::sync::Arc;

use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::convert::try_fb_to_schema;
use arrow::ipc::reader::{FileDecoder, read_footer_length};
use arrow::ipc::{Block, Footer, root_as_footer};
use arrow::record_batch::RecordBatch;

const MAGIC: &[u8; 6] = b"ARROW1";
const TRAILER_BYTES: usize = 10; // footer length and magic

/// Bytes that even an empty one has.
pub(crate) const LEAST_BYTES: usize = MAGIC.len() + TRAILER_BYTES;

/// A file whose footer was read.
pub(crate) struct ArrowFile<'a> {
    buffer: &'a Buffer,
    footer: Footer<'a>,
    footer_start: usize,
    /// Its schema, with the metadata.
    pub schema: SchemaRef,
}

impl<'a> ArrowFile<'a> {
    /// Reads the footer; the error says what is wrong with the file.
    pub fn open(buffer: &'a Buffer) -> Result<ArrowFile<'a>, String> {
        if !buffer.starts_with(MAGIC) {
            return Err("it does not begin as an Arrow file".to_owned());
        }
        let cut_off = || "it does not end as an Arrow file (cut off?)".to_owned();
        let (rest, trailer) = buffer.split_last_chunk().ok_or_else(cut_off)?;
        let trailer: [u8; TRAILER_BYTES] = *trailer;
        let footer_length = read_footer_length(trailer).map_err(|_| cut_off())?;
        let footer_start = rest
            .len()
            .checked_sub(footer_length)
            .ok_or("its footer is longer than the file")?;
        let footer = root_as_footer(&rest[footer_start..])
            .map_err(|e| format!("its footer is damaged: {e}"))?;
        let schema = footer.schema().ok_or("it has no schema")?;
        let schema = try_fb_to_schema(schema).map_err(|e| format!("its schema is damaged: {e}"))?;
        Ok(ArrowFile {
            buffer,
            footer,
            footer_start,
            schema: Arc::new(schema),
        })
    }

    /// What the footer's own metadata say of `key`.
    pub fn footer_metadata(&self, key: &str) -> Option<&'a str> {
        let all = self.footer.custom_metadata()?;
        all.iter().find(|kv| kv.key() == Some(key))?.value()
    }

    /// The record batches, in order. Columns that are not `aligned` as Arrow wants it are copied, or
    /// else refused.
    pub fn batches(
        &self,
        aligned: bool,
    ) -> Result<impl Iterator<Item = Result<RecordBatch, String>>, String> {
        let blocks: Vec<&Block> = self.footer.recordBatches().into_iter().flatten().collect();
        self.must_not_overlap(&blocks)?;
        let mut decoder = FileDecoder::new(self.schema.clone(), self.footer.version())
            .with_require_alignment(aligned);
        for block in self.footer.dictionaries().into_iter().flatten() {
            let data = self.data(block)?;
            let read = decoder.read_dictionary(block, &data);
            read.map_err(|e| format!("a dictionary: {e}"))?;
        }
        Ok((0..).zip(blocks).map(move |(number, block): (usize, _)| {
            let data = self.data(block)?;
            let batch = decoder.read_record_batch(block, &data);
            batch
                .map_err(|e| format!("record batch {number}: {e}"))?
                .ok_or_else(|| "it has an empty block".to_owned())
        }))
    }

    /// A footer that lists a block twice would make many rows of few bytes.
    fn must_not_overlap(&self, blocks: &[&Block]) -> Result<(), String> {
        let ranges: Result<Vec<_>, _> = blocks.iter().map(|b| self.range(b)).collect();
        let mut ranges = ranges?;
        ranges.sort_unstable();
        match ranges.is_sorted_by(|(from, len), (next, _)| from + len <= *next) {
            true => Ok(()),
            false => Err("two of its record batches overlap".to_owned()),
        }
    }

    fn data(&self, block: &Block) -> Result<Buffer, String> {
        let (from, len) = self.range(block)?;
        Ok(self.buffer.slice_with_length(from, len))
    }

    fn range(&self, block: &Block) -> Result<(usize, usize), String> {
        let range = || {
            let from = usize::try_from(block.offset()).ok()?;
            let metadata = usize::try_from(block.metaDataLength()).ok()?;
            let body = usize::try_from(block.bodyLength()).ok()?;
            let len = metadata.checked_add(body)?;
            (from.checked_add(len)? <= self.footer_start).then_some((from, len))
        };
        range().ok_or_else(|| "a record batch lies outside the file".to_owned())
    }
}
