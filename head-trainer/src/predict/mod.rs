//! What a trained model says of new images: the way from a file's bytes to probabilities, the same
//! as that on which its features were computed.
//!
//! An image is decoded, turned, resized and normalised as the store's key says, goes through the
//! backbone, is rounded to the store's element type and pooled; so an image that has cached features
//! gets the logits that they give. [`feed`] says which images there are, [`stream`] takes them
//! through in batches, [`mod@line`] how an answer is written. Must not know of command lines or of runs.

pub mod feed;
pub mod line;
pub mod stream;

use extractor::backbone::{Backbone, BackboneError};
use extractor::decode::{Exif, decode_oriented};
use extractor::digest::ImageId;
use extractor::features::representable;
use extractor::index::identify;
use extractor::preprocess::{Layout, Preprocessor, Preset};
use extractor::store::{Dtype, Features, StoreKey};
use extractor::transient::Unreadable;
use half::f16;

use crate::baseline::{Baseline, Images, Network};
use crate::head::{Decision, Head, Linear};
use crate::pooled::average;

/// No prediction can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PredictError {
    /// The head is not one for this backbone.
    #[error("the head takes {head} channels, the backbone gives {maps}")]
    Channels {
        /// The head's.
        head: usize,
        /// The backbone's.
        maps: usize,
    },
    /// The backbone does not run.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
}

/// What a model says of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The class that it is taken for, by the run's threshold.
    pub class: u32,
    /// Probabilities of the classes, with the run's temperature, `[K]`.
    pub probabilities_k: Vec<f32>,
    /// Raw logits, `[O]`.
    pub logits_o: Vec<f32>,
}

/// How an image's bytes become its share of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Loader {
    /// Size, colours, layout.
    pub preprocessor: Preprocessor,
    /// What to do with the EXIF orientation.
    pub exif: Exif,
}

impl Loader {
    /// Reads an image into its `share` of a batch, [H, W, 3] or [3, H, W], and tells its id; nothing
    /// for what neither is an image nor `claims` to be one.
    ///
    /// # Errors
    /// Why it cannot be decoded.
    pub fn load(
        &self,
        bytes: &[u8],
        claims: bool,
        share: &mut [f32],
    ) -> Result<Option<ImageId>, Unreadable> {
        let Some(id) = identify(bytes, claims)? else {
            return Ok(None);
        };
        let image = decode_oriented(bytes, self.exif).map_err(|e| e.to_string())?;
        self.preprocessor.apply(&image, share);
        Ok(Some(id))
    }
}

/// A trained model, ready for images.
pub struct Predictor {
    loader: Loader,
    model: Model,
    classes: Vec<String>,
    decision: Decision,
}

enum Model {
    Head {
        backbone: Box<Backbone>,
        /// The size of every batch, where it is not that of its images.
        full: Option<usize>,
        linear: Linear,
        dtype: Dtype,
    },
    Baseline(Box<Network>),
}

impl Predictor {
    /// A head on top of the backbone that gave its features, which were stored as `key` says.
    pub fn of_head(head: Head, backbone: Backbone, key: &StoreKey) -> Predictor {
        Predictor {
            loader: Loader {
                preprocessor: backbone.preprocessor(),
                exif: key.exif,
            },
            model: Model::Head {
                full: match (backbone.spec.batch, backbone.engine().info().provider) {
                    (None, "CPU") => None,
                    // A GPU's libraries plan for a second or more whenever the size changes.
                    _ => Some(backbone.batch_size),
                },
                backbone: Box::new(backbone),
                linear: head.linear,
                dtype: key.dtype,
            },
            classes: head.classes,
            decision: head.decision,
        }
    }

    /// A baseline, which was trained on images turned as `exif` says.
    pub fn of_baseline(baseline: Baseline, exif: Exif) -> Predictor {
        let [height, width] = baseline.network.shape().size;
        Predictor {
            loader: Loader {
                preprocessor: Preprocessor {
                    preset: Preset::Raw,
                    height,
                    width,
                    layout: Layout::Nhwc,
                },
                exif,
            },
            model: Model::Baseline(Box::new(baseline.network)),
            classes: baseline.classes,
            decision: baseline.decision,
        }
    }

    /// Names of the classes, `[K]`.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Temperature and threshold.
    pub fn decision(&self) -> Decision {
        self.decision
    }

    /// Order of the axes of the backbone's own feature map; of a head, once it has predicted.
    pub fn map_layout(&self) -> Option<Layout> {
        match &self.model {
            Model::Head { backbone, .. } => backbone.map_layout(),
            Model::Baseline(_) => None,
        }
    }

