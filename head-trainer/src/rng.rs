//! Seeded random numbers whose order never changes: one ChaCha8 stream per purpose, own bounded
//! integers and own Fisher-Yates shuffle.
//!
//! Own, because a library's shuffle or bounded integer may change with its version, and then a
//! seed would mean another run. ChaCha8 is a specified cipher; the rest is written here:
//!
//! - The key is the seed's 8 bytes, little-endian, then 24 zero bytes; the stream number is the
//!   [`Purpose`]. Different purposes never share numbers, so that one more draw for one of them
//!   moves none of the others.
//! - A bounded integer is Lemire's multiply-and-reject on one 32-bit word at a time, without bias
//!   (D. Lemire, "Fast random integer generation in an interval", 2019, algorithm 5).
//! - A shuffle is Fisher-Yates from the back (Knuth, TAOCP 3.4.2, algorithm P).
//!
//! This file knows nothing of images, rows or heads.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// What random numbers are for; each purpose has a stream of its own.
///
/// The numbers are part of what a seed means: never reuse or renumber one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The head's initial weights.
    Initial = 1,
    /// The order of training rows.
    Training = 2,
    /// The order of validation rows.
    Validation = 3,
    /// Which view of a training image is shown.
    Views = 4,
    /// Which channels dropout leaves out.
    Dropout = 5,
    /// Which fold of an audit judges an image.
    Folds = 6,
    /// How a training image is flipped and shifted.
    Placement = 7,
}

/// A stream of random numbers; equal for equal (seed, purpose) on every machine.
#[derive(Clone, Debug)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of `seed` for `purpose`, from its beginning.
    pub fn new(seed: u64, purpose: Purpose) -> Stream {
        let mut key = [0_u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(purpose as u64);
        Stream(rng)
    }

    /// An integer below `bound`, each with the same probability.
    ///
    /// # Panics
    /// When `bound` is zero.
    pub fn below(&mut self, bound: u32) -> u32 {
        assert!(bound > 0, "no integer is below zero");
        let mut product = u64::from(self.0.next_u32()) * u64::from(bound);
        if (product as u32) < bound {
            let threshold = bound.wrapping_neg() % bound;
            while (product as u32) < threshold {
                product = u64::from(self.0.next_u32()) * u64::from(bound);
            }
        }
        (product >> 32) as u32
    }

    /// A number in [-limit, limit), one of 2^24 equally spaced ones.
    pub fn symmetric(&mut self, limit: f32) -> f32 {
        let unit = (self.0.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0); // [0, 1)
        (2.0 * unit - 1.0) * limit
    }

    /// Whether an event of that probability happens; one of 2^24 equally likely numbers decides.
    pub fn happens(&mut self, probability: f32) -> bool {
        ((self.0.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)) < probability
    }

    /// Puts `items` in a random order, each with the same probability.
    ///
    /// # Panics
    /// When there are 2^32 items or more.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        let count = u32::try_from(items.len()).expect("a row number fits 32 bits");
        for last in (1..count).rev() {
            let pick = self.below(last + 1);
            items.swap(last as usize, pick as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These numbers are what seeds mean; a change here changes every run. They were computed by
    /// a separate implementation of ChaCha8 and of this file's header.
    #[test]
    fn golden_order() {
        let mut items: Vec<u32> = (0..10).collect();
        let mut stream = Stream::new(1, Purpose::Training);
        stream.shuffle(&mut items);
        assert_eq!(items, GOLDEN_SHUFFLE);
        assert_eq!(stream.below(1_000_000), GOLDEN_BELOW);
        assert_eq!(
            Stream::new(1, Purpose::Initial).symmetric(1.0),
            GOLDEN_SYMMETRIC
        );
    }
    const GOLDEN_SHUFFLE: [u32; 10] = [4, 1, 7, 9, 5, 2, 0, 6, 3, 8];
    const GOLDEN_BELOW: u32 = 993_884;
    const GOLDEN_SYMMETRIC: f32 = 0.097_165_346;

    #[test]
    fn bounded_integers_are_even() {
        let mut stream = Stream::new(3, Purpose::Validation);
        let mut counts = [0_i32; 7];
        for _ in 0..70_000 {
            counts[stream.below(7) as usize] += 1;
        }
        // Five standard deviations of a binomial(70000, 1/7).
        assert!(
            counts.iter().all(|n| (n - 10_000).abs() < 465),
            "{counts:?}"
        );
        assert_eq!(stream.below(1), 0);
    }

    #[test]
    fn streams_differ_by_seed_and_purpose() {
        let draw = |seed, purpose| {
            let mut stream = Stream::new(seed, purpose);
            [stream.below(u32::MAX), stream.below(u32::MAX)]
        };
        let first = draw(0, Purpose::Training);
        assert_eq!(first, draw(0, Purpose::Training));
        assert_ne!(first, draw(0, Purpose::Validation));
        assert_ne!(first, draw(1, Purpose::Training));
        assert_ne!(first, draw(1 << 63, Purpose::Training));
    }

    #[test]
    fn symmetric_stays_within_its_limit() {
        let mut stream = Stream::new(9, Purpose::Initial);
        let numbers: Vec<f32> = (0..10_000).map(|_| stream.symmetric(0.25)).collect();
        assert!(numbers.iter().all(|x| (-0.25..0.25).contains(x)));
        let mean = numbers.iter().sum::<f32>() / 10_000.0;
        assert!(mean.abs() < 0.01, "{mean}");
    }
}
