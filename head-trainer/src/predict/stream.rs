//! Takes images through a model in batches: the next batches are read and decoded while one runs.
//!
//! Must not know where images come from or where answers go.

use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;
use std::thread;

use extractor::digest::ImageId;
use extractor::transient::Unreadable;
use rayon::prelude::*;

use super::feed::{Feed, Item};
use super::{Loader, PredictError, Prediction, Predictor};

/// Batches that wait for the model at most.
const AHEAD: usize = 2;

/// What came of an image.
#[derive(Debug)]
pub struct Answer {
    /// What it is called.
    pub path: Vec<u8>,
    /// Its id and what the model says of it, or why nothing is said.
    pub outcome: Result<(ImageId, Prediction), Unreadable>,
}

/// Predicts every image of `feed`, up to `batch_size` together, and hands the answers of a batch to
/// `each`, in the feed's order, until it breaks. What neither is an image nor claims to be one has
/// no answer.
///
/// Decoding runs on the current rayon pool.
///
/// # Errors
/// When the model fails as a whole.
pub fn predict(
    predictor: &mut Predictor,
    mut feed: Feed,
    batch_size: usize,
    mut each: impl FnMut(Vec<Answer>) -> ControlFlow<()>,
) -> Result<(), PredictError> {
    let size = predictor.batch_size(batch_size);
    let loader = predictor.loader();
    let (sender, receiver) = sync_channel::<Batch>(AHEAD);
    // Never joined: it may wait for input that nobody needs any more.
    thread::spawn(move || {
        while let Some(first) = feed.wait() {
            let mut items = vec![first];
            let more = std::iter::from_fn(|| feed.ready());
            items.extend(more.take(size - 1));
            if sender.send(Batch::load(items, &loader)).is_err() {
                return;
            }
        }
    });
    for batch in receiver {
        if each(batch.answers(predictor)?).is_break() {
            break;
        }
    }
    Ok(())
}

/// Images on their way to the model.
struct Batch {
    loaded: Vec<(Vec<u8>, Result<ImageId, Unreadable>)>,
    input: Vec<f32>, // of those that were loaded, [N, ...]
}

impl Batch {
    fn load(items: Vec<Item>, loader: &Loader) -> Batch {
        let share = loader.preprocessor.len();
        let mut slots = vec![0.0; items.len() * share];
        let found: Vec<_> = items
            .par_iter()
            .zip(slots.par_chunks_exact_mut(share))
            .map(|(item, slot)| item.read(|bytes, claims| loader.load(bytes, claims, slot)))
            .collect();
        let (mut loaded, mut input) = (Vec::new(), Vec::with_capacity(slots.len()));
        for ((item, found), slot) in items.into_iter().zip(found).zip(slots.chunks_exact(share)) {
            match found {
                Ok(Some(id)) => {
                    input.extend_from_slice(slot);
                    loaded.push((item.path, Ok(id)));
                }
                Ok(None) => {}
                Err(why) => loaded.push((item.path, Err(why))),
            }
        }
        Batch { loaded, input }
    }

    fn answers(self, predictor: &mut Predictor) -> Result<Vec<Answer>, PredictError> {
        let mut predictions = predictor.predict(self.input)?.into_iter();
        let answer = |(path, loaded): (Vec<u8>, Result<ImageId, Unreadable>)| Answer {
            path,
            outcome: loaded.and_then(|id| {
                let prediction = predictions.next().expect("one for each loaded image")?;
                Ok((id, prediction))
            }),
        };
        Ok(self.loaded.into_iter().map(answer).collect())
    }
}
