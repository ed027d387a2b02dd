//! One batch forward and backward: its loss, the gradient of every parameter, the moments of every
//! normalisation.
//!
//! The batch is cut into chunks of a few images, by their places in it. Each chunk has memory of
//! its own, kept from batch to batch, and is one task for rayon. A stage's moments are those of
//! the whole batch, so that all chunks must be done with one layer before the next can start. Sums
//! over the chunks are taken in their order. So the bits are the same for any number of threads.
//!
//! The first convolution's output is by far the largest thing here. It is never kept: strips of it
//! are made, pooled and dropped while they are in the cache, and made once more on the way back.
//! Its input is the image, whose gradient nobody asks for. This file knows the layers' order and
//! nothing of their insides.

use rayon::prelude::*;

use super::conv::{Conv, MARGIN};
use super::dense;
use super::network::Network;
use super::norm_pool::{Descent, Moments, Norm, Sums, pool, signs};
use super::shape::{STAGES, Shape, Stage};
use super::unfold::{UNFOLDED, transpose_taps, unfold};
use crate::metrics::predicted;
use crate::solver::adam::{BatchResult, replace_by_residuals};

/// Images of a chunk. Part of what a result's last bit is.
const CHUNK: usize = 4;

/// Rows of the first convolution's output that are made at a time; even, so that no 2 x 2 is cut.
pub(super) const STRIP: usize = 14;

/// The convolution of a stage.
pub(super) fn conv_of(number: usize, stage: &Stage) -> Conv {
    Conv {
        taps: if number == 0 { 1 } else { 3 },
        width: stage.width,
        channels: if number == 0 {
            UNFOLDED
        } else {
            stage.channels
        },
        filters: stage.filters,
    }
}

/// Memory and results of a batch.
#[derive(Debug)]
pub(super) struct Pass {
    stages: [Stage; STAGES],
    chunks: Vec<Chunk>,
    /// Of the mean loss, by each trainable parameter.
    pub gradient: Vec<f32>,
    /// Of each stage's convolution, without its bias.
    pub moments: [Moments; STAGES],
}

/// What all chunks read.
struct Shared<'a> {
    network: &'a Network,
    stages: &'a [Stage; STAGES],
    convs: [Conv; STAGES],
    first_kernel: Vec<f32>, // for unfolded images
    turned: [Vec<f32>; STAGES],
    signs: [Vec<f32>; STAGES],
}

/// A chunk's images and what it adds up over them.
#[derive(Debug)]
struct Chunk {
    images: Vec<Image>,
    used: usize,
    unfolded: Vec<f32>,       // a strip of the first stage's input, [STRIP, W, 9]
    strip: Vec<f32>,          // and of its output, [STRIP, W, F]
    first_gradient: Vec<f32>, // of the kernel for unfolded images
    moments: Sums,            // of the stage at hand
    slopes: Sums,             // likewise
    gradient: Vec<f32>,
    averages: Vec<f32>,       // the dense layer's input, [D]
    average_slopes: Vec<f32>, // its gradient
    logits: Vec<f32>,         // and then residuals, [O]
    loss_sum: f64,
    correct: u64,
}

/// What an image leaves for the way back.
#[derive(Debug)]
struct Image {
    pixels: Vec<u8>, // [H, W, 3]
    stages: [Kept; STAGES],
}

/// What a stage leaves for the way back.
#[derive(Debug)]
struct Kept {
    conv: Vec<f32>, // [MARGIN + H W, F], then its gradient; nothing for the first stage
    extremes: Vec<f32>, // all four as in `norm_pool`
    places: Vec<u8>, //
    activations: Vec<f32>, //
    slopes: Vec<f32>, // the derivative by `activations`, then by the largest y
}

impl Image {
    fn new(shape: &Shape) -> Image {
        let mut number = 0;
        let stages = shape.stages().map(|stage| {
            let conv = match number {
                0 => 0,
                _ => (MARGIN + stage.conv_height() * stage.width) * stage.filters,
            };
            number += 1;
            let pooled = stage.pooled_len();
            Kept {
                conv: vec![0.0; conv],
                extremes: vec![0.0; pooled],
                places: vec![0; pooled],
                activations: vec![0.0; pooled],
                slopes: vec![0.0; pooled],
            }
        });
        Image {
            pixels: vec![0; shape.pixels()],
            stages,
        }
    }
}

