//! Makes a backbone of a ResNet50's weights alone (a state dict in a safetensors file): builds the graph
//! that they belong to, checks that it gives finite maps of the right shape, and writes it beside a
//! description.
//!
//! Must not know where files come from, nor which engine runs the result.

mod error;
mod naming;
mod read;

use std::path::{Path, PathBuf};

use super::onnx::Outline;
use super::probe::{Open, Pair, features_of_noise};
use super::resnet50::onnx::{self, Label, OUTPUT};
use super::resnet50::{Architecture, LayerWeights, Variant};
use super::{Description, MapShape, Spec};
use crate::digest::Digest;
use crate::preprocess::{Layout, Preset};
pub use error::WeightsError;
pub use naming::Naming;
pub use read::StateDict;

/// A larger file is not read: a ResNet50 of 32-bit floats has 102 MB, some keep optimiser or average
/// beside it.
pub const LIMIT_BYTES: u64 = 1 << 30;

/// Height and width that make sense: Keras asks for at least 32.
const SIDES: std::ops::RangeInclusive<usize> = 32..=4096;

/// What is to be made of the weights.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// Name for the backbone.
    pub name: &'a str,
    /// Digest of the weights' file.
    pub sha256: Digest,
    /// Where strides are, if not where the weights' framework has them.
    pub variant: Option<Variant>,
    /// Preprocessing that they were trained with.
    pub preset: Preset,
    /// Height and width of the input.
    pub input_size: [usize; 2],
    /// Licence of the weights.
    pub licence: Option<&'a str>,
    /// Whether the weights are trained, if known.
    pub trained: Option<bool>,
    /// Where they came from, without passwords.
    pub source: Option<&'a str>,
}

/// A backbone in memory.
#[derive(Debug)]
pub struct Built {
    /// Where strides are.
    pub variant: Variant,
    /// Parameters, counted as the weights' framework counts them.
    pub parameters: usize,
    /// BatchNorm's means and variances, which Keras counts among the parameters and torchvision not.
    pub statistics: usize,
    description: Description,
    bytes: Vec<u8>,
    map_shape: MapShape,
}

/// A backbone that was checked and written.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The model.
    pub model: PathBuf,
    /// The description beside it.
    pub description: PathBuf,
    /// Digest of the model.
    pub digest: Digest,
    /// Size of the model.
    pub size_bytes: u64,
    /// The feature map's shape.
    pub map_shape: MapShape,
}

impl Plan<'_> {
    /// Builds the graph around the weights.
    ///
    /// # Errors
    /// When the size makes no sense or a tensor does not fit.
    ///
    /// # Panics
    /// Never: the count of parameters follows from shapes that were checked.
    pub fn build(&self, weights: &StateDict) -> Result<Built, WeightsError> {
        if !self.input_size.iter().all(|side| SIDES.contains(side)) {
            return Err(WeightsError::Size(self.input_size));
        }
        let naming = weights.naming();
        let variant = self.variant.unwrap_or(naming.variant());
        let architecture = Architecture::resnet50(variant, naming.epsilon());
        let layers = weights.layers(&architecture)?;
        let count = |part: fn(&LayerWeights) -> usize| layers.iter().map(part).sum::<usize>();
        let (trainable, statistics) = (
            count(LayerWeights::trainable),
            count(LayerWeights::statistics),
        );
        let parameters = match naming {
            Naming::Torchvision => trainable,
            Naming::Keras => trainable + statistics,
        };
        assert_eq!(
            (parameters, statistics),
            naming.parameters(),
            "{naming}'s ResNet50"
        );

        let note = format!(
            "ResNet50 {variant} without its top, of weights in {naming}'s naming with SHA-256 {}",
            self.sha256
        );
        let mut metadata = vec![
            ("headstart.name", self.name.to_owned()),
            ("headstart.preset", self.preset.to_string()),
            ("headstart.variant", variant.to_string()),
            ("headstart.weights_sha256", self.sha256.to_string()),
        ];
        metadata.extend(
            self.licence
                .map(|text| ("headstart.licence", text.to_owned())),
        );
        let label = Label {
            note: &note,
            metadata: &metadata,
        };
        let bytes = onnx::encode(&architecture, layers, self.input_size, &label)
            .map_err(WeightsError::Encode)?;
        let [(height, channels), (width, _)] =
            self.input_size.map(|side| architecture.output(side));
        let description = Description {
            name: Some(self.name.to_owned()),
            preset: Some(self.preset),
            input_size: Some(self.input_size),
            feature_tensor: Some(OUTPUT.to_owned()),
            feature_layout: Some(Layout::Nhwc),
            trained: self.trained,
            sha256: Some(Digest::of(&bytes)),
            licence: self.licence.map(str::to_owned),
            source: self.source.map(str::to_owned),
            note: Some(note),
            ..Description::default()
        };
        Ok(Built {
            variant,
            parameters,
            statistics,
            description,
            bytes,
            map_shape: MapShape {
                height,
                width,
                channels,
            },
        })
    }
}

impl Built {
    /// Runs the backbone once and writes it to `to`.
    ///
    /// # Errors
    /// When it does not run, gives something else than finite maps of its shape, or a file cannot be
    /// written. Nothing is written then.
    pub fn check_and_write(self, to: &Path, open: Open) -> Result<Written, WeightsError> {
        // Before the costly step: a folder that cannot be written to fails here.
        let files = Pair::begin(to, &self.bytes, &self.description)?;
        let spec = Spec::of(
            to,
            &Outline::of_bytes(&self.bytes),
            self.description.clone(),
            &Default::default(),
        )?;
        let (map_shape, features) = features_of_noise(spec, open(&self.bytes)?)?;
        if map_shape != self.map_shape {
            return Err(WeightsError::MapShape {
                got: map_shape,
                expected: self.map_shape,
            });
        }
        if !features.iter().all(|value| value.is_finite()) {
            return Err(WeightsError::NotFinite);
        }
        let description = files.publish(&self.bytes)?;
        Ok(Written {
            model: to.to_owned(),
            description,
            digest: Digest::of(&self.bytes),
            size_bytes: self.bytes.len() as u64,
            map_shape,
        })
    }
}
