//! The network's numbers, and what they make of images once trained.

use rayon::prelude::*;

use super::first::{First, StripMemory};
use super::norm_pool::{Norm, pool, signs};
use super::shape::{DenseRanges, STAGES, Shape, StageRanges};
use super::sums::Moments;
use super::unfold::transpose_taps;
use super::{Images, dense};
use crate::metrics::Logits;
use crate::rng::{Purpose, Stream};

/// How much of a moving mean or variance a batch leaves, as Keras's `momentum`.
pub(super) const MOMENTUM: f64 = 0.99;

/// The baseline's parameters and moving moments.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    pub(super) shape: Shape,
    pub(super) ranges: ([StageRanges; STAGES], DenseRanges),
    /// All trainable parameters, as [`super::shape`] orders them.
    pub(super) parameters: Vec<f32>,
    /// Moving mean and variance of each stage, `[F]` each.
    pub(super) moving: [[Vec<f32>; 2]; STAGES],
}

impl Network {
    /// The seeded initial network, as Keras has it: kernels Glorot-uniform, in [-l, l) with
    /// l = sqrt(6 / (inputs + outputs)) (X. Glorot and Y. Bengio, 2010, equation 16; a kernel's
    /// inputs are 9 C and its outputs 9 F), biases 0, gamma 1, beta 0, moving means 0 and variances
    /// 1. The numbers come in the order of the parameters.
    ///
    /// # Panics
    /// When the shape is not usable ([`Shape::is_usable`]).
    pub fn initial(shape: Shape, seed: u64) -> Network {
        assert!(shape.is_usable(), "no network for {shape:?}");
        let mut network = Network {
            shape,
            ranges: shape.ranges(),
            parameters: vec![0.0; shape.trainable()],
            moving: shape.filters.map(|f| [vec![0.0; f], vec![1.0; f]]),
        };
        let mut random = Stream::new(seed, Purpose::Initial);
        let (stage_ranges, dense) = &network.ranges;
        let parameters = &mut network.parameters;
        for (stage, ranges) in shape.stages().iter().zip(stage_ranges) {
            let limit = (6.0 / (9 * (stage.channels + stage.filters)) as f64).sqrt() as f32;
            parameters[ranges.kernel.clone()].fill_with(|| random.symmetric(limit));
            parameters[ranges.gamma.clone()].fill(1.0);
        }
        let limit = (6.0 / (shape.dense_inputs() + shape.outputs()) as f64).sqrt() as f32;
        parameters[dense.weights.clone()].fill_with(|| random.symmetric(limit));
        network
    }

    /// The sizes of its layers.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Number of parameters: those that gradients change, and all.
    pub fn parameter_count(&self) -> [usize; 2] {
        [self.shape.trainable(), self.shape.parameters()]
    }

    /// Whether every number is finite.
    pub fn is_finite(&self) -> bool {
        let moving = self.moving.iter().flatten().flatten();
        self.parameters.iter().chain(moving).all(|x| x.is_finite())
    }

    /// Moving mean and variance of a stage's convolution, its bias included, `[F]` each.
    ///
    /// # Panics
    /// When there is no such stage of the three.
    pub fn moving_moments(&self, stage: usize) -> [&[f32]; 2] {
        let [mean, variance] = &self.moving[stage];
        [mean, variance]
    }

    /// The first stage's convolution.
    pub(super) fn first(&self) -> First {
        let stage = self.shape.stages()[0];
        let kernel = &self.parameters[self.ranges.0[0].kernel.clone()];
        let mut reordered = vec![0.0; kernel.len()];
        transpose_taps(kernel, stage.filters, &mut reordered);
        First {
            conv: stage.conv().unfolded(),
            stage,
            kernel: reordered,
        }
    }

    /// The normalisation of a stage's convolution by moments of its output without the bias.
    pub(super) fn norm(&self, number: usize, moments: &Moments) -> Norm {
        let ranges = &self.ranges.0[number];
        Norm::new(
            moments,
            &self.parameters[ranges.gamma.clone()],
            &self.parameters[ranges.beta.clone()],
        )
    }

    /// Moves the moving moments towards a batch's, `moving * momentum + batch * (1 - momentum)` as
    /// Keras has it. A batch's mean is told without the bias, which counts here.
    pub(super) fn follow(&mut self, moments: &[Moments; STAGES], momentum: f64) {
        let (keep, take) = (momentum as f32, (1.0 - momentum) as f32);
        for ((ranges, [mean, variance]), batch) in
            self.ranges.0.iter().zip(&mut self.moving).zip(moments)
        {
            let biases = &self.parameters[ranges.bias.clone()];
            for ((moving, mean), bias) in mean.iter_mut().zip(&batch.mean).zip(biases) {
                *moving = *moving * keep + (mean + f64::from(*bias)) as f32 * take;
            }
            for (moving, variance) in variance.iter_mut().zip(&batch.variance) {
                *moving = *moving * keep + *variance as f32 * take;
            }
        }
    }

