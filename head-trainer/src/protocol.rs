//! Which rows make up each batch: the default protocol and the tutorial's own loop.
//!
//! **Full** (default). An epoch is one pass over all training rows in a fresh random permutation,
//! cut into batches; the last batch is whatever is left. Validation is one pass over all
//! validation rows.
//!
//! **Tutorial**. The loop that the transfer-learning tutorial for `cats_vs_dogs` writes as
//!
//! ```text
//! train = train.map(..).shuffle(1000).repeat().batch(64)
//! valid = valid.map(..).repeat().batch(1000)
//! model.fit(train, steps_per_epoch=23262 // 64, epochs=7, validation_data=valid,
//!           validation_steps=10)
//! ```
//!
//! - 363 steps an epoch: the image count of the *whole* set divided by 64. With the 18,610 images
//!   of an 80 % training side an "epoch" is 1.25 passes; the stream runs on from one epoch to the
//!   next and batches reach across the ends of passes, so every batch has 64 rows.
//! - A pass is not a full permutation: a buffer of 1,000 rows is filled in data-set order, each
//!   row handed out is picked at random from the buffer, and the next row of the data set takes
//!   its place; at the end the buffer empties. Each pass is shuffled anew.
//! - Validation is the first 10 x 1,000 rows of the repeated, unshuffled validation side, the
//!   same ones after each epoch: of 2,326 rows, 696 count five times and the others four times.
//!
//! The tutorial's data set lies on disk in an order that mixes the classes; an index sorted by
//! path does not, and a buffer of 1,000 would hand out one class after the other. "Data-set
//! order" is therefore one permutation of each side, drawn from the seed. That is ours; the rest
//! is the tutorial's.
//!
//! The same seed gives the same batches on every machine, provided that the rows are listed in an
//! order that depends on the index alone (by id, say). This file sees row numbers only.

use serde::{Deserialize, Serialize};

use crate::rng::{Purpose, Stream};

/// How an epoch is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// One full pass in a fresh permutation; one full validation pass.
    #[default]
    Full,
    /// The tutorial's steps, shuffle buffer and repeated validation rows.
    Tutorial(Tutorial),
}

/// The tutorial's numbers; the defaults are its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tutorial {
    /// Batches in an epoch; 363.
    pub steps_per_epoch: u32,
    /// Rows in the shuffle buffer; 1,000.
    pub shuffle_buffer: u32,
    /// Validation batches after each epoch; 10.
    pub validation_steps: u32,
    /// Rows in a validation batch; 1,000.
    pub validation_batch: u32,
}

impl Default for Tutorial {
    fn default() -> Tutorial {
        Tutorial {
            steps_per_epoch: 363,
            shuffle_buffer: 1000,
            validation_steps: 10,
            validation_batch: 1000,
        }
    }
}

/// An endless stream of training batches.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rows: &'a [u32],  // the training side as listed
    order: Vec<u32>,  // full: this pass's permutation; tutorial: data-set order
    position: usize,  // rows of `order` used in this pass
    buffer: Vec<u32>, // tutorial: the shuffle buffer
    batch: Vec<u32>,  // the batch handed out last
    batch_size: usize,
    protocol: Protocol,
    random: Stream,
}

impl<'a> Batches<'a> {
    /// The stream over the training rows `rows` for `seed`.
    ///
    /// # Panics
    /// When there are no rows, or the batch size or the shuffle buffer is zero.
    pub fn new(rows: &'a [u32], batch_size: u32, protocol: Protocol, seed: u64) -> Batches<'a> {
        assert!(!rows.is_empty(), "no training rows");
        assert!(batch_size > 0, "a batch has at least one row");
        let mut random = Stream::new(seed, Purpose::Training);
        let mut order = rows.to_vec();
        let mut position = 0;
        match protocol {
            Protocol::Full => position = order.len(), // so that the first batch begins a pass
            Protocol::Tutorial(tutorial) => {
                assert!(
                    tutorial.shuffle_buffer > 0,
                    "a shuffle buffer holds at least one row"
                );
                random.shuffle(&mut order);
            }
        }
        Batches {
            rows,
            order,
            position,
            buffer: Vec::new(),
            batch: Vec::new(),
            batch_size: batch_size as usize,
            protocol,
            random,
        }
    }

    /// Number of batches in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        match self.protocol {
            Protocol::Full => self.rows.len().div_ceil(self.batch_size),
            Protocol::Tutorial(tutorial) => tutorial.steps_per_epoch as usize,
        }
    }

    /// The next batch's row numbers.
    pub fn next_batch(&mut self) -> &[u32] {
        match self.protocol {
            Protocol::Full => {
                if self.position == self.order.len() {
                    self.order.copy_from_slice(self.rows);
                    self.random.shuffle(&mut self.order);
                    self.position = 0;
                }
                let start = self.position;
                self.position = (start + self.batch_size).min(self.order.len());
                &self.order[start..self.position]
            }
            Protocol::Tutorial(tutorial) => {
                self.batch.clear();
                for _ in 0..self.batch_size {
                    let row = self.next_buffered(tutorial.shuffle_buffer as usize);
                    self.batch.push(row);
                }
                &self.batch
            }
        }
    }

    /// The next row of the buffer-shuffled, repeated data set.
    fn next_buffered(&mut self, capacity: usize) -> u32 {
        if self.buffer.is_empty() {
            self.position = capacity.min(self.order.len());
            self.buffer.extend_from_slice(&self.order[..self.position]);
        }
        let count = u32::try_from(self.buffer.len()).expect("a row number fits 32 bits");
        let slot = self.random.below(count) as usize;
        match self.order.get(self.position) {
            Some(&next) => {
                self.position += 1;
                std::mem::replace(&mut self.buffer[slot], next)
            }
            None => self.buffer.swap_remove(slot),
        }
    }
}

