//! Makes a backbone of a classifier: finds its feature map, cuts the graph off there, checks that the
//! two still compute the same, and writes the result beside a description.
//!
//! Must not know where models come from, nor which engine runs them.

mod cut;
mod error;
mod external;
mod find;

use std::path::{Path, PathBuf};

use onnx_protobuf::tensor_shape_proto::dimension;
use onnx_protobuf::{Message as _, ModelProto, type_proto};

use super::onnx::{Outline, set_metadata};
use super::probe::{Open, Pair, features_of_noise};
use super::{Description, MapShape, Spec};
use crate::digest::Digest;
use crate::files::counted;
use crate::preprocess::{Layout, Preset};
pub use cut::Dropped;
pub use error::ImportError;
pub use find::Found;

/// A classifier, and what is to be known of it.
#[derive(Debug, Clone)]
pub struct Classifier<'a> {
    /// The ONNX file.
    pub bytes: &'a [u8],
    /// Its folder, for weights in other files; none if it came alone.
    pub folder: Option<&'a Path>,
    /// Name for the backbone.
    pub name: &'a str,
    /// Preprocessing that it was trained with.
    pub preset: Preset,
    /// The feature map's tensor, if it is not to be looked for.
    pub feature: Option<&'a str>,
    /// Height and width of the backbone's input, if not the model's own.
    pub input_size: Option<[usize; 2]>,
    /// Licence of the weights.
    pub licence: Option<&'a str>,
    /// Whether the weights are trained, if known.
    pub trained: Option<bool>,
    /// Where it came from, without passwords.
    pub source: Option<&'a str>,
}

/// A backbone that was cut out, in memory.
#[derive(Debug)]
pub struct Cut {
    /// What the feature map is.
    pub feature: Found,
    /// What went.
    pub dropped: Dropped,
    /// Bytes of weights that were in other files.
    pub taken_in_bytes: u64,
    name: String,
    description: Description,
    original: Vec<u8>,
    bytes: Vec<u8>,
    /// Height and width at which both are compared.
    native_size: [usize; 2],
}

/// A backbone that was checked and written.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// The model.
    pub model: PathBuf,
    /// The description beside it.
    pub description: PathBuf,
    /// Digest of the model.
    pub digest: Digest,
    /// Size of the model.
    pub size_bytes: u64,
    /// Height and width of the input.
    pub input_size: [usize; 2],
    /// The feature map's shape at that size.
    pub map_shape: MapShape,
    /// The largest difference between cut and original, relative to the largest feature.
    pub difference: f32,
}

/// Relative difference that another order of sums may make.
const TOLERANCE: f32 = 1e-5;

impl Classifier<'_> {
    /// Cuts the backbone out.
    ///
    /// # Errors
    /// When there is none, or the input is no batch of images.
    pub fn cut(&self) -> Result<Cut, ImportError> {
        let mut model = ModelProto::parse_from_bytes(self.bytes).map_err(ImportError::NotOnnx)?;
        let taken_in_bytes = external::take_in(&mut model, self.folder)?;
        let graph = model.graph.as_ref().ok_or(ImportError::NoGraph)?;
        let feature = match self.feature {
            Some(tensor) => Found {
                tensor: tensor.to_owned(),
                layout: None,
                full_size: None,
                why: "--feature names it".to_owned(),
            },
            None => find::feature_map(graph)?,
        };
        let mut original = model.clone();
        cut::also_give(&mut original, &feature.tensor);
        let dropped = cut::cut(&mut model, &feature.tensor)?;

        let mut description = Description {
            name: Some(self.name.to_owned()),
            preset: Some(self.preset),
            input_size: self.input_size,
            feature_layout: feature.layout,
            trained: self.trained,
            licence: self.licence.map(str::to_owned),
            source: self.source.map(str::to_owned),
            note: Some(format!("cut off at {}", feature.tensor)),
            ..Description::default()
        };
        let source_digest = Digest::of(self.bytes);
        let mut metadata = vec![
            ("headstart.name", self.name.to_owned()),
            ("headstart.preset", self.preset.to_string()),
            ("headstart.cut_at", feature.tensor.clone()),
            ("headstart.cut_from", source_digest.to_string()),
        ];
        metadata.extend(
            self.licence
                .map(|text| ("headstart.licence", text.to_owned())),
        );
        for (key, value) in metadata {
            set_metadata(&mut model, key, value);
        }
        let mut bytes = model.write_to_bytes().map_err(ImportError::Encode)?;
        // The model's own size, or the wanted one where it leaves that open.
        let spec = |bytes: &[u8], size| {
            let wanted = Description {
                input_size: size,
                ..description.clone()
            };
            Spec::of(
                Path::new(self.name),
                &Outline::of_bytes(bytes),
                wanted,
                &Default::default(),
            )
        };
        let native_size = match (spec(&bytes, None), self.input_size) {
            (Ok(spec), _) => spec.input_size,
            (Err(_), Some(size)) => spec(&bytes, Some(size))?.input_size,
            (Err(error), None) => return Err(error.into()),
        };
        if self.input_size.is_some_and(|wanted| wanted != native_size) {
            let layout = spec(&bytes, None)?.input_layout;
            open_size(&mut model, layout, &feature.tensor);
            bytes = model.write_to_bytes().map_err(ImportError::Encode)?;
        }
        description.sha256 = Some(Digest::of(&bytes));
        Ok(Cut {
            feature,
            dropped,
            taken_in_bytes,
            name: self.name.to_owned(),
            description,
            original: original.write_to_bytes().map_err(ImportError::Encode)?,
            bytes,
            native_size,
        })
    }
}

