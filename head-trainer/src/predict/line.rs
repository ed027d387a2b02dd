//! A prediction as JSON: one object, the same wherever it is given.
//!
//! Must not know where it is written to.

use extractor::digest::ImageId;
use extractor::files::escape;
use serde::Serialize;

use super::Prediction;

/// What a model says of an image. Probabilities have all the digits that an f32 needs.
#[derive(Clone, Debug, Serialize)]
pub struct Line<'a> {
    /// What the image is called, escaped; absent if it has no name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The digest of its bytes.
    pub id: ImageId,
    /// The class that it is taken for, by the run's threshold.
    pub label: &'a str,
    /// That class's probability.
    pub probability: f32,
    /// The most probable classes, the first one first; absent if none was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<Class<'a>>,
    /// Raw logits, `[O]`.
    pub logits: &'a [f32],
}

/// A class and its probability.
#[derive(Clone, Debug, Serialize)]
pub struct Class<'a> {
    /// Its name.
    pub label: &'a str,
    /// Its probability.
    pub probability: f32,
}

impl<'a> Line<'a> {
    /// The prediction of the image `path` with its `top` most probable classes, whose names are
    /// `classes`; the one with the smaller number first where two are equally probable.
    ///
    /// # Panics
    /// When the prediction is not of as many classes.
    pub fn new(
        path: Option<&[u8]>,
        id: ImageId,
        prediction: &'a Prediction,
        classes: &'a [String],
        top: usize,
    ) -> Line<'a> {
        let probabilities_k = &prediction.probabilities_k;
        let of = |class: usize| Class {
            label: &classes[class],
            probability: probabilities_k[class],
        };
        let mut order: Vec<usize> = (0..classes.len()).collect();
        order.sort_by(|a, b| probabilities_k[*b].total_cmp(&probabilities_k[*a]));
        let Class { label, probability } = of(prediction.class as usize);
        Line {
            path: path.map(escape),
            id,
            label,
            probability,
            top: order.into_iter().take(top).map(of).collect(),
            logits: &prediction.logits_o,
        }
    }
}
