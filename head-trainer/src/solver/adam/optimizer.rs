//! Adam's update, step for step what Keras does.
//!
//! It is that of Keras 3's `Adam` (D. Kingma and J. Ba, "Adam", 2015, the form at the end of
//! section 2, with epsilon outside the bias correction), in f32, for step t = 1, 2, ...:
//!
//! ```text
//! g     = gradient of the batch's mean cross-entropy + l2/2 |w|^2
//! m    += (g - m) * (1 - beta_1)
//! v    += (g * g - v) * (1 - beta_2)
//! alpha = learning_rate * sqrt(1 - beta_2^t) / (1 - beta_1^t)
//! w    -= m * alpha / (sqrt(v) + epsilon)
//! ```
//!
//! `tests/keras_adam.rs` holds it to Keras's own numbers. This file knows nothing of epochs.

use super::AdamConfig;
use crate::head::Linear;
use crate::kernels::{add_scaled_rows, vectorised};
use crate::matrix::Rows;
use crate::metrics::{cross_entropy, predicted, probabilities, sigmoid};

/// What a batch looked like before its update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchResult {
    /// Sum of the rows' losses, each times its class's weight, in nats.
    pub loss_sum: f64,
    /// Number of rows whose class was right.
    pub correct: u64,
}

/// Adam's state: the head and the two moving means of its gradient.
#[derive(Clone, Debug)]
pub struct Optimizer {
    head: Linear,
    rates: Rates,
    class_weights_k: Option<Vec<f32>>,
    steps: u64,
    mean: Linear,           // m
    square: Linear,         // v
    gradient: Linear,       // of the last batch; kept for its memory
    residuals_ob: Vec<f32>, // of the last batch, [O, batch]; likewise
    logits_o: Vec<f32>,     // of the last row; likewise
}

/// The configured rates as f32, and the powers that the bias correction needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    learning_rate: f32,
    l2: f32,
    epsilon: f32,
    gains: [f32; 2],  // 1 - beta, subtracted before rounding to f32, as in Keras
    betas: [f64; 2],  // beta after rounding to f32, as in Keras
    powers: [f64; 2], // beta^t
}

impl Rates {
    /// The rates of `config`, before the first step.
    pub fn new(config: &AdamConfig) -> Rates {
        let betas = [config.beta_1, config.beta_2];
        Rates {
            learning_rate: config.learning_rate as f32,
            l2: config.l2 as f32,
            epsilon: config.epsilon as f32,
            gains: betas.map(|beta| (1.0 - beta) as f32),
            betas: betas.map(|beta| f64::from(beta as f32)),
            powers: [1.0; 2],
        }
    }

    /// The step size from the next step on.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.learning_rate = learning_rate as f32;
    }

    /// alpha of the next step.
    pub fn next_alpha(&mut self) -> f32 {
        // Keras raises the f32 beta to the power t in f32. A running product in f64, rounded to
        // f32, needs no library's power function and so has the same bits everywhere.
        for (power, beta) in self.powers.iter_mut().zip(self.betas) {
            *power *= beta;
        }
        let [power_1, power_2] = self.powers.map(|power| power as f32);
        self.learning_rate * (1.0 - power_2).sqrt() / (1.0 - power_1)
    }

    /// Moves some weights and the moving means `[m, v]` of their gradient along `gradient`, to
    /// which `l2` times the weights is added.
    pub fn descend(
        &self,
        alpha: f32,
        l2: f32,
        weights: &mut [f32],
        [means, squares]: [&mut [f32]; 2],
        gradient: &[f32],
    ) {
        let ([gain_1, gain_2], epsilon) = (self.gains, self.epsilon);
        vectorised(
            #[inline(always)]
            || {
                let moments = means.iter_mut().zip(squares);
                for ((w, (m, v)), g) in weights.iter_mut().zip(moments).zip(gradient) {
                    let g = g + l2 * *w;
                    *m += (g - *m) * gain_1;
                    *v += (g * g - *v) * gain_2;
                    *w -= *m * alpha / (v.sqrt() + epsilon);
                }
            },
        );
    }
}

