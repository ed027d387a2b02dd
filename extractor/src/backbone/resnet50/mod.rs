//! ResNet50 without its top: its layers, its weights and its ONNX file. What is untrained and what
//! comes out of a state dict is the same graph.
//!
//! Must not know where weights come from.

mod architecture;
pub mod onnx;

pub use architecture::{Architecture, ConvBn, KERAS_EPSILON, TORCH_EPSILON, Variant, pooled_side};

/// The weights of one convolution and its BatchNorm.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerWeights {
    /// [out, in, height, width]
    pub kernel_oihw: Vec<f32>,
    /// [out]; Keras's convolutions have one, torchvision's do not.
    pub bias: Option<Vec<f32>>,
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
    /// Numbers that training changes.
    pub fn trainable(&self) -> usize {
        let bias = self.bias.as_ref().map_or(0, Vec::len);
        self.kernel_oihw.len() + bias + self.gamma.len() + self.beta.len()
    }

    /// Numbers that it does not: mean and variance.
    pub fn statistics(&self) -> usize {
        self.mean.len() + self.variance.len()
    }
}
