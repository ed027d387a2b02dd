//! Global average pooling: a feature map's mean over its positions, one number a channel.
//!
//! Every channel is summed in f32, position by position, so that the result has the same bits on
//! every machine, whatever the order in which maps are pooled. A change of that order is a change
//! of the format of [`super::sidecar`]. Must not know where maps come from.

use extractor::store::Features;
use half::f16;

use crate::kernels::vectorised;

/// Mean over the positions of a map [h * w, C] into [C].
pub(crate) fn average(map_hwc: Features<'_>, pooled_c: &mut [f32]) {
    pooled_c.fill(0.0);
    let sum_c = &mut *pooled_c;
    // Compiled once for each kind of vector unit that the processor may have. The same bits on all
    // of them, as no addition is in another place.
    let len = match map_hwc {
        Features::F32(map_hwc) => vectorised(
            #[inline(always)]
            || add(map_hwc, sum_c),
        ),
        Features::F16(map_hwc) => vectorised(
            #[inline(always)]
            || add(map_hwc, sum_c),
        ),
        Features::U8(map_hwc) => add(map_hwc, sum_c),
    };
    let positions = (len / pooled_c.len()) as f32;
    for sum in pooled_c {
        *sum /= positions;
    }
}

/// Adds all positions [h * w, C] to the sums [C] and returns the number of values.
#[inline(always)]
fn add<T: Element>(map_hwc: &[T], sum_c: &mut [f32]) -> usize {
    let channels = sum_c.len();
    // Four positions at a time, so that the sums are loaded and stored a quarter as often; the
    // order of the additions is that of one at a time.
    let mut blocks = map_hwc.chunks_exact(4 * channels);
    for block in &mut blocks {
        let (p01, p23) = block.split_at(2 * channels);
        let ((p0, p1), (p2, p3)) = (p01.split_at(channels), p23.split_at(channels));
        let positions = p0.iter().zip(p1).zip(p2.iter().zip(p3));
        for (sum, ((p0, p1), (p2, p3))) in sum_c.iter_mut().zip(positions) {
            *sum = (((*sum + p0.widen()) + p1.widen()) + p2.widen()) + p3.widen();
        }
    }
    for position_c in blocks.remainder().chunks_exact(channels) {
        for (sum, value) in sum_c.iter_mut().zip(position_c) {
            *sum += value.widen();
        }
    }
    map_hwc.len()
}

/// An element of a stored map.
trait Element: Copy {
    /// The same number as f32.
    fn widen(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for u8 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }
}

impl Element for f16 {
    /// Without a branch or a call, as `half`'s own conversion has it, so that it becomes part of
    /// the vector instructions of the loop around it.
    #[inline(always)]
    fn widen(self) -> f32 {
        const REBIAS: f32 = f32::from_bits((127 + 127 - 15) << 23); // 2^112
        const ALL_ONES: u32 = 0xff << 23; // the exponent of infinities and NaN
        let bits = u32::from(self.to_bits());
        let (sign, magnitude) = ((bits & 0x8000) << 16, (bits & 0x7fff) << 13);
        // The exponents of the two types differ by 112. Exact, for subnormal numbers, too.
        let finite = (f32::from_bits(magnitude) * REBIAS).to_bits();
        let special = if magnitude < 31 << 23 { 0 } else { ALL_ONES };
        f32::from_bits(sign | special | finite)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hand_computed() {
        // two positions, three channels
        let mut pooled = [9.0; 3];
        let map = [1.0, 2.0, 3.0, 5.0, 6.0, -3.0];
        average(Features::F32(&map), &mut pooled);
        assert_eq!(pooled, [3.0, 4.0, 0.0]);
    }

    #[test]
    fn every_f16_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            match value.is_nan() {
                true => assert!(value.widen().is_nan()),
                false => assert_eq!(value.widen().to_bits(), value.to_f32().to_bits()),
            }
        }
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
            average(Features::F16(&halves), &mut pooled);
            prop_assert!(pooled.iter().map(|x| x.to_bits()).eq(expected.iter().copied()));
            average(Features::F32(&floats), &mut pooled);
            prop_assert!(pooled.iter().map(|x| x.to_bits()).eq(expected));
        }
    }
}
