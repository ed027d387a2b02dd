//! A ResNet50 with seeded random weights, for when no trained backbone is at hand.
//!
//! The file has exactly the architecture of Keras's
//! `tf.keras.applications.ResNet50(include_top=False, input_shape=(size, size, 3))`, so speed,
//! memory, shapes and the whole pipeline are those of the real thing. Its features are *not*: the
//! weights are He-normal noise, the BatchNorm statistics come from a seeded batch of image-like
//! noise so that maps are of order 1, and the residual branches are damped
//! (`weights::BRANCH_GAMMA`). Every place that names the file says "untrained". A seed and a size
//! give the same bytes on every machine.

mod images;
pub(crate) mod random;
pub(crate) mod reference;
mod weights;

use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;

use self::reference::{Maps, Statistics};
pub use super::resnet50::onnx::{INPUT, OUTPUT};
use super::resnet50::{Architecture, KERAS_EPSILON, LayerWeights, Variant, onnx};
use crate::digest::Digest;
use crate::files::Pending;

/// Sides that make sense: Keras asks for at least 32, and above 256 the seeded batch needs GBs.
const SIZES: std::ops::RangeInclusive<u32> = 32..=256;

/// Which backbone to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeedOptions {
    /// Seed of the weights and of the batch behind the BatchNorm statistics.
    pub seed: u64,
    /// Side of the square input in pixels.
    pub size: u32,
}

impl Default for SeedOptions {
    fn default() -> Self {
        SeedOptions { seed: 0, size: 100 }
    }
}

impl SeedOptions {
    /// The backbone's usual name: `resnet50-seed0`, or `resnet50-seed0-224px` for another size
    /// than 100.
    pub fn name(&self) -> String {
        let SeedOptions { seed, size } = self;
        match size {
            100 => format!("resnet50-seed{seed}"),
            _ => format!("resnet50-seed{seed}-{size}px"),
        }
    }

    /// What the file is, in one sentence.
    pub fn note(&self) -> String {
        format!(
            "untrained ResNet50, seed {}, BatchNorm statistics from a seeded batch",
            self.seed
        )
    }

    fn checked_size(&self) -> Result<usize, SeedError> {
        if SIZES.contains(&self.size) {
            Ok(self.size as usize)
        } else {
            Err(SeedError::Size(self.size))
        }
    }
}

/// A seeded backbone in memory.
#[derive(Debug, Clone)]
pub struct SeededBackbone {
    /// The ONNX file.
    pub bytes: Vec<u8>,
    /// Parameters, counted as Keras counts them.
    pub parameters: u64,
    /// Those of them that training does not change: BatchNorm's means and variances.
    pub non_trainable: u64,
    /// [height, width, channels] of one image's feature map.
    pub output_shape: [usize; 3],
    /// Mean of the feature maps of the seeded batch.
    pub map_mean: f64,
    /// Standard deviation of the feature maps of the seeded batch.
    pub map_std: f64,
}

/// A seeded backbone on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenBackbone {
    /// The ONNX file.
    pub model: PathBuf,
    /// The description beside it.
    pub description: PathBuf,
    /// Digest of the ONNX file.
    pub digest: Digest,
    /// Size of the ONNX file.
    pub size_bytes: u64,
    /// See [`SeededBackbone::parameters`].
    pub parameters: u64,
    /// See [`SeededBackbone::output_shape`].
    pub output_shape: [usize; 3],
    /// See [`SeedOptions::note`].
    pub note: String,
}

