//! The baseline against Keras's own numbers (made by `scripts/keras_baseline_fixture.py`): losses
//! of Adam's first steps, moving moments after them, logits in inference.
//!
//! The weights that Keras starts from and ends with are files of ours by its own names, so that
//! these tests read the format, too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use head_trainer::baseline::{Baseline, Images, Trainer};
use head_trainer::metrics::Basic;
use head_trainer::solver::adam::AdamConfig;
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    size: [usize; 2],
    classes: usize,
    images: usize,
    batches: Vec<usize>,
    losses: Vec<f64>,
    moving_means: [Vec<f32>; 3],
    moving_variances: [Vec<f32>; 3],
    logits_after: Option<Vec<f32>>,
}

fn cases() -> BTreeMap<String, Case> {
    let text = include_str!("data/keras_baseline.json");
    serde_json::from_str::<Fixture>(text).unwrap().cases
}

/// The script's images.
struct Made {
    size: [usize; 2],
    pixels: Vec<u8>,
    labels: Vec<u32>,
}

impl Made {
    fn new(case: &Case) -> Made {
        let [height, width] = case.size;
        let labels: Vec<u32> = (0..case.images)
            .map(|i| (i * 7 / 3 % case.classes) as u32)
            .collect();
        let pixel = |i: usize| {
            let noise = (i as u32).wrapping_mul(2_654_435_761) >> 25;
            let (column, image) = (i / 3 % width, i / 3 / width / height);
            let bright = if column < width / 2 {
                40 * labels[image]
            } else {
                0
            };
            (noise + bright) as u8
        };
        Made {
            size: case.size,
            pixels: (0..case.images * height * width * 3).map(pixel).collect(),
            labels,
        }
    }
}

impl Images for Made {
    fn size(&self) -> [usize; 2] {
        self.size
    }

    fn len(&self) -> usize {
        self.labels.len()
    }

    fn pixels(&self, row: u32) -> &[u8] {
        let len = self.size[0] * self.size[1] * 3;
        &self.pixels[row as usize * len..][..len]
    }
}

fn file(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    folder.join(format!("keras_baseline_{name}.safetensors"))
}

fn close(found: f64, expected: f64, relative: f64, what: &str) {
    let tolerance = relative * expected.abs().max(0.01);
    assert!(
        (found - expected).abs() <= tolerance,
        "{what}: {found}, Keras has {expected}"
    );
}

#[test]
fn losses_and_moving_moments_are_those_of_keras() {
    for (name, case) in cases() {
        let images = Made::new(&case);
        let network = Baseline::load(&file(&name)).unwrap().network;
        let mut trainer = Trainer::new(network, &AdamConfig::default(), 8);
        // Adam makes large steps of small gradients' rounding errors, and the full network has more.
        let tolerance = if name == "full" { 1e-4 } else { 2e-5 };
        let mut start = 0;
        let mut batches = Vec::new();
        for size in &case.batches {
            batches.push((start..start + *size as u32).collect::<Vec<u32>>());
            start += *size as u32;
        }
        for (step, (keras, batch)) in case.losses.iter().zip(batches.iter().cycle()).enumerate() {
            let result = trainer.step(&images, &images.labels, batch, &[]);
            let loss = result.loss_sum / batch.len() as f64;
            close(
                loss,
                *keras,
                tolerance,
                &format!("{name}, loss of step {step}"),
            );
        }
        let network = trainer.network();
        for stage in 0..3 {
            let [means, variances] = network.moving_moments(stage);
            for (found, keras) in [
                (means, &case.moving_means[stage]),
                (variances, &case.moving_variances[stage]),
            ] {
                assert_eq!(found.len(), keras.len());
                for (found, keras) in found.iter().zip(keras) {
                    let what = format!("{name}, moment of stage {stage}");
                    close(f64::from(*found), f64::from(*keras), tolerance, &what);
                }
            }
        }
    }
}

#[test]
fn inference_is_that_of_keras() {
    let mut compared = 0;
    for (name, case) in cases() {
        let Some(keras) = &case.logits_after else {
            continue;
        };
        let images = Made::new(&case);
        let network = Baseline::load(&file(&format!("{name}_after")))
            .unwrap()
            .network;
        let rows: Vec<u32> = (0..case.images as u32).collect();
        let logits = network.logits(&images, &rows);
        assert!(Basic::of(&logits, &images.labels).is_some());
        assert_eq!(logits.values().len(), keras.len());
        for (found, keras) in logits.values().iter().zip(keras) {
            let what = format!("{name}, logit");
            close(f64::from(*found), f64::from(*keras), 2e-5, &what);
            compared += 1;
        }
    }
    assert_eq!(compared, 21 + 3 * 21);
}

#[test]
fn the_full_network_has_the_tutorials_parameters() {
    let network = Baseline::load(&file("full")).unwrap().network;
    assert_eq!(network.parameter_count(), [30_497, 30_753]);
}
