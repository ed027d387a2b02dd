//! The key of a store: everything that changes a feature's value, and nothing else.

use std::path::{Path, PathBuf};

use super::folder::unfit;
use super::{FORMAT_VERSION, StoreError};
use crate::backbone::Spec;
use crate::decode::{DECODER, Exif};
use crate::digest::Digest;
use crate::engine::Precision;
use crate::files::{FileError, write_atomically};
use crate::preprocess::{Layout, Preset};
use crate::resize::RESIZE;

pub(crate) const STORE_JSON: &str = "store.json";

/// Element type of the stored features.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// float32, 4 bytes: as the engine gives it.
    F32,
    /// float16, 2 bytes: rounded to the nearest; a value beyond 65,504 rejects the image.
    F16,
    /// Unsigned, 1 byte: rounded to the nearest, halves to even; a value outside of 0 to 255
    /// rejects the image. For [`crate::pixels`].
    #[value(skip)]
    U8,
}

impl Dtype {
    /// Bytes an element takes.
    pub fn size_bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 => 2,
            Dtype::U8 => 1,
        }
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::U8 => "u8",
        })
    }
}

/// Everything that changes a feature. Two stores with the same key hold the same features (within
/// the engine's rounding); with different keys they never mix.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoreKey {
    /// Version of the on-disk format.
    pub format: u32,
    /// Digest of the backbone's ONNX file.
    pub backbone: Digest,
    /// Which of its outputs is the feature map.
    pub feature_tensor: String,
    /// Order of the input's axes.
    pub input_layout: Layout,
    /// Order of the feature map's axes if the description says; else it follows from the map's
    /// shape.
    pub feature_layout: Option<Layout>,
    /// Arithmetic the backbone ran in.
    pub precision: Precision,
    /// Decoder and its version.
    pub decoder: String,
    /// What was done with the EXIF orientation.
    pub exif: Exif,
    /// Resize method.
    pub resize: String,
    /// Height and width of the backbone's input.
    pub input_size: [usize; 2],
    /// Colour preset.
    pub preset: Preset,
    /// Element type.
    pub dtype: Dtype,
}

/// What `store.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoreJson {
    /// The key.
    pub key: StoreKey,
    /// The backbone's name when the store was made; for people.
    pub backbone_name: String,
    /// Whether the backbone's weights are trained, if its description says.
    pub backbone_trained: Option<bool>,
}

impl StoreKey {
    /// The key of features that `spec` gives of images read as `exif` says, computed in fp32 and stored
    /// as `dtype`.
    pub fn new(spec: &Spec, exif: Exif, dtype: Dtype) -> StoreKey {
        StoreKey {
            format: FORMAT_VERSION,
            backbone: spec.digest,
            feature_tensor: spec.feature_tensor.clone(),
            input_layout: spec.input_layout,
            feature_layout: spec.feature_layout,
            precision: Precision::Fp32,
            decoder: DECODER.to_owned(),
            exif,
            resize: RESIZE.to_owned(),
            input_size: spec.input_size,
            preset: spec.preset,
            dtype,
        }
    }

    /// The key of the same features computed in `precision`.
    pub fn with_precision(self, precision: Precision) -> StoreKey {
        StoreKey { precision, ..self }
    }

    /// The key as JSON, fields in the order of the struct.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a key of numbers and texts")
    }

    /// Digest of the key.
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_json().as_bytes())
    }

    /// The store's folder below `root`.
    pub fn folder(&self, root: &Path) -> PathBuf {
        let [height, width] = self.input_size;
        let (preset, dtype, digest) = (self.preset, self.dtype, self.digest().short());
        root.join(format!("{preset}-{height}x{width}-{dtype}-{digest}"))
    }

    /// Checks that this is the `expected` key.
    ///
    /// # Errors
    /// [`StoreError::Key`], naming the first field that differs.
    pub fn must_equal(&self, expected: &StoreKey, path: &Path) -> Result<(), StoreError> {
        macro_rules! same {
            ($($field:ident),*) => {$(
                if self.$field != expected.$field {
                    return Err(StoreError::Key {
                        path: path.to_owned(),
                        field: stringify!($field),
                        found: format!("{:?}", self.$field),
                        expected: format!("{:?}", expected.$field),
                    });
                }
            )*};
        }
        same!(
            format,
            backbone,
            feature_tensor,
            input_layout,
            feature_layout,
            precision,
            decoder,
            exif,
            resize
        );
        same!(input_size, preset, dtype);
        Ok(())
    }
}

/// Reads `store.json`.
///
/// # Errors
/// When it is not there, damaged or of another format.
pub fn read(folder: &Path) -> Result<StoreJson, StoreError> {
    let path = folder.join(STORE_JSON);
    let wrong = |reason: String| StoreError::NotAStore {
        path: folder.to_owned(),
        reason,
    };
    let read = unfit(&path).and_then(|unfit| match unfit {
        Some(what) => Ok(Err(wrong(format!("{STORE_JSON}: {what}")))),
        None => std::fs::read(&path).map(Ok),
    });
    let bytes = match read {
        Ok(bytes) => bytes?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(StoreError::None(folder.to_owned()));
        }
        Err(e) => return Err(FileError::new("read", &path)(e).into()),
    };
    // The version first: another version may have other fields.
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| wrong(format!("{STORE_JSON}: {e}")))?;
    let version = &value["key"]["format"];
    match version.as_u64() {
        Some(found) if found == u64::from(FORMAT_VERSION) => {}
        Some(found) => {
            return Err(StoreError::Version {
                path: folder.to_owned(),
                found,
            });
        }
        None => return Err(wrong(format!("{STORE_JSON}: it has no format version"))),
    }
    serde_json::from_value(value).map_err(|e| wrong(format!("{STORE_JSON}: {e}")))
}

/// Checks that the store in `folder` is still there, so that nothing is written to the place where
/// a lost mount has been.
///
/// # Errors
/// [`StoreError::Gone`].
pub(super) fn must_be_there(folder: &Path) -> Result<(), StoreError> {
    match folder.join(STORE_JSON).try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(StoreError::Gone(folder.to_owned())),
        Err(e) => Err(FileError::new("find", &folder.join(STORE_JSON))(e).into()),
    }
}

/// Makes the folder below `root` of the store of `json.key` and its `store.json`, unless they are
/// there.
///
/// # Errors
/// When the folder cannot be written, or holds a store of another key.
pub fn create(root: &Path, json: &StoreJson) -> Result<PathBuf, StoreError> {
    let folder = json.key.folder(root);
    match read(&folder) {
        Ok(found) => found.key.must_equal(&json.key, &folder)?,
        Err(StoreError::None(_)) => {
            let text = serde_json::to_string_pretty(json).expect("a key of numbers and texts");
            write_atomically(&folder.join(STORE_JSON), text.as_bytes())?;
        }
        Err(other) => return Err(other),
    }
    Ok(folder)
}
