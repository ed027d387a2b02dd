//! The most confident mistakes of a head on one side of the split, from the pooled features.

use extractor::digest::ImageId;

use crate::dataset::Dataset;
use crate::head::{Decision, Head};
use crate::metrics::Logits;
use crate::split::Side;

/// An image that a model takes for what it is not.
#[derive(Clone, Debug, PartialEq)]
pub struct Mistake {
    /// The image.
    pub id: ImageId,
    /// Its class.
    pub label: u32,
    /// The class that it takes it for.
    pub predicted: u32,
    /// The probability that it gives that class.
    pub probability: f32,
}

/// All mistakes of `head` on the images on `side`, the most confident first; equals in the order of
/// their ids.
///
/// # Panics
/// When the head and the data set have different channels.
pub fn mistakes(head: &Head, dataset: &Dataset, side: Side) -> Vec<Mistake> {
    let images = dataset.rows_on(side);
    let logits = Logits::of(&head.linear, dataset.pooled.rows(), &images);
    let (ids, labels) = (dataset.ids_of(&images), dataset.labels_of(&images));
    mistakes_in(&ids, &labels, &logits, &head.decision)
}

/// [`mistakes`] of any model, from what it says of images: `ids` and `labels` `[N]`, logits
/// `[N, O]`.
pub fn mistakes_in(
    ids: &[ImageId],
    labels: &[u32],
    logits: &Logits,
    decision: &Decision,
) -> Vec<Mistake> {
    let mut mistakes: Vec<Mistake> = ids
        .iter()
        .zip(labels)
        .zip(logits.iter())
        .filter_map(|((&id, &label), logits_o)| {
            let predicted = decision.class(logits_o);
            (predicted != label).then(|| Mistake {
                id,
                label,
                predicted,
                probability: decision.probabilities(logits_o)[predicted as usize],
            })
        })
        .collect();
    mistakes.sort_by(|a, b| {
        b.probability
            .total_cmp(&a.probability)
            .then(a.id.cmp(&b.id))
    });
    mistakes
}
