//! The forward pass in plain Rust: sets BatchNorm's statistics, and says what an engine should
//! compute.
//!
//! Every sum runs in one order whatever the number of threads: a convolution adds its inputs one
//! by one (rows, columns, channels) in f32, statistics add pixels one by one in f64. Threads and
//! vector lanes only share out *outputs*. Rust never contracts `a + b * c` to a fused operation,
//! so the bits are the same on every machine.

use rayon::prelude::*;

use crate::backbone::resnet50::{Architecture, ConvBn, LayerWeights, pooled_side};

/// Output pixels that one task computes: their unrolled inputs stay in the cache.
const TASK_PIXELS: usize = 16;
/// Pixels and output channels whose sums one inner loop keeps in registers.
const TILE_PIXELS: usize = 4;
const TILE_CHANNELS: usize = 8;

/// A batch of square maps, channels last.
#[derive(Debug, Clone, PartialEq)]
pub struct Maps {
    /// Images.
    pub count: usize,
    /// Side in pixels.
    pub side: usize,
    /// Channels.
    pub channels: usize,
    /// [count, side, side, channels]
    pub data: Vec<f32>,
}

/// Where BatchNorm's mean and variance come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statistics {
    /// Measured on this batch and stored in the weights.
    Measure,
    /// Those in the weights: inference.
    Keep,
}

/// Runs the backbone over `images`, layer by layer.
pub fn forward(
    architecture: &Architecture,
    weights: &mut [LayerWeights],
    images: &Maps,
    statistics: Statistics,
) -> Maps {
    let mut conv_bn = |layer: &ConvBn, input: &Maps| {
        let weights = &mut weights[layer.index];
        let mut output = convolve(layer, weights, input);
        if statistics == Statistics::Measure {
            (weights.mean, weights.variance) = moments(&output);
        }
        normalise(weights, architecture.epsilon, &mut output);
        output
    };
    let mut stem = conv_bn(&architecture.stem, images);
    relu(&mut stem);
    let mut x = max_pool(&stem);
    for block in &architecture.blocks {
        let shortcut = block.shortcut.as_ref().map(|layer| conv_bn(layer, &x));
        let mut branch = conv_bn(&block.branch[0], &x);
        relu(&mut branch);
        branch = conv_bn(&block.branch[1], &branch);
        relu(&mut branch);
        branch = conv_bn(&block.branch[2], &branch);
        let shortcut = shortcut.as_ref().unwrap_or(&x);
        branch
            .data
            .iter_mut()
            .zip(&shortcut.data)
            .for_each(|(sum, s)| *sum += s);
        relu(&mut branch);
        x = branch;
    }
    x
}

/// The convolution with its bias, as a product of unrolled inputs and the kernel.
fn convolve(layer: &ConvBn, weights: &LayerWeights, input: &Maps) -> Maps {
    let side = layer.out_side(input.side);
    let channels = layer.out_channels;
    let panels = pack(layer, &weights.kernel_oihw);
    let none = vec![0.0; channels];
    let bias = weights.bias.as_ref().unwrap_or(&none);
    let mut data = vec![0.0; input.count * side * side * channels];
    data.par_chunks_mut(TASK_PIXELS * channels)
        .enumerate()
        .for_each(|(task, output)| {
            let fan_in = layer.fan_in();
            let pixels = output.len() / channels;
            // The last task may have fewer pixels; the rest of its tiles are zeros and are dropped.
            let mut inputs = vec![0.0; pixels.next_multiple_of(TILE_PIXELS) * fan_in];
            for (pixel, row) in inputs.chunks_exact_mut(fan_in).take(pixels).enumerate() {
                unroll(layer, input, side, task * TASK_PIXELS + pixel, row);
            }
            for (panel_index, panel) in panels.chunks_exact(fan_in).enumerate() {
                let channel = panel_index * TILE_CHANNELS;
                let bias = &bias[channel..channel + TILE_CHANNELS];
                let tiles = output.chunks_mut(TILE_PIXELS * channels);
                for (rows, tile) in inputs.chunks_exact(TILE_PIXELS * fan_in).zip(tiles) {
                    let sums = multiply(rows, panel);
                    for (pixel, sums) in tile.chunks_exact_mut(channels).zip(sums) {
                        let pixel = &mut pixel[channel..channel + TILE_CHANNELS];
                        for ((value, sum), bias) in pixel.iter_mut().zip(sums).zip(bias) {
                            *value = sum + bias;
                        }
                    }
                }
            }
        });
    Maps {
        count: input.count,
        side,
        channels,
        data,
    }
}

