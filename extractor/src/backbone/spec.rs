//! What a model, its description and the user's flags say together: one validated [`Spec`].

use std::path::{Path, PathBuf};

use super::onnx::{Outline, TensorInfo};
use super::{BackboneError, known};
use crate::digest::Digest;
use crate::preprocess::{Layout, Preprocessor, Preset};

/// The description file, as typed. Every key is optional.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Name for people; the model's file name if absent.
    pub name: Option<String>,
    /// Preprocessing the weights were trained with.
    pub preset: Option<Preset>,
    /// Height and width of the input, for a model that leaves them open.
    pub input_size: Option<[usize; 2]>,
    /// Name of the output that is the feature map, if there are several.
    pub feature_tensor: Option<String>,
    /// Order of the input's axes, for a model whose shape does not tell.
    pub input_layout: Option<Layout>,
    /// Order of the feature map's axes, for a model whose shape does not tell.
    pub feature_layout: Option<Layout>,
    /// Whether the weights are trained at all.
    pub trained: Option<bool>,
    /// Digest of the model's file, if the description is of one model alone.
    pub sha256: Option<Digest>,
    /// Licence of the weights.
    pub licence: Option<String>,
    /// Where the model came from.
    pub source: Option<String>,
    /// Anything else worth saying.
    pub note: Option<String>,
}

/// What the user's flags say; they win over the description.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    /// `--preset`.
    pub preset: Option<Preset>,
    /// `--input-size`: height and width.
    pub input_size: Option<[usize; 2]>,
}

/// A backbone, fully described.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Name for people.
    pub name: String,
    /// Digest of the model's file.
    pub digest: Digest,
    /// Name of the input tensor.
    pub input: String,
    /// Order of the input's axes.
    pub input_layout: Layout,
    /// Height and width of the input.
    pub input_size: [usize; 2],
    /// The batch size if the model fixes one.
    pub batch: Option<usize>,
    /// Name of the feature map's tensor.
    pub feature_tensor: String,
    /// Order of the feature map's axes, if the description says.
    pub feature_layout: Option<Layout>,
    /// Preprocessing to use.
    pub preset: Preset,
    /// Preprocessing the weights were trained with, if known.
    pub described_preset: Option<Preset>,
    /// Whether the weights are trained, if known.
    pub trained: Option<bool>,
}

/// Where the description of a model lies: beside it, with the extension `toml`.
pub fn description_path(model: &Path) -> PathBuf {
    model.with_extension("toml")
}

pub(super) fn read_description(
    model: &Path,
    digest: &Digest,
) -> Result<Description, BackboneError> {
    let path = description_path(model);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Ok(known::description(digest).unwrap_or_default());
        }
        Err(source) => return Err(BackboneError::Read { path, source }),
    };
    let wrong = |reason: String| BackboneError::Description {
        path: path.clone(),
        reason,
    };
    let description: Description =
        toml::from_str(&text).map_err(|e| wrong(e.message().to_owned()))?;
    match description.sha256 {
        Some(described) if described != *digest => Err(wrong(format!(
            "it is of the model with SHA-256 {described}, and {} has {digest} (hint: import it again, or \
             remove the description)",
            model.display()
        ))),
        _ => Ok(description),
    }
}

impl Spec {
    /// Reads the description beside `path` (or knows the model by its digest) and checks it all
    /// against the model's own inputs and outputs.
    ///
    /// # Errors
    /// [`BackboneError`], naming the file.
    pub fn resolve(
        path: &Path,
        outline: &Outline,
        overrides: &Overrides,
    ) -> Result<Spec, BackboneError> {
        let description = read_description(path, &outline.digest)?;
        Spec::of(path, outline, description, overrides)
    }

    /// [`Spec::resolve`] with this description, whatever lies beside `path`.
    ///
    /// # Errors
    /// [`BackboneError`], naming `path`.
    pub(super) fn of(
        path: &Path,
        outline: &Outline,
        description: Description,
        overrides: &Overrides,
    ) -> Result<Spec, BackboneError> {
        let io = outline.io.as_ref().map_err(|source| BackboneError::Onnx {
            path: path.to_owned(),
            source: source.clone(),
        })?;
        let digest = outline.digest;
        let wrong = |reason: String| BackboneError::Shape {
            path: path.to_owned(),
            reason,
        };
        let [input] = &io.inputs[..] else {
            let inputs = list(&io.inputs);
            return Err(wrong(format!(
                "it has the inputs {inputs}, expected one image input"
            )));
        };
        let (input_layout, batch, model_size) = image_input(input, &description).map_err(&wrong)?;
        let input_size =
            input_size(model_size, description.input_size, overrides.input_size).map_err(&wrong)?;
        let feature_tensor =
            feature_output(&io.outputs, description.feature_tensor.as_deref()).map_err(&wrong)?;
        let preset =
            overrides
                .preset
                .or(description.preset)
                .ok_or_else(|| BackboneError::NoPreset {
                    path: path.to_owned(),
                    description: description_path(path),
                })?;
        let stem = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Ok(Spec {
            name: description.name.unwrap_or(stem),
            digest,
            input: input.name.clone(),
            input_layout,
            input_size,
            batch,
            feature_tensor,
            feature_layout: description.feature_layout,
            preset,
            described_preset: description.preset,
            trained: description.trained,
        })
    }