impl Optimizer {
    /// Starts at `head`, with the rates of `config`; every class counts the same.
    pub fn new(head: Linear, config: &AdamConfig) -> Optimizer {
        let zeros = Linear::zeros(head.outputs(), head.channels());
        Optimizer {
            rates: Rates::new(config),
            class_weights_k: None,
            steps: 0,
            mean: zeros.clone(),
            square: zeros.clone(),
            residuals_ob: Vec::new(),
            logits_o: vec![0.0; head.outputs()],
            gradient: zeros,
            head,
        }
    }

    /// Multiplies the losses of each class by its weight, `[K]`.
    pub fn with_class_weights(mut self, weights_k: &[f64]) -> Optimizer {
        self.class_weights_k = Some(weights_k.iter().map(|w| *w as f32).collect());
        self
    }

    /// The step size from the next update on.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.rates.set_learning_rate(learning_rate);
    }

    /// The head as it is now.
    pub fn head(&self) -> &Linear {
        &self.head
    }

    /// The head at the end.
    pub fn into_head(self) -> Linear {
        self.head
    }

    /// Number of updates so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One update on the rows that `batch` lists; returns their loss before it.
    ///
    /// # Panics
    /// When `batch` is empty or lists a row that does not exist, or the head's width is not the
    /// rows'.
    pub fn step(&mut self, rows: Rows<'_>, labels_n: &[u32], batch: &[u32]) -> BatchResult {
        let result = self.forward(rows, labels_n, batch);
        self.gradient.weights_oc.fill(0.0);
        let units = self.gradient.weights_oc.chunks_exact_mut(rows.channels());
        let residuals_ob = self.residuals_ob.chunks_exact(batch.len());
        for ((gradient_c, bias), residuals_b) in
            units.zip(&mut self.gradient.bias_o).zip(residuals_ob)
        {
            add_scaled_rows(gradient_c, rows, batch, residuals_b);
            *bias = residuals_b.iter().sum();
        }
        self.update();
        result
    }

    /// Loss of a batch; leaves the loss's derivative by each row's logits in `residuals_ob`.
    fn forward(&mut self, rows: Rows<'_>, labels_n: &[u32], batch: &[u32]) -> BatchResult {
        assert!(!batch.is_empty(), "a batch has at least one row");
        assert_eq!(
            self.head.channels(),
            rows.channels(),
            "head and rows must agree"
        );
        let count = batch.len() as f32;
        let mut result = BatchResult {
            loss_sum: 0.0,
            correct: 0,
        };
        self.residuals_ob.clear();
        self.residuals_ob
            .resize(self.head.outputs() * batch.len(), 0.0);
        for (i, &row) in batch.iter().enumerate() {
            let label = labels_n[row as usize];
            self.head.logits_of(rows.row(row), &mut self.logits_o);
            result.correct += u64::from(predicted(&self.logits_o) == label);
            let mut loss = f64::from(replace_by_residuals(&mut self.logits_o, label));
            let mut weight = 1.0;
            if let Some(weights_k) = &self.class_weights_k {
                weight = weights_k[label as usize];
                loss *= f64::from(weight);
            }
            result.loss_sum += loss;
            for (output, residual) in self.logits_o.iter().enumerate() {
                self.residuals_ob[output * batch.len() + i] = weight * residual / count;
            }
        }
        result
    }

    /// Moves the head along `gradient`.
    fn update(&mut self) {
        self.steps += 1;
        let (rates, gradient) = (&mut self.rates, &self.gradient);
        let (head, mean, square) = (&mut self.head, &mut self.mean, &mut self.square);
        let moments = [&mut mean.weights_oc[..], &mut square.weights_oc];
        let alpha = rates.next_alpha();
        let l2 = rates.l2;
        rates.descend(
            alpha,
            l2,
            &mut head.weights_oc,
            moments,
            &gradient.weights_oc,
        );
        let moments = [&mut mean.bias_o[..], &mut square.bias_o];
        rates.descend(alpha, 0.0, &mut head.bias_o, moments, &gradient.bias_o);
    }
}

