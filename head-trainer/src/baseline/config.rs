//! Everything that decides the training of a baseline besides its images.

use serde::{Deserialize, Serialize};

use crate::protocol::Protocol;
use crate::solver::adam::{AdamConfig, Schedule};
use crate::solver::{ClassWeight, SolverError, require};

/// How the baseline is trained; the defaults are the tutorial's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineConfig {
    /// Epochs; 7.
    pub epochs: u32,
    /// Images a step; 64.
    pub batch_size: u32,
    /// Adam's step size; 0.001.
    pub learning_rate: f64,
    /// How the step size changes.
    pub schedule: Schedule,
    /// Stop after so many epochs without a lower validation loss, and take the best epoch's
    /// weights; none: train all epochs and take the last one's.
    pub patience: Option<u32>,
    /// Whether each training image is mirrored left to right with probability one half, drawn anew
    /// each time it comes by.
    pub flip: bool,
    /// Pixels by which each training image is moved at most, in either direction along both axes,
    /// drawn anew each time; 0.
    pub crop: u32,
    /// What an epoch is; full passes.
    pub protocol: Protocol,
    /// What each class's losses count in training.
    pub class_weight: ClassWeight,
    /// Seed of the initial weights, the order of images and what is drawn for them; 0.
    pub seed: u64,
}

impl Default for BaselineConfig {
    fn default() -> BaselineConfig {
        let adam = AdamConfig::default();
        BaselineConfig {
            epochs: adam.epochs,
            batch_size: adam.batch_size,
            learning_rate: adam.learning_rate,
            schedule: Schedule::Constant,
            patience: None,
            flip: false,
            crop: 0,
            protocol: Protocol::Full,
            class_weight: ClassWeight::None,
            seed: 0,
        }
    }
}

impl BaselineConfig {
    /// The optimizer's numbers: Keras's defaults, but for what is said here.
    pub fn adam(&self) -> AdamConfig {
        AdamConfig {
            epochs: self.epochs,
            batch_size: self.batch_size,
            learning_rate: self.learning_rate,
            schedule: self.schedule,
            patience: self.patience,
            protocol: self.protocol,
            seed: self.seed,
            ..AdamConfig::default()
        }
    }

    /// Checks every number.
    ///
    /// # Errors
    /// [`SolverError::Config`] with the first number that is out of range.
    pub fn check(&self) -> Result<(), SolverError> {
        self.adam().check()?;
        self.class_weight.check()?;
        require(self.crop < 1 << 16, "crop", self.crop, "at most 65,535")
    }
}