    /// How images become batches.
    pub fn loader(&self) -> Loader {
        self.loader
    }

    /// Images a batch may have when `wanted` are: fewer only if the backbone has a size of its own.
    pub fn batch_size(&self, wanted: usize) -> usize {
        match &self.model {
            Model::Head { backbone, .. } => backbone.spec.batch.unwrap_or(wanted),
            Model::Baseline(_) => wanted,
        }
    }

    /// What the model says of a batch of loaded images, [N, ...] as [`Loader::load`] fills it, N at
    /// most [`Predictor::batch_size`]; for each image a prediction or the reason for which there is
    /// none.
    ///
    /// # Errors
    /// When the backbone fails as a whole.
    ///
    /// # Panics
    /// When the input is no whole number of images.
    pub fn predict(
        &mut self,
        mut input: Vec<f32>,
    ) -> Result<Vec<Result<Prediction, String>>, PredictError> {
        let share = self.loader.preprocessor.len();
        assert!(input.len().is_multiple_of(share), "whole images");
        let count = input.len() / share;
        if count == 0 {
            return Ok(Vec::new());
        }
        let logits_no = match &mut self.model {
            Model::Head {
                backbone,
                full,
                linear,
                dtype,
            } => {
                // On the CPU a batch of its own size, so that one image takes the time of one.
                backbone.batch_size = full.map_or(count, |full| full.max(count));
                input.resize(backbone.batch_size * share, 0.0);
                head_logits(backbone, linear, *dtype, &input, count)?
            }
            Model::Baseline(network) => network_logits(network, &input),
        };
        let decision = self.decision;
        let prediction = |logits_o: Vec<f32>| Prediction {
            class: decision.class(&logits_o),
            probabilities_k: decision.probabilities(&logits_o),
            logits_o,
        };
        let logits_no = logits_no.into_iter();
        Ok(logits_no.map(|logits| logits.map(prediction)).collect())
    }
}

/// Logits of the first `count` images of a full batch.
fn head_logits(
    backbone: &mut Backbone,
    linear: &Linear,
    dtype: Dtype,
    input: &[f32],
    count: usize,
) -> Result<Vec<Result<Vec<f32>, String>>, PredictError> {
    let mut features = Vec::new(); // [N, h, w, C]
    let shape = backbone.run(input, &mut features)?;
    if shape.channels != linear.channels() {
        return Err(PredictError::Channels {
            head: linear.channels(),
            maps: shape.channels,
        });
    }
    let mut pooled_c = vec![0.0; shape.channels];
    let mut logits = |map_hwc: &[f32]| {
        representable(map_hwc, dtype)?;
        match dtype {
            Dtype::F16 => {
                let rounded: Vec<f16> = map_hwc.iter().map(|x| f16::from_f32(*x)).collect();
                average(Features::F16(&rounded), &mut pooled_c);
            }
            Dtype::F32 | Dtype::U8 => average(Features::F32(map_hwc), &mut pooled_c),
        }
        let mut logits_o = vec![0.0; linear.outputs()];
        linear.logits_of(&pooled_c, &mut logits_o);
        Ok(logits_o)
    };
    let maps = features.chunks_exact(shape.len()).take(count);
    Ok(maps.map(&mut logits).collect())
}

fn network_logits(network: &Network, input: &[f32]) -> Vec<Result<Vec<f32>, String>> {
    let size = network.shape().size;
    let images = Pixels {
        size,
        // As a store of pixels rounds them.
        pixels: input.iter().map(|x| x.round_ties_even() as u8).collect(),
    };
    let rows: Vec<u32> = (0..images.len() as u32).collect();
    let logits = network.logits(&images, &rows);
    logits
        .iter()
        .map(|logits_o| Ok(logits_o.to_vec()))
        .collect()
}

/// Images of a batch, [N, H, W, 3].
struct Pixels {
    size: [usize; 2],
    pixels: Vec<u8>,
}

impl Pixels {
    fn image_len(&self) -> usize {
        self.size[0] * self.size[1] * 3
    }
}

impl Images for Pixels {
    fn size(&self) -> [usize; 2] {
        self.size
    }

    fn len(&self) -> usize {
        self.pixels.len() / self.image_len()
    }

    fn pixels(&self, row: u32) -> &[u8] {
        let len = self.image_len();
        &self.pixels[row as usize * len..][..len]
    }
}