    /// The normalisation of each stage by the moving moments.
    fn moving_norms(&self) -> [Norm; STAGES] {
        [0, 1, 2].map(|number| {
            let biases = &self.parameters[self.ranges.0[number].bias.clone()];
            let [mean, variance] = &self.moving[number];
            let without = mean.iter().zip(biases);
            let moments = Moments {
                mean: without
                    .map(|(m, b)| f64::from(*m) - f64::from(*b))
                    .collect(),
                variance: variance.iter().map(|v| f64::from(*v)).collect(),
            };
            self.norm(number, &moments)
        })
    }

    /// Logits of the images that `rows` lists, in that order, normalised by the moving moments.
    ///
    /// Runs on the current rayon pool; the bits are the same for any number of threads, and for
    /// any other images beside an image.
    ///
    /// # Panics
    /// When a row does not exist or the images are not of the network's size.
    pub fn logits(&self, images: &dyn Images, rows: &[u32]) -> Logits {
        assert_eq!(
            images.size(),
            self.shape.size,
            "images of the network's size"
        );
        let outputs = self.shape.outputs();
        let inference = Inference {
            network: self,
            norms: self.moving_norms(),
            first: self.first(),
        };
        let mut logits_no = vec![0.0; rows.len() * outputs];
        logits_no
            .par_chunks_exact_mut(outputs)
            .zip(rows)
            .for_each_init(
                || inference.memory(),
                |memory, (logits_o, &row)| inference.run(memory, images.pixels(row), logits_o),
            );
        Logits::new(logits_no, outputs)
    }
}

/// A network ready to look at one image after the other.
struct Inference<'a> {
    network: &'a Network,
    norms: [Norm; STAGES],
    first: First,
}

/// Memory for one image at a time.
struct Memory {
    strip: StripMemory,
    conv: Vec<f32>, // of the other stages
    extremes: Vec<f32>,
    places: Vec<u8>,
    activations: Vec<f32>,
    averages: Vec<f32>,
}

impl Inference<'_> {
    fn memory(&self) -> Memory {
        let shape = &self.network.shape;
        let stages = shape.stages();
        let largest = |len: fn(&super::shape::Stage) -> usize| stages.iter().map(len).max();
        let pooled = largest(|stage| stage.pooled_len()).unwrap_or_default();
        let later = stages[1..].iter();
        let conv = later.map(|stage| stage.conv_height() * stage.width * stage.filters);
        Memory {
            strip: StripMemory::new(&stages[0]),
            conv: vec![0.0; conv.max().unwrap_or_default()],
            extremes: vec![0.0; pooled],
            places: vec![0; pooled],
            activations: vec![0.0; pooled],
            averages: vec![0.0; shape.dense_inputs()],
        }
    }

    fn run(&self, memory: &mut Memory, pixels: &[u8], logits_o: &mut [f32]) {
        let (network, stages) = (self.network, self.network.shape.stages());
        for (number, stage) in stages.iter().enumerate() {
            let ranges = &network.ranges.0[number];
            let signs = signs(&network.parameters[ranges.gamma.clone()]);
            let (extremes, places) = (&mut memory.extremes, &mut memory.places);
            if number == 0 {
                self.first.strips(pixels, &mut memory.strip, |strip| {
                    let extremes = &mut extremes[strip.pooled..];
                    let places = &mut places[strip.pooled..];
                    pool(stage, strip.output, &signs, extremes, places);
                });
            } else {
                let rows = stage.conv_height();
                let output = &mut memory.conv[..rows * stage.width * stage.filters];
                let kernel = &network.parameters[ranges.kernel.clone()];
                stage
                    .conv()
                    .forward(kernel, &memory.activations, rows, output);
                pool(stage, output, &signs, extremes, places);
            }
            let len = stage.pooled_len();
            self.norms[number].activate(&memory.extremes[..len], &mut memory.activations[..len]);
        }
        let last = &stages[STAGES - 1];
        let size = [last.pooled_height(), last.pooled_width(), last.filters];
        dense::average(&memory.activations, size, &mut memory.averages);
        let dense = &network.ranges.1;
        dense::forward(
            &network.parameters[dense.weights.clone()],
            &network.parameters[dense.bias.clone()],
            &memory.averages,
            logits_o,
        );
    }
}