    /// The preprocessing the input wants.
    pub fn preprocessor(&self) -> Preprocessor {
        Preprocessor {
            preset: self.preset,
            height: self.input_size[0],
            width: self.input_size[1],
            layout: self.input_layout,
        }
    }

    /// Which axis of a feature map (without the batch axis) is the channels: what the description
    /// says; else height and width are the pair of axes whose ratio is that of the input.
    ///
    /// # Errors
    /// When both pairs may be, with the remedy.
    pub fn map_layout(&self, [a, b, c]: [usize; 3]) -> Result<Layout, String> {
        if let Some(layout) = self.feature_layout {
            return Ok(layout);
        }
        let [height, width] = self.input_size.map(|s| s as f64);
        // 0 for equal ratios, 0.69 for one that is twice the other.
        let off = |h: usize, w: usize| ((h as f64 * width) / (w as f64 * height)).ln().abs();
        let (last, first) = (off(a, b), off(b, c));
        if (last - first).abs() < 0.1 {
            return Err(format!(
                "its feature map is {a}x{b}x{c}, and the channels may be first or last (hint: write \
                 feature_layout = \"nhwc\" or \"nchw\" into the description)"
            ));
        }
        Ok(if last < first {
            Layout::Nhwc
        } else {
            Layout::Nchw
        })
    }
}

