//! A state dict's bytes as the weights of ResNet50's layers: float32, kernels output channels first.
//!
//! Must not know what becomes of them.

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::WeightsError;
use super::naming::{Naming, Part, Sorted, sort};
use crate::backbone::resnet50::{Architecture, ConvBn, LayerWeights};

/// A state dict that holds a whole ResNet50.
#[derive(Debug)]
pub struct StateDict<'a> {
    sorted: Sorted,
    tensors: SafeTensors<'a>,
}

impl<'a> StateDict<'a> {
    /// Reads the header and sorts out the names; no number is looked at yet.
    ///
    /// # Errors
    /// When the bytes are no safetensors file, or its tensors are not one ResNet50.
    pub fn read(bytes: &'a [u8]) -> Result<StateDict<'a>, WeightsError> {
        let tensors = SafeTensors::deserialize(bytes)
            .map_err(|error| other_file(bytes).unwrap_or(WeightsError::NotSafetensors(error)))?;
        let sorted = sort(tensors.names().into_iter())?;
        Ok(StateDict { sorted, tensors })
    }

    /// Whose names its tensors have.
    pub fn naming(&self) -> Naming {
        self.sorted.naming
    }

    /// The names of the classifier's tensors, which stay behind.
    pub fn classifier(&self) -> &[String] {
        &self.sorted.classifier
    }

    /// How many `num_batches_tracked` there are, which stay behind.
    pub fn counters(&self) -> usize {
        self.sorted.counters
    }

    /// The weights of every layer of `architecture`, in its order.
    ///
    /// # Errors
    /// When a tensor has another shape than its layer, or holds what is no finite number.
    pub(super) fn layers(
        &self,
        architecture: &Architecture,
    ) -> Result<Vec<LayerWeights>, WeightsError> {
        let names = self.naming().layers(architecture);
        let layers = architecture.layers().zip(&names);
        layers
            .map(|(layer, names)| self.layer(layer, names))
            .collect()
    }

    fn layer(&self, layer: &ConvBn, names: &[String; 2]) -> Result<LayerWeights, WeightsError> {
        let naming = self.naming();
        let (k, inputs, outputs) = (layer.kernel, layer.in_channels, layer.out_channels);
        let get = |part: Part, shape: &[usize]| self.values(&naming.tensor(names, part), shape);
        let vector = |part: Part| get(part, &[outputs]);
        let (kernel_oihw, bias) = match naming {
            Naming::Torchvision => (get(Part::Kernel, &[outputs, inputs, k, k])?, None),
            Naming::Keras => {
                let kernel_hwio = get(Part::Kernel, &[k, k, inputs, outputs])?;
                let kernel_oihw = outputs_first(&kernel_hwio, inputs, outputs);
                (kernel_oihw, Some(vector(Part::Bias)?))
            }
        };
        let variance = vector(Part::Variance)?;
        // Its square root is taken.
        match variance.iter().find(|&&value| value < 0.0) {
            Some(&value) => Err(WeightsError::Value {
                tensor: self.own(&naming.tensor(names, Part::Variance)).to_owned(),
                value,
            }),
            None => Ok(LayerWeights {
                kernel_oihw,
                bias,
                gamma: vector(Part::Gamma)?,
                beta: vector(Part::Beta)?,
                mean: vector(Part::Mean)?,
                variance,
            }),
        }
    }

    /// The file's own name for a tensor.
    fn own(&self, name: &str) -> &str {
        &self.sorted.own[name]
    }

    fn values(&self, name: &str, expected: &[usize]) -> Result<Vec<f32>, WeightsError> {
        let own = self.own(name);
        let tensor = self
            .tensors
            .tensor(own)
            .map_err(WeightsError::NotSafetensors)?;
        if tensor.shape() != expected {
            return Err(WeightsError::Shape {
                tensor: own.to_owned(),
                got: tensor.shape().to_vec(),
                expected: expected.to_vec(),
            });
        }
        let values = floats(&tensor).ok_or_else(|| WeightsError::Elements {
            tensor: own.to_owned(),
            got: format!("{:?}", tensor.dtype()),
        })?;
        match values.iter().find(|value| !value.is_finite()) {
            Some(&value) => Err(WeightsError::Value {
                tensor: own.to_owned(),
                value,
            }),
            None => Ok(values),
        }
    }
}

/// A tensor's numbers, little-endian in the file; none if they are no floats of up to 32 bits.
fn floats(tensor: &TensorView) -> Option<Vec<f32>> {
    let pairs = || tensor.data().as_chunks::<2>().0.iter();
    let values = match tensor.dtype() {
        Dtype::F32 => {
            let (quads, _) = tensor.data().as_chunks::<4>();
            quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect()
        }
        Dtype::F16 => pairs()
            .map(|pair| half::f16::from_le_bytes(*pair).to_f32())
            .collect(),
        Dtype::BF16 => pairs()
            .map(|pair| half::bf16::from_le_bytes(*pair).to_f32())
            .collect(),
        _ => return None,
    };
    Some(values)
}

/// [height, width, in, out] -> [out, in, height, width].
fn outputs_first(kernel_hwio: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let area = kernel_hwio.len() / (inputs * outputs);
    let mut kernel_oihw = vec![0.0; kernel_hwio.len()];
    for (at, row_o) in kernel_hwio.chunks_exact(outputs).enumerate() {
        let (tap, input) = (at / inputs, at % inputs);
        for (output, &value) in row_o.iter().enumerate() {
            kernel_oihw[(output * inputs + input) * area + tap] = value;
        }
    }
    kernel_oihw
}

/// What a file is that weights usually come in, with the way from it to a safetensors file.
fn other_file(bytes: &[u8]) -> Option<WeightsError> {
    let (what, remedy) = match bytes {
        [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => (
            "a pickle of PyTorch, which can run anything as it is read,",
            "where it is trusted, convert it: safetensors.torch.save_file(torch.load(\"FILE.pth\", \
             weights_only=True), \"FILE.safetensors\")",
        ),
        [0x89, b'H', b'D', b'F', ..] => (
            "an HDF5 file, as Keras writes,",
            "make backbone BACKBONE_ARGS=\"--weights FILE.h5\" makes a backbone of it",
        ),
        _ => return None,
    };
    Some(WeightsError::OtherFile { what, remedy })
}

#[cfg(test)]
mod tests {
    use super::outputs_first;

    #[test]
    fn kernels_turn_outputs_first() {
        // [1 row, 2 columns, 2 inputs, 3 outputs]: 100 * column + 10 * input + output.
        let hwio = [
            0., 1., 2., 10., 11., 12., 100., 101., 102., 110., 111., 112.,
        ];
        // [3 outputs, 2 inputs, 1 row, 2 columns]
        let oihw = [
            0., 100., 10., 110., 1., 101., 11., 111., 2., 102., 12., 112.,
        ];
        assert_eq!(outputs_first(&hwio, 2, 3), oihw);
    }
}