/// The validation rows that one epoch's validation metrics are made of, in order; the same after
/// every epoch. Rows may repeat ([`Protocol::Tutorial`]).
pub fn validation_rows(rows: &[u32], protocol: Protocol, seed: u64) -> Vec<u32> {
    let mut order = rows.to_vec();
    match protocol {
        Protocol::Full => order,
        Protocol::Tutorial(tutorial) => {
            Stream::new(seed, Purpose::Validation).shuffle(&mut order);
            let count = tutorial.validation_steps as usize * tutorial.validation_batch as usize;
            order.iter().copied().cycle().take(count).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(rows: &[u32]) -> Vec<u32> {
        let mut rows = rows.to_vec();
        rows.sort_unstable();
        rows
    }

    fn take(batches: &mut Batches<'_>, count: usize) -> Vec<u32> {
        (0..count)
            .flat_map(|_| batches.next_batch().to_vec())
            .collect()
    }

    const SMALL: Protocol = Protocol::Tutorial(Tutorial {
        steps_per_epoch: 3,
        shuffle_buffer: 10,
        validation_steps: 2,
        validation_batch: 7,
    });

    #[test]
    fn full_takes_every_row_once_an_epoch() {
        let rows: Vec<u32> = (100..150).collect();
        let mut batches = Batches::new(&rows, 16, Protocol::Full, 5);
        assert_eq!(batches.steps_per_epoch(), 4);
        let first = take(&mut batches, 3);
        assert_eq!(batches.next_batch().len(), 2);
        let second = take(&mut batches, 4);
        assert_eq!(sorted(&second), rows);
        assert_ne!(first[..16], second[..16]);
        assert_eq!(validation_rows(&rows, Protocol::Full, 5), rows);
    }

    #[test]
    fn tutorial_batches_are_whole_and_reach_across_passes() {
        let rows: Vec<u32> = (0..50).collect();
        let mut batches = Batches::new(&rows, 16, SMALL, 5);
        assert_eq!(batches.steps_per_epoch(), 3);
        let stream = take(&mut batches, 25); // 400 rows: eight passes
        for pass in stream.chunks(50) {
            assert_eq!(sorted(pass), rows);
        }
        assert_ne!(stream[..50], stream[50..100]);
    }

    #[test]
    fn a_buffered_row_comes_out_no_earlier_than_the_buffer_allows() {
        let rows: Vec<u32> = (0..200).collect();
        let mut batches = Batches::new(&rows, 1, SMALL, 1);
        let order = batches.order.clone();
        let stream = take(&mut batches, 200);
        for (time, row) in stream.iter().enumerate() {
            let place = order.iter().position(|r| r == row).unwrap();
            assert!(
                place < time + 10,
                "row {place} of the data set at time {time}"
            );
        }
    }

    #[test]
    fn a_buffer_of_one_keeps_the_order() {
        let rows: Vec<u32> = (0..9).collect();
        let protocol = Protocol::Tutorial(Tutorial {
            shuffle_buffer: 1,
            ..Tutorial::default()
        });
        let mut batches = Batches::new(&rows, 9, protocol, 3);
        let order = batches.order.clone();
        assert_eq!(batches.next_batch(), order);
        assert_eq!(batches.next_batch(), order);
    }

    #[test]
    fn tutorial_repeats_validation_rows_evenly() {
        let rows: Vec<u32> = (0..2326).collect();
        let protocol = Protocol::Tutorial(Tutorial::default());
        let repeated = validation_rows(&rows, protocol, 0);
        assert_eq!(repeated.len(), 10_000);
        let mut counts = vec![0; rows.len()];
        repeated.iter().for_each(|row| counts[*row as usize] += 1);
        assert_eq!(counts.iter().filter(|n| **n == 5).count(), 696);
        assert_eq!(counts.iter().filter(|n| **n == 4).count(), 2326 - 696);
        assert!(validation_rows(&[], protocol, 0).is_empty());
    }

    #[test]
    fn seeds_decide() {
        let rows: Vec<u32> = (0..100).collect();
        for protocol in [Protocol::Full, SMALL] {
            let first = |seed| {
                Batches::new(&rows, 32, protocol, seed)
                    .next_batch()
                    .to_vec()
            };
            assert_eq!(first(1), first(1));
            assert_ne!(first(1), first(2));
        }
    }
}
