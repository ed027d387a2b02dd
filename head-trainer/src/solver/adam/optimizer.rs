//! Adam's update, step for step what Keras does.
//!
//! It is that of Keras 3's `Adam` (D. Kingma and J. Ba, "Adam", 2015, the form at the end of
//! section 2, with epsilon outside the bias correction), in f32, for step t = 1, 2, ...:
//!
//! ```text
//! g     = gradient of the batch's mean binary cross-entropy
//! m    += (g - m) * (1 - beta_1)
//! v    += (g * g - v) * (1 - beta_2)
//! alpha = learning_rate * sqrt(1 - beta_2^t) / (1 - beta_1^t)
//! w    -= m * alpha / (sqrt(v) + epsilon)
//! ```
//!
//! `tests/keras_adam.rs` holds it to Keras's own numbers. This file knows nothing of epochs.

use super::AdamConfig;
use crate::head::Linear;
use crate::matrix::{Rows, add_scaled_rows};
use crate::metrics::{binary_cross_entropy, predicted, sigmoid};

/// What a batch looked like before its update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchResult {
    /// Sum of the rows' losses, in nats.
    pub loss_sum: f64,
    /// Number of rows whose class was right.
    pub correct: u64,
}

/// Adam's state: the head and the two moving means of its gradient.
#[derive(Clone, Debug)]
pub struct Optimizer {
    head: Linear,
    rates: Rates,
    steps: u64,
    mean_c: Vec<f32>,   // m, [C]
    square_c: Vec<f32>, // v, [C]
    bias_mean: f32,
    bias_square: f32,
    gradient_c: Vec<f32>, // of the last batch, [C]; kept for its memory
    residuals: Vec<f32>,  // of the last batch, [rows]; likewise
}

/// The configured rates as f32, and the powers that the bias correction needs.
#[derive(Clone, Copy, Debug)]
struct Rates {
    learning_rate: f32,
    epsilon: f32,
    gains: [f32; 2],  // 1 - beta, subtracted before rounding to f32, as in Keras
    betas: [f64; 2],  // beta after rounding to f32, as in Keras
    powers: [f64; 2], // beta^t
}

impl Rates {
    fn new(config: &AdamConfig) -> Rates {
        let betas = [config.beta_1, config.beta_2];
        Rates {
            learning_rate: config.learning_rate as f32,
            epsilon: config.epsilon as f32,
            gains: betas.map(|beta| (1.0 - beta) as f32),
            betas: betas.map(|beta| f64::from(beta as f32)),
            powers: [1.0; 2],
        }
    }

    /// alpha of the next step.
    fn next_alpha(&mut self) -> f32 {
        // Keras raises the f32 beta to the power t in f32. A running product in f64, rounded to
        // f32, needs no library's power function and so has the same bits everywhere.
        for (power, beta) in self.powers.iter_mut().zip(self.betas) {
            *power *= beta;
        }
        let [power_1, power_2] = self.powers.map(|power| power as f32);
        self.learning_rate * (1.0 - power_2).sqrt() / (1.0 - power_1)
    }
}

impl Optimizer {
    /// Starts at `head`, with the rates of `config`.
    pub fn new(head: Linear, config: &AdamConfig) -> Optimizer {
        let channels = head.weights_c.len();
        Optimizer {
            head,
            rates: Rates::new(config),
            steps: 0,
            mean_c: vec![0.0; channels],
            square_c: vec![0.0; channels],
            bias_mean: 0.0,
            bias_square: 0.0,
            gradient_c: vec![0.0; channels],
            residuals: Vec::new(),
        }
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
        self.gradient_c.fill(0.0);
        add_scaled_rows(&mut self.gradient_c, rows, batch, &self.residuals);
        self.update();
        result
    }

