//! The baseline: a small convolutional network, trained from scratch on the same images, to
//! compare the head with.
//!
//! ```text
//! pixels / 255                                            [100, 100,  3]
//! 32 convolutions 3 x 3, normalised, ReLU, max of 2 x 2   [ 49,  49, 32]
//! 32 convolutions 3 x 3, normalised, ReLU, max of 2 x 2   [ 23,  23, 32]
//! 64 convolutions 3 x 3, normalised, ReLU, max of 2 x 2   [ 10,  10, 64]
//! mean of 2 x 2, flattened                                [1600]
//! dense                                                   [1] or [K]
//! ```
//!
//! It is Keras's in every number (`tests/keras_baseline.rs` holds it to that), but written for the
//! processor: 32-bit floats, channels last, one file a layer, forward and backward side by side
//! (`conv`, `norm_pool`, `dense`), matrix products by the `gemm` crate behind `product`. `pass`
//! runs a batch through the layers, `trainer` updates the network, `train` counts epochs,
//! `checkpoint` and `file` keep things. Nothing here decodes images.

mod checkpoint;
mod conv;
mod dense;
mod file;
mod first;
mod lanes;
mod network;
mod norm_pool;
mod pass;
mod product;
mod shape;
mod sums;
mod train;
mod trainer;
mod unfold;

use serde::{Deserialize, Serialize};

pub use self::checkpoint::{CheckpointError, Checkpoints};
pub use self::file::{Baseline, BaselineFileError};
pub use self::network::Network;
pub use self::shape::{FILTERS, LEAST_SIDE, Shape};
pub use self::train::train;
pub use self::trainer::Trainer;
pub use self::unfold::Placement;
use crate::protocol::Protocol;
use crate::solver::adam::{AdamConfig, Schedule};
use crate::solver::{ClassWeight, Epoch, SolverError, Step, require};

/// Images of one size, row by row.
pub trait Images: Sync {
    /// Height and width, in pixels.
    fn size(&self) -> [usize; 2];
    /// Number of images.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The pixels of an image, `[H, W, 3]`: rows of red, green and blue.
    fn pixels(&self, row: u32) -> &[u8];
}

/// Everything that decides a training besides its data; the defaults are the tutorial's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineConfig {
    /// Epochs; 7.
    pub epochs: u32,
    /// Images in a batch; 64.
    pub batch_size: u32,
    /// Step size; 1e-3.
    pub learning_rate: f64,
    /// How the step size changes; constant.
    #[serde(default, skip_serializing_if = "is_default")]
    pub schedule: Schedule,
    /// Epochs without a lower validation loss after which to stop, and go back to the best one's
    /// network; none: all epochs, and the last one's network.
    #[serde(default, skip_serializing_if = "is_default")]
    pub patience: Option<u32>,
    /// Whether each training image is mirrored half of the time; no.
    #[serde(default, skip_serializing_if = "is_default")]
    pub flip: bool,
    /// Pixels by which each training image is moved at most, up or down and left or right, all
    /// distances with the same probability; its edge is repeated where nothing else comes into
    /// view. None: not at all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub crop: Option<u32>,
    /// How much of batch normalisation's moving mean and variance each batch leaves; 0.99, Keras's.
    /// What remains of their first values after n steps is its n-th power, so that a short training
    /// wants less.
    #[serde(default = "usual_momentum", skip_serializing_if = "is_usual_momentum")]
    pub momentum: f64,
    /// How an epoch is made; full passes.
    pub protocol: Protocol,
    /// What each class counts in training.
    #[serde(default, skip_serializing_if = "ClassWeight::is_none")]
    pub class_weight: ClassWeight,
    /// Seed of the initial weights, the order of images and how they are placed; 0.
    pub seed: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn usual_momentum() -> f64 {
    network::MOMENTUM
}

fn is_usual_momentum(momentum: &f64) -> bool {
    *momentum == network::MOMENTUM
}

impl Default for BaselineConfig {
    fn default() -> BaselineConfig {
        let adam = AdamConfig::default();
        BaselineConfig {
            epochs: adam.epochs,
            batch_size: adam.batch_size,
            learning_rate: adam.learning_rate,
            schedule: adam.schedule,
            patience: adam.patience,
            flip: false,
            crop: None,
            momentum: network::MOMENTUM,
            protocol: adam.protocol,
            class_weight: ClassWeight::None,
            seed: adam.seed,
        }
    }
}

impl BaselineConfig {
    /// Checks every number.
    ///
    /// # Errors
    /// [`SolverError::Config`] with the first number that is out of range.
    pub fn check(&self) -> Result<(), SolverError> {
        self.class_weight.check()?;
        let fine = (0.0..1.0).contains(&self.momentum);
        require(fine, "momentum", self.momentum, "at least 0 and below 1")?;
        self.adam().check()
    }

    /// Steps of a whole training on so many images.
    pub fn steps(&self, images: usize) -> u64 {
        let of_epoch = match self.protocol {
            Protocol::Full => images.div_ceil(self.batch_size as usize) as u64,
            Protocol::Tutorial(tutorial) => u64::from(tutorial.steps_per_epoch),
        };
        of_epoch * u64::from(self.epochs)
    }

    /// Share of their first values in the moving mean and variance after `steps`.
    pub fn lag(&self, steps: u64) -> f64 {
        self.momentum.powf(steps as f64)
    }

    /// The optimizer's numbers.
    pub(crate) fn adam(&self) -> AdamConfig {
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
}

/// What a network is trained on.
#[derive(Clone, Copy)]
pub struct Data<'a> {
    /// The images.
    pub images: &'a dyn Images,
    /// Every image's label, `[N]`.
    pub labels_n: &'a [u32],
    /// Number of classes, K.
    pub classes: usize,
    /// Rows of the training side.
    pub train: &'a [u32],
    /// Rows of the validation side.
    pub validation: &'a [u32],
}

/// How far a training is.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// A batch is done.
    Step {
        /// The batch.
        step: &'a Step,
        /// Steps in the whole training.
        total: u64,
    },
    /// An epoch is done, its checkpoint written.
    Epoch(&'a Epoch),
}

/// What a training found, and how it got there.
#[derive(Clone, Debug, PartialEq)]
pub struct BaselineFit {
    /// The network.
    pub network: Network,
    /// Every epoch.
    pub history: Vec<Epoch>,
    /// Every batch.
    pub steps: Vec<Step>,
    /// The epoch whose network it is, where early stopping chose one.
    pub best_epoch: Option<u32>,
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaselineError {
    /// A number of the configuration is out of range.
    #[error(transparent)]
    Config(#[from] SolverError),
    /// The images are too small for all layers.
    #[error(
        "images are {height} x {width} pixels, and the baseline needs {LEAST_SIDE} x {LEAST_SIDE} \
         at least"
    )]
    Size {
        /// Pixels from top to bottom.
        height: usize,
        /// Pixels from left to right.
        width: usize,
    },
    /// The data do not fit each other.
    #[error("the baseline cannot be trained: {0}")]
    Data(&'static str),
    /// The weights are finite numbers no longer.
    #[error("weights overflowed at step {step} (hint: a smaller --learning-rate)")]
    Diverged {
        /// The step, from 1.
        step: u64,
    },
    /// The checkpoint was not written or cannot be gone on from.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}
