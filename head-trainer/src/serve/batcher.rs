//! A bounded queue in front of the model: images are decoded on the worker threads, and the one
//! thread that owns the model takes whatever is ready, up to a batch.
//!
//! What is said of an image does not depend on what else is in its batch. An image that nobody waits
//! for any more is dropped. Must not know where images come from.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use extractor::decode::{DecodeError, dimensions};
use extractor::digest::ImageId;
use tokio::sync::oneshot;

use super::metrics::Metrics;
use super::problem::Problem;
use crate::predict::{Loader, Prediction};

/// An image's id and what the model says of it, or why nothing is said.
pub type Outcome = Result<(ImageId, Prediction), Problem>;

/// What the model says of a batch of inputs, [N, ...].
pub type Said = Result<Vec<Result<Prediction, String>>, String>;

/// How images become batches.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How an image is decoded.
    pub loader: Loader,
    /// Images of a batch at most.
    pub batch_size: usize,
    /// How long a batch that is not full waits for more.
    pub batch_wait: Duration,
    /// Images that may wait: those that were admitted and that the model has not taken.
    pub queue: usize,
    /// Pixels of an image at most.
    pub pixels: u64,
}

/// The queue.
#[derive(Debug)]
pub struct Batcher {
    plan: Plan,
    metrics: Arc<Metrics>,
    waiting: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Ready>,
    closed: bool,
}

/// A decoded image.
#[derive(Debug)]
struct Ready {
    id: ImageId,
    input: Vec<f32>, // [H, W, 3] or [3, H, W]
    answer: oneshot::Sender<Outcome>,
    _place: Place,
}

/// A place in the queue, free again once it is dropped.
#[derive(Debug)]
pub struct Place(Arc<Batcher>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Batcher {
    /// An empty queue.
    pub fn new(plan: Plan, metrics: Arc<Metrics>) -> Arc<Batcher> {
        Arc::new(Batcher {
            plan,
            metrics,
            waiting: AtomicUsize::new(0),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Images that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Places for `n` images, all or none.
    ///
    /// # Errors
    /// When that many are not free.
    pub fn reserve(self: &Arc<Batcher>, n: usize) -> Result<Vec<Place>, Problem> {
        let queue = self.plan.queue;
        let room = |waiting: usize| waiting.checked_add(n).filter(|more| *more <= queue);
        self.waiting
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, room)
            .map_err(|waiting| {
                Problem::new(
                    429,
                    format!(
                        "{waiting} of at most {queue} images wait already, no room for {n} more"
                    ),
                )
            })?;
        Ok((0..n).map(|_| Place(self.clone())).collect())
    }

    /// Decodes an image on a worker thread and puts it into its place in the queue.
    pub fn submit(
        place: Place,
        bytes: impl AsRef<[u8]> + Send + 'static,
    ) -> oneshot::Receiver<Outcome> {
        let (answer, outcome) = oneshot::channel();
        rayon::spawn(move || {
            if answer.is_closed() {
                return;
            }
            let batcher = place.0.clone();
            let loaded = catch_unwind(AssertUnwindSafe(|| batcher.plan.load(bytes.as_ref())));
            drop(bytes);
            let loaded = loaded.unwrap_or_else(|_| Err(Problem::new(500, "decoding failed")));
            match loaded {
                Ok((id, input)) => batcher.push(Ready {
                    id,
                    input,
                    answer,
                    _place: place,
                }),
                Err(problem) => {
                    batcher.metrics.rejected.add();
                    drop(place);
                    let _ = answer.send(Err(problem)); // nobody may wait any more
                }
            }
        });
        outcome
    }

    fn push(&self, ready: Ready) {
        self.lock().ready.push_back(ready);
        self.changed.notify_one();
    }

    /// Lets [`Batcher::run`] end; what comes later is not answered.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes batches through `model` until the queue is closed.
    pub fn run(&self, mut model: impl FnMut(Vec<f32>) -> Said) {
        while let Some(batch) = self.take() {
            self.answer(batch, &mut model);
        }
    }

    /// The next batch; none once the queue is closed.
    fn take(&self) -> Option<Vec<Ready>> {
        let Plan {
            batch_size,
            batch_wait,
            ..
        } = self.plan;
        let mut state = self.lock();
        while state.ready.is_empty() {
            if state.closed {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let end = Instant::now() + batch_wait;
        while state.ready.len() < batch_size && !state.closed {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let count = state.ready.len().min(batch_size);
        Some(state.ready.drain(..count).collect())
    }

    fn answer(&self, mut batch: Vec<Ready>, model: &mut impl FnMut(Vec<f32>) -> Said) {
        batch.retain(|ready| !ready.answer.is_closed());
        if batch.is_empty() {
            return;
        }
        let input: Vec<f32> = batch.iter().flat_map(|r| &r.input).copied().collect();
        let mut wanted = Vec::with_capacity(batch.len());
        // Their places are free as soon as the model has them.
        wanted.extend(batch.into_iter().map(|ready| (ready.id, ready.answer)));
        self.metrics.batch_images.see(wanted.len() as f64);
        let said = catch_unwind(AssertUnwindSafe(|| model(input)))
            .unwrap_or_else(|_| Err("it panicked".to_owned()));
        let said = match said {
            Ok(said) => said,
            Err(reason) => {
                tracing::error!("the model failed on {} images: {reason}", wanted.len());
                vec![Err("the model failed".to_owned()); wanted.len()]
            }
        };
        for ((id, answer), said) in wanted.into_iter().zip(said) {
            match &said {
                Ok(_) => self.metrics.predicted.add(),
                Err(_) => self.metrics.failed.add(),
            }
            let outcome = said
                .map(|prediction| (id, prediction))
                .map_err(|reason| Problem::new(500, reason));
            let _ = answer.send(outcome); // nobody may wait any more
        }
    }
}

impl Plan {
    /// An image's id and its share of a batch.
    fn load(&self, bytes: &[u8]) -> Result<(ImageId, Vec<f32>), Problem> {
        let broken = |reason: String| Problem::new(422, reason);
        let too_large = |size: DecodeError| Problem::new(413, size.to_string());
        match dimensions(bytes) {
            Ok([width, height]) if width.saturating_mul(height) > self.pixels => {
                return Err(too_large(DecodeError::TooLarge {
                    width,
                    height,
                    limit: self.pixels,
                }));
            }
            Err(DecodeError::TooLarge {
                width,
                height,
                limit,
            }) => {
                return Err(too_large(DecodeError::TooLarge {
                    width,
                    height,
                    limit: limit.min(self.pixels),
                }));
            }
            // What this cannot read, the loader says better.
            _ => {}
        }
        let mut input = vec![0.0; self.loader.preprocessor.len()];
        let loaded = self.loader.load(bytes, false, &mut input);
        match loaded.map_err(|why| broken(why.reason))? {
            Some(id) => Ok((id, input)),
            None => Err(broken(DecodeError::NotAnImage.to_string())),
        }
    }
}

#[cfg(test)]
mod tests;