impl Cut {
    /// Runs both models, compares what they give, and writes the backbone to `to`.
    ///
    /// # Errors
    /// When one of them does not run, they differ, or a file cannot be written. Nothing is written
    /// then.
    pub fn check_and_write(self, to: &Path, open: Open) -> Result<Imported, ImportError> {
        // Before the costly step: a folder that cannot be written to fails here.
        let files = Pair::begin(to, &self.bytes, &self.description)?;

        let native = self.spec(Some(self.native_size))?;
        let (map, features) = features_of_noise(native.clone(), open(&self.bytes)?)?;
        let original = Spec {
            feature_tensor: self.feature.tensor.clone(),
            ..native
        };
        let (_, expected) =
            features_of_noise(original, open(&self.original)?).map_err(ImportError::Original)?;
        let difference = difference(&features, &expected)?;
        if let Some([height, width]) = self.feature.full_size
            && [height, width] != [map.height, map.width]
        {
            return Err(ImportError::NotGlobal {
                tensor: self.feature.tensor.clone(),
                pooled: format!("{height}x{width}"),
                map: format!("{}x{}", map.height, map.width),
            });
        }
        let spec = self.spec(self.description.input_size)?;
        let input_size = spec.input_size;
        let map_shape = match input_size == self.native_size {
            true => map,
            false => features_of_noise(spec, open(&self.bytes)?)?.0,
        };

        let description = files.publish(&self.bytes)?;
        Ok(Imported {
            model: to.to_owned(),
            description,
            digest: Digest::of(&self.bytes),
            size_bytes: self.bytes.len() as u64,
            input_size,
            map_shape,
            difference,
        })
    }

    fn spec(&self, input_size: Option<[usize; 2]>) -> Result<Spec, super::BackboneError> {
        let description = Description {
            input_size,
            ..self.description.clone()
        };
        let path = Path::new(&self.name);
        Spec::of(
            path,
            &Outline::of_bytes(&self.bytes),
            description,
            &Default::default(),
        )
    }
}

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let weights = counted(self.initializers, "constant");
        write!(f, "{}, {weights}", counted(self.nodes, "node"))
    }
}

/// The largest difference, relative to the largest feature.
fn difference(features: &[f32], expected: &[f32]) -> Result<f32, ImportError> {
    let largest = expected.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    let pairs = features.iter().zip(expected);
    let difference = pairs.fold(0.0_f32, |most, (a, b)| match a.to_bits() == b.to_bits() {
        true => most,
        // Not `max`, which would forget a NaN.
        false => match (a - b).abs() {
            d if d > most || d.is_nan() => d,
            _ => most,
        },
    });
    let is_same = features.len() == expected.len() && difference <= TOLERANCE * largest;
    match is_same {
        true if largest == 0.0 => Ok(0.0),
        true => Ok(difference / largest),
        false => Err(ImportError::Differs {
            difference,
            largest,
        }),
    }
}

/// Opens height and width of the image input. What the graph says of other shapes was said for the
/// old ones, and goes.
fn open_size(model: &mut ModelProto, layout: Layout, feature: &str) {
    let Some(graph) = model.graph.as_mut() else {
        return;
    };
    let axes = match layout {
        Layout::Nhwc => [1, 2],
        Layout::Nchw => [2, 3],
    };
    let is_weight = |name: &str| graph.initializer.iter().any(|t| t.name == name);
    let images = graph.input.iter().position(|input| !is_weight(&input.name));
    let image = images.map(|at| &mut graph.input[at]);
    let kind = image.and_then(|image| image.type_.as_mut()?.value.as_mut());
    if let Some(type_proto::Value::TensorType(tensor)) = kind {
        for (axis, name) in axes.into_iter().zip(["height", "width"]) {
            if let Some(dim) = tensor.shape.mut_or_insert_default().dim.get_mut(axis) {
                dim.value = Some(dimension::Value::DimParam(name.to_owned()));
            }
        }
    }
    graph.value_info.clear();
    graph.output = vec![cut::four_axes(feature)];
}

#[cfg(test)]
mod tests;
