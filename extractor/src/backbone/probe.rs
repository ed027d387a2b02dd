//! What makes a file a backbone that can be used: it is run once, on noise, and it is written with its
//! description, both whole or not at all.
//!
//! Must not know how the model came about, nor which engine runs it.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::seed::random::Stream;
use super::{Backbone, BackboneError, Description, MapShape, Spec, spec};
use crate::decode::RgbImage;
use crate::engine::{Engine, EngineError};
use crate::files::{FileError, Pending};

/// Opens a model.
pub type Open<'a> = &'a mut dyn FnMut(&[u8]) -> Result<Box<dyn Engine + Send>, EngineError>;

/// Images of noise, where the model does not fix their number.
const BATCH: usize = 2;

/// The feature maps of a batch of noise, [batch, h, w, c].
///
/// # Errors
/// When the model does not run or gives no maps.
pub(super) fn features_of_noise(
    spec: Spec,
    engine: Box<dyn Engine + Send>,
) -> Result<(MapShape, Vec<f32>), BackboneError> {
    let batch = spec.batch.unwrap_or(BATCH);
    let preprocessor = spec.preprocessor();
    let mut noise = Stream::new(0, 0);
    let mut input = vec![0.0; batch * preprocessor.len()];
    for image in input.chunks_exact_mut(preprocessor.len()) {
        let [height, width] = spec.input_size;
        // From 0 to 255; the cast drops the fraction.
        let pixels = (0..height * width * 3).map(|_| (noise.uniform() * 256.0) as u8);
        let noise = RgbImage {
            width,
            height,
            pixels: pixels.collect(),
        };
        preprocessor.apply(&noise, image);
    }
    let mut features = Vec::new();
    let mut backbone = Backbone::new(spec, engine, batch);
    let shape = backbone.run(&input, &mut features)?;
    Ok((shape, features))
}

/// That another file than the one to be written is at `path`.
pub(super) fn occupied(path: &Path, what: &str) -> FileError {
    FileError {
        action: "replace",
        path: path.to_owned(),
        source: io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!(
                "another {what} is there (hint: name another place with --name or --out, or remove it)"
            ),
        ),
    }
}

/// A model and its description on their way to their places.
pub(super) struct Pair {
    model: Pending,
    description: Pending,
    description_path: PathBuf,
    text: String,
}

impl Pair {
    /// Begins both files; the model will be `model` and hold `bytes`.
    ///
    /// # Errors
    /// When their folder cannot be written to, or another model or description is there.
    pub fn begin(model: &Path, bytes: &[u8], description: &Description) -> Result<Pair, FileError> {
        let description_path = spec::description_path(model);
        let text = toml::to_string(description).expect("a description is plain TOML");
        // Runs and stores know a backbone by its bytes, and what is written down of it is a person's.
        let differs = |path: &Path, bytes: &[u8], what: &str| match fs::read(path) {
            Ok(there) if there != bytes => Err(occupied(path, what)),
            _ => Ok(()),
        };
        differs(model, bytes, "backbone")?;
        if model.exists() {
            differs(&description_path, text.as_bytes(), "description")?;
        }
        Ok(Pair {
            text,
            model: Pending::new(model)?,
            description: Pending::new(&description_path)?,
            description_path,
        })
    }

    /// Writes both, the model last, and returns the description's path.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn publish(mut self, bytes: &[u8]) -> Result<PathBuf, FileError> {
        self.description.write_all(self.text.as_bytes())?;
        self.description.publish()?;
        self.model.write_all(bytes)?;
        self.model.publish()?;
        Ok(self.description_path)
    }
}