impl Chunk {
    fn new(shape: &Shape) -> Chunk {
        let stages = shape.stages();
        let first = &stages[0];
        let widest = shape.filters.iter().copied().max().unwrap_or_default();
        Chunk {
            images: (0..CHUNK).map(|_| Image::new(shape)).collect(),
            used: 0,
            unfolded: vec![0.0; STRIP * first.width * UNFOLDED],
            strip: vec![0.0; STRIP * first.width * first.filters],
            first_gradient: vec![0.0; 27 * first.filters],
            moments: Sums::zeros(widest),
            slopes: Sums::zeros(widest),
            gradient: vec![0.0; shape.trainable()],
            averages: vec![0.0; shape.dense_inputs()],
            average_slopes: vec![0.0; shape.dense_inputs()],
            logits: vec![0.0; shape.outputs()],
            loss_sum: 0.0,
            correct: 0,
        }
    }

    /// Starts a batch of `used` images.
    fn clear(&mut self, used: usize) {
        self.used = used;
        self.first_gradient.fill(0.0);
        self.gradient.fill(0.0);
        (self.loss_sum, self.correct) = (0.0, 0);
    }

    /// The first stage's convolution and maxima.
    fn forward_first(&mut self, shared: &Shared<'_>) {
        let (stage, conv) = (&shared.stages[0], &shared.convs[0]);
        self.moments.clear();
        for image in &mut self.images[..self.used] {
            let kept = &mut image.stages[0];
            for top in (0..stage.conv_height()).step_by(STRIP) {
                let rows = STRIP.min(stage.conv_height() - top);
                let strip = &mut self.strip[..rows * stage.width * stage.filters];
                unfold(
                    &image.pixels[top * stage.width * 3..],
                    stage.width,
                    rows,
                    &mut self.unfolded,
                );
                conv.forward(&shared.first_kernel, &self.unfolded, rows, strip);
                self.moments.add_moments(stage, strip);
                let pooled = top / 2 * stage.pooled_width() * stage.filters;
                pool(
                    stage,
                    strip,
                    &shared.signs[0],
                    &mut kept.extremes[pooled..],
                    &mut kept.places[pooled..],
                );
            }
        }
    }

    /// The activations of the stage before `number`, its convolution and maxima.
    fn forward(&mut self, shared: &Shared<'_>, number: usize, before: &Norm) {
        let stage = &shared.stages[number];
        let kernel = &shared.network.parameters[shared.network.ranges.0[number].kernel.clone()];
        self.moments.clear();
        for image in &mut self.images[..self.used] {
            let [.., input, kept] = &mut image.stages[..=number] else {
                unreachable!("a stage before the second");
            };
            before.activate(&input.extremes, &mut input.activations);
            let output = &mut kept.conv[MARGIN * stage.filters..];
            let rows = stage.conv_height();
            shared.convs[number].forward(kernel, &input.activations, rows, output);
            self.moments.add_moments(stage, output);
            pool(
                stage,
                output,
                &shared.signs[number],
                &mut kept.extremes,
                &mut kept.places,
            );
        }
    }