/// Sums over the fan-in, in order, for a tile of pixels and channels.
fn multiply(rows: &[f32], panel: &[[f32; TILE_CHANNELS]]) -> [[f32; TILE_CHANNELS]; TILE_PIXELS] {
    let mut sums = [[0.0_f32; TILE_CHANNELS]; TILE_PIXELS];
    let (r0, rest) = rows.split_at(panel.len());
    let (r1, rest) = rest.split_at(panel.len());
    let (r2, r3) = rest.split_at(panel.len());
    for ((((kernel, &x0), &x1), &x2), &x3) in panel.iter().zip(r0).zip(r1).zip(r2).zip(r3) {
        for (sums, x) in sums.iter_mut().zip([x0, x1, x2, x3]) {
            for (sum, k) in sums.iter_mut().zip(kernel) {
                *sum += x * k;
            }
        }
    }
    sums
}

/// The kernel as panels: for each [`TILE_CHANNELS`] output channels, [fan-in (y, x, c), channel].
fn pack(layer: &ConvBn, kernel_oihw: &[f32]) -> Vec<[f32; TILE_CHANNELS]> {
    let area = layer.kernel * layer.kernel;
    let fan_in = layer.fan_in();
    let mut panels = vec![[0.0; TILE_CHANNELS]; fan_in * layer.out_channels / TILE_CHANNELS];
    for (channel, filter_ihw) in kernel_oihw.chunks_exact(fan_in).enumerate() {
        let panel = &mut panels[channel / TILE_CHANNELS * fan_in..][..fan_in];
        for (in_channel, plane_hw) in filter_ihw.chunks_exact(area).enumerate() {
            for (tap, &value) in plane_hw.iter().enumerate() {
                panel[tap * layer.in_channels + in_channel][channel % TILE_CHANNELS] = value;
            }
        }
    }
    panels
}

/// Copies the inputs of output pixel `pixel` (counted over the batch) into `row`, (y, x, c).
fn unroll(layer: &ConvBn, input: &Maps, out_side: usize, pixel: usize, row: &mut [f32]) {
    let channels = input.channels;
    let (image, place) = (pixel / (out_side * out_side), pixel % (out_side * out_side));
    let (top, left) = (
        place / out_side * layer.stride,
        place % out_side * layer.stride,
    );
    for (tap, target) in row.chunks_exact_mut(channels).enumerate() {
        let y = (top + tap / layer.kernel)
            .checked_sub(layer.pad)
            .filter(|&y| y < input.side);
        let x = (left + tap % layer.kernel)
            .checked_sub(layer.pad)
            .filter(|&x| x < input.side);
        match (y, x) {
            (Some(y), Some(x)) => {
                let start = ((image * input.side + y) * input.side + x) * channels;
                target.copy_from_slice(&input.data[start..start + channels]);
            }
            _ => target.fill(0.0),
        }
    }
}

/// Mean and population variance of each channel over images, rows and columns.
fn moments(maps: &Maps) -> (Vec<f32>, Vec<f32>) {
    let pixels = (maps.data.len() / maps.channels) as f64;
    let average = |term: &dyn Fn(usize, f64) -> f64| {
        let mut sums = vec![0.0_f64; maps.channels];
        for pixel in maps.data.chunks_exact(maps.channels) {
            for (channel, (sum, &value)) in sums.iter_mut().zip(pixel).enumerate() {
                *sum += term(channel, f64::from(value));
            }
        }
        sums.iter().map(|sum| sum / pixels).collect::<Vec<_>>()
    };
    let mean = average(&|_, value| value);
    let variance = average(&|channel, value| (value - mean[channel]) * (value - mean[channel]));
    let narrow = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
    (narrow(mean), narrow(variance))
}

/// BatchNorm in its inference form.
fn normalise(weights: &LayerWeights, epsilon: f32, maps: &mut Maps) {
    let scale: Vec<f32> = weights
        .gamma
        .iter()
        .zip(&weights.variance)
        .map(|(gamma, variance)| gamma / libm::sqrtf(variance + epsilon))
        .collect();
    for pixel in maps.data.chunks_exact_mut(maps.channels) {
        for (channel, value) in pixel.iter_mut().enumerate() {
            *value = (*value - weights.mean[channel]) * scale[channel] + weights.beta[channel];
        }
    }
}

fn relu(maps: &mut Maps) {
    maps.data
        .iter_mut()
        .for_each(|value| *value = value.max(0.0));
}

