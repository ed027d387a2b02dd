//! Compares a fused model with the predictor that it was made of, on pictures made for it.

use extractor::decode::RgbImage;
use extractor::engine::{EngineError, OnnxRuntime};

use super::{IMAGE, LABEL, PROBABILITIES};
use crate::head::Decision;
use crate::predict::{PredictError, Prediction, Predictor};

/// What probabilities may differ by.
pub const TOLERANCE: f32 = 1e-5;

/// The model is not what it was made of, or that cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The predictor fails.
    #[error(transparent)]
    Predict(#[from] PredictError),
    /// The backbone gives no number.
    #[error("the backbone has no answer to a picture of noise: {0}")]
    Noise(String),
    /// The fused model does not run.
    #[error("the fused model does not run")]
    Engine(#[from] EngineError),
    /// It says something else.
    #[error(
        "the fused model says {found:?} (class {class}) of a picture of {height}x{width}, the run says \
         {expected:?}"
    )]
    Differs {
        /// Its probabilities.
        found: Vec<f32>,
        /// The class that it gives.
        class: i64,
        /// The run's probabilities.
        expected: Vec<f32>,
        /// Of the picture.
        height: usize,
        /// Of the picture.
        width: usize,
    },
}

/// Pictures of one size and what a predictor says of each.
#[derive(Debug)]
pub struct Case {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) pixels: Vec<u8>, // [N, H, W, 3]
    pub(super) expected: Vec<Prediction>,
}

/// What `predictor` says of pictures of sizes at, below and above that of its input, `images` of each;
/// first those at that size.
///
/// # Errors
/// When it fails.
pub fn cases(predictor: &mut Predictor, images: usize) -> Result<Vec<Case>, CheckError> {
    let preprocessor = predictor.loader().preprocessor;
    let (height, width) = (preprocessor.height, preprocessor.width);
    let sizes = [
        (height, width),
        (height / 2 + 1, width * 2 + 3),
        (height * 3 + 1, width / 3 + 1),
        (1, 1),
    ];
    let mut cases = Vec::new();
    for (n, (height, width)) in sizes.into_iter().enumerate() {
        let (mut pixels, mut input) = (Vec::new(), vec![0.0; images * preprocessor.len()]);
        for (i, share) in input.chunks_exact_mut(preprocessor.len()).enumerate() {
            let picture = picture(height, width, (n * images + i) as u64);
            preprocessor.apply(&picture, share);
            pixels.extend(picture.pixels);
        }
        let predictions = predictor.predict(input)?.into_iter();
        cases.push(Case {
            height,
            width,
            pixels,
            expected: predictions
                .collect::<Result<_, _>>()
                .map_err(CheckError::Noise)?,
        });
    }
    Ok(cases)
}

/// The largest difference of a probability between `model`, which is the fused one, and the
/// predictor's `cases`, whose decision is `decision`.
///
/// # Errors
/// When one is larger than [`TOLERANCE`], a class that was not within it of another is another, or
/// the model does not run.
pub fn compare(
    model: &mut OnnxRuntime,
    cases: &[Case],
    decision: Decision,
) -> Result<f32, CheckError> {
    let mut largest = 0.0;
    for case in cases {
        let (height, width) = (case.height, case.width);
        let shape = [case.expected.len(), height, width, 3];
        let outputs = [PROBABILITIES, LABEL];
        let (found_nk, classes_n) = model.classify(IMAGE, (shape, &case.pixels), outputs)?;
        let count = found_nk.len() / case.expected.len();
        for ((expected, found), class) in case
            .expected
            .iter()
            .zip(found_nk.chunks(count.max(1)))
            .zip(classes_n)
        {
            let expected_k = &expected.probabilities_k;
            let off = |(a, b): (&f32, &f32)| (a - b).abs();
            let far = found.iter().zip(expected_k).map(off);
            let far = far.fold(0.0, |a: f32, b| if b > a || b.is_nan() { b } else { a });
            let same_class = class == i64::from(expected.class);
            let fits = found.len() == expected_k.len() && far <= TOLERANCE;
            if !fits || !(same_class || is_close(expected_k, decision)) {
                return Err(CheckError::Differs {
                    found: found.to_vec(),
                    class,
                    expected: expected_k.clone(),
                    height,
                    width,
                });
            }
            largest = far.max(largest);
        }
    }
    Ok(largest)
}

/// Whether a difference within the tolerance may change the class.
fn is_close(probabilities_k: &[f32], decision: Decision) -> bool {
    let margin = match probabilities_k {
        [_, second] => (f64::from(*second) - decision.threshold).abs() as f32,
        many => {
            let mut sorted = many.to_vec();
            sorted.sort_by(|a, b| b.total_cmp(a));
            sorted[0] - sorted[1]
        }
    };
    margin <= TOLERANCE
}

/// A picture of slopes and noise.
fn picture(height: usize, width: usize, seed: u64) -> RgbImage {
    let pixel = |at: usize| {
        let (y, x, c) = (at / 3 / width, at / 3 % width, at % 3);
        let slope = (y * (c + 1) * 90 / height + x * (3 - c) * 40 / width) as u64;
        // SplitMix64 (G. Steele et al., 2014).
        let mut bits = ((seed << 32) + at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let noise = (bits ^ (bits >> 31)) >> 58;
        (slope + noise).min(255) as u8
    };
    RgbImage {
        width,
        height,
        pixels: (0..height * width * 3).map(pixel).collect(),
    }
}
