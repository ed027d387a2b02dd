//! One batch forward and backward: its loss, the gradient of every parameter, the moments of every
//! normalisation.
//!
//! The batch is cut into chunks of a few images, by their places in it. Each chunk has memory of
//! its own, kept from batch to batch, and is one task for rayon. A stage's moments are those of
//! the whole batch, so that all chunks must be done with one layer before the next can start. Sums
//! over the chunks are taken in their order. So the bits are the same for any number of threads.
//!
//! The first convolution's output is never kept: strips of it are made, pooled and dropped while
//! they are in the cache, and made once more on the way back. Its input is the image, whose gradient
//! nobody asks for. This file knows the layers' order and nothing of their insides; what they do
//! with the images of a chunk is in [`chunk`].

mod chunk;

use rayon::prelude::*;

use self::chunk::{CHUNK, Chunk};
use super::conv::Conv;
use super::first::First;
use super::network::Network;
use super::norm_pool::{Norm, signs};
use super::shape::{STAGES, Shape, Stage};
use super::sums::{Moments, Sums};
use crate::solver::adam::BatchResult;

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
    first: First,
    convs: [Conv; STAGES], // of the other stages
    turned: [Vec<f32>; STAGES],
    signs: [Vec<f32>; STAGES],
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
        let convs = stages.map(|stage| stage.conv());
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
            first: network.first(),
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