/// Cross-entropy of a row's logits `[O]` against its label, in nats; leaves the loss's derivative
/// by each logit in its place.
pub(crate) fn replace_by_residuals(logits_o: &mut [f32], label: u32) -> f32 {
    let loss = cross_entropy(logits_o, label);
    match logits_o {
        [logit] => *logit = sigmoid(*logit) - label as f32,
        _ => {
            let shares = probabilities(logits_o);
            for (class, (logit, p)) in (0..).zip(logits_o.iter_mut().zip(shares)) {
                *logit = p - f32::from(u8::from(class == label));
            }
        }
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_step_by_hand() {
        // One row (2), label 1, weight and bias 0: p = 1/2, gradient of w = -1/2 * 2 = -1 and of
        // the bias -1/2. m = 0.1 g, v = 0.001 g^2, alpha = 1e-3 sqrt(0.001) / 0.1, and so each
        // parameter moves by 1e-3 * g / |g| against g (less epsilon's share).
        let mut optimizer = Optimizer::new(Linear::zeros(1, 1), &AdamConfig::default());
        let rows = Rows::new(&[2.0], 1).unwrap();
        let result = optimizer.step(rows, &[1], &[0]);
        assert!((result.loss_sum - 2_f64.ln()).abs() < 1e-7);
        assert_eq!(result.correct, 0); // a tie is class 0
        assert!((optimizer.head().weights_oc[0] - 1e-3).abs() < 1e-7);
        assert!((optimizer.head().bias_o[0] - 1e-3).abs() < 1e-7);
        assert_eq!(optimizer.gradient, Linear::binary(vec![-1.0], -0.5));
    }

    /// Finite differences, for one output and for three, with and without weights.
    #[test]
    fn gradient_is_the_losss_derivative() {
        let values: Vec<f32> = (0..7 * 20).map(|i| (i as f32 * 0.37).sin()).collect();
        let rows = Rows::new(&values, 20).unwrap();
        let batch = [6, 0, 1, 2, 5];
        let config = AdamConfig {
            seed: 4,
            ..AdamConfig::default()
        };
        for (labels, outputs, weights) in [
            ([1, 0, 0, 1, 1, 0, 1], 1, [1.0, 1.0, 1.0]),
            ([2, 0, 1, 1, 2, 0, 1], 3, [1.0, 1.0, 1.0]),
            ([2, 0, 1, 1, 2, 0, 1], 3, [0.5, 2.0, 1.5]),
        ] {
            let new = |head| Optimizer::new(head, &config).with_class_weights(&weights);
            let mut optimizer = new(config.initial(outputs, 20));
            let head = optimizer.head().clone();
            optimizer.step(rows, &labels, &batch);
            let loss = |head: &Linear| {
                new(head.clone()).forward(rows, &labels, &batch).loss_sum / batch.len() as f64
            };
            const H: f32 = 1e-2; // central differences: the error is of order H^2
            let check = |gradient: f32, up: Linear, down: Linear| {
                let difference = (loss(&up) - loss(&down)) / f64::from(2.0 * H);
                assert!(
                    (f64::from(gradient) - difference).abs() < 3e-5,
                    "{gradient} {difference}"
                );
            };
            for i in 0..head.weights_oc.len() {
                let (mut up, mut down) = (head.clone(), head.clone());
                up.weights_oc[i] += H;
                down.weights_oc[i] -= H;
                check(optimizer.gradient.weights_oc[i], up, down);
            }
            for i in 0..outputs {
                let (mut up, mut down) = (head.clone(), head.clone());
                up.bias_o[i] += H;
                down.bias_o[i] -= H;
                check(optimizer.gradient.bias_o[i], up, down);
            }
        }
    }
}
