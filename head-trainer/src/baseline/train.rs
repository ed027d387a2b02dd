//! Training, epoch by epoch, as Keras's `fit` does it.
//!
//! Order of the images, epochs, learning-rate schedule, training metrics and early stopping are
//! those of the head's Adam ([`crate::solver::adam`]). After each epoch the validation side is
//! judged with the moving moments, each image once, and where a checkpoint is asked for, it is
//! written. A training that goes on from one draws the same random numbers again that were drawn
//! before, and so ends with the bits of one that was never interrupted.
//!
//! Flips and shifts, where asked for, are drawn anew for each image of each batch. This file knows
//! nothing of layers.

use std::time::Instant;

use super::checkpoint::{Checkpoints, State};
use super::network::Network;
use super::shape::Shape;
use super::trainer::Trainer;
use super::unfold::Placement;
use super::{BaselineConfig, BaselineError, BaselineFit, Data, Progress};
use crate::metrics::{Basic, Logits};
use crate::protocol::{Batches, validation_rows};
use crate::rng::{Purpose, Stream};
use crate::solver::{Epoch, Step, is_stalled, least_loss, require};

/// Trains a network on the training side of `data` and tells `observe` of every step and epoch.
///
/// With `checkpoints`, goes on from there if the file exists, and writes it after every epoch.
/// Runs on the current rayon pool. The result depends on data and configuration alone; of the
/// number of threads only [`Epoch::secs`] depends.
///
/// # Errors
/// See [`BaselineError`].
pub fn train(
    data: &Data<'_>,
    config: &BaselineConfig,
    checkpoints: Option<&Checkpoints>,
    observe: &mut dyn FnMut(Progress<'_>),
) -> Result<BaselineFit, BaselineError> {
    config.check()?;
    let shape = check(data, config)?;
    let class_weights = config
        .class_weight
        .of(data.labels_n, data.train, data.classes)?;
    let mut batches = Batches::new(data.train, config.batch_size, config.protocol, config.seed);
    let steps_per_epoch = batches.steps_per_epoch();
    let total_steps = steps_per_epoch as u64 * u64::from(config.epochs);
    let mut placing = Placing::new(config);
    let validation = Validation::new(data, config);

    let mut trainer = Trainer::new(
        Network::initial(shape, config.seed),
        &config.adam(),
        config.batch_size as usize,
    )
    .with_momentum(config.momentum);
    if let Some(weights_k) = &class_weights {
        trainer = trainer.with_class_weights(weights_k);
    }
    let (mut history, mut steps): (Vec<Epoch>, Vec<Step>) = (Vec::new(), Vec::new());
    let mut best: Option<(u32, Network)> = None;
    let found = checkpoints.map(|checkpoints| checkpoints.load(shape));
    if let Some(state) = found.transpose()?.flatten() {
        for _ in 0..state.steps.len() {
            let batch = batches.next_batch();
            placing.place(batch.len());
        }
        trainer.resume(state.steps.len() as u64, state.network, state.moments);
        (history, steps, best) = (state.history, state.steps, state.best);
    }

    while !is_over(config, &history) {
        let start = Instant::now();
        let epoch = history.len() as u32 + 1;
        let (mut loss_sum, mut correct, mut count) = (0.0, 0, 0);
        for _ in 0..steps_per_epoch {
            let rate = config.schedule.factor(trainer.steps(), total_steps);
            trainer.set_learning_rate(config.learning_rate * rate);
            let batch = batches.next_batch();
            let placements = placing.place(batch.len());
            let result = trainer.step(data.images, data.labels_n, batch, placements);
            loss_sum += result.loss_sum;
            correct += result.correct;
            count += batch.len();
            let step = trainer.steps();
            if !result.loss_sum.is_finite() {
                return Err(BaselineError::Diverged { step });
            }
            let step = Step {
                step,
                epoch,
                loss: result.loss_sum / batch.len() as f64,
                running_loss: loss_sum / count as f64,
                running_accuracy: correct as f64 / count as f64,
            };
            observe(Progress::Step {
                step: &step,
                total: total_steps,
            });
            steps.push(step);
        }
        if !trainer.network().is_finite() {
            let step = trainer.steps();
            return Err(BaselineError::Diverged { step });
        }
        let metrics = validation.judge(data, trainer.network());
        history.push(Epoch {
            epoch,
            train_loss: loss_sum / count as f64,
            train_accuracy: correct as f64 / count as f64,
            validation_loss: metrics.map(|m| m.loss),
            validation_accuracy: metrics.map(|m| m.accuracy),
            secs: start.elapsed().as_secs_f64(),
        });
        if config.patience.is_some() && least_loss(&history) == Some(epoch) {
            best = Some((epoch, trainer.network().clone()));
        }
        if let Some(checkpoints) = checkpoints {
            checkpoints.save(&State {
                network: trainer.network().clone(),
                moments: trainer.moments(),
                history: history.clone(),
                steps: steps.clone(),
                best: best.clone(),
            })?;
        }
        if let Some(last) = history.last() {
            observe(Progress::Epoch(last));
        }
    }
    let (network, best_epoch) = match best {
        Some((epoch, network)) => (network, Some(epoch)),
        None => (trainer.into_network(), None),
    };
    Ok(BaselineFit {
        network,
        history,
        steps,
        best_epoch,
    })
}

/// The network's shape, once data and configuration are known to fit each other.
fn check(data: &Data<'_>, config: &BaselineConfig) -> Result<Shape, BaselineError> {
    let shape = Shape::new(data.images.size(), data.classes);
    let [height, width] = shape.size;
    if !shape.is_usable() {
        return Err(BaselineError::Size { height, width });
    }
    let rows = || data.train.iter().chain(data.validation);
    let reason = if data.train.is_empty() {
        "no training images"
    } else if data.images.len() != data.labels_n.len() {
        "not one label for each image"
    } else if rows().any(|row| *row as usize >= data.labels_n.len()) {
        "a row that does not exist"
    } else if rows().any(|row| data.labels_n[*row as usize] as usize >= data.classes) {
        "a label that is no class"
    } else {
        require(
            config.patience.is_none() || !data.validation.is_empty(),
            "number of validation images",
            0,
            "at least 1 for early stopping",
        )?;
        let least = height.min(width);
        require(
            config.crop.is_none_or(|crop| (crop as usize) < least),
            "crop",
            config.crop.unwrap_or_default(),
            "fewer pixels than an image is high or wide",
        )?;
        return Ok(shape);
    };
    Err(BaselineError::Data(reason))
}

/// Whether no further epoch is to come.
fn is_over(config: &BaselineConfig, history: &[Epoch]) -> bool {
    let stalled = config
        .patience
        .is_some_and(|patience| is_stalled(history, patience));
    history.len() as u32 >= config.epochs || stalled
}

/// Draws how each image of a batch is placed.
struct Placing {
    flip: bool,
    crop: Option<u32>,
    random: Stream,
    placements: Vec<Placement>,
}

impl Placing {
    fn new(config: &BaselineConfig) -> Placing {
        Placing {
            flip: config.flip,
            crop: config.crop.filter(|crop| *crop > 0),
            random: Stream::new(config.seed, Purpose::Placement),
            placements: Vec::new(),
        }
    }

    /// The placements of the next `count` images; none where all stay as they are.
    fn place(&mut self, count: usize) -> &[Placement] {
        self.placements.clear();
        if self.flip || self.crop.is_some() {
            for _ in 0..count {
                let flip = self.flip && self.random.below(2) == 1;
                let shift = match self.crop {
                    None => [0; 2],
                    Some(crop) => [(); 2].map(|()| {
                        let shift = self.random.below(2 * crop + 1);
                        shift as i32 - crop as i32
                    }),
                };
                self.placements.push(Placement { flip, shift });
            }
        }
        &self.placements
    }
}

/// The validation side: each of its images is looked at once, however often it counts.
struct Validation {
    places: Vec<u32>, // in `Data::validation`
}

impl Validation {
    fn new(data: &Data<'_>, config: &BaselineConfig) -> Validation {
        let places: Vec<u32> = (0..data.validation.len() as u32).collect();
        Validation {
            places: validation_rows(&places, config.protocol, config.seed),
        }
    }

    fn judge(&self, data: &Data<'_>, network: &Network) -> Option<Basic> {
        let logits = network.logits(data.images, data.validation);
        let outputs = logits.outputs();
        let logits_of = |place: &u32| {
            let start = *place as usize * outputs;
            logits.values()[start..start + outputs].iter().copied()
        };
        let counted = Logits::new(self.places.iter().flat_map(logits_of).collect(), outputs);
        let label = |place: &u32| data.labels_n[data.validation[*place as usize] as usize];
        let labels: Vec<u32> = self.places.iter().map(label).collect();
        Basic::of(&counted, &labels)
    }
}

#[cfg(test)]
mod tests;
