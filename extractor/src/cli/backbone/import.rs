//! `extractor backbone import`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::json;

use super::source::{Source, opener};
use super::weights;
use crate::backbone::import::{Classifier, Cut, Imported};
use crate::backbone::{Variant, described, registry};
use crate::cli::common::{Outcome, OutputArgs};
use crate::cli::features::parse_size;
use crate::digest::Digest;
use crate::files::{escape_path, grouped};
use crate::preprocess::Preset;
use crate::runtime::{self, Flavour};

/// Flags of `extractor backbone import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The classifier: an ONNX file, or its address.
    #[arg(value_name = "FILE|URL", required_unless_present = "weights")]
    from: Option<String>,
    /// Instead of a classifier, the weights of a ResNet50: a safetensors file, or its address, with the
    /// tensors' names of torchvision (timm) or Keras.
    #[arg(long, value_name = "FILE|URL", conflicts_with_all = ["from", "feature"])]
    weights: Option<String>,
    /// Where the ResNet50 has its strides [default: v1.5 for torchvision's names, v1 for Keras's].
    #[arg(long, value_enum, requires = "weights")]
    variant: Option<Variant>,
    /// SHA-256 that the file must have.
    #[arg(long, value_name = "HEX")]
    sha256: Option<Digest>,
    /// Preprocessing that the weights were trained with; needed unless the file is a known one or a
    /// description lies beside the classifier.
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// The feature map's tensor [default: what the last global average pooling pools].
    #[arg(long, value_name = "TENSOR")]
    feature: Option<String>,
    /// Licence of the weights, to be recorded.
    #[arg(long, value_name = "TEXT")]
    licence: Option<String>,
    /// Name [default: the file's].
    #[arg(long)]
    name: Option<String>,
    /// Height and width of the input [default: what the classifier fixes; 100x100 with --weights].
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    input_size: Option<[usize; 2]>,
    /// Where the backbone goes; its description lies beside it [default: DATA_DIR/backbones/NAME.onnx].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let library = runtime::locate(&output.data_dir, Flavour::Cpu)?.path;
        let from = self.weights.as_ref().or(self.from.as_ref());
        let source = Source::of(from.context("clap asks for one")?, self.sha256, output)?;
        let known = registry::of_digest(&source.sha256);
        let stem = source.path.file_stem().unwrap_or_default();
        let stem = stem.to_string_lossy().into_owned();
        let name = self.name.unwrap_or(stem);
        let trained = known.is_some().then_some(true);
        let preset = self.preset.or(known.as_ref().map(|entry| entry.preset));
        let licence = self.licence.or(known.map(|entry| entry.licence));
        if self.weights.is_some() {
            let plan = weights::Plan {
                source: &source,
                name: &name,
                variant: self.variant,
                preset,
                input_size: self.input_size,
                licence: licence.as_deref(),
                trained,
                out: self.out,
            };
            return plan.run(&library, output);
        }
        if source
            .path
            .extension()
            .is_some_and(|ext| ext == "safetensors")
        {
            bail!(
                "{} holds weights alone (hint: import --weights FILE builds the ResNet50 around them)",
                escape_path(&source.path)
            );
        }
        let preset = match preset {
            Some(preset) => Some(preset),
            None => described(&source.path, &source.sha256)?.preset,
        };
        let Some(preset) = preset else {
            bail!(
                "nothing says which preprocessing {} was trained with (hint: give --preset: imagenet for \
                 models of torchvision and the ONNX zoo, caffe for Keras's ResNet50, unit for x/255, raw \
                 for models that scale their input themselves)",
                escape_path(&source.path)
            );
        };
        let plan = Plan {
            source: &source,
            name: &name,
            preset,
            feature: self.feature.as_deref(),
            input_size: self.input_size,
            licence: licence.as_deref(),
            trained,
            out: self.out,
        };
        plan.run(&library, output)
    }
}

/// What is to be made of which classifier.
pub(super) struct Plan<'a> {
    pub source: &'a Source,
    pub name: &'a str,
    pub preset: Preset,
    pub feature: Option<&'a str>,
    pub input_size: Option<[usize; 2]>,
    pub licence: Option<&'a str>,
    pub trained: Option<bool>,
    pub out: Option<PathBuf>,
}

impl Plan<'_> {
    pub fn run(self, library: &Path, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let path = &self.source.path;
        let out = self.source.place(self.out.clone(), self.name, output)?;
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", escape_path(path)))?;
        let classifier = Classifier {
            bytes: &bytes,
            folder: match self.source.address {
                None => Some(crate::files::folder_of(path)),
                Some(_) => None,
            },
            name: self.name,
            preset: self.preset,
            feature: self.feature,
            input_size: self.input_size,
            licence: self.licence,
            trained: self.trained,
            source: self.source.address.as_deref(),
        };
        let context = || format!("cannot make a backbone of {}", escape_path(path));
        let cut = classifier.cut().with_context(context)?;
        let facts = Facts::of(&cut, &self);
        let imported = cut
            .check_and_write(&out, &mut opener(library))
            .with_context(context)?;
        facts.print(&imported, output)?;
        Ok(Outcome::Done)
    }
}

/// What is said of an import.
struct Facts {
    name: String,
    preset: Preset,
    feature: String,
    why: String,
    dropped: String,
    from: Digest,
}

impl Facts {
    fn of(cut: &Cut, plan: &Plan) -> Facts {
        Facts {
            name: plan.name.to_owned(),
            preset: plan.preset,
            feature: cut.feature.tensor.clone(),
            why: cut.feature.why.clone(),
            dropped: cut.dropped.to_string(),
            from: plan.source.sha256,
        }
    }

    fn print(&self, imported: &Imported, output: &OutputArgs) -> anyhow::Result<()> {
        let Facts {
            name,
            preset,
            feature,
            why,
            dropped,
            from,
        } = self;
        let [height, width] = imported.input_size;
        let same = match imported.difference {
            0.0 => "the same bits from both".to_owned(),
            difference => format!("equal to {difference:.0e} of the largest feature"),
        };
        output.print(
            &json!({
                "backbone": escape_path(&imported.model),
                "description": escape_path(&imported.description),
                "name": name,
                "preset": preset,
                "digest": imported.digest,
                "cut_from": from,
                "feature_tensor": feature,
                "input_size": imported.input_size,
                "map_shape": [
                    imported.map_shape.height, imported.map_shape.width, imported.map_shape.channels
                ],
                "difference": imported.difference,
            }),
            &format!(
                "backbone  {} ({} bytes)\nfeatures  {feature}: {why}\ncut off   {dropped}\nmaps      {} for \
                 {height}x{width}, preset {preset}\nchecked   {same}\n",
                escape_path(&imported.model),
                grouped(imported.size_bytes),
                imported.map_shape,
            ),
        )
    }
}
