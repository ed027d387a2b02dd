//! A few images of a batch on their way through the layers and back.
//!
//! Each method is what all chunks do between two sums over the whole batch. Knows nothing of other
//! chunks or of threads.

use super::Shared;
use crate::baseline::conv::MARGIN;
use crate::baseline::dense;
use crate::baseline::first::StripMemory;
use crate::baseline::norm_pool::{Descent, Norm, pool};
use crate::baseline::shape::{STAGES, Shape};
use crate::baseline::sums::Sums;
use crate::baseline::unfold::transpose_taps;
use crate::metrics::predicted;
use crate::solver::adam::replace_by_residuals;

/// Images of a chunk. Part of what a result's last bit is.
pub(super) const CHUNK: usize = 4;

/// A chunk's images and what it adds up over them.
#[derive(Debug)]
pub(super) struct Chunk {
    pub images: Vec<Image>,
    pub used: usize, // the first ones
    strip: StripMemory,
    first_gradient: Vec<f32>, // of the kernel for unfolded images
    pub moments: Sums,        // of the stage at hand
    pub slopes: Sums,         // likewise
    pub gradient: Vec<f32>,
    averages: Vec<f32>,       // the dense layer's input, [D]
    average_slopes: Vec<f32>, // its gradient
    logits: Vec<f32>,         // and then residuals, [O]
    pub loss_sum: f64,
    pub correct: u64,
}

/// What an image leaves for the way back.
#[derive(Debug)]
pub(super) struct Image {
    pub pixels: Vec<u8>, // [H, W, 3]
    stages: [Kept; STAGES],
}

/// What a stage leaves for the way back.
#[derive(Debug)]
struct Kept {
    /// The convolution's output, `[MARGIN + H W, F]`, then its gradient; nothing for the first.
    conv: Vec<f32>,
    /// The x of each largest y, its place and what becomes of it ([`super::super::norm_pool`]).
    extremes: Vec<f32>,
    places: Vec<u8>,
    activations: Vec<f32>,
    /// The derivative by the activations, then by the largest y.
    slopes: Vec<f32>,
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
    pub fn new(shape: &Shape) -> Chunk {
        let stages = shape.stages();
        let first = &stages[0];
        let widest = shape.filters.iter().copied().max().unwrap_or_default();
        Chunk {
            images: (0..CHUNK).map(|_| Image::new(shape)).collect(),
            used: 0,
            strip: StripMemory::new(first),
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
    pub fn clear(&mut self, used: usize) {
        self.used = used;
        self.first_gradient.fill(0.0);
        self.gradient.fill(0.0);
        (self.loss_sum, self.correct) = (0.0, 0);
    }

    /// The first stage's convolution and maxima.
    pub fn forward_first(&mut self, shared: &Shared<'_>) {
        let stage = &shared.first.stage;
        self.moments.clear();
        for image in &mut self.images[..self.used] {
            let kept = &mut image.stages[0];
            shared
                .first
                .strips(&image.pixels, &mut self.strip, |strip| {
                    self.moments.add_moments(stage, strip.output);
                    pool(
                        stage,
                        strip.output,
                        &shared.signs[0],
                        &mut kept.extremes[strip.pooled..],
                        &mut kept.places[strip.pooled..],
                    );
                });
        }
    }

    /// The activations of the stage before `number`, its convolution and maxima.
    pub fn forward(&mut self, shared: &Shared<'_>, number: usize, before: &Norm) {
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
    pub fn end(
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
    pub fn backward(
        &mut self,
        shared: &Shared<'_>,
        number: usize,
        descent: &Descent,
        before: &Norm,
    ) {
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
    pub fn backward_first(&mut self, shared: &Shared<'_>, descent: &Descent) {
        let (stage, conv) = (&shared.first.stage, &shared.first.conv);
        for image in &mut self.images[..self.used] {
            let kept = &image.stages[0];
            shared
                .first
                .strips(&image.pixels, &mut self.strip, |strip| {
                    let (slopes, places) =
                        (&kept.slopes[strip.pooled..], &kept.places[strip.pooled..]);
                    descent.apply(stage, strip.output, slopes, places);
                    let gradient = &mut self.first_gradient;
                    conv.add_kernel_gradient(strip.unfolded, strip.output, strip.rows, gradient);
                });
        }
        let kernel = &mut self.gradient[shared.network.ranges.0[0].kernel.clone()];
        transpose_taps(&self.first_gradient, stage.filters, kernel);
    }
}
