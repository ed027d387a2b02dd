//! Global average pooling: a feature map's mean over its positions, one number a channel.
//!
//! Every channel is summed in f32, position by position, so that the result has the same bits on
//! every machine, whatever the order in which maps are pooled. A change of that order is a change
//! of the format of [`super::sidecar`]. Must not know where maps come from.

use half::f16;

/// An element of a stored map.
pub(super) trait Element: Copy {
    /// The same number as f32.
    fn widen(self) -> f32;
}

impl Element for f32 {
    fn widen(self) -> f32 {
        self
    }
}

impl Element for f16 {
    /// Without a branch or a call, so that the compiler makes vector instructions of the loop
    /// around it on any processor; `half`'s own conversion takes about twice as long.
    #[inline(always)]
    fn widen(self) -> f32 {
        const TO_F32_EXPONENT: u32 = (127 - 15) << 23; // difference of the exponents' biases
        const LEAST: f32 = f32::from_bits(TO_F32_EXPONENT + (1 << 23)); // 2^-14
        let bits = u32::from(self.to_bits());
        let (sign, magnitude) = ((bits & 0x8000) << 16, (bits & 0x7fff) << 13);
        let normal = magnitude + TO_F32_EXPONENT;
        // Infinities and NaN: the exponent has all bits set.
        let special = magnitude + 2 * TO_F32_EXPONENT;
        // Subnormal: mantissa * 2^-24, by an exact subtraction of normal numbers.
        let subnormal = (f32::from_bits(normal + (1 << 23)) - LEAST).to_bits();
        let finite = if magnitude < 1 << 23 {
            subnormal
        } else {
            normal
        };
        let magnitude = if magnitude < 31 << 23 {
            finite
        } else {
            special
        };
        f32::from_bits(sign | magnitude)
    }
}

/// Mean over the positions of a map [h * w, C] into [C].
pub(super) fn average<T: Element>(map_hwc: &[T], pooled_c: &mut [f32]) {
    let channels = pooled_c.len();
    pooled_c.fill(0.0);
    // Four positions at a time, so that the sums are loaded and stored a quarter as often; the
    // order of the additions is the same.
    let mut blocks = map_hwc.chunks_exact(4 * channels);
    for block in &mut blocks {
        let (p01, p23) = block.split_at(2 * channels);
        let ((p0, p1), (p2, p3)) = (p01.split_at(channels), p23.split_at(channels));
        let positions = p0.iter().zip(p1).zip(p2.iter().zip(p3));
        for (sum, ((p0, p1), (p2, p3))) in pooled_c.iter_mut().zip(positions) {
            *sum = (((*sum + p0.widen()) + p1.widen()) + p2.widen()) + p3.widen();
        }
    }
    for position_c in blocks.remainder().chunks_exact(channels) {
        for (sum, value) in pooled_c.iter_mut().zip(position_c) {
            *sum += value.widen();
        }
    }
    let positions = (map_hwc.len() / channels) as f32;
    for sum in pooled_c {
        *sum /= positions;
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
        average(&[1.0, 2.0, 3.0, 5.0, 6.0, -3.0], &mut pooled);
        assert_eq!(pooled, [3.0, 4.0, 0.0]);
    }

    #[test]
    fn every_f16_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let value = f16::from_bits(bits);
            let (ours, expected) = (value.widen(), value.to_f32());
            match value.is_nan() {
                true => assert!(ours.is_nan()),
                false => assert_eq!(ours.to_bits(), expected.to_bits(), "{bits:#06x}"),
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
            average(&halves, &mut pooled);
            prop_assert!(pooled.iter().map(|x| x.to_bits()).eq(expected.iter().copied()));
            average(&floats, &mut pooled);
            prop_assert!(pooled.iter().map(|x| x.to_bits()).eq(expected));
        }
    }
}
