//! Global average pooling: a feature map's mean over its positions, one number a channel.
//!
//! Every channel is summed in f32, position by position, so that the result has the same bits on
//! every machine, whatever the order in which maps are pooled. A change of that order is a change
//! of the format of [`super::sidecar`]. Must not know where maps come from.

use extractor::store::Features;
use half::slice::HalfFloatSliceExt;

/// Positions that are added at a time, so that the sums are loaded and stored a quarter as often
/// as they would be one by one, in the same order.
const TOGETHER: usize = 4;

/// Pools maps of C channels one after the other.
pub(super) struct Average {
    widened: Vec<f32>, // [TOGETHER, C] at most
}

impl Average {
    pub fn new() -> Average {
        Average {
            widened: Vec::new(),
        }
    }

    /// Mean over the positions of a map [h * w, C] into [C].
    pub fn pool(&mut self, map_hwc: Features<'_>, pooled_c: &mut [f32]) {
        let channels = pooled_c.len();
        pooled_c.fill(0.0);
        let len = match map_hwc {
            Features::F32(map_hwc) => {
                for some in map_hwc.chunks(TOGETHER * channels) {
                    add(some, pooled_c);
                }
                map_hwc.len()
            }
            Features::F16(map_hwc) => {
                self.widened.resize(TOGETHER * channels, 0.0);
                for some in map_hwc.chunks(TOGETHER * channels) {
                    // A few at a time, which stay in the fastest cache until they are added.
                    let widened = &mut self.widened[..some.len()];
                    some.convert_to_f32_slice(widened);
                    add(widened, pooled_c);
                }
                map_hwc.len()
            }
        };
        let positions = (len / channels) as f32;
        for sum in pooled_c {
            *sum /= positions;
        }
    }
}

/// Adds up to [`TOGETHER`] positions to `sum_c`, one after the other.
fn add(positions: &[f32], sum_c: &mut [f32]) {
    let channels = sum_c.len();
    if positions.len() == TOGETHER * channels {
        let (p01, p23) = positions.split_at(2 * channels);
        let ((p0, p1), (p2, p3)) = (p01.split_at(channels), p23.split_at(channels));
        let positions = p0.iter().zip(p1).zip(p2.iter().zip(p3));
        for (sum, ((p0, p1), (p2, p3))) in sum_c.iter_mut().zip(positions) {
            *sum = (((*sum + p0) + p1) + p2) + p3;
        }
        return;
    }
    for position_c in positions.chunks_exact(channels) {
        for (sum, value) in sum_c.iter_mut().zip(position_c) {
            *sum += value;
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hand_computed() {
        // two positions, three channels
        let mut pooled = [9.0; 3];
        let map = [1.0, 2.0, 3.0, 5.0, 6.0, -3.0];
        Average::new().pool(Features::F32(&map), &mut pooled);
        assert_eq!(pooled, [3.0, 4.0, 0.0]);
    }

    /// As the sum is defined: one position after the other.
    fn one_at_a_time(map_hwc: &[f32], channels: usize) -> Vec<u32> {
        let positions = map_hwc.len() / channels;
        let sum = |c| (0..positions).fold(0.0_f32, |sum, p| sum + map_hwc[p * channels + c]);
        (0..channels)
            .map(|c| (sum(c) / positions as f32).to_bits())
            .collect()
    }

    proptest! {
        #[test]
        fn the_order_of_additions_is_kept(
            (channels, halves) in (1..40_usize, 1..20_usize).prop_flat_map(|(c, p)| {
                (Just(c), proptest::collection::vec(any::<u16>(), c * p))
            })
        ) {
            let halves: Vec<f16> = halves
                .into_iter()
                .map(|bits| match f16::from_bits(bits) {
                    value if value.is_finite() => value,
                    _ => f16::ONE,
                })
                .collect();
            let floats: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
            let expected = one_at_a_time(&floats, channels);
            let mut pooled = vec![9.0; channels];
            let mut average = Average::new();
            average.pool(Features::F16(&halves), &mut pooled);
            prop_assert!(pooled.iter().map(|x| x.to_bits()).eq(expected.iter().copied()));
            average.pool(Features::F32(&floats), &mut pooled);
            prop_assert!(pooled.iter().map(|x| x.to_bits()).eq(expected));
        }
    }
}
