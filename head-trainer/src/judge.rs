//! The finished model's judgement: choices on the validation side, metrics of every side, logits
//! of the held-out images. The same for heads and the baseline, so that their figures compare.

use extractor::digest::ImageId;

use crate::decide::{Choices, DecideError};
use crate::head::Decision;
use crate::metrics::{Basic, Logits, Metrics};
use crate::run::{FinalMetrics, Predictions};
use crate::split::Side;

/// A side's images.
#[derive(Clone, Debug)]
pub struct Judgeable {
    /// Ids `[N]`, ascending; none where no predictions are kept, which is on the training side.
    pub ids: Vec<ImageId>,
    /// Labels `[N]`.
    pub labels: Vec<u32>,
    /// What the model says of them, `[N, O]`.
    pub logits: Logits,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Temperature and threshold.
    pub decision: Decision,
    /// Metrics with them.
    pub metrics: FinalMetrics,
    /// Logits of validation and test.
    pub predictions: Predictions,
}

/// Chooses by the validation side, then judges every side. `of` tells a side's images; each is
/// asked for once.
///
/// # Errors
/// [`DecideError`].
pub fn judge(
    choices: &Choices,
    mut of: impl FnMut(Side) -> Judgeable,
) -> Result<Judged, DecideError> {
    let mut of = |side| {
        let images = of(side);
        match images.logits.values().iter().all(|z| z.is_finite()) {
            true => Ok(images),
            false => Err(DecideError::NotFinite(side)),
        }
    };
    let validation = of(Side::Validation)?;
    let decision = choices.decide(&validation.logits, &validation.labels)?;
    let metrics_of = |side: &Judgeable| Metrics::of(&side.logits, &side.labels, &decision);
    let train = metrics_of(&of(Side::Train)?);
    let test = of(Side::Test)?;
    let metrics = FinalMetrics {
        train,
        validation: metrics_of(&validation),
        test: metrics_of(&test),
        validation_before_choices: match choices.is_none() {
            true => None,
            false => Basic::of(&validation.logits, &validation.labels),
        },
    };
    let mut predictions = Predictions::new(validation.logits.outputs());
    for (side, images) in [(Side::Validation, &validation), (Side::Test, &test)] {
        predictions.push_side(side, &images.ids, &images.labels, &images.logits);
    }
    Ok(Judged {
        decision,
        metrics,
        predictions,
    })
}

#[cfg(test)]
mod tests {
    use extractor::digest::Digest;

    use super::*;

    #[test]
    fn an_overflow_is_no_model() {
        let images = |side: Side| Judgeable {
            ids: vec![Digest::of(b"image")],
            labels: vec![0],
            logits: Logits::new(vec![if side == Side::Test { f32::NAN } else { 1.0 }], 1),
        };
        let error = judge(&Choices::default(), images).unwrap_err();
        assert_eq!(error, DecideError::NotFinite(Side::Test));
    }

    #[test]
    fn choices_are_made_on_validation_and_told_apart() {
        let images = |side: Side| {
            // Right everywhere, but for a bias of 2 that a threshold can take out.
            let logits: Vec<f32> = (0..8).map(|i| if i % 2 == 0 { 3.0 } else { 1.0 }).collect();
            Judgeable {
                ids: (0..8_u8).map(|i| Digest::of(&[side as u8, i])).collect(),
                labels: (0..8).map(|i| u32::from(i % 2 == 0)).collect(),
                logits: Logits::new(logits, 1),
            }
        };
        let none = judge(&Choices::default(), images).unwrap();
        assert_eq!(none.metrics.validation_before_choices, None);
        assert_eq!(none.metrics.comparable().unwrap().accuracy, 0.5);
        let choices = Choices {
            threshold: Some(crate::metrics::threshold::Criterion::Accuracy),
            ..Choices::default()
        };
        let chosen = judge(&choices, images).unwrap();
        assert_eq!(chosen.metrics.validation.as_ref().unwrap().accuracy, 1.0);
        assert_eq!(chosen.metrics.test.as_ref().unwrap().accuracy, 1.0);
        assert_eq!(chosen.metrics.comparable().unwrap().accuracy, 0.5);
        assert_eq!(chosen.predictions, none.predictions);
        assert_eq!(chosen.predictions.on(Side::Test).2.len(), 8);
        assert_eq!(
            chosen.predictions.ids[8],
            Digest::of(&[Side::Test as u8, 0])
        );
    }
}