    /// From the last stage's activations to the loss and back to their gradient. `labels` are
    /// those of the chunk's images; `batch` is how many the whole batch has.
    fn end(
        &mut self,
        shared: &Shared<'_>,
        norm: &Norm,
        labels: &[u32],
        class_weights_k: Option<&[f32]>,
        batch: usize,
    ) {
        let network = shared.network;
        let dense = &network.ranges.1;
        let weights = &network.parameters[dense.weights.clone()];
        let bias = &network.parameters[dense.bias.clone()];
        let last = &shared.stages[STAGES - 1];
        let size = [last.pooled_height(), last.pooled_width(), last.filters];
        self.slopes.clear();
        for (image, &label) in self.images[..self.used].iter_mut().zip(labels) {
            let kept = &mut image.stages[STAGES - 1];
            norm.activate(&kept.extremes, &mut kept.activations);
            dense::average(&kept.activations, size, &mut self.averages);
            dense::forward(weights, bias, &self.averages, &mut self.logits);
            self.correct += u64::from(predicted(&self.logits) == label);
            let weight = class_weights_k.map_or(1.0, |weights_k| weights_k[label as usize]);
            let loss = replace_by_residuals(&mut self.logits, label);
            self.loss_sum += f64::from(loss) * f64::from(weight);
            for residual in &mut self.logits {
                *residual = weight * *residual / batch as f32;
            }
            let (rest, bias_gradient) = self.gradient.split_at_mut(dense.bias.start);
            dense::backward(
                weights,
                &self.averages,
                &self.logits,
                [&mut rest[dense.weights.clone()], bias_gradient],
                &mut self.average_slopes,
            );
            dense::average_gradient(&self.average_slopes, size, &mut kept.slopes);
            norm.through_relu(
                &kept.extremes,
                &kept.activations,
                &mut kept.slopes,
                &mut self.slopes,
            );
        }
    }

    /// Back through stage `number` and the ReLU of the one before it.
    fn backward(&mut self, shared: &Shared<'_>, number: usize, descent: &Descent, before: &Norm) {
        let (stage, conv) = (&shared.stages[number], &shared.convs[number]);
        let rows = stage.conv_height();
        let gradient = &mut self.gradient[shared.network.ranges.0[number].kernel.clone()];
        self.slopes.clear();
        for image in &mut self.images[..self.used] {
            let [.., input, kept] = &mut image.stages[..=number] else {
                unreachable!("a stage before the second");
            };
            let slope = &mut kept.conv[MARGIN * stage.filters..];
            descent.apply(stage, slope, &kept.slopes, &kept.places);
            conv.add_kernel_gradient(&input.activations, slope, rows, gradient);
            conv.input_gradient(&shared.turned[number], &kept.conv, rows, &mut input.slopes);
            before.through_relu(
                &input.extremes,
                &input.activations,
                &mut input.slopes,
                &mut self.slopes,
            );
        }
    }

    /// Back through the first stage.
    fn backward_first(&mut self, shared: &Shared<'_>, descent: &Descent) {
        let (stage, conv) = (&shared.stages[0], &shared.convs[0]);
        for image in &mut self.images[..self.used] {
            let kept = &image.stages[0];
            for top in (0..stage.conv_height()).step_by(STRIP) {
                let rows = STRIP.min(stage.conv_height() - top);
                let strip = &mut self.strip[..rows * stage.width * stage.filters];
                unfold(
                    &image.pixels[top * stage.width * 3..],
                    stage.width,
                    rows,
                    &mut self.unfolded,
                );
                conv.forward(&shared.first_kernel, &self.unfolded, rows, strip);
                let pooled = top / 2 * stage.pooled_width() * stage.filters;
                descent.apply(stage, strip, &kept.slopes[pooled..], &kept.places[pooled..]);
                conv.add_kernel_gradient(&self.unfolded, strip, rows, &mut self.first_gradient);
            }
        }
        let kernel = &mut self.gradient[shared.network.ranges.0[0].kernel.clone()];
        transpose_taps(&self.first_gradient, stage.filters, kernel);
    }
}

impl Pass {
    /// Memory for batches of `batch` images at first; it grows with them.
    pub fn new(shape: &Shape, batch: usize) -> Pass {
        let stages = shape.stages();
        let none = |stage: Stage| Moments {
            mean: vec![0.0; stage.filters],
            variance: vec![0.0; stage.filters],
        };
        let mut pass = Pass {
            stages,
            chunks: Vec::new(),
            gradient: vec![0.0; shape.trainable()],
            moments: stages.map(none),
        };
        pass.grow(shape, batch);
        pass
    }

    fn grow(&mut self, shape: &Shape, batch: usize) {
        let chunks = batch.div_ceil(CHUNK).max(self.chunks.len());
        self.chunks.resize_with(chunks, || Chunk::new(shape));
    }

