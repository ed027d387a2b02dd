//! Reads single rows of Parquet files in place.
//!
//! Rows lie in compressed pages, so that a row costs as much as its neighbours: a block of rows is
//! decoded at a time, and the last few blocks are kept. Whoever reads about in row order finds most
//! rows there; whoever does not, and cannot have all of them kept, gets each row decoded alone.

use std::collections::VecDeque;
use std::io::{self, BufReader, Read};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

use super::pages::{Column, Limits};
use crate::given;
use crate::images::MAX_MEMBER_BYTES;
use crate::images::archive::{At, Container};

/// A block is this many rows, or fewer if they are large.
const BLOCK_ROWS: usize = 64;
/// A block is to have about this size.
const BLOCK_BYTES: usize = 16 << 20;
/// A block ends with the row that takes it so far, whatever size the footer made expect.
const MAX_BLOCK_BYTES: usize = 64 << 20;
/// Blocks are kept until they are together larger than this.
const KEPT_BYTES: usize = 256 << 20;
/// Or more than these, where rows are asked for about in their order.
const KEPT_IN_ORDER: usize = 256;

const LIMITS: Limits = Limits {
    page_bytes: 512 << 20,
    dictionary_bytes: 512 << 20,
};

/// [`KEPT_BYTES`], or an eighth of the memory that this process was given.
fn kept_bytes(given: Option<u64>) -> usize {
    let eighth = given.and_then(|given| usize::try_from(given / 8).ok());
    eighth.map_or(KEPT_BYTES, |eighth| eighth.min(KEPT_BYTES))
}

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
    /// The column of the images' bytes, if rows are to be read at all.
    leaf: Option<usize>,
    /// First row of each row group, and behind the last.
    starts: Vec<usize>,
    /// Rows a block in each row group.
    block_rows: Vec<usize>,
    /// How much all images are to take.
    size_bytes: usize,
}

impl Shard {
    pub fn new(at: At, metadata: ArrowReaderMetadata, leaf: Option<usize>) -> io::Result<Shard> {
        let (mut starts, mut block_rows) = (vec![0_usize], Vec::new());
        let mut size_bytes = 0_usize;
        for group in metadata.metadata().row_groups() {
            let rows = usize::try_from(group.num_rows()).ok();
            let end = rows.and_then(|rows| starts[starts.len() - 1].checked_add(rows));
            let end =
                end.ok_or_else(|| io::Error::other("a row group's number of rows is wrong"))?;
            starts.push(end);
            let size = leaf.map_or(0, |leaf| group.column(leaf).uncompressed_size());
            let size = usize::try_from(size).unwrap_or(0);
            size_bytes = size_bytes.saturating_add(size);
            let row_bytes = size / rows.unwrap_or(1).max(1);
            block_rows.push((BLOCK_BYTES / row_bytes.max(1)).clamp(1, BLOCK_ROWS));
        }
        Ok(Shard {
            at,
            metadata,
            leaf,
            starts,
            block_rows,
            size_bytes,
        })
    }

