//! The Adam solver against Keras's own numbers (made by `scripts/keras_adam_fixture.py`): losses,
//! accuracies, weights after every step and validation metrics after every epoch.

use head_trainer::head::Linear;
use head_trainer::matrix::Rows;
use head_trainer::metrics::evaluate;
use head_trainer::solver::Problem;
use head_trainer::solver::adam::{AdamConfig, BatchSource, Optimizer, fit_batches};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    channels: usize,
    train_rows: u32,
    features: Vec<Vec<f32>>,
    labels: Vec<u32>,
    initial_weights: Vec<f32>,
    batches: Vec<Vec<Vec<u32>>>, // [epoch][step][row]
    steps: Vec<KerasStep>,
    epochs: Vec<KerasEpoch>,
}

#[derive(Deserialize)]
struct KerasStep {
    running_loss: f64,
    running_accuracy: f64,
    weights: Vec<f32>,
    bias: f32,
}

#[derive(Deserialize)]
struct KerasEpoch {
    train_loss: f64,
    train_accuracy: f64,
    validation_loss: f64,
    validation_accuracy: f64,
}

impl Fixture {
    fn read() -> Fixture {
        serde_json::from_str(include_str!("data/keras_adam.json")).unwrap()
    }

    fn initial(&self) -> Linear {
        Linear::binary(self.initial_weights.clone(), 0.0)
    }
}

/// Keras's batches in Keras's order.
struct Given(Vec<Vec<u32>>, usize);

impl BatchSource for Given {
    fn steps_per_epoch(&self) -> usize {
        3
    }

    fn next_batch(&mut self) -> &[u32] {
        self.1 += 1;
        &self.0[self.1 - 1]
    }
}

fn close(found: f64, expected: f64, what: &str) {
    let tolerance = 1e-6 * expected.abs().max(0.1);
    assert!(
        (found - expected).abs() <= tolerance,
        "{what}: {found}, Keras has {expected}"
    );
}

#[test]
fn losses_and_metrics_are_those_of_keras() {
    let fixture = Fixture::read();
    let features = fixture.features.concat();
    let rows = Rows::new(&features, fixture.channels).unwrap();
    let all: Vec<u32> = (0..fixture.labels.len() as u32).collect();
    let (train, validation) = all.split_at(fixture.train_rows as usize);
    let problem = Problem::new(rows, &fixture.labels, 2, train, validation).unwrap();
    let config = AdamConfig {
        epochs: fixture.epochs.len() as u32,
        ..AdamConfig::default()
    };
    let mut batches = Given(fixture.batches.concat(), 0);
    let mut seen = 0;
    let initial = fixture.initial();
    let fit = fit_batches(&problem, &config, initial, &mut batches, &mut |_| seen += 1).unwrap();

    assert_eq!(seen, fixture.epochs.len());
    assert_eq!(fit.steps.len(), fixture.steps.len());
    for (step, keras) in fit.steps.iter().zip(&fixture.steps) {
        close(step.running_loss, keras.running_loss, "running loss");
        close(
            step.running_accuracy,
            keras.running_accuracy,
            "running accuracy",
        );
    }
    for (epoch, keras) in fit.history.iter().zip(&fixture.epochs) {
        close(epoch.train_loss, keras.train_loss, "loss");
        close(epoch.train_accuracy, keras.train_accuracy, "accuracy");
        close(
            epoch.validation_loss.unwrap(),
            keras.validation_loss,
            "val_loss",
        );
        let accuracy = epoch.validation_accuracy.unwrap();
        close(accuracy, keras.validation_accuracy, "val_accuracy");
    }
    let metrics = evaluate(&fit.head, rows, &fixture.labels, validation).unwrap();
    assert_eq!(
        Some(metrics.loss),
        fit.history.last().unwrap().validation_loss
    );
}

#[test]
fn weights_after_every_step_are_those_of_keras() {
    let fixture = Fixture::read();
    let features = fixture.features.concat();
    let rows = Rows::new(&features, fixture.channels).unwrap();
    let mut optimizer = Optimizer::new(fixture.initial(), &AdamConfig::default());
    let batches = fixture.batches.concat();
    for (batch, keras) in batches.iter().zip(&fixture.steps) {
        optimizer.step(rows, &fixture.labels, batch);
        let head = optimizer.head();
        for (w, expected) in head.weights_oc.iter().zip(&keras.weights) {
            close(f64::from(*w), f64::from(*expected), "weight");
        }
        // The bias is small: compare its distance from zero, of which every step adds 1e-3.
        assert!(
            (head.bias_o[0] - keras.bias).abs() < 1e-8,
            "{} {}",
            head.bias_o[0],
            keras.bias
        );
    }
}