    /// Loss of a batch, with its gradient in `gradient` and its moments in `moments`.
    ///
    /// `load` writes the pixels `[H, W, 3]` of the image at a place in the batch.
    pub fn run(
        &mut self,
        network: &Network,
        labels: &[u32],
        class_weights_k: Option<&[f32]>,
        load: &(dyn Fn(usize, &mut [u8]) + Sync),
    ) -> BatchResult {
        let batch = labels.len();
        self.grow(&network.shape, batch);
        let shared = Shared::new(network, &self.stages);
        let chunks = &mut self.chunks[..batch.div_ceil(CHUNK)];

        chunks.par_iter_mut().enumerate().for_each(|(c, chunk)| {
            chunk.clear(CHUNK.min(batch - c * CHUNK));
            for (i, image) in chunk.images[..chunk.used].iter_mut().enumerate() {
                load(c * CHUNK + i, &mut image.pixels);
            }
            chunk.forward_first(&shared);
        });
        let count = |stage: &Stage| (batch * stage.places()) as f64;
        let mut norms: Vec<Norm> = Vec::with_capacity(STAGES);
        for number in 0..STAGES {
            let stage = &self.stages[number];
            if let Some(before) = norms.last() {
                let forward = |chunk: &mut Chunk| chunk.forward(&shared, number, before);
                chunks.par_iter_mut().for_each(forward);
            }
            let sums = total(chunks, |chunk| &chunk.moments, stage.filters);
            self.moments[number] = sums.moments(count(stage));
            norms.push(network.norm(number, &self.moments[number]));
        }
        chunks
            .par_iter_mut()
            .zip(labels.par_chunks(CHUNK))
            .for_each(|(chunk, labels)| {
                chunk.end(&shared, &norms[STAGES - 1], labels, class_weights_k, batch);
            });

        for number in (0..STAGES).rev() {
            let (stage, ranges) = (&self.stages[number], &network.ranges.0[number]);
            let sums = total(chunks, |chunk| &chunk.slopes, stage.filters);
            let descent = norms[number].descent(&sums, count(stage));
            chunks.par_iter_mut().for_each(|chunk| match number {
                0 => chunk.backward_first(&shared, &descent),
                _ => chunk.backward(&shared, number, &descent, &norms[number - 1]),
            });
            let gradient = &mut chunks[0].gradient;
            for (range, sums) in [(&ranges.beta, &sums.first), (&ranges.gamma, &sums.second)] {
                for (g, sum) in gradient[range.clone()].iter_mut().zip(sums) {
                    *g = *sum as f32;
                }
            }
        }
        self.gradient.fill(0.0);
        let mut result = BatchResult {
            loss_sum: 0.0,
            correct: 0,
        };
        for chunk in chunks {
            for (sum, g) in self.gradient.iter_mut().zip(&chunk.gradient) {
                *sum += g;
            }
            result.loss_sum += chunk.loss_sum;
            result.correct += chunk.correct;
        }
        result
    }
}

/// The sum over all chunks, in their order.
fn total(chunks: &[Chunk], sums: impl Fn(&Chunk) -> &Sums, filters: usize) -> Sums {
    let mut total = Sums::zeros(filters);
    for chunk in chunks {
        total.add(sums(chunk));
    }
    total
}

impl<'a> Shared<'a> {
    fn new(network: &'a Network, stages: &'a [Stage; STAGES]) -> Shared<'a> {
        let parameters = &network.parameters;
        let convs = [0, 1, 2].map(|number| conv_of(number, &stages[number]));
        let turned = [0, 1, 2].map(|number| {
            if number == 0 {
                return Vec::new(); // nobody asks for the image's gradient
            }
            let mut turned = vec![0.0; convs[number].kernel_len()];
            let kernel = network.ranges.0[number].kernel.clone();
            convs[number].turn(&parameters[kernel], &mut turned);
            turned
        });
        Shared {
            first_kernel: network.first_kernel(),
            turned,
            signs: [0, 1, 2].map(|i| signs(&parameters[network.ranges.0[i].gamma.clone()])),
            network,
            stages,
            convs,
        }
    }
}

#[cfg(test)]
mod tests;
