//! Which row is where: a table of row numbers, the ids and views staying in the mapped shards.
//!
//! Must not know of features.

use xxhash_rust::xxh3::xxh3_64;

use super::{RowRef, Shard};
use crate::digest::ImageId;
use crate::numbers::Numbers;

/// The counting copy of every row. Takes 6 bytes a row.
#[derive(Debug, Default)]
pub(super) struct Rows {
    numbers: Numbers,
    starts: Vec<Start>,
}

/// The first row of a record batch.
#[derive(Debug)]
struct Start {
    number: u32,
    shard: u32,
    batch: u32,
}

impl Rows {
    /// The rows of `shards`; of several copies that in the first shard counts.
    pub fn of(shards: &[Shard]) -> Rows {
        let mut rows = Rows::default();
        let mut next = 0;
        for (shard, mapped) in (0..).zip(shards) {
            for batch in 0..mapped.batches() as u32 {
                rows.starts.push(Start {
                    number: next,
                    shard,
                    batch,
                });
                let count = u32::try_from(mapped.rows_in(batch as usize));
                next = count
                    .ok()
                    .and_then(|count| next.checked_add(count))
                    .expect("a store has fewer than 2^32 rows");
            }
        }
        let hashes = || {
            positions(shards).map(|(shard, batch, row)| {
                let (id, view) = (shard.id(batch, row), shard.view(batch, row));
                hash(&id, view)
            })
        };
        let mut counting = Numbers::begin(next as usize);
        hashes().for_each(|hash| counting.add(hash));
        let mut placing = counting.again();
        hashes().for_each(|hash| placing.add(hash));
        rows.numbers = placing.finish();
        let at = |number| at(shards, locate(&rows.starts, number));
        rows.numbers.drop_copies(|a, b| at(a) == at(b));
        rows
    }

    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.numbers.len() == 0
    }

    /// The counting copy of a row.
    pub fn get(&self, shards: &[Shard], id: &ImageId, view: &str) -> Option<RowRef> {
        let found = self.numbers.find(hash(id, view));
        found
            .map(|number| locate(&self.starts, number))
            .find(|row| at(shards, *row) == (*id, view))
    }

    /// All counting copies, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = RowRef> {
        self.numbers.iter().map(|n| locate(&self.starts, n))
    }
}

fn positions(shards: &[Shard]) -> impl Iterator<Item = (&Shard, usize, usize)> {
    shards.iter().flat_map(|shard| {
        shard
            .positions()
            .map(move |(batch, row)| (shard, batch, row))
    })
}

fn locate(starts: &[Start], number: u32) -> RowRef {
    let start = &starts[starts.partition_point(|start| start.number <= number) - 1];
    RowRef {
        shard: start.shard,
        batch: start.batch,
        row: number - start.number,
    }
}

/// The image and the view of a row.
pub(super) fn at(shards: &[Shard], at: RowRef) -> (ImageId, &str) {
    let shard = &shards[at.shard as usize];
    let (batch, row) = (at.batch as usize, at.row as usize);
    (shard.id(batch, row), shard.view(batch, row))
}

/// An id is a digest: any 8 bytes of it are as good as a hash. Views of one image must not share
/// it, or looking one of many up would go through them all.
fn hash(id: &ImageId, view: &str) -> u64 {
    let id = u64::from_le_bytes(*id.0.first_chunk().expect("32 bytes"));
    id ^ xxh3_64(view.as_bytes())
}
