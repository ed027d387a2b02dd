//! Images as the first convolution sees them: 8-bit pixels scaled by 1/255, each with the two
//! below it. Knows nothing of what the convolution does with them.

/// Channels of an unfolded image: three rows of three colours.
pub(super) const UNFOLDED: usize = 9;

/// 1/255, as Keras's `Rescaling(1.0 / 255)` rounds it.
const SCALE: f32 = 1.0 / 255.0;

/// Writes `rows` unfolded rows of an image to `unfolded`, `[rows, W, 9]`: for each pixel its three
/// colours, those of the pixel below and those of the one below that.
///
/// `pixels_hwc` is `[rows + 2, W, 3]`.
pub(super) fn unfold(pixels_hwc: &[u8], width: usize, rows: usize, unfolded: &mut [f32]) {
    let row = width * 3;
    for (y, unfolded) in unfolded[..rows * width * UNFOLDED]
        .chunks_exact_mut(width * UNFOLDED)
        .enumerate()
    {
        let [upper, middle, lower] =
            [0, 1, 2].map(|below| pixels_hwc[(y + below) * row..][..row].as_chunks::<3>().0);
        let (pixels, _) = unfolded.as_chunks_mut::<UNFOLDED>();
        for (((pixel, a), b), c) in pixels.iter_mut().zip(upper).zip(middle).zip(lower) {
            let all = [a[0], a[1], a[2], b[0], b[1], b[2], c[0], c[1], c[2]];
            *pixel = all.map(|x| f32::from(x) * SCALE);
        }
    }
}

/// Reorders a kernel `[3, 3, 3, F]` (rows, columns, colours, filters) to `[1, 3, 9, F]`, for
/// unfolded images; or the other way round, which is the same.
pub(super) fn transpose_taps(kernel: &[f32], filters: usize, reordered: &mut [f32]) {
    let pixel = 3 * filters;
    for (place, kernel) in kernel.chunks_exact(pixel).enumerate() {
        let (y, x) = (place / 3, place % 3);
        reordered[(x * 3 + y) * pixel..][..pixel].copy_from_slice(kernel);
    }
}

/// How a training image is moved before it is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Whether left and right are swapped.
    pub flip: bool,
    /// Pixels by which its content moves down and right. What comes into view repeats the edge.
    pub shift: [i32; 2],
}

impl Placement {
    /// Writes the moved image; both `[H, W, 3]`.
    pub fn apply(&self, pixels_hwc: &[u8], [height, width]: [usize; 2], moved_hwc: &mut [u8]) {
        if *self == Placement::default() {
            moved_hwc.copy_from_slice(pixels_hwc);
            return;
        }
        let from = |to: usize, shift: i32, side: usize| {
            let place = to as i64 - i64::from(shift);
            place.clamp(0, side as i64 - 1) as usize
        };
        let (pixels, _) = pixels_hwc.as_chunks::<3>();
        let (moved, _) = moved_hwc.as_chunks_mut::<3>();
        for (y, moved) in moved.chunks_exact_mut(width).enumerate() {
            let row = &pixels[from(y, self.shift[0], height) * width..][..width];
            for (x, pixel) in moved.iter_mut().enumerate() {
                let x = from(x, self.shift[1], width);
                *pixel = row[if self.flip { width - 1 - x } else { x }];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfolded_by_hand() {
        let pixels: Vec<u8> = (0..4 * 2 * 3).map(|i| i * 10).collect();
        let mut unfolded = [9.0; 2 * 2 * UNFOLDED];
        unfold(&pixels, 2, 2, &mut unfolded);
        let expected = |numbers: [u8; 9]| numbers.map(|i| f32::from(i * 10) / 255.0);
        for (pixel, numbers) in [
            (0, [0, 1, 2, 6, 7, 8, 12, 13, 14]),
            (3, [9, 10, 11, 15, 16, 17, 21, 22, 23]),
        ] {
            let found = &unfolded[pixel * UNFOLDED..][..UNFOLDED];
            for (found, expected) in found.iter().zip(expected(numbers)) {
                assert!((found - expected).abs() < 1e-7);
            }
        }
    }

    #[test]
    fn taps_there_and_back() {
        let kernel: Vec<f32> = (0..27 * 2).map(|i| i as f32).collect();
        let (mut there, mut back) = (vec![0.0; 54], vec![0.0; 54]);
        transpose_taps(&kernel, 2, &mut there);
        // Row 1, column 2, colour 0, filter 1 becomes column 2, channel 1 * 3 + 0.
        let found = there[(2 * 9 + 3) * 2 + 1];
        assert_eq!(found, kernel[((3 + 2) * 3) * 2 + 1]);
        transpose_taps(&there, 2, &mut back);
        assert_eq!(back, kernel);
    }

    #[test]
    fn moved_by_hand() {
        // Two rows of three pixels, each of one number.
        let pixels: Vec<u8> = [1, 2, 3, 4, 5, 6].iter().flat_map(|x| [*x; 3]).collect();
        let moved = |flip, shift| {
            let mut moved = vec![0; pixels.len()];
            Placement { flip, shift }.apply(&pixels, [2, 3], &mut moved);
            moved.chunks(3).map(|pixel| pixel[0]).collect::<Vec<u8>>()
        };
        assert_eq!(moved(false, [0, 0]), [1, 2, 3, 4, 5, 6]);
        assert_eq!(moved(true, [0, 0]), [3, 2, 1, 6, 5, 4]);
        assert_eq!(moved(false, [0, 1]), [1, 1, 2, 4, 4, 5]);
        assert_eq!(moved(false, [-1, -2]), [6, 6, 6, 6, 6, 6]);
        assert_eq!(moved(true, [1, 1]), [3, 3, 2, 3, 3, 2]);
    }
}
