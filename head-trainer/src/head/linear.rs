//! The numbers of a head, and what follows from them. Knows nothing of files.

use crate::kernels::dot;

/// Outputs of a head for `classes` classes: 1 logit for two, one a class for more.
pub fn outputs_for(classes: usize) -> usize {
    if classes == 2 { 1 } else { classes }
}

/// The numbers of a head: what a solver finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// One weight for each output and channel, `[O, C]`, flat.
    pub weights_oc: Vec<f32>,
    /// The biases, `[O]`.
    pub bias_o: Vec<f32>,
}

impl Linear {
    /// A head of one output.
    pub fn binary(weights_c: Vec<f32>, bias: f32) -> Linear {
        Linear {
            weights_oc: weights_c,
            bias_o: vec![bias],
        }
    }

    /// A head of all zeros.
    pub fn zeros(outputs: usize, channels: usize) -> Linear {
        Linear {
            weights_oc: vec![0.0; outputs * channels],
            bias_o: vec![0.0; outputs],
        }
    }

    /// Number of outputs, O.
    pub fn outputs(&self) -> usize {
        self.bias_o.len()
    }

    /// Number of channels, C.
    pub fn channels(&self) -> usize {
        self.weights_oc.len() / self.bias_o.len()
    }

    /// Weights and bias of each output.
    pub fn units(&self) -> impl Iterator<Item = (&[f32], f32)> {
        let weights = self.weights_oc.chunks_exact(self.channels());
        weights.zip(self.bias_o.iter().copied())
    }

    /// Writes `Σ weights[o, c] * pooled[c] + bias[o]` of the pooled features `[C]` of one image
    /// to `logits_o` `[O]`.
    pub fn logits_of(&self, pooled_c: &[f32], logits_o: &mut [f32]) {
        for (logit, (weights_c, bias)) in logits_o.iter_mut().zip(self.units()) {
            *logit = dot(weights_c, pooled_c) + bias;
        }
    }

    /// Number of trainable parameters: O (C + 1).
    pub fn parameter_count(&self) -> usize {
        self.weights_oc.len() + self.bias_o.len()
    }

    /// Whether every number is finite.
    pub fn is_finite(&self) -> bool {
        let mut numbers = self.weights_oc.iter().chain(&self.bias_o);
        numbers.all(|x| x.is_finite())
    }

    /// A head of one output with its two classes swapped: every logit has the other sign.
    pub fn mirrored(&self) -> Linear {
        Linear {
            weights_oc: self.weights_oc.iter().map(|w| -w).collect(),
            bias_o: self.bias_o.iter().map(|b| -b).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(head: &Linear, pooled_c: &[f32]) -> Vec<f32> {
        let mut logits_o = vec![9.0; head.outputs()];
        head.logits_of(pooled_c, &mut logits_o);
        logits_o
    }

    #[test]
    fn logits_by_hand() {
        let head = Linear::binary(vec![1.0, -2.0, 0.5], 0.25);
        assert_eq!(logits(&head, &[1.0, 2.0, 4.0]), [1.0 - 4.0 + 2.0 + 0.25]);
        assert_eq!((head.parameter_count(), head.channels()), (4, 3));
        assert_eq!(logits(&head.mirrored(), &[1.0, 2.0, 4.0]), [0.75]);
        let head = Linear {
            weights_oc: vec![1.0, 0.0, 0.0, 1.0, -1.0, 2.0],
            bias_o: vec![0.0, 0.5, -0.5],
        };
        assert_eq!(logits(&head, &[3.0, 4.0]), [3.0, 4.5, 4.5]);
        assert_eq!((head.parameter_count(), head.channels()), (9, 2));
    }
}