/// Why no seeded backbone was made.
#[derive(Debug, Error)]
pub enum SeedError {
    /// A size outside the accepted range.
    #[error("input size {0} is outside {min}..={max} (hint: the usual size is 100)", min = SIZES.start(), max = SIZES.end())]
    Size(u32),
    /// The reference forward pass was given something else than whole images.
    #[error(
        "got {values} values, which is not a number of {size}x{size}x3 images (hint: pass channels-last RGB)"
    )]
    Images {
        /// Values given.
        values: usize,
        /// Side asked for.
        size: usize,
    },
    /// A path that cannot be a model with a description beside it.
    #[error("{} is no name for an ONNX file (hint: name a file such as models/resnet50-seed0.onnx)", .0.display())]
    FileName(PathBuf),
    /// The model could not be serialised.
    #[error("cannot encode the backbone as ONNX")]
    Encode(#[source] protobuf::Error),
    /// The description could not be serialised.
    #[error("cannot encode the backbone's description")]
    Describe(#[source] toml::ser::Error),
    /// A file was not written.
    #[error(transparent)]
    File(#[from] crate::files::FileError),
}

/// The description beside a model: what a reader must know to feed it.
#[derive(Serialize)]
struct Description {
    name: String,
    preset: &'static str,
    input_size: [u32; 2],
    feature_tensor: &'static str,
    trained: bool,
    note: String,
}

/// Makes the backbone in memory.
///
/// # Errors
/// When the size is out of range or the model cannot be serialised.
pub fn resnet50(options: &SeedOptions) -> Result<SeededBackbone, SeedError> {
    let size = options.checked_size()?;
    let (architecture, weights, maps) = calibrated(options.seed, size);
    let (map_mean, map_std) = mean_and_std(&maps.data);
    let count = |part: fn(&LayerWeights) -> usize| weights.iter().map(part).sum::<usize>() as u64;
    let trainable = count(LayerWeights::trainable);
    let non_trainable = count(LayerWeights::statistics);
    let note = options.note();
    let metadata = [
        ("headstart.name", options.name()),
        ("headstart.preset", "unit".to_owned()),
        ("headstart.seed", options.seed.to_string()),
        ("headstart.trained", "false".to_owned()),
        ("headstart.note", note.clone()),
    ];
    let label = onnx::Label {
        note: &note,
        metadata: &metadata,
    };
    let bytes =
        onnx::encode(&architecture, weights, [size; 2], &label).map_err(SeedError::Encode)?;
    Ok(SeededBackbone {
        bytes,
        parameters: trainable + non_trainable,
        non_trainable,
        output_shape: [maps.side, maps.side, maps.channels],
        map_mean,
        map_std,
    })
}

/// What the backbone computes, by the slow forward pass in plain Rust: for checking an engine.
///
/// `images_nhwc` is [N, size, size, 3] in 0..1; the answer is [N, side, side, 2048].
///
/// # Errors
/// When the size is out of range or `images_nhwc` is not a whole number of images.
pub fn reference_features(
    options: &SeedOptions,
    images_nhwc: &[f32],
) -> Result<Vec<f32>, SeedError> {
    let size = options.checked_size()?;
    let image_len = size * size * 3;
    if images_nhwc.is_empty() || !images_nhwc.len().is_multiple_of(image_len) {
        return Err(SeedError::Images {
            values: images_nhwc.len(),
            size,
        });
    }
    let (architecture, mut weights, _) = calibrated(options.seed, size);
    let count = images_nhwc.len() / image_len;
    let images = Maps {
        count,
        side: size,
        channels: 3,
        data: images_nhwc.to_vec(),
    };
    Ok(reference::forward(&architecture, &mut weights, &images, Statistics::Keep).data)
}

/// Makes the backbone and writes it to `path`, with its description (`NAME.toml`) beside it.
///
/// Both files appear whole or not at all, the model last.
///
/// # Errors
/// When the size is out of range, the model cannot be serialised or a file cannot be written.
pub fn write(path: &Path, options: &SeedOptions) -> Result<WrittenBackbone, SeedError> {
    let file_name = || SeedError::FileName(path.to_owned());
    let name = path
        .file_stem()
        .ok_or_else(file_name)?
        .to_string_lossy()
        .into_owned();
    let description_path = path.with_extension("toml");
    if description_path == path {
        return Err(file_name());
    }
    options.checked_size()?;
    // Before the costly step: a folder that cannot be written to fails here.
    let mut model_file = Pending::new(path)?;
    let mut description_file = Pending::new(&description_path)?;

    let backbone = resnet50(options)?;
    let description = Description {
        name,
        preset: "unit",
        input_size: [options.size; 2],
        feature_tensor: OUTPUT,
        trained: false,
        note: options.note(),
    };
    let description = toml::to_string(&description).map_err(SeedError::Describe)?;
    description_file.write_all(description.as_bytes())?;
    description_file.publish()?;
    model_file.write_all(&backbone.bytes)?;
    model_file.publish()?;
    Ok(WrittenBackbone {
        model: path.to_owned(),
        description: description_path,
        digest: Digest::of(&backbone.bytes),
        size_bytes: backbone.bytes.len() as u64,
        parameters: backbone.parameters,
        output_shape: backbone.output_shape,
        note: options.note(),
    })
}

/// Architecture, weights with their statistics set, and the seeded batch's feature maps.
fn calibrated(seed: u64, size: usize) -> (Architecture, Vec<LayerWeights>, Maps) {
    let architecture = Architecture::resnet50(Variant::V1, KERAS_EPSILON);
    let mut weights = weights::seeded(&architecture, seed);
    let batch = images::batch(seed, size);
    let maps = reference::forward(&architecture, &mut weights, &batch, Statistics::Measure);
    (architecture, weights, maps)
}

fn mean_and_std(values: &[f32]) -> (f64, f64) {
    let average = |term: &dyn Fn(f64) -> f64| {
        values
            .iter()
            .map(|&value| term(f64::from(value)))
            .sum::<f64>()
            / values.len() as f64
    };
    let mean = average(&|value| value);
    (
        mean,
        average(&|value| (value - mean) * (value - mean)).sqrt(),
    )
}

#[cfg(test)]
mod tests;
