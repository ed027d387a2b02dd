//! Why a head takes an image for what it takes it for: its class-activation map, from the cached
//! features alone.
//!
//! ```no_run
//! use extractor::{digest::ImageId, images::Columns, store::Store};
//! use head_trainer::explain::{Explainer, Ground, Pictures, thumbnail};
//! use head_trainer::run::{self, Input, Inputs, RunRecord};
//! # fn f(folder: &std::path::Path, id: ImageId) -> Result<(), Box<dyn std::error::Error>> {
//! let record = RunRecord::read(folder)?;
//! let inputs = Inputs::recorded(&record).checked(&record, &[Input::Store, Input::Index])?;
//! let explainer = Explainer::new(run::head(folder)?, Store::open(&inputs.store)?)?;
//! let explanation = explainer.explain(&id, None)?;
//!
//! let pictures = Pictures::open(&inputs.index, None, &Columns::default(), explainer.exif(), None)?;
//! let picture = pictures.picture(&id, [&b"Cat/1.jpg"[..]])?;
//! let jpeg = thumbnail(Ground::Picture(&picture), Some(&explanation.map), 160)?;
//! # Ok(())
//! # }
//! ```
//!
//! [`cam`] has the mathematics, [`colour`] and [`picture`] what it looks like, [`pictures`] the
//! images that lie under it, [`wanted`] which image is meant, [`mod@mistakes`] which deserve a
//! look. Must not know of command lines or of runs.

pub mod cam;
pub mod colour;
pub mod mistakes;
pub mod picture;
pub mod pictures;
pub mod wanted;

use std::path::PathBuf;

use extractor::backbone::MapShape;
use extractor::decode::Exif;
use extractor::digest::ImageId;
use extractor::files::escape_path;
use extractor::store::{IDENTITY, Store, StoreError};

pub use self::cam::ClassMap;
pub use self::mistakes::{Mistake, mistakes, mistakes_in};
pub use self::picture::{Ground, draw, png, thumbnail};
pub use self::pictures::{PictureError, Pictures};
use crate::head::Head;
use crate::pooled::average;

/// Why an image is not explained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// The head is not one for these features.
    #[error(
        "the head takes {head} channels, the maps in {} have {maps}",
        escape_path(store)
    )]
    Channels {
        /// The head's.
        head: usize,
        /// The store's.
        maps: usize,
        /// The store.
        store: PathBuf,
    },
    /// The store has no row at all.
    #[error("the feature store {} has no rows (hint: run make features)", escape_path(.0))]
    Empty(PathBuf),
    /// Nothing is cached of the image.
    #[error(
        "has no features in {} (hint: run make features with the run's backbone on a data set that \
         has it)",
        escape_path(.0)
    )]
    NoFeatures(PathBuf),
    /// It was tried, and there are no features.
    #[error("was rejected when features were computed: {0}")]
    Rejected(String),
    /// The features are damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a head makes of an image, and the map of one class.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The image.
    pub id: ImageId,
    /// The head's raw logits, from the pooled features, `[O]`.
    pub logits_o: Vec<f32>,
    /// Probabilities of the classes, with the head's temperature, `[K]`.
    pub probabilities_k: Vec<f32>,
    /// The class that it is taken for.
    pub predicted: u32,
    /// The map of one class.
    pub map: ClassMap,
}

impl Explanation {
    /// The raw logit of the map's class, from the pooled features: [`ClassMap::logit`] but for
    /// rounding. Of two classes, that of the first is minus the head's.
    pub fn logit(&self) -> f32 {
        match (&self.logits_o[..], self.map.class) {
            ([logit], 0) => -logit,
            ([logit], _) => *logit,
            (logits, class) => logits[class as usize],
        }
    }
}

/// A head and the cached features that it explains itself with.
#[derive(Debug)]
pub struct Explainer {
    head: Head,
    store: Store,
    shape: MapShape,
}

impl Explainer {
    /// A head and the store that it was trained on.
    ///
    /// # Errors
    /// When the head takes another number of channels, or the store has no rows.
    pub fn new(head: Head, store: Store) -> Result<Explainer, ExplainError> {
        let folder = || store.folder().to_owned();
        let shape = store
            .map_shape()
            .ok_or_else(|| ExplainError::Empty(folder()))?;
        let (channels, maps) = (head.linear.channels(), shape.channels);
        if channels != maps {
            return Err(ExplainError::Channels {
                head: channels,
                maps,
                store: folder(),
            });
        }
        Ok(Explainer { head, store, shape })
    }

    /// The head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// How the images were turned before their features were computed.
    pub fn exif(&self) -> Exif {
        self.store.key().exif
    }

    /// What a map is drawn on where the image is gone: the shape of the backbone's input.
    pub fn plain(&self) -> Ground<'static> {
        Ground::Plain(self.store.key().input_size)
    }

    /// What the head makes of the image `id` as it is (the view `identity`), and the map of
    /// `class`. For None that is the second of two classes, whose logit is the head's, and of more
    /// the one that the image is taken for. The checksum of what is read is checked.
    ///
    /// # Errors
    /// When the image has no features or they are damaged.
    ///
    /// # Panics
    /// When there is no such class.
    pub fn explain(&self, id: &ImageId, class: Option<u32>) -> Result<Explanation, ExplainError> {
        let Some(row) = self.store.locate(id, IDENTITY) else {
            return Err(match self.store.rejected(id) {
                Some(reason) => ExplainError::Rejected(reason.to_owned()),
                None => ExplainError::NoFeatures(self.store.folder().to_owned()),
            });
        };
        let shard = &self.store.shards()[row.shard()];
        shard.verify_batch::<StoreError>(row.batch(), |_| Ok(()))?;
        let features_hwc = self.store.features(row);
        let Head {
            linear, decision, ..
        } = &self.head;
        let mut pooled_c = vec![0.0; self.shape.channels];
        average(features_hwc, &mut pooled_c);
        let mut logits_o = vec![0.0; linear.outputs()];
        linear.logits_of(&pooled_c, &mut logits_o);
        let predicted = decision.class(&logits_o);
        let usual = if linear.outputs() == 1 { 1 } else { predicted };
        Ok(Explanation {
            id: *id,
            probabilities_k: decision.probabilities(&logits_o),
            predicted,
            map: ClassMap::of(linear, class.unwrap_or(usual), features_hwc, self.shape),
            logits_o,
        })
    }
}
