//! Which row is where: a table of row numbers, the ids and views staying in the mapped shards.
//!
//! Must not know of features.

use xxhash_rust::xxh3::xxh3_64;

use super::{RowRef, Shard};
use crate::digest::ImageId;
use crate::numbers::Numbers;

/// The counting copy of every row. Takes 7 bytes a row, 16 a record batch, and 4 a row that is a
/// copy.
#[derive(Debug, Default)]
pub(super) struct Rows {
    numbers: Numbers,
    copies: Vec<u32>, // numbers of the rows that do not count, ascending
    starts: Starts,
}

/// The record batches, by the number of their first row.
#[derive(Debug, Default)]
struct Starts {
    starts: Vec<Start>,
    total: u32,
    /// Of every 2^`shift` rows, the batch of the first one: where to look for the others.
    near: Vec<u32>,
    shift: u32,
}

/// The first row of a record batch.
#[derive(Debug)]
struct Start {
    number: u32,
    shard: u32,
    batch: u32,
}

impl Starts {
    /// Of record batches with so many rows each.
    fn of(batches: impl Iterator<Item = (Start, usize)>) -> Starts {
        let mut starts = Vec::new();
        let mut total: u32 = 0;
        for (mut start, rows) in batches {
            start.number = total;
            starts.push(start);
            let rows = u32::try_from(rows).ok();
            total = rows
                .and_then(|rows| total.checked_add(rows))
                .expect("a store has fewer than 2^32 rows");
        }
        // As many steps as batches, about.
        let shift = (total / (starts.len() as u32).max(1)).max(1).ilog2();
        let last_before = |number| starts.partition_point(|start| start.number <= number) - 1;
        let steps = (0..total).step_by(1 << shift);
        let near = steps.map(|number| last_before(number) as u32).collect();
        Starts {
            near,
            starts,
            total,
            shift,
        }
    }

    fn locate(&self, number: u32) -> RowRef {
        let step = (number >> self.shift) as usize;
        let from = self.near[step] as usize;
        let to = match self.near.get(step + 1) {
            Some(next) => *next as usize + 1,
            None => self.starts.len(),
        };
        let begun = self.starts[from..to].partition_point(|start| start.number <= number);
        let start = &self.starts[from + begun - 1];
        RowRef {
            shard: start.shard,
            batch: start.batch,
            row: number - start.number,
        }
    }
}

impl Rows {
    /// The rows of `shards`; of several copies that in the first shard counts.
    pub fn of(shards: &[Shard]) -> Rows {
        let batches = (0..).zip(shards).flat_map(|(shard, mapped)| {
            let batches = 0..mapped.batches() as u32;
            batches.map(move |batch| {
                let start = Start {
                    number: 0,
                    shard,
                    batch,
                };
                (start, mapped.rows_in(batch as usize))
            })
        });
        let starts = Starts::of(batches);
        let hashes = || {
            positions(shards).map(|(shard, batch, row)| {
                let (id, view) = (shard.id(batch, row), shard.view(batch, row));
                hash(&id, view)
            })
        };
        let mut counting = Numbers::begin(starts.total as usize);
        hashes().for_each(|hash| counting.add(hash));
        let mut placing = counting.again();
        hashes().for_each(|hash| placing.add(hash));
        let mut numbers = placing.finish();
        let at = |number| at(shards, starts.locate(number));
        let copies = numbers.drop_copies(|a, b| at(a) == at(b));
        Rows {
            numbers,
            copies,
            starts,
        }
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
            .map(|number| self.starts.locate(number))
            .find(|row| at(shards, *row) == (*id, view))
    }

    /// All counting copies, in the order in which they lie in the shards.
    pub fn iter(&self) -> impl Iterator<Item = RowRef> {
        let starts = &self.starts.starts;
        let ends = starts.iter().skip(1).map(|start| start.number);
        let batches = starts.iter().zip(ends.chain([self.starts.total]));
        let rows =
            batches.flat_map(|(start, end)| (start.number..end).map(move |number| (number, start)));
        let mut copies = self.copies.iter().peekable();
        rows.filter(move |(number, _)| copies.next_if_eq(&number).is_none())
            .map(|(number, start)| RowRef {
                shard: start.shard,
                batch: start.batch,
                row: number - start.number,
            })
    }
}

fn positions(shards: &[Shard]) -> impl Iterator<Item = (&Shard, usize, usize)> {
    shards.iter().flat_map(|shard| {
        shard
            .positions()
            .map(move |(batch, row)| (shard, batch, row))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn every_row_is_in_its_batch(
            sizes in proptest::collection::vec(proptest::prop_oneof![0_usize..4, 0_usize..300], 0..40)
        ) {
            let batches = sizes.iter().zip(0..).map(|(rows, batch)| {
                (Start { number: 0, shard: 7, batch }, *rows)
            });
            let starts = Starts::of(batches);
            let mut number = 0;
            for (batch, rows) in (0..).zip(&sizes) {
                for row in 0..*rows as u32 {
                    let expected = RowRef { shard: 7, batch, row };
                    proptest::prop_assert_eq!(starts.locate(number), expected);
                    number += 1;
                }
            }
            // What is looked at does not grow where batches are small or many.
            proptest::prop_assert!(starts.near.len() <= 2 * sizes.len().max(1));
        }
    }
}
