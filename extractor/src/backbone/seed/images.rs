//! The seeded batch from which BatchNorm's statistics are taken: noise that looks like images.
//!
//! White noise would be a poor stand-in for photographs, whose power falls with spatial
//! frequency, whose colour channels move together and which have edges. So every image is a base
//! colour plus smooth noise of several octaves, mostly shared by the channels, plus a few
//! half-planes with sharp edges. Only additions and multiplications: the same on every machine.

use super::random::Stream;
use super::reference::Maps;

/// Images in the batch: enough for stable statistics in the last stage, few enough for seconds.
pub const BATCH: usize = 16;

/// Cells per side and amplitude of each octave of noise.
const OCTAVES: [(usize, f32); 6] = [
    (2, 0.20),
    (4, 0.17),
    (8, 0.13),
    (16, 0.10),
    (32, 0.07),
    (64, 0.05),
];

/// Patches of more or less detail per side; only octaves finer than this vary by patch.
const PATCHES: usize = 5;

/// Half-planes per image.
const EDGES: usize = 8;

/// The first random stream of the batch; the layers use the streams below it.
const FIRST_STREAM: u64 = 1 << 32;

/// The batch for `seed`: [`BATCH`] images of `side` pixels a side, values in 0..1.
pub fn batch(seed: u64, side: usize) -> Maps {
    let mut data = Vec::with_capacity(BATCH * side * side * 3);
    for image in 0..BATCH as u64 {
        data.extend(image_hwc(
            &mut Stream::new(seed, FIRST_STREAM + image),
            side,
        ));
    }
    Maps {
        count: BATCH,
        side,
        channels: 3,
        data,
    }
}

fn image_hwc(stream: &mut Stream, side: usize) -> Vec<f32> {
    // Photographs differ in brightness, contrast and sharpness more than in anything else.
    let base = stream.between(0.2, 0.75);
    let colour: [f32; 3] = std::array::from_fn(|_| base + stream.between(-0.12, 0.12));
    let contrast = stream.between(0.3, 1.5);
    let sharpness = stream.between(0.5, 1.2);
    let mut pixels_hwc: Vec<f32> = std::iter::repeat_n(colour, side * side).flatten().collect();
    // Detail comes in patches, some busy and most calm, as in photographs.
    let busy_hw: Vec<f32> = smooth_noise(stream, side, PATCHES)
        .into_iter()
        .map(|noise| 0.25 + (noise + 0.4).max(0.0) * (noise + 0.4).max(0.0))
        .collect();
    let mut fade = contrast;
    for (cells, amplitude) in OCTAVES {
        let amplitude = amplitude * fade;
        fade *= sharpness;
        let mut add = |strength: [f32; 3]| {
            let noise_hw = smooth_noise(stream, side, cells);
            for ((pixel, noise), busy) in pixels_hwc.chunks_exact_mut(3).zip(noise_hw).zip(&busy_hw)
            {
                let noise = if cells > PATCHES { noise * busy } else { noise };
                pixel
                    .iter_mut()
                    .zip(strength)
                    .for_each(|(value, s)| *value += s * noise);
            }
        };
        add([amplitude; 3]);
        // Opponent colours: red against green, then blue against both.
        add([0.35 * amplitude, -0.35 * amplitude, 0.0]);
        add([-0.2 * amplitude, -0.2 * amplitude, 0.4 * amplitude]);
    }
    for _ in 0..EDGES {
        add_half_plane(stream, &mut pixels_hwc, side, contrast);
    }
    pixels_hwc
        .iter_mut()
        .for_each(|value| *value = value.clamp(0.0, 1.0));
    pixels_hwc
}

/// Noise of about unit amplitude: random values on a grid of `cells` per side, blended smoothly.
fn smooth_noise(stream: &mut Stream, side: usize, cells: usize) -> Vec<f32> {
    let corners = cells + 1;
    let grid: Vec<f32> = (0..corners * corners)
        .map(|_| stream.between(-1.8, 1.8))
        .collect();
    let scale = cells as f32 / side as f32;
    let place = |pixel: usize| {
        let position = (pixel as f32 + 0.5) * scale;
        let cell = (position as usize).min(cells - 1);
        let t = position - cell as f32;
        (cell, t * t * (3.0 - 2.0 * t))
    };
    let mut noise_hw = Vec::with_capacity(side * side);
    for y in 0..side {
        let (row, ty) = place(y);
        for x in 0..side {
            let (column, tx) = place(x);
            let at = |dy: usize, dx: usize| grid[(row + dy) * corners + column + dx];
            let top = at(0, 0) + tx * (at(0, 1) - at(0, 0));
            let bottom = at(1, 0) + tx * (at(1, 1) - at(1, 0));
            noise_hw.push(top + ty * (bottom - top));
        }
    }
    noise_hw
}

/// Lightens or darkens everything on one side of a random line.
fn add_half_plane(stream: &mut Stream, pixels_hwc: &mut [f32], side: usize, contrast: f32) {
    let (nx, ny) = (stream.between(-1.0, 1.0), stream.between(-1.0, 1.0));
    let (px, py) = (
        stream.uniform() * side as f32,
        stream.uniform() * side as f32,
    );
    let common = contrast * stream.between(-0.2, 0.2);
    let shift: [f32; 3] = std::array::from_fn(|_| common + stream.between(-0.05, 0.05));
    for (place, pixel) in pixels_hwc.chunks_exact_mut(3).enumerate() {
        let (x, y) = ((place % side) as f32, (place / side) as f32);
        if (x - px) * nx + (y - py) * ny > 0.0 {
            pixel
                .iter_mut()
                .zip(shift)
                .for_each(|(value, s)| *value += s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_look_like_images() {
        let maps = batch(0, 100);
        assert_eq!(maps.data.len(), BATCH * 100 * 100 * 3);
        assert!(maps.data.iter().all(|v| (0.0..=1.0).contains(v)));
        let count = maps.data.len() as f32;
        let mean = maps.data.iter().sum::<f32>() / count;
        let std = (maps
            .data
            .iter()
            .map(|v| (v - mean) * (v - mean))
            .sum::<f32>()
            / count)
            .sqrt();
        assert!((0.3..0.6).contains(&mean), "mean {mean}");
        assert!((0.1..0.35).contains(&std), "std {std}");
        // Neighbours resemble each other far more than chance: not white noise.
        let step = maps
            .data
            .chunks_exact(300)
            .flat_map(|row| row.windows(4).map(|w| (w[3] - w[0]) * (w[3] - w[0])))
            .sum::<f32>()
            / count;
        assert!(step < 0.1 * 2.0 * std * std, "step {step}, std {std}");
    }
}
