//! A backbone: an ONNX model, the small description file beside it, and what follows from both.
//!
//! The model itself tells layout, size and channels; the description (`resnet50.toml` beside
//! `resnet50.onnx`) tells what it cannot, above all the preprocessing preset. Must not know about
//! stores or images on disk.

pub mod import;
mod known;
pub mod onnx;
mod probe;
pub mod quantized;
pub mod registry;
mod resnet50;
pub mod seed;
mod spec;
pub mod weights;

use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::engine::{Engine, EngineError};
use crate::preprocess::{Layout, Preprocessor, Preset};
use onnx::{OnnxError, Outline};
pub use resnet50::Variant;
pub use spec::{Description, Overrides, Spec};

/// Height, width and channels of a feature map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MapShape {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}

impl MapShape {
    /// Numbers in a map.
    pub fn len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Whether a map has no numbers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Display for MapShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.height, self.width, self.channels)
    }
}

/// A backbone cannot be used. `path` is the model's file.
#[derive(Debug, thiserror::Error)]
pub enum BackboneError {
    /// The model's file or its description cannot be read.
    #[error("cannot read {}{}", path.display(), missing_hint(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Somebody replaced it while it was in use.
    #[error("{} changed while it was in use (hint: run the same command again)", path.display())]
    Changed {
        /// The model.
        path: PathBuf,
    },
    /// It is no usable ONNX model.
    #[error("cannot use the backbone {}", path.display())]
    Onnx {
        /// The model.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: OnnxError,
    },
    /// The description file is wrong.
    #[error("the description {} is wrong: {reason}", path.display())]
    Description {
        /// The description file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Nobody said how images are to be preprocessed.
    #[error(
        "nothing says which preprocessing the backbone {} was trained with (hint: give --preset \
         unit|caffe|imagenet|raw, or write preset = \"...\" into {})", path.display(), description.display()
    )]
    NoPreset {
        /// The model.
        path: PathBuf,
        /// Where its description would be.
        description: PathBuf,
    },
    /// The model is no backbone with one image input and one feature map.
    #[error("cannot use the model {} as a backbone: {reason}", path.display())]
    Shape {
        /// The model.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The engine failed.
    #[error("the backbone {} does not run", path.display())]
    Engine {
        /// The model.
        path: PathBuf,
        /// The engine's error.
        #[source]
        source: EngineError,
    },
}

/// Turns an error of reading `path` into ours.
fn reading(path: &Path) -> impl Fn(std::io::Error) -> BackboneError {
    |source| BackboneError::Read {
        path: path.to_owned(),
        source,
    }
}

fn missing_hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            " (hint: make backbone exports the ImageNet ResNet50; BACKBONE=FILE names another model)"
        }
        _ => "",
    }
}

/// What is said of the model `path`, whose file has this digest: by the description beside it, else by
/// what is known of published models; else nothing.
///
/// # Errors
/// When there is a description that cannot be read, or is another model's.
pub fn described(path: &Path, digest: &Digest) -> Result<Description, BackboneError> {
    spec::read_description(path, digest)
}

/// A model's file and what is known about it; not yet open in an engine.
#[derive(Debug, Clone)]
pub struct Model {
    /// The file it came from.
    pub path: PathBuf,
    /// What follows from model, description and overrides.
    pub spec: Spec,
    /// Size of the file.
    pub len_bytes: u64,
}

impl Model {
    /// The licence of the weights, if the description beside the model names it.
    pub fn licence(&self) -> Option<String> {
        spec::read_description(&self.path, &self.spec.digest)
            .ok()?
            .licence
    }

    /// Reads a model and the description beside it, and checks that it is a backbone. The weights are
    /// digested and not kept.
    ///
    /// # Errors
    /// [`BackboneError`] when a file cannot be read or the model is none.
    pub fn read(path: &Path, overrides: &Overrides) -> Result<Model, BackboneError> {
        let outline = Outline::of_file(path).map_err(reading(path))?;
        let spec = Spec::resolve(path, &outline, overrides)?;
        Ok(Model {
            path: path.to_owned(),
            spec,
            len_bytes: outline.len_bytes,
        })
    }

    /// The model's file, byte for byte.
    ///
    /// # Errors
    /// When it cannot be read any more, or is another one by now.
    pub fn bytes(&self) -> Result<Vec<u8>, BackboneError> {
        let bytes = std::fs::read(&self.path).map_err(reading(&self.path))?;
        match Digest::of(&bytes) == self.spec.digest {
            true => Ok(bytes),
            false => Err(BackboneError::Changed {
                path: self.path.clone(),
            }),
        }
    }

    /// Images in every run: `wanted`, unless the model fixes their number.
    pub fn batch_size(&self, wanted: usize) -> usize {
        self.spec.batch.unwrap_or(wanted).max(1)
    }

    /// The model in an open engine.
    pub fn with_engine(self, engine: Box<dyn Engine + Send>, batch_size: usize) -> Backbone {
        Backbone {
            batch_size: self.batch_size(batch_size),
            spec: self.spec,
            path: self.path,
            engine,
            raw: Vec::new(),
            map_layout: None,
        }
    }
}

/// A backbone ready to run.
pub struct Backbone {
    /// What it is.
    pub spec: Spec,
    /// Images in every run; the last batch of a job is padded to it.
    pub batch_size: usize,
    path: PathBuf,
    engine: Box<dyn Engine + Send>,
    raw: Vec<f32>,
    map_layout: Option<Layout>,
}

impl Backbone {
    /// A backbone without a model's file, named after what it is.
    pub(crate) fn new(spec: Spec, engine: Box<dyn Engine + Send>, batch_size: usize) -> Backbone {
        Backbone {
            batch_size,
            path: PathBuf::from(&spec.name),
            spec,
            engine,
            raw: Vec::new(),
            map_layout: None,
        }
    }

