//! Bilinear resize with half-pixel centres and no antialiasing: `tf.image.resize(method="bilinear")`.
//!
//! Source of the formula: TensorFlow's `ResizeBilinear` with `half_pixel_centers=true`: output
//! pixel `i` samples the input at `(i + 0.5) * in / out - 0.5`; the two neighbours are clamped to
//! the image, the weight is the fractional part, and x is interpolated before y, all in `f32`.
//! Must not know about colours or presets.

use crate::decode::RgbImage;

/// The name of this resize in a store's key.
pub const RESIZE: &str = "bilinear, half-pixel centres, no antialiasing";

/// For one output coordinate: the two input coordinates and the weight of the second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tap {
    /// The first, or the edge.
    pub low: usize,
    /// The second, or the edge.
    pub high: usize,
    /// What the second counts, 0 to 1; the first counts the rest.
    pub weight: f32,
}

impl Tap {
    /// Between the value at `low` and the one at `high`.
    pub fn between(&self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.weight
    }
}

/// The taps of every output coordinate when `input` samples become `output`; one or more each.
pub fn taps(input: usize, output: usize) -> Vec<Tap> {
    let scale = input as f32 / output as f32;
    (0..output)
        .map(|i| {
            let at = (i as f32 + 0.5) * scale - 0.5;
            let floor = at.floor();
            Tap {
                low: floor.max(0.0) as usize,
                high: (at.ceil().max(0.0) as usize).min(input - 1),
                weight: at - floor,
            }
        })
        .collect()
}

/// Resizes `image` to `height` x `width` and hands every output pixel to `put(y, x, rgb)`, with
/// samples in `0.0..=255.0`, rows top to bottom.
///
/// The image must have at least one pixel; so must the output.
pub fn bilinear(
    image: &RgbImage,
    height: usize,
    width: usize,
    mut put: impl FnMut(usize, usize, [f32; 3]),
) {
    let columns = taps(image.width, width);
    let row = |y: usize| &image.pixels[y * image.width * 3..(y + 1) * image.width * 3];
    let pixel = |row: &[u8], x: usize| -> [f32; 3] {
        let at = &row[x * 3..x * 3 + 3];
        [at[0].into(), at[1].into(), at[2].into()]
    };
    for (y, v) in taps(image.height, height).into_iter().enumerate() {
        let (top, bottom) = (row(v.low), row(v.high));
        for (x, h) in columns.iter().enumerate() {
            let (top_left, top_right) = (pixel(top, h.low), pixel(top, h.high));
            let (bottom_left, bottom_right) = (pixel(bottom, h.low), pixel(bottom, h.high));
            put(
                y,
                x,
                std::array::from_fn(|c| {
                    let top = h.between(top_left[c], top_right[c]);
                    let bottom = h.between(bottom_left[c], bottom_right[c]);
                    v.between(top, bottom)
                }),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resize(image: &RgbImage, height: usize, width: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; height * width * 3];
        bilinear(image, height, width, |y, x, rgb| {
            out[(y * width + x) * 3..][..3].copy_from_slice(&rgb);
        });
        out
    }

    fn row(values: &[u8]) -> RgbImage {
        RgbImage {
            width: values.len(),
            height: 1,
            pixels: values.iter().flat_map(|&v| [v; 3]).collect(),
        }
    }

    #[test]
    fn hand_computed() {
        // 4 -> 2: samples at 0.5 and 2.5. 2 -> 4: at -0.25 (clamped), 0.25, 0.75, 1.25 (clamped).
        let halved = resize(&row(&[0, 10, 20, 40]), 1, 2);
        assert_eq!(halved, [5.0, 5.0, 5.0, 30.0, 30.0, 30.0]);
        let doubled: Vec<f32> = resize(&row(&[0, 100]), 1, 4)
            .into_iter()
            .step_by(3)
            .collect();
        assert_eq!(doubled, [0.0, 25.0, 75.0, 100.0]);
    }

    proptest::proptest! {
        #[test]
        fn properties(w in 1_usize..40, h in 1_usize..40, ow in 1_usize..40, oh in 1_usize..40, value: u8, seed: u64) {
            let constant = RgbImage { width: w, height: h, pixels: vec![value; w * h * 3] };
            proptest::prop_assert!(resize(&constant, oh, ow).iter().all(|&v| v == f32::from(value)));
            let mut state = seed;
            let noise = RgbImage { width: w, height: h, pixels: (0..w * h * 3).map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            }).collect() };
            let same: Vec<f32> = noise.pixels.iter().map(|&v| v.into()).collect();
            proptest::prop_assert_eq!(resize(&noise, h, w), same);
            proptest::prop_assert!(resize(&noise, oh, ow).iter().all(|v| (0.0..=255.0).contains(v)));
        }
    }
}
