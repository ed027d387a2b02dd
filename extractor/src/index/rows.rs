//! Where the rows of an index are: in memory, or in the index file, which is mapped.
//!
//! Must not know how the file is found to be an index.

use std::sync::Arc;

use arrow::array::{Array, BinaryArray, Int32Array};
use arrow::buffer::Buffer;

use super::Entry;
use crate::digest::{Digest, ImageId};
use crate::paths::Paths;

/// The rows of an index.
#[derive(Debug, Clone)]
pub(super) enum Rows {
    Held(Held),
    Filed(Filed),
}

/// Rows in memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    pub ids: Ids,
    pub paths: Arc<Paths>,     // shared with a listing
    pub labels: Arc<Vec<i32>>, // -1: no label; likewise
}

/// The ids of rows in memory.
#[derive(Debug, Clone)]
pub(super) enum Ids {
    /// By position.
    Own(Arc<Vec<ImageId>>),
    /// In the order in which they were found, [images, 32], and each row's number in that, if it is
    /// not the rows' own.
    Spooled(Buffer, Option<Arc<Vec<u32>>>),
}

/// Rows in a mapped file, in record batches of 2^`shift` rows, the last one excepted.
#[derive(Debug, Clone)]
pub(super) struct Filed {
    batches: Arc<[Batch]>,
    shift: u32,
    count: usize,
    /// Digest of the index.
    pub digest: Digest,
}

/// The columns of a record batch. Labels are codes in the index's classes.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub ids: Buffer, // [rows, 32]
    pub paths: BinaryArray,
    pub labels: Int32Array,
}

/// Fewer rows a record batch take less memory as copies.
const LEAST_ROWS: usize = 256;

impl Batch {
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    pub fn ids(&self) -> &[ImageId] {
        bytemuck::cast_slice(&self.ids)
    }

    pub fn entry(&self, row: usize) -> Entry<'_> {
        let label = self.labels.is_valid(row).then(|| self.labels.value(row));
        Entry {
            id: self.ids()[row],
            path: self.paths.value(row),
            label: label.and_then(|label| u32::try_from(label).ok()),
        }
    }
}

impl Filed {
    /// Rows of record batches that are as many each, as this program writes them, of an index with
    /// that digest; else none.
    pub fn of(batches: &[Batch], digest: Digest) -> Option<Filed> {
        let (last, whole) = batches.split_last()?;
        let each = whole.first().unwrap_or(last).len();
        let each = match whole.is_empty() {
            true => each.max(1).next_power_of_two(),
            false => each,
        };
        let fits = whole.iter().all(|batch| batch.len() == each) && last.len() <= each;
        let large = whole.is_empty() || each >= LEAST_ROWS;
        (fits && large && each.is_power_of_two()).then(|| Filed {
            shift: each.ilog2(),
            count: whole.len() * each + last.len(),
            batches: batches.into(),
            digest,
        })
    }

    fn place(&self, position: usize) -> (&Batch, usize) {
        let batch = &self.batches[position >> self.shift];
        (batch, position & ((1 << self.shift) - 1))
    }
}

impl Default for Ids {
    fn default() -> Ids {
        Ids::Own(Arc::default())
    }
}

impl Ids {
    fn get(&self, position: usize) -> &ImageId {
        match self {
            Ids::Own(ids) => &ids[position],
            Ids::Spooled(ids, ranks) => {
                let rank = ranks
                    .as_ref()
                    .map_or(position, |ranks| ranks[position] as usize);
                &bytemuck::cast_slice(ids)[rank]
            }
        }
    }
}

impl Default for Rows {
    fn default() -> Rows {
        Rows::Held(Held::default())
    }
}

impl Rows {
    pub fn len(&self) -> usize {
        match self {
            Rows::Held(held) => held.len(),
            Rows::Filed(filed) => filed.count,
        }
    }

    pub fn id(&self, position: usize) -> &ImageId {
        match self {
            Rows::Held(held) => held.ids.get(position),
            Rows::Filed(filed) => {
                let (batch, row) = filed.place(position);
                &batch.ids()[row]
            }
        }
    }

    /// The ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = &ImageId> {
        let (held, filed) = match self {
            Rows::Held(held) => (held.len(), &[][..]),
            Rows::Filed(filed) => (0, &filed.batches[..]),
        };
        let held = (0..held).map(|position| self.id(position));
        held.chain(filed.iter().flat_map(Batch::ids))
    }

    pub fn entry(&self, position: usize) -> Entry<'_> {
        match self {
            Rows::Held(held) => Entry {
                id: *held.ids.get(position),
                path: held.paths.get(position),
                label: u32::try_from(held.labels[position]).ok(),
            },
            Rows::Filed(filed) => {
                let (batch, row) = filed.place(position);
                batch.entry(row)
            }
        }
    }

    /// The rows to be added to: in memory, where they are copied to if need be.
    pub fn held(&mut self) -> &mut Held {
        if let Rows::Filed(filed) = self {
            let mut held = Held::default();
            let rows = filed.batches.iter();
            rows.flat_map(|batch| (0..batch.len()).map(|row| batch.entry(row)))
                .for_each(|entry| held.push(&entry));
            *self = Rows::Held(held);
        }
        match self {
            Rows::Held(held) => held,
            Rows::Filed(_) => unreachable!("copied above"),
        }
    }
}

impl Held {
    fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn push(&mut self, entry: &Entry) {
        let label = entry.label.map_or(-1, |label| {
            i32::try_from(label).expect("a class number fits 31 bits")
        });
        if let Ids::Spooled(..) = self.ids {
            let ids = (0..self.len()).map(|position| *self.ids.get(position));
            self.ids = Ids::Own(Arc::new(ids.collect()));
        }
        if let Ids::Own(ids) = &mut self.ids {
            Arc::make_mut(ids).push(entry.id);
        }
        Arc::make_mut(&mut self.paths).push(entry.path);
        Arc::make_mut(&mut self.labels).push(label);
    }
}