    /// The engine it runs in.
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// The preprocessing its input wants.
    pub fn preprocessor(&self) -> Preprocessor {
        self.spec.preprocessor()
    }

    /// Order of the axes in which the model itself gives its feature map; known once it ran.
    pub fn map_layout(&self) -> Option<Layout> {
        self.map_layout
    }

    /// What is said when the engine panicked, which is a mistake of a program and not of a model.
    pub(crate) fn panicked(&self) -> BackboneError {
        BackboneError::Engine {
            path: self.path.clone(),
            source: EngineError::Run("the engine panicked".into()),
        }
    }

    /// Runs one full batch: `input` is [batch_size, H, W, 3] or [batch_size, 3, H, W] as the
    /// backbone's layout says; `features` becomes [batch_size, h, w, c], channels last always.
    ///
    /// # Errors
    /// When the engine fails or gives another shape than a feature map a image.
    ///
    /// # Panics
    /// When `input` is not one full batch.
    pub fn run(
        &mut self,
        input: &[f32],
        features: &mut Vec<f32>,
    ) -> Result<MapShape, BackboneError> {
        let p = self.preprocessor();
        assert_eq!(input.len(), self.batch_size * p.len(), "a full batch");
        let shape = p.shape(self.batch_size);
        let (spec, raw) = (&self.spec, &mut self.raw);
        let dims = self
            .engine
            .run(&spec.input, shape, input, &spec.feature_tensor, raw)
            .map_err(|source| BackboneError::Engine {
                path: self.path.clone(),
                source,
            })?;
        let wrong = |reason| BackboneError::Shape {
            path: self.path.clone(),
            reason,
        };
        let [n, a, b, c] = dims[..] else {
            return Err(wrong(format!("its output has shape {dims:?}, not 4 axes")));
        };
        if n != self.batch_size || raw.len() != n * a * b * c || raw.is_empty() {
            let batch = self.batch_size;
            return Err(wrong(format!(
                "its output has shape {dims:?} for a batch of {batch}"
            )));
        }
        let layout = spec.map_layout([a, b, c]).map_err(wrong)?;
        self.map_layout = Some(layout);
        match layout {
            Layout::Nhwc => {
                std::mem::swap(features, raw);
                Ok(MapShape {
                    height: a,
                    width: b,
                    channels: c,
                })
            }
            Layout::Nchw => {
                channels_last(raw, n, a, b * c, features);
                Ok(MapShape {
                    height: b,
                    width: c,
                    channels: a,
                })
            }
        }
    }
}

/// [n, channels, positions] -> [n, positions, channels].
fn channels_last(raw: &[f32], n: usize, channels: usize, positions: usize, out: &mut Vec<f32>) {
    out.clear();
    out.resize(raw.len(), 0.0);
    let map = channels * positions;
    for i in 0..n {
        let (raw, out) = (&raw[i * map..][..map], &mut out[i * map..][..map]);
        for (position, out) in out.chunks_exact_mut(channels).enumerate() {
            for (channel, out) in out.iter_mut().enumerate() {
                *out = raw[channel * positions + position];
            }
        }
    }
}

/// What is measured of a preset that does not fit: validation accuracy on 240 of 2,400 photographs of cats
/// and dogs at 100x100, linfa's head with l2 = 0.1, on the backbone that wants `described`.
fn measured_cost(described: Preset, used: Preset) -> Option<&'static str> {
    Some(match (described, used) {
        (Preset::Caffe, Preset::Unit) => {
            "Keras's ImageNet weights collapse to one class with plain x/255"
        }
        (Preset::Imagenet, Preset::Unit) => {
            "MobileNetV2 fell from 92.5 % to 87.1 % on cats and dogs"
        }
        (Preset::Imagenet, Preset::Caffe) => {
            "MobileNetV2 fell from 92.5 % to 63.3 % on cats and dogs"
        }
        (Preset::Imagenet, Preset::Raw) => {
            "MobileNetV2 fell from 92.5 % to 66.3 % on cats and dogs"
        }
        _ => return None,
    })
}

/// Whether a preset is what the backbone was described with; a warning text if not.
pub fn preset_warning(described: Option<Preset>, used: Preset) -> Option<String> {
    let described = described.filter(|&d| d != used)?;
    let cost = match measured_cost(described, used) {
        Some(cost) => format!("with this mistake {cost}"),
        None => "what that costs was not measured; expect much worse features".to_owned(),
    };
    Some(format!(
        "preset {used} is used, but the backbone was trained with {described}: {cost} (hint: leave out \
         --preset)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_move_last() {
        // [1, 2 channels, 3 positions]
        let mut out = Vec::new();
        channels_last(&[1.0, 2.0, 3.0, 10.0, 20.0, 30.0], 1, 2, 3, &mut out);
        assert_eq!(out, [1.0, 10.0, 2.0, 20.0, 3.0, 30.0]);
    }

    #[test]
    fn a_wrong_preset_says_what_it_costs() {
        assert_eq!(preset_warning(Some(Preset::Unit), Preset::Unit), None);
        assert_eq!(preset_warning(None, Preset::Unit), None);
        for (described, used, cost) in [
            (Preset::Caffe, Preset::Unit, "collapse"),
            (Preset::Imagenet, Preset::Unit, "from 92.5 % to 87.1 %"),
            (Preset::Unit, Preset::Raw, "not measured"),
        ] {
            let warning = preset_warning(Some(described), used).unwrap();
            assert!(warning.contains(cost), "{warning}");
        }
    }
}