    pub fn metadata(&self) -> &ArrowReaderMetadata {
        &self.metadata
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

    /// First row of a block in its row group, and how many rows it is to have.
    fn range(&self, group: usize, block: usize) -> (usize, usize) {
        let all = self.starts[group + 1] - self.starts[group];
        let (first, rows) = (block * self.block_rows[group], self.block_rows[group]);
        (first, rows.min(all - first))
    }

    /// The images of a row group, from its first row on.
    fn column(&self, group: usize) -> Result<Column> {
        let Some(leaf) = self.leaf else {
            return Err(ParquetError::General("there are no images".to_owned()));
        };
        Column::open(&self.at, self.metadata.metadata(), group, leaf, LIMITS)
    }

    fn alone(&self, row: usize) -> Result<Image> {
        let (group, ..) = self.place(row);
        let mut column = self.column(group)?;
        column.skip(row - self.starts[group])?;
        let image = images(&mut column, 1)?.pop();
        image.ok_or_else(|| ParquetError::EOF("the row is missing".to_owned()))
    }
}

/// At most `count` images; the first one in any case.
fn images(column: &mut Column, count: usize) -> Result<Block> {
    let mut images = Vec::new();
    let mut size_bytes = 0;
    while images.len() < count && size_bytes < MAX_BLOCK_BYTES {
        let value = column.next()?;
        images.push(match value.as_ref().map(|value| value.data()) {
            None => Image::None,
            Some(bytes) if bytes.len() as u64 > MAX_MEMBER_BYTES => Image::TooLarge,
            Some(bytes) => {
                size_bytes += bytes.len();
                Image::Bytes(bytes.into())
            }
        });
    }
    Ok(images)
}

/// What a row has.
enum Image {
    Bytes(Box<[u8]>),
    TooLarge,
    None,
}

impl Image {
    fn give(&self, use_it: &mut dyn FnMut(&mut dyn Read) -> io::Result<()>) -> io::Result<()> {
        let reason = match self {
            Image::Bytes(bytes) => return use_it(&mut &bytes[..]),
            Image::TooLarge => {
                format!("larger than {MAX_MEMBER_BYTES} bytes, the limit for a member")
            }
            Image::None => "the row has no image".to_owned(),
        };
        Err(io::Error::other(reason))
    }
}

/// The images of a block of rows, or of the first of them if they are large.
type Block = Vec<Image>;

/// A block that one thread decodes while others wait for it.
type Slot = Arc<OnceLock<std::result::Result<Block, String>>>;

/// Shard, row group and block.
type Place = (usize, usize, usize);

/// All rows of a data set, numbered through.
pub(super) struct Rows {
    shards: Vec<Shard>,
    /// First row of each shard, and behind the last.
    starts: Vec<usize>,
    kept: Mutex<Kept>,
    kept_bytes: usize,
    /// Where decoding ended, to go on from there.
    cursors: Mutex<VecDeque<Cursor>>,
}

/// Blocks from the one used least recently on, with the bytes that each is known to take.
#[derive(Default)]
struct Kept {
    blocks: VecDeque<(Place, Slot, usize)>,
    size_bytes: usize,
}

/// A shard's column of images, read as far as a row of a row group.
struct Cursor {
    shard: usize,
    group: usize,
    row: usize,
    column: Column,
}

/// Each holds a page. Threads are in different places of a file.
const CURSORS: usize = 4;

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
            kept_bytes: kept_bytes(given::memory_bytes()),
            cursors: Mutex::default(),
        }
    }

    /// The slot of a block, which becomes the latest.
    fn slot(&self, place: Place) -> Slot {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.blocks.iter().rposition(|(p, ..)| *p == place);
        let block = found.and_then(|i| kept.blocks.remove(i));
        let block = block.unwrap_or_else(|| (place, Slot::default(), 0));
        let slot = block.1.clone();
        kept.blocks.push_back(block);
        slot
    }

    /// A block was decoded; the oldest ones leave, of more than `most` in any case.
    fn count(&self, place: Place, size_bytes: usize, most: usize) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut blocks = kept.blocks.iter_mut();
        if let Some((.., size)) = blocks.rfind(|(p, ..)| *p == place) {
            *size = size_bytes;
            kept.size_bytes += size_bytes;
        }
        let few = kept.blocks.len().min(most);
        while kept.blocks.len() > few.max(1)
            || (kept.size_bytes > self.kept_bytes && kept.blocks.len() > 1)
        {
            let oldest = kept.blocks.pop_front();
            kept.size_bytes -= oldest.map_or(0, |(.., size)| size);
        }
    }

    /// Decodes a block, from where an earlier one ended if that is not behind it.
    fn block(&self, (number, group, block): Place) -> Result<Block> {
        let shard = &self.shards[number];
        let (first, count) = shard.range(group, block);
        let cursors = || self.cursors.lock().unwrap_or_else(PoisonError::into_inner);
        let found = {
            let mut cursors = cursors();
            let fit = cursors.iter().enumerate().filter(|(_, cursor)| {
                (cursor.shard, cursor.group) == (number, group) && cursor.row <= first
            });
            let nearest = fit.max_by_key(|(_, cursor)| cursor.row).map(|(i, _)| i);
            nearest.and_then(|i| cursors.remove(i))
        };
        let (row, mut column) = match found {
            Some(cursor) => (cursor.row, cursor.column),
            None => (0, shard.column(group)?),
        };
        column.skip(first - row)?;
        let images = images(&mut column, count)?;
        let row = first + images.len();
        let mut cursors = cursors();
        cursors.push_back(Cursor {
            shard: number,
            group,
            row,
            column,
        });
        if cursors.len() > CURSORS {
            cursors.pop_front();
        }
        Ok(images)
    }
}

fn size(block: &Block) -> usize {
    let bytes = |image: &Image| match image {
        Image::Bytes(bytes) => bytes.len(),
        Image::TooLarge | Image::None => 0,
    };
    block.iter().map(bytes).sum::<usize>() + block.len() * size_of::<Image>()
}

impl Rows {
    /// A row's file, and its number in that.
    fn locate(&self, at: u64) -> (usize, &Shard, usize) {
        let row = at as usize;
        let number = self.starts.partition_point(|&start| start <= row) - 1;
        (number, &self.shards[number], row - self.starts[number])
    }
}

