//! What a fresh Keras ResNet50 holds, with He-normal kernels: the numbers, not their use.
//!
//! Keras's own defaults for the rest: biases and beta 0, gamma 1 (also behind the last
//! convolution of a block: a zero there would silence the branch in an untrained network). Mean
//! and variance start at 0 and 1 and are measured on the seeded batch.

use rayon::prelude::*;

use super::architecture::{Architecture, ConvBn};
use super::random::Stream;

/// The weights of one convolution and its BatchNorm.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerWeights {
    /// [out, in, height, width]
    pub kernel_oihw: Vec<f32>,
    /// [out]
    pub bias: Vec<f32>,
    /// [out]
    pub gamma: Vec<f32>,
    /// [out]
    pub beta: Vec<f32>,
    /// [out], not trained
    pub mean: Vec<f32>,
    /// [out], not trained
    pub variance: Vec<f32>,
}

impl LayerWeights {
    fn seeded(layer: &ConvBn, seed: u64) -> LayerWeights {
        let channels = layer.out_channels;
        let fan_in = layer.fan_in();
        let std = libm::sqrtf(2.0 / fan_in as f32);
        let mut stream = Stream::new(seed, layer.index as u64);
        LayerWeights {
            kernel_oihw: stream.normals(channels * fan_in, std),
            bias: vec![0.0; channels],
            gamma: vec![1.0; channels],
            beta: vec![0.0; channels],
            mean: vec![0.0; channels],
            variance: vec![1.0; channels],
        }
    }
}

/// Fresh weights for every layer, in the order of [`ConvBn::index`].
pub fn seeded(architecture: &Architecture, seed: u64) -> Vec<LayerWeights> {
    let layers: Vec<&ConvBn> = architecture.layers().collect();
    layers
        .into_par_iter()
        .map(|layer| LayerWeights::seeded(layer, seed))
        .collect()
}
