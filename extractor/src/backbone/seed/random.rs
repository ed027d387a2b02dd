//! Seeded numbers that are the same on every machine.
//!
//! ChaCha8 gives the bits; the normal comes from `libm`'s pure Rust functions, because a
//! platform's own `log` or `cos` may differ in the last bit. Every tensor has its own stream, so
//! the order in which threads fill tensors cannot matter.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// One stream of numbers under a seed.
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// Stream number `stream` of `seed`.
    pub fn new(seed: u64, stream: u64) -> Stream {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Stream(rng)
    }

    /// Uniform in [0, 1), a multiple of 2^-24.
    pub fn uniform(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in [`low`, `high`).
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// `count` independent normals with mean 0 and standard deviation `std` (Box-Muller).
    pub fn normals(&mut self, count: usize, std: f32) -> Vec<f32> {
        let mut values = Vec::with_capacity(count + 1);
        while values.len() < count {
            // 1 - u lies in (0, 1], where the logarithm is finite.
            let radius = libm::sqrtf(-2.0 * libm::logf(1.0 - self.uniform())) * std;
            let (sin, cos) = libm::sincosf(std::f32::consts::TAU * self.uniform());
            values.extend([radius * cos, radius * sin]);
        }
        values.truncate(count);
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normals_have_the_right_moments() {
        let values = Stream::new(7, 3).normals(200_001, 0.5);
        assert_eq!(values.len(), 200_001);
        let moment = |power: i32| {
            values
                .iter()
                .map(|&v| f64::from(v).powi(power))
                .sum::<f64>()
                / values.len() as f64
        };
        assert!(moment(1).abs() < 0.005, "mean {}", moment(1));
        assert!((moment(2) - 0.25).abs() < 0.005, "variance {}", moment(2));
        assert!(
            (moment(4) / 0.0625 - 3.0).abs() < 0.1,
            "kurtosis {}",
            moment(4) / 0.0625
        );
    }

    #[test]
    fn streams_and_seeds_differ() {
        let first = |seed, stream| Stream::new(seed, stream).normals(4, 1.0);
        assert_eq!(first(1, 1), first(1, 1));
        assert_ne!(first(1, 1), first(1, 2));
        assert_ne!(first(1, 1), first(2, 1));
    }
}
