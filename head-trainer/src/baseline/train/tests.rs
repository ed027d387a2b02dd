//! Training on made-up images: it learns, and an interruption changes nothing.

use super::*;
use crate::baseline::{Baseline, CheckpointError, Images};
use crate::head::Decision;
use crate::protocol::{Protocol, Tutorial};
use crate::solver::ClassWeight;
use crate::solver::adam::Schedule;

const SIDE: usize = 30;

/// Images of noise whose class is how bright one side of them is.
struct Made(Vec<u8>);

impl Images for Made {
    fn size(&self) -> [usize; 2] {
        [SIDE; 2]
    }

    fn len(&self) -> usize {
        self.0.len() / (SIDE * SIDE * 3)
    }

    fn pixels(&self, row: u32) -> &[u8] {
        let len = SIDE * SIDE * 3;
        &self.0[row as usize * len..][..len]
    }
}

fn made(labels: &[u32]) -> Made {
    let mut random = Stream::new(8, Purpose::Folds);
    let mut pixels = Vec::new();
    for label in labels {
        for _ in 0..SIDE {
            for x in 0..SIDE {
                let bright = if x < SIDE / 2 { 60 * *label } else { 40 };
                pixels.extend([(); 3].map(|()| (random.below(100) + bright) as u8));
            }
        }
    }
    Made(pixels)
}

fn labels(classes: u32) -> Vec<u32> {
    (0..30).map(|i| i % classes).collect()
}

fn small(config: BaselineConfig) -> BaselineConfig {
    BaselineConfig {
        batch_size: 8,
        ..config
    }
}

/// Trains on 22 images and validates on 8; stops as an interruption would after `until` epochs.
fn trained(
    classes: u32,
    config: &BaselineConfig,
    checkpoints: Option<&Checkpoints>,
    until: u32,
) -> Result<BaselineFit, BaselineError> {
    struct Interrupted;
    let (labels_n, all) = (labels(classes), (0..30).collect::<Vec<u32>>());
    let images = made(&labels_n);
    let (train_rows, validation) = all.split_at(22);
    let data = Data {
        images: &images,
        labels_n: &labels_n,
        classes: classes as usize,
        train: train_rows,
        validation,
    };
    let run = std::panic::AssertUnwindSafe(|| {
        train(&data, config, checkpoints, &mut |progress| {
            if matches!(progress, Progress::Epoch(told) if told.epoch == until) {
                std::panic::resume_unwind(Box::new(Interrupted));
            }
        })
    });
    std::panic::catch_unwind(run).unwrap_or_else(|_| Err(BaselineError::Data("interrupted")))
}

fn bytes(fit: &BaselineFit, classes: u32) -> Vec<u8> {
    Baseline {
        network: fit.network.clone(),
        classes: (0..classes).map(|k| k.to_string()).collect(),
        decision: Decision::default(),
        metadata: std::collections::BTreeMap::new(),
    }
    .to_bytes()
}

/// The history without the seconds.
fn told(fit: &BaselineFit) -> Vec<Epoch> {
    let without = |epoch: &Epoch| Epoch {
        secs: 0.0,
        ..*epoch
    };
    fit.history.iter().map(without).collect()
}

#[test]
fn two_classes_and_three_are_learned() {
    for classes in [2, 3] {
        let config = small(BaselineConfig {
            epochs: 8,
            class_weight: ClassWeight::Balanced,
            ..BaselineConfig::default()
        });
        let fit = trained(classes, &config, None, 0).unwrap();
        assert_eq!((fit.history.len(), fit.steps.len()), (8, 24));
        let [first, .., last] = &fit.history[..] else {
            panic!("eight epochs")
        };
        assert!(
            last.train_loss < 0.5 * first.train_loss,
            "{:?}",
            fit.history
        );
        assert_eq!(last.train_accuracy, 1.0);
        assert_eq!(fit.steps[23].running_loss, last.train_loss);
    }
}