/// 3x3/2 behind one pixel of zeros. The input is not negative, so skipping the padding is the
/// same as comparing with its zeros.
fn max_pool(input: &Maps) -> Maps {
    let (side, channels) = (pooled_side(input.side), input.channels);
    let mut data = vec![0.0_f32; input.count * side * side * channels];
    for (pixel, target) in data.chunks_exact_mut(channels).enumerate() {
        let (image, place) = (pixel / (side * side), pixel % (side * side));
        let (top, left) = (place / side * 2, place % side * 2);
        for y in top.saturating_sub(1)..(top + 2).min(input.side) {
            for x in left.saturating_sub(1)..(left + 2).min(input.side) {
                let start = ((image * input.side + y) * input.side + x) * channels;
                let source = &input.data[start..start + channels];
                target
                    .iter_mut()
                    .zip(source)
                    .for_each(|(t, s)| *t = t.max(*s));
            }
        }
    }
    Maps {
        count: input.count,
        side,
        channels,
        data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(kernel: usize, stride: usize, pad: usize, in_channels: usize) -> ConvBn {
        let name = "layer".to_owned();
        ConvBn {
            name,
            index: 0,
            in_channels,
            out_channels: 8,
            kernel,
            stride,
            pad,
        }
    }

    fn weights(kernel_oihw: Vec<f32>) -> LayerWeights {
        let bias = (0..8).map(|channel| channel as f32 * 100.0).collect();
        let (ones, zeros) = (vec![1.0; 8], vec![0.0; 8]);
        LayerWeights {
            kernel_oihw,
            bias: Some(bias),
            gamma: ones.clone(),
            beta: zeros.clone(),
            mean: zeros,
            variance: ones,
        }
    }

    /// The definition of a convolution, written out as six loops.
    fn naive(layer: &ConvBn, weights: &LayerWeights, input: &Maps) -> Vec<f32> {
        let side = layer.out_side(input.side);
        let mut output = Vec::new();
        for (image, oy, ox) in (0..input.count)
            .flat_map(|n| (0..side).flat_map(move |y| (0..side).map(move |x| (n, y, x))))
        {
            for oc in 0..layer.out_channels {
                let mut sum = 0.0;
                for (ky, kx) in
                    (0..layer.kernel).flat_map(|y| (0..layer.kernel).map(move |x| (y, x)))
                {
                    let y = (oy * layer.stride + ky) as isize - layer.pad as isize;
                    let x = (ox * layer.stride + kx) as isize - layer.pad as isize;
                    let inside = 0..input.side as isize;
                    if !(inside.contains(&y) && inside.contains(&x)) {
                        continue;
                    }
                    for ic in 0..layer.in_channels {
                        let pixel = (image * input.side + y as usize) * input.side + x as usize;
                        let tap =
                            ((oc * layer.in_channels + ic) * layer.kernel + ky) * layer.kernel + kx;
                        sum += input.data[pixel * input.channels + ic] * weights.kernel_oihw[tap];
                    }
                }
                output.push(sum + weights.bias.as_ref().unwrap()[oc]);
            }
        }
        output
    }

    #[test]
    fn convolution_follows_its_definition() {
        for (kernel, stride, pad) in [(1, 1, 0), (1, 2, 0), (3, 1, 1), (7, 2, 3)] {
            let layer = layer(kernel, stride, pad, 3);
            let count = 8 * layer.fan_in();
            let weights = weights((0..count).map(|v| (v * 7 % 11) as f32 - 5.0).collect());
            let data = (0..2 * 9 * 9 * 3)
                .map(|v| (v * 5 % 13) as f32 - 6.0)
                .collect();
            let input = Maps {
                count: 2,
                side: 9,
                channels: 3,
                data,
            };
            // Small integers are exact in f32, so any order of summation gives the same.
            assert_eq!(
                convolve(&layer, &weights, &input).data,
                naive(&layer, &weights, &input)
            );
        }
    }

    #[test]
    fn moments_by_hand() {
        let maps = Maps {
            count: 1,
            side: 2,
            channels: 2,
            data: vec![1., 5., 2., 5., 3., 5., 6., 5.],
        };
        assert_eq!(moments(&maps), (vec![3.0, 5.0], vec![3.5, 0.0]));
    }

    #[test]
    fn max_pool_by_hand() {
        let data = (0..16).map(|v| v as f32).collect();
        let pooled = max_pool(&Maps {
            count: 1,
            side: 4,
            channels: 1,
            data,
        });
        assert_eq!((pooled.side, pooled.data), (2, vec![5.0, 7.0, 13.0, 15.0]));
    }
}
