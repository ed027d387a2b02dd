//! The convolution, 3 x 3 and without a margin: forward, and the gradients of kernel and input.
//!
//! Images are `[H, W, C]`, rows of pixels. For each vertical tap, three neighbouring pixels are
//! 3 C numbers in a row of memory, and the next pixel's begin C numbers later: a matrix whose rows
//! overlap. So each tap is one matrix product, on the image as it lies. The price is that an output
//! row is as wide as an input row, W; the last two of its pixels mix the end of one row with the
//! start of the next and mean nothing. Their gradients are zero by contract, and these zeros then
//! serve as the margin that the input's gradient needs.
//!
//! The first stage has 3 channels, too few for a product. It sees its image "unfolded", each pixel
//! with those below it, as 9 channels with a single vertical tap ([`super::unfold`]).
//!
//! There is no bias here: [`super::norm_pool`] subtracts the batch's mean, and any bias with it.

use super::product::{Factor, multiply};
use super::shape::Stage;

/// Pixels of zeros that lie before the first pixel of an output's gradient.
pub(super) const MARGIN: usize = 2;

/// A convolution's sizes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conv {
    /// Vertical taps: 3, or 1 on unfolded images.
    pub taps: usize,
    /// Width of a row, W.
    pub width: usize,
    /// Input channels, C.
    pub channels: usize,
    /// Filters, F.
    pub filters: usize,
}

impl Stage {
    /// The stage's convolution.
    pub fn conv(&self) -> Conv {
        Conv {
            taps: 3,
            width: self.width,
            channels: self.channels,
            filters: self.filters,
        }
    }
}

impl Conv {
    /// The same for unfolded images.
    pub fn unfolded(self) -> Conv {
        Conv {
            taps: 1,
            channels: 3 * self.channels,
            ..self
        }
    }

    /// Numbers in the kernel, `[taps, 3, C, F]`.
    pub fn kernel_len(&self) -> usize {
        self.taps * 3 * self.channels * self.filters
    }

    /// Pixels that an output of `rows` rows has, up to the last that means something.
    fn pixels(&self, rows: usize) -> usize {
        rows * self.width - 2
    }

