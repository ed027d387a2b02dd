//! Which view of an image a batch shows: drawn anew each time the image comes by.
//!
//! [`crate::protocol`] decides which images make up a batch, in what order; this file replaces each
//! by one of its rows, every one with the same probability, from a stream of random numbers of its
//! own. So the order of images is the same whatever views there are, and with one row an image the
//! batches are those of the protocol alone. Knows numbers of images and rows only.

use crate::protocol::{Batches, Protocol};
use crate::rng::{Purpose, Stream};
use crate::solver::adam::BatchSource;

/// Batches of training rows, one row for each image that the protocol hands out.
#[derive(Debug)]
pub struct Sampled<'a> {
    images: Batches<'a>,
    rows: &'a [u32],
    starts: &'a [u32],
    batch: Vec<u32>,
    random: Stream,
}

impl<'a> Sampled<'a> {
    /// The stream over `images`, which lists the numbers 0, 1, ... The rows of image `i` are
    /// `rows[starts[i]..starts[i + 1]]`, at least one.
    pub fn new(
        images: &'a [u32],
        rows: &'a [u32],
        starts: &'a [u32],
        batch_size: u32,
        protocol: Protocol,
        seed: u64,
    ) -> Sampled<'a> {
        Sampled {
            images: Batches::new(images, batch_size, protocol, seed),
            rows,
            starts,
            batch: Vec::new(),
            random: Stream::new(seed, Purpose::Views),
        }
    }
}

impl BatchSource for Sampled<'_> {
    fn steps_per_epoch(&self) -> usize {
        self.images.steps_per_epoch()
    }

    fn next_batch(&mut self) -> &[u32] {
        self.batch.clear();
        for &image in self.images.next_batch() {
            let image = image as usize;
            let (start, end) = (self.starts[image], self.starts[image + 1]);
            let row = start + self.random.below(end - start);
            self.batch.push(self.rows[row as usize]);
        }
        &self.batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Tutorial;

    const TUTORIAL: Protocol = Protocol::Tutorial(Tutorial {
        steps_per_epoch: 5,
        shuffle_buffer: 7,
        validation_steps: 1,
        validation_batch: 1,
    });

    fn epochs(batches: &mut dyn BatchSource, epochs: usize) -> Vec<Vec<u32>> {
        let steps = batches.steps_per_epoch();
        let mut epoch = || {
            let rows = (0..steps).flat_map(|_| batches.next_batch().to_vec());
            rows.collect()
        };
        (0..epochs).map(|_| epoch()).collect()
    }

    #[test]
    fn one_row_an_image_changes_nothing() {
        let rows: Vec<u32> = (0..40).map(|i| 3 * i + 1).collect();
        let (images, starts): (Vec<u32>, Vec<u32>) = ((0..40).collect(), (0..=40).collect());
        for protocol in [Protocol::Full, TUTORIAL] {
            let mut plain = Batches::new(&rows, 16, protocol, 9);
            let mut sampled = Sampled::new(&images, &rows, &starts, 16, protocol, 9);
            assert_eq!(epochs(&mut plain, 4), epochs(&mut sampled, 4));
        }
    }

    #[test]
    fn every_image_comes_once_an_epoch_with_a_view_drawn_anew() {
        // Image i has the rows 10 i to 10 i + i.
        let rows: Vec<u32> = (0..9).flat_map(|i| 10 * i..=10 * i + i).collect();
        let starts: Vec<u32> = (0..=9).map(|i| i * (i + 1) / 2).collect();
        let images: Vec<u32> = (0..9).collect();
        let new = |seed| Sampled::new(&images, &rows, &starts, 4, Protocol::Full, seed);
        let drawn = epochs(&mut new(1), 4000);
        let mut counts = std::collections::BTreeMap::new();
        for epoch in &drawn {
            let mut images: Vec<u32> = epoch.iter().map(|row| row / 10).collect();
            images.sort_unstable();
            assert_eq!(images, (0..9).collect::<Vec<u32>>());
            epoch
                .iter()
                .for_each(|row| *counts.entry(*row).or_insert(0) += 1);
        }
        assert!(counts.keys().eq(&rows));
        for (row, count) in counts {
            let expected = 4000.0 / f64::from(row / 10 + 1);
            // Five standard deviations of a binomial are less.
            let most = 5.0 * expected.sqrt();
            assert!((f64::from(count) - expected).abs() < most, "{row}: {count}");
        }
        assert_ne!(drawn[0], drawn[1]);
        assert_eq!(epochs(&mut new(1), 3), drawn[..3]);
        assert_ne!(epochs(&mut new(2), 3), drawn[..3]);
        // The order of images is that without views.
        let mut plain = Batches::new(&images, 4, Protocol::Full, 1);
        let order: Vec<Vec<u32>> = drawn[..3]
            .iter()
            .map(|epoch| epoch.iter().map(|row| row / 10).collect())
            .collect();
        assert_eq!(epochs(&mut plain, 3), order);
    }
}
