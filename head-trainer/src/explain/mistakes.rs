//! The most confident mistakes of a head on one side of the split, from the pooled features.

use extractor::digest::ImageId;

use crate::dataset::Dataset;
use crate::head::Head;
use crate::metrics::Logits;
use crate::split::Side;

/// An image that a head takes for what it is not.
#[derive(Clone, Debug, PartialEq)]
pub struct Mistake {
    /// The image.
    pub id: ImageId,
    /// Its class.
    pub label: u32,
    /// The class that the head takes it for.
    pub predicted: u32,
    /// The probability that the head gives that class.
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
    let mut mistakes: Vec<Mistake> = images
        .iter()
        .zip(logits.iter())
        .filter_map(|(&image, logits_o)| {
            let label = dataset.labels_n[image as usize];
            let predicted = head.decision.class(logits_o);
            (predicted != label).then(|| Mistake {
                id: dataset.ids[image as usize],
                label,
                predicted,
                probability: head.decision.probabilities(logits_o)[predicted as usize],
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