/// Whatever there is to remember (order, placements, schedule, moments, best network) survives an
/// interruption after any epoch.
#[test]
fn an_interrupted_training_ends_with_the_same_bits() {
    let tutorial = Protocol::Tutorial(Tutorial {
        steps_per_epoch: 3,
        shuffle_buffer: 5,
        validation_steps: 2,
        validation_batch: 7,
    });
    let plain = small(BaselineConfig {
        epochs: 4,
        ..BaselineConfig::default()
    });
    let rich = BaselineConfig {
        schedule: Schedule::Cosine,
        patience: Some(2),
        flip: true,
        crop: Some(3),
        protocol: tutorial,
        seed: 5,
        learning_rate: 0.02,
        ..plain.clone()
    };
    let folder = tempfile::tempdir().unwrap();
    for (config, classes) in [(&plain, 2), (&rich, 3)] {
        let whole = trained(classes, config, None, 0).unwrap();
        for until in 1..=whole.history.len() as u32 {
            let checkpoints = Checkpoints {
                path: folder.path().join(format!("{classes}-{until}")),
                key: "this".to_owned(),
            };
            let stopped = trained(classes, config, Some(&checkpoints), until);
            assert!(matches!(stopped, Err(BaselineError::Data("interrupted"))));
            let resumed = trained(classes, config, Some(&checkpoints), 0).unwrap();
            assert_eq!(bytes(&resumed, classes), bytes(&whole, classes));
            assert_eq!(told(&resumed), told(&whole));
            assert_eq!(resumed.steps, whole.steps);
            assert_eq!(resumed.best_epoch, whole.best_epoch);
        }
    }
}

#[test]
fn another_trainings_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoints = Checkpoints {
        path: folder.path().join("checkpoint"),
        key: "this".to_owned(),
    };
    let config = small(BaselineConfig {
        epochs: 1,
        ..BaselineConfig::default()
    });
    trained(2, &config, Some(&checkpoints), 0).unwrap();
    checkpoints.key = "that".to_owned();
    let error = trained(2, &config, Some(&checkpoints), 0).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("of another training, this, and this one is that (hint: remove it"),
        "{message}"
    );
    std::fs::write(&checkpoints.path, "nonsense").unwrap();
    let error = trained(2, &config, Some(&checkpoints), 0).unwrap_err();
    assert!(matches!(
        error,
        BaselineError::Checkpoint(CheckpointError::Safetensors { .. })
    ));
}

#[test]
fn early_stopping_goes_back_to_the_best_epoch() {
    let config = small(BaselineConfig {
        epochs: 20,
        patience: Some(1),
        learning_rate: 0.05,
        ..BaselineConfig::default()
    });
    let fit = trained(2, &config, None, 0).unwrap();
    let best = fit.best_epoch.unwrap();
    assert_eq!(fit.history.len() as u32, best + 1);
    let loss = |epoch: u32| fit.history[epoch as usize - 1].validation_loss.unwrap();
    assert!(loss(best) <= loss(best + 1));
    let shorter = BaselineConfig {
        epochs: best,
        ..config
    };
    let other = trained(2, &shorter, None, 0).unwrap();
    assert_eq!(bytes(&other, 2), bytes(&fit, 2));
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let config = BaselineConfig::default();
    let refused = |config: &BaselineConfig, change: &dyn Fn(&mut Data<'_>)| {
        let labels_n = labels(2);
        let images = made(&labels_n);
        let mut data = Data {
            images: &images,
            labels_n: &labels_n,
            classes: 2,
            train: &[0, 1],
            validation: &[],
        };
        change(&mut data);
        train(&data, config, None, &mut |_| {})
            .unwrap_err()
            .to_string()
    };
    let message = refused(&config, &|data| data.train = &[]);
    assert!(message.contains("no training images"), "{message}");
    let message = refused(&config, &|data| data.validation = &[30]);
    assert!(message.contains("a row that does not exist"), "{message}");
    let message = refused(&config, &|data| data.labels_n = &[0; 3]);
    assert!(message.contains("not one label"), "{message}");
    let early = BaselineConfig {
        patience: Some(1),
        ..config.clone()
    };
    let message = refused(&early, &|_| {});
    assert!(
        message.contains("number of validation images is 0"),
        "{message}"
    );
    let wide = BaselineConfig {
        crop: Some(30),
        ..config
    };
    let message = refused(&wide, &|_| {});
    assert!(message.contains("crop is 30"), "{message}");
}