    /// What a tap sees of the input: for each pixel it and its two neighbours, `[pixels, 3 C]`.
    fn seen<'a>(&self, input_hwc: &'a [f32], tap: usize, rows: usize) -> Factor<'a> {
        let (channels, pixels) = (self.channels, self.pixels(rows));
        let start = tap * self.width * channels;
        Factor::new(&input_hwc[start..], [pixels, 3 * channels], [channels, 1])
    }

    /// `output[y, x, f] = Σ input[y + ty, x + tx, c] kernel[ty, tx, c, f]`.
    ///
    /// `input_hwc` is `[rows + taps - 1, W, C]`, the kernel `[taps, 3, C, F]`, `output_hwf`
    /// `[rows, W, F]`.
    pub fn forward(&self, kernel: &[f32], input_hwc: &[f32], rows: usize, output_hwf: &mut [f32]) {
        assert_eq!(kernel.len(), self.kernel_len());
        let depth = 3 * self.channels;
        for (tap, kernel) in kernel.chunks_exact(depth * self.filters).enumerate() {
            let kernel = Factor::rows(kernel, [depth, self.filters]);
            multiply(self.seen(input_hwc, tap, rows), kernel, output_hwf, tap > 0);
        }
    }

    /// Adds the kernel's gradient, `Σ input[y + ty, x + tx, c] slope[y, x, f]`, to `gradient`,
    /// `[taps, 3, C, F]`.
    ///
    /// `slope_hwf` is the loss's derivative by the output, `[rows, W, F]`, zero in the last two
    /// columns.
    pub fn add_kernel_gradient(
        &self,
        input_hwc: &[f32],
        slope_hwf: &[f32],
        rows: usize,
        gradient: &mut [f32],
    ) {
        assert_eq!(gradient.len(), self.kernel_len());
        let depth = 3 * self.channels;
        let slope = Factor::rows(slope_hwf, [self.pixels(rows), self.filters]);
        for (tap, gradient) in gradient.chunks_exact_mut(depth * self.filters).enumerate() {
            let seen = self.seen(input_hwc, tap, rows).transposed();
            multiply(seen, slope, gradient, true);
        }
    }

    /// The input's gradient, `Σ slope[y - ty, x - tx, f] kernel[ty, tx, c, f]`, to `gradient_hwc`,
    /// `[rows + taps - 1, W, C]`.
    ///
    /// `slope_hwf` is as above, but with [`MARGIN`] pixels of zeros in front; `turned` is the
    /// kernel as [`Conv::turn`] leaves it.
    pub fn input_gradient(
        &self,
        turned: &[f32],
        slope_hwf: &[f32],
        rows: usize,
        gradient_hwc: &mut [f32],
    ) {
        assert_eq!(turned.len(), self.kernel_len());
        let (depth, row) = (3 * self.filters, self.width * self.channels);
        // Output pixels p - 2, p - 1 and p are what saw input pixel p, by taps 2, 1 and 0.
        let slope = Factor::new(slope_hwf, [rows * self.width, depth], [self.filters, 1]);
        gradient_hwc[rows * row..].fill(0.0); // the first tap does not reach them
        for (tap, turned) in turned.chunks_exact(depth * self.channels).enumerate() {
            let turned = Factor::rows(turned, [depth, self.channels]);
            multiply(slope, turned, &mut gradient_hwc[tap * row..], tap > 0);
        }
    }

    /// Writes the kernel `[taps, 3, C, F]` as `[taps, 3, F, C]` to `turned`, the middle 3 from the
    /// back.
    pub fn turn(&self, kernel: &[f32], turned: &mut [f32]) {
        let (channels, filters) = (self.channels, self.filters);
        let taps = kernel.chunks_exact(3 * channels * filters);
        for (kernel, turned) in taps.zip(turned.chunks_exact_mut(3 * channels * filters)) {
            let columns = kernel.chunks_exact(channels * filters).rev();
            for (kernel, turned) in columns.zip(turned.chunks_exact_mut(channels * filters)) {
                for (c, kernel_f) in kernel.chunks_exact(filters).enumerate() {
                    for (f, w) in kernel_f.iter().enumerate() {
                        turned[f * channels + c] = *w;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that look random, in [-1, 1].
    fn numbers(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 1.37 + seed).sin()).collect()
    }

    const SIZES: [(Conv, usize); 3] = [
        (conv(3, 7, 2, 5), 4),
        (conv(1, 9, 9, 4), 3),
        (conv(3, 12, 32, 32), 9),
    ];

    const fn conv(taps: usize, width: usize, channels: usize, filters: usize) -> Conv {
        Conv {
            taps,
            width,
            channels,
            filters,
        }
    }

    /// Calls `each(output place, input place, kernel place)` for every product there is.
    fn each_product(conv: &Conv, rows: usize, mut each: impl FnMut(usize, usize, usize)) {
        let (width, channels, filters) = (conv.width, conv.channels, conv.filters);
        for y in 0..rows {
            for x in 0..width - 2 {
                for (ty, tx) in (0..conv.taps).flat_map(|ty| (0..3).map(move |tx| (ty, tx))) {
                    for c in 0..channels {
                        for f in 0..filters {
                            each(
                                (y * width + x) * filters + f,
                                ((y + ty) * width + x + tx) * channels + c,
                                ((ty * 3 + tx) * channels + c) * filters + f,
                            );
                        }
                    }
                }
            }
        }
    }

    fn close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let tolerance = 4e-5 * expected.abs().max(1.0);
            assert!(
                (found - expected).abs() < tolerance,
                "{i}: {found}, {expected}"
            );
        }
    }

    /// All three against their definitions. A convolution is linear in both kernel and input, so
    /// its gradients are exact sums and need no finite differences.
    #[test]
    fn products_by_definition() {
        for (conv, rows) in SIZES {
            let (width, channels, filters) = (conv.width, conv.channels, conv.filters);
            let input = numbers((rows + conv.taps - 1) * width * channels, 0.5);
            let kernel = numbers(conv.kernel_len(), 2.5);
            let mut slope = numbers((MARGIN + rows * width) * filters, 4.5);
            slope[..MARGIN * filters].fill(0.0);
            for row in slope[MARGIN * filters..].chunks_exact_mut(width * filters) {
                row[(width - 2) * filters..].fill(0.0);
            }
            let inner = &slope[MARGIN * filters..];

            let mut expected = vec![0.0; rows * width * filters];
            let mut kernel_slopes = kernel.clone(); // added to
            let mut input_slopes = vec![0.0; input.len()];
            each_product(&conv, rows, |o, i, k| {
                expected[o] += input[i] * kernel[k];
                kernel_slopes[k] += input[i] * inner[o];
                input_slopes[i] += kernel[k] * inner[o];
            });

            let mut output = vec![9.0; expected.len()];
            conv.forward(&kernel, &input, rows, &mut output);
            for (found, expected) in output
                .chunks_exact(width * filters)
                .zip(expected.chunks_exact(width * filters))
            {
                let meant = ..(width - 2) * filters;
                close(&found[meant], &expected[meant]);
            }
            let mut gradient = kernel.clone();
            conv.add_kernel_gradient(&input, inner, rows, &mut gradient);
            close(&gradient, &kernel_slopes);
            let mut turned = vec![9.0; kernel.len()];
            conv.turn(&kernel, &mut turned);
            let mut gradient = vec![9.0; input.len()];
            conv.input_gradient(&turned, &slope, rows, &mut gradient);
            close(&gradient, &input_slopes);
        }
    }
}