fn unreadable(error: ParquetError) -> String {
    format!("its row cannot be read: {error}")
}

impl Rows {
    /// Gives `use_it` a row of a block that is kept, with `most` others at most.
    fn with_block(
        &self,
        at: u64,
        most: usize,
        use_it: &mut dyn FnMut(&mut dyn Read) -> io::Result<()>,
    ) -> io::Result<()> {
        let (number, shard, row) = self.locate(at);
        let (group, block, position) = shard.place(row);
        let place = (number, group, block);
        let slot = self.slot(place);
        let decode = || {
            let block = self.block(place).map_err(unreadable)?;
            self.count(place, size(&block), most);
            Ok(block)
        };
        match slot.get_or_init(decode) {
            Ok(images) => match images.get(position) {
                Some(image) => image.give(use_it),
                None => shard.alone(row).map_err(io::Error::other)?.give(use_it),
            },
            Err(reason) => Err(io::Error::other(reason.clone())),
        }
    }
}

impl Container for Rows {
    fn with(
        &self,
        at: u64,
        use_it: &mut dyn FnMut(&mut dyn Read) -> io::Result<()>,
    ) -> io::Result<()> {
        self.with_block(at, KEPT_IN_ORDER, use_it)
    }

    fn with_alone(
        &self,
        at: u64,
        use_it: &mut dyn FnMut(&mut dyn Read) -> io::Result<()>,
    ) -> io::Result<()> {
        let sizes = self.shards.iter().map(|shard| shard.size_bytes);
        if sizes.fold(0, usize::saturating_add) <= self.kept_bytes {
            return self.with_block(at, usize::MAX, use_it); // all of them are kept
        }
        let (_, shard, row) = self.locate(at);
        let image = shard.alone(row).map_err(unreadable);
        image.map_err(io::Error::other)?.give(use_it)
    }

    /// Every row is there for its image.
    fn claims(&self, _: &[u8]) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ::parquet::arrow::ArrowWriter;
    use ::parquet::file::properties::WriterProperties;
    use arrow::array::{ArrayRef, BinaryArray, RecordBatch};

    use super::*;

    fn write(path: &Path, images: &[Option<Vec<u8>>], properties: WriterProperties) {
        let images: BinaryArray = images.iter().map(Option::as_deref).collect();
        let columns = [("image", Arc::new(images) as ArrayRef, true)];
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let file = std::fs::File::create(path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    fn open(path: &Path) -> Rows {
        let (at, _) = At::open(path).unwrap();
        let metadata = metadata(&at).unwrap();
        Rows::new(vec![Shard::new(at, metadata, Some(0)).unwrap()])
    }

    type UseIt<'a> = &'a mut dyn FnMut(&mut dyn Read) -> io::Result<()>;

    fn all(with: impl FnOnce(UseIt) -> io::Result<()>) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = with(&mut |reader| reader.read_to_end(&mut bytes).map(|_| ()));
        read.ok().map(|()| bytes)
    }

    #[test]
    fn rows_alone_are_the_rows_of_blocks() {
        let images: Vec<_> = (0..500_u32)
            .map(|i| (i % 7 != 3).then(|| i.to_le_bytes().repeat((i % 50) as usize)))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        for (dictionary, page_rows) in [(true, 100), (false, 10), (false, 1000)] {
            let properties = WriterProperties::builder()
                .set_dictionary_enabled(dictionary)
                .set_write_batch_size(5)
                .set_data_page_row_count_limit(page_rows)
                .set_max_row_group_row_count(Some(300))
                .build();
            write(&path, &images, properties);
            let mut rows = open(&path);
            for kept_bytes in [KEPT_BYTES, 0] {
                rows.kept_bytes = kept_bytes;
                for (i, image) in images.iter().enumerate().rev() {
                    let by_block = all(|use_it| rows.with(i as u64, use_it));
                    let alone = all(|use_it| rows.with_alone(i as u64, use_it));
                    assert_eq!((&by_block, &alone), (image, image), "row {i}");
                }
            }
        }
    }

    /// One value of a dictionary is in the file once, however many rows have it.
    #[test]
    fn a_block_ends_where_it_gets_too_large() {
        let image = vec![7; 40 << 20];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        let images = vec![Some(image.clone()); 8];
        let properties = WriterProperties::builder()
            .set_dictionary_page_size_limit(1 << 30)
            .build();
        write(&path, &images, properties);
        assert!(std::fs::metadata(&path).unwrap().len() < 41 << 20);
        let rows = open(&path);
        let images = rows.block((0, 0, 0)).unwrap();
        assert_eq!(images.len(), 2);
        assert!(all(|use_it| rows.with(7, use_it)) == Some(image));
    }
}
