//! Reads single rows of Parquet files in place.
//!
//! Rows lie in compressed pages, so that a row costs as much as its neighbours: a block of rows is
//! decoded at a time, and the last few blocks are kept. An index is mostly in row order, so most
//! rows are found there.

use std::collections::VecDeque;
use std::io::{self, BufReader, Read};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow::array::{Array, ArrayRef, BinaryArray, BinaryViewArray, LargeBinaryArray, StructArray};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelector,
};
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

use crate::images::archive::{At, Container};

/// A block is this many rows, or fewer if they are large.
const BLOCK_ROWS: usize = 64;
const BLOCK_BYTES: usize = 32 << 20;
/// Blocks are kept until they are together larger than this.
const KEPT_BYTES: usize = 256 << 20;

/// The footer of a file.
pub(super) fn metadata(at: &At) -> Result<ArrowReaderMetadata> {
    ArrowReaderMetadata::load(at, ArrowReaderOptions::new())
}

impl Length for At {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for At {
    type T = BufReader<At>;

    fn get_read(&self, start: u64) -> Result<BufReader<At>> {
        Ok(BufReader::new(self.from(start)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let end = start.checked_add(length as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(ParquetError::EOF(
                "a column reaches behind the file's end".to_owned(),
            ));
        }
        let mut bytes = vec![0; length];
        self.from(start).read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// One file.
pub(super) struct Shard {
    at: At,
    metadata: ArrowReaderMetadata,
    mask: ProjectionMask,
    /// First row of each row group, and behind the last.
    starts: Vec<usize>,
    /// Rows a block in each row group.
    block_rows: Vec<usize>,
}

impl Shard {
    /// `leaf`: the column of the images' bytes, if rows are to be read at all.
    pub fn new(at: At, metadata: ArrowReaderMetadata, leaf: Option<usize>) -> io::Result<Shard> {
        let (mut starts, mut block_rows) = (vec![0_usize], Vec::new());
        for group in metadata.metadata().row_groups() {
            let rows = usize::try_from(group.num_rows()).ok();
            let end = rows.and_then(|rows| starts[starts.len() - 1].checked_add(rows));
            let end =
                end.ok_or_else(|| io::Error::other("a row group's number of rows is wrong"))?;
            starts.push(end);
            let size = leaf.map_or(0, |leaf| group.column(leaf).uncompressed_size());
            let row_bytes = usize::try_from(size).unwrap_or(0) / rows.unwrap_or(1).max(1);
            block_rows.push((BLOCK_BYTES / row_bytes.max(1)).clamp(1, BLOCK_ROWS));
        }
        Ok(Shard {
            mask: ProjectionMask::leaves(metadata.parquet_schema(), leaf),
            at,
            metadata,
            starts,
            block_rows,
        })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// Row group, block in it and position in that of a row.
    fn place(&self, row: usize) -> (usize, usize, usize) {
        let group = self.starts.partition_point(|&start| start <= row) - 1;
        let (within, rows) = (row - self.starts[group], self.block_rows[group]);
        (group, within / rows, within % rows)
    }

    fn block(&self, group: usize, block: usize) -> Result<Block> {
        let (all, rows) = (
            self.starts[group + 1] - self.starts[group],
            self.block_rows[group],
        );
        let before = block * rows;
        let count = rows.min(all - before);
        let selection = [RowSelector::skip(before), RowSelector::select(count)];
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(
            self.at.clone(),
            self.metadata.clone(),
        )
        .with_projection(self.mask.clone())
        .with_row_groups(vec![group])
        .with_row_selection(RowSelection::from(selection.to_vec()))
        .with_batch_size(count)
        .build()?;
        let mut images = Vec::with_capacity(count);
        for batch in reader {
            append(&mut images, batch?.column(0))?;
        }
        if images.len() != count {
            return Err(ParquetError::EOF("rows are missing".to_owned()));
        }
        Ok(images)
    }
}

/// The images of a block of rows.
type Block = Vec<Option<Box<[u8]>>>;

fn append(images: &mut Block, column: &ArrayRef) -> Result<()> {
    let any = column.as_any();
    if let Some(parts) = any.downcast_ref::<StructArray>() {
        let from = images.len();
        append(images, parts.column(0))?;
        for i in (0..parts.len()).filter(|&i| parts.is_null(i)) {
            images[from + i] = None;
        }
        return Ok(());
    }
    let own = |bytes: Option<&[u8]>| bytes.map(Box::from);
    if let Some(array) = any.downcast_ref::<BinaryArray>() {
        images.extend(array.iter().map(own));
    } else if let Some(array) = any.downcast_ref::<LargeBinaryArray>() {
        images.extend(array.iter().map(own));
    } else if let Some(array) = any.downcast_ref::<BinaryViewArray>() {
        images.extend(array.iter().map(own));
    } else {
        return Err(ParquetError::General("the images are no bytes".to_owned()));
    }
    Ok(())
}

/// A block that one thread decodes while others wait for it.
type Slot = Arc<OnceLock<std::result::Result<Block, String>>>;

/// Shard, row group and block.
type Place = (usize, usize, usize);

/// All rows of a data set, numbered through.
pub(super) struct Rows {
    shards: Vec<Shard>,
    /// First row of each shard, and behind the last.
    starts: Vec<usize>,
    kept: Mutex<VecDeque<(Place, Slot)>>,
}

impl Rows {
    pub fn new(shards: Vec<Shard>) -> Rows {
        let mut starts = vec![0];
        for shard in &shards {
            starts.push(starts[starts.len() - 1] + shard.rows());
        }
        Rows {
            shards,
            starts,
            kept: Mutex::default(),
        }
    }

    /// The slot of a block, which becomes the latest; the oldest ones leave.
    fn slot(&self, place: Place) -> Slot {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().position(|(p, _)| *p == place);
        let slot = found
            .and_then(|i| kept.remove(i))
            .map_or_else(Slot::default, |(_, slot)| slot);
        kept.push_back((place, slot.clone()));
        let mut total: usize = kept.iter().map(|(_, slot)| size(slot)).sum();
        while total > KEPT_BYTES && kept.len() > 1 {
            total -= kept.pop_front().map_or(0, |(_, slot)| size(&slot));
        }
        slot
    }
}

fn size(slot: &Slot) -> usize {
    match slot.get() {
        Some(Ok(block)) => block.iter().flatten().map(|image| image.len()).sum(),
        _ => 0,
    }
}

impl Container for Rows {
    fn with(
        &self,
        at: u64,
        use_it: &mut dyn FnMut(&mut dyn Read) -> io::Result<()>,
    ) -> io::Result<()> {
        let row = at as usize;
        let number = self.starts.partition_point(|&start| start <= row) - 1;
        let shard = &self.shards[number];
        let (group, block, position) = shard.place(row - self.starts[number]);
        let slot = self.slot((number, group, block));
        let images = slot.get_or_init(|| {
            shard
                .block(group, block)
                .map_err(|e| format!("its row cannot be read: {e}"))
        });
        match images {
            Ok(images) => match &images[position] {
                Some(image) => use_it(&mut &image[..]),
                None => Err(io::Error::other("the row has no image")),
            },
            Err(reason) => Err(io::Error::other(reason.clone())),
        }
    }

    /// Every row is there for its image.
    fn claims(&self, _: &[u8]) -> bool {
        true
    }
}