    /// Loss of a batch; leaves the loss's derivative by each row's logit in `residuals`.
    fn forward(&mut self, rows: Rows<'_>, labels_n: &[u32], batch: &[u32]) -> BatchResult {
        assert!(!batch.is_empty(), "a batch has at least one row");
        assert_eq!(
            self.head.weights_c.len(),
            rows.channels(),
            "head and rows must agree"
        );
        let count = batch.len() as f32;
        let mut result = BatchResult {
            loss_sum: 0.0,
            correct: 0,
        };
        self.residuals.clear();
        for &row in batch {
            let label = labels_n[row as usize];
            let logit = self.head.logit(rows.row(row));
            result.loss_sum += f64::from(binary_cross_entropy(logit, label));
            result.correct += u64::from(predicted(logit) == label);
            self.residuals.push((sigmoid(logit) - label as f32) / count);
        }
        result
    }

    /// Moves the head along `gradient_c` and the sum of `residuals`, the bias's gradient.
    fn update(&mut self) {
        self.steps += 1;
        let alpha = self.rates.next_alpha();
        let [gain_1, gain_2] = self.rates.gains;
        let epsilon = self.rates.epsilon;
        let descend = |w: &mut f32, m: &mut f32, v: &mut f32, g: f32| {
            *m += (g - *m) * gain_1;
            *v += (g * g - *v) * gain_2;
            *w -= *m * alpha / (v.sqrt() + epsilon);
        };
        let moments = self.mean_c.iter_mut().zip(&mut self.square_c);
        let weights = self.head.weights_c.iter_mut().zip(moments);
        for ((w, (m, v)), &g) in weights.zip(&self.gradient_c) {
            descend(w, m, v, g);
        }
        let bias_gradient: f32 = self.residuals.iter().sum();
        descend(
            &mut self.head.bias,
            &mut self.bias_mean,
            &mut self.bias_square,
            bias_gradient,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_step_by_hand() {
        // One row (2), label 1, weight and bias 0: p = 1/2, gradient of w = -1/2 * 2 = -1 and of
        // the bias -1/2. m = 0.1 g, v = 0.001 g^2, alpha = 1e-3 sqrt(0.001) / 0.1, and so each
        // parameter moves by 1e-3 * g / |g| against g (less epsilon's share).
        let head = Linear {
            weights_c: vec![0.0],
            bias: 0.0,
        };
        let mut optimizer = Optimizer::new(head, &AdamConfig::default());
        let rows = Rows::new(&[2.0], 1).unwrap();
        let result = optimizer.step(rows, &[1], &[0]);
        assert!((result.loss_sum - 2_f64.ln()).abs() < 1e-7);
        assert_eq!(result.correct, 0); // a tie is class 0
        assert!((optimizer.head().weights_c[0] - 1e-3).abs() < 1e-7);
        assert!((optimizer.head().bias - 1e-3).abs() < 1e-7);
        assert_eq!(optimizer.residuals, [-0.5]);
        assert_eq!(optimizer.gradient_c, [-1.0]);
    }

    #[test]
    fn gradient_is_the_losss_derivative() {
        let values: Vec<f32> = (0..7 * 20).map(|i| (i as f32 * 0.37).sin()).collect();
        let rows = Rows::new(&values, 20).unwrap();
        let labels = [1, 0, 0, 1, 1, 0, 1];
        let batch = [6, 0, 1, 2, 5];
        let config = AdamConfig {
            seed: 4,
            ..AdamConfig::default()
        };
        let mut optimizer = Optimizer::new(config.initial(20), &config);
        let head = optimizer.head().clone();
        optimizer.step(rows, &labels, &batch);
        let loss = |head: &Linear| {
            Optimizer::new(head.clone(), &config)
                .forward(rows, &labels, &batch)
                .loss_sum
                / batch.len() as f64
        };
        const H: f32 = 1e-2; // central differences: the error is of order H^2
        let check = |gradient: f32, up: Linear, down: Linear| {
            let difference = (loss(&up) - loss(&down)) / f64::from(2.0 * H);
            assert!(
                (f64::from(gradient) - difference).abs() < 2e-5,
                "{gradient} {difference}"
            );
        };
        for c in 0..20 {
            let (mut up, mut down) = (head.clone(), head.clone());
            up.weights_c[c] += H;
            down.weights_c[c] -= H;
            check(optimizer.gradient_c[c], up, down);
        }
        let (mut up, mut down) = (head.clone(), head);
        up.bias += H;
        down.bias -= H;
        check(optimizer.residuals.iter().sum(), up, down);
    }
}