fn list(tensors: &[TensorInfo]) -> String {
    if tensors.is_empty() {
        return "(none)".to_owned();
    }
    tensors
        .iter()
        .map(TensorInfo::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

type ImageInput = (Layout, Option<usize>, [Option<usize>; 2]);

fn image_input(input: &TensorInfo, description: &Description) -> Result<ImageInput, String> {
    let Some([n, a, b, c]) = input.dims.as_deref() else {
        return Err(format!("its input {input} is no 4-axis tensor of images"));
    };
    if !input.float32 {
        return Err(format!("its input {input} is not float32"));
    }
    let layout = match (description.input_layout, *a == Some(3), *c == Some(3)) {
        (Some(layout), _, _) => layout,
        (None, false, true) => Layout::Nhwc,
        (None, true, false) => Layout::Nchw,
        (None, true, true) => {
            return Err(format!(
                "its input {input} may be channels first or last (hint: write input_layout = \
                 \"nhwc\" or \"nchw\" into the description)"
            ));
        }
        (None, false, false) => return Err(format!("its input {input} has no axis of 3 channels")),
    };
    let size = match layout {
        Layout::Nhwc => [*a, *b],
        Layout::Nchw => [*b, *c],
    };
    Ok((layout, *n, size))
}

fn input_size(
    model: [Option<usize>; 2],
    described: Option<[usize; 2]>,
    flag: Option<[usize; 2]>,
) -> Result<[usize; 2], String> {
    let wanted = flag.or(described);
    let size = match (model, wanted) {
        ([Some(h), Some(w)], None) => [h, w],
        (model, Some(wanted)) => {
            let fits = model
                .iter()
                .zip(wanted)
                .all(|(m, w)| m.is_none_or(|m| m == w));
            if !fits {
                let side = |s: Option<usize>| s.map_or("?".to_owned(), |s| s.to_string());
                return Err(format!(
                    "its input is {}x{}, not the {}x{} asked for",
                    side(model[0]),
                    side(model[1]),
                    wanted[0],
                    wanted[1]
                ));
            }
            wanted
        }
        _ => {
            return Err(
                "it leaves the input size open (hint: give --input-size HxW, or write \
                        input_size = [H, W] into the description)"
                    .to_owned(),
            );
        }
    };
    if size.contains(&0) || size.iter().any(|&s| s > 4096) {
        return Err(format!(
            "an input of {}x{} makes no sense",
            size[0], size[1]
        ));
    }
    Ok(size)
}

fn feature_output(outputs: &[TensorInfo], wanted: Option<&str>) -> Result<String, String> {
    if let Some(name) = wanted {
        return match outputs.iter().find(|o| o.name == name) {
            Some(output) => Ok(output.name.clone()),
            None => Err(format!("it has no output {name}, but {}", list(outputs))),
        };
    }
    // An output without a stated shape may be the map; running it will tell.
    let may_be_map = |o: &&TensorInfo| o.dims.as_ref().is_none_or(|d| d.len() == 4);
    let maps: Vec<_> = outputs.iter().filter(may_be_map).collect();
    match maps[..] {
        [map] if map.float32 => Ok(map.name.clone()),
        [map] => Err(format!("its feature map {map} is not float32")),
        [] => Err(format!(
            "no output is a 4-axis feature map, only {} (hint: export it without its classifier)",
            list(outputs)
        )),
        _ => Err(format!(
            "several outputs may be the feature map: {} (hint: write feature_tensor = \"...\" into \
             the description)",
            list(outputs)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, dims: &[usize]) -> TensorInfo {
        TensorInfo {
            name: name.to_owned(),
            float32: true,
            dims: Some(dims.iter().map(|&d| (d > 0).then_some(d)).collect()),
        }
    }

    #[test]
    fn layout_and_size_come_from_the_model() {
        let none = Description::default();
        let nhwc = image_input(&tensor("x", &[0, 100, 100, 3]), &none);
        assert_eq!(nhwc, Ok((Layout::Nhwc, None, [Some(100), Some(100)])));
        let nchw = image_input(&tensor("x", &[8, 3, 0, 0]), &none);
        assert_eq!(nchw, Ok((Layout::Nchw, Some(8), [None, None])));
        assert!(
            image_input(&tensor("x", &[0, 3, 5, 3]), &none)
                .unwrap_err()
                .contains("hint")
        );
        assert!(image_input(&tensor("x", &[0, 1, 28, 28]), &none).is_err());
        assert!(image_input(&tensor("x", &[0, 3]), &none).is_err());
    }

    #[test]
    fn the_maps_height_and_width_have_the_inputs_ratio() {
        let mut spec = Spec {
            name: String::new(),
            digest: Digest::of(b""),
            input: String::new(),
            input_layout: Layout::Nhwc,
            input_size: [100, 100],
            batch: None,
            feature_tensor: String::new(),
            feature_layout: None,
            preset: Preset::Unit,
            described_preset: None,
            trained: None,
        };
        assert_eq!(spec.map_layout([4, 4, 2048]), Ok(Layout::Nhwc));
        assert_eq!(spec.map_layout([1280, 4, 4]), Ok(Layout::Nchw));
        assert_eq!(spec.map_layout([1, 1, 2048]), Ok(Layout::Nhwc));
        assert!(
            spec.map_layout([4, 4, 4])
                .unwrap_err()
                .contains("feature_layout")
        );
        spec.input_size = [32, 64];
        assert_eq!(spec.map_layout([5, 4, 8]), Ok(Layout::Nchw));
        assert_eq!(spec.map_layout([4, 4, 8]), Ok(Layout::Nchw));
        assert_eq!(spec.map_layout([4, 8, 5]), Ok(Layout::Nhwc));
        assert!(spec.map_layout([2, 4, 8]).is_err());
        spec.feature_layout = Some(Layout::Nhwc);
        assert_eq!(spec.map_layout([2, 4, 8]), Ok(Layout::Nhwc));
    }

    #[test]
    fn sizes_must_agree() {
        let fixed = [Some(100), Some(100)];
        assert_eq!(input_size(fixed, None, None), Ok([100, 100]));
        assert_eq!(input_size([None, None], Some([64, 64]), None), Ok([64, 64]));
        assert_eq!(
            input_size([None, None], Some([64, 64]), Some([96, 80])),
            Ok([96, 80])
        );
        assert!(input_size(fixed, Some([64, 64]), None).is_err());
        assert!(
            input_size([None, None], None, None)
                .unwrap_err()
                .contains("--input-size")
        );
        assert!(input_size([None, None], None, Some([0, 4])).is_err());
    }

    #[test]
    fn the_feature_map_is_the_one_output_with_four_axes() {
        let (map, logits) = (
            tensor("map", &[0, 4, 4, 2048]),
            tensor("logits", &[0, 1000]),
        );
        assert_eq!(
            feature_output(&[logits.clone(), map.clone()], None).unwrap(),
            "map"
        );
        let error = feature_output(std::slice::from_ref(&logits), None).unwrap_err();
        assert!(error.contains("logits [?, 1000]"), "{error}");
        assert!(feature_output(&[map.clone(), tensor("b", &[0, 7, 7, 8])], None).is_err());
        assert!(feature_output(&[map], Some("other")).is_err());
    }
}
