//! A backbone of weights alone: `extractor backbone import --weights`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::json;

use super::source::{Source, opener};
use crate::backbone::Variant;
use crate::backbone::weights::{self, LIMIT_BYTES, Naming, StateDict, WeightsError};
use crate::cli::common::{Outcome, OutputArgs};
use crate::files::{escape_path, grouped, printable};
use crate::preprocess::Preset;

/// Height and width of the input, where nobody says otherwise: as `backbone fetch` and `seed` have it.
const USUAL_SIZE: [usize; 2] = [100, 100];

/// What is to be made of which weights.
pub(super) struct Plan<'a> {
    pub source: &'a Source,
    pub name: &'a str,
    pub variant: Option<Variant>,
    pub preset: Option<Preset>,
    pub input_size: Option<[usize; 2]>,
    pub licence: Option<&'a str>,
    pub trained: Option<bool>,
    pub out: Option<PathBuf>,
}

impl Plan<'_> {
    pub fn run(self, library: &Path, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let out = self.source.place(self.out, self.name, output)?;
        let path = escape_path(&self.source.path);
        let context = || format!("cannot make a backbone of {path}");
        let bytes = read(&self.source.path).with_context(context)?;
        let state_dict = StateDict::read(&bytes).with_context(context)?;
        let naming = state_dict.naming();
        let Some(preset) = self.preset else {
            bail!(
                "nothing says which preprocessing {path} was trained with (hint: give --preset; its names are \
                 {naming}'s, whose own ImageNet weights want --preset {})",
                naming.usual_preset()
            );
        };
        warn_of(naming, preset, self.variant);
        let size = self.input_size.unwrap_or(USUAL_SIZE);
        let plan = weights::Plan {
            name: self.name,
            sha256: self.source.sha256,
            variant: self.variant,
            preset,
            input_size: size,
            licence: self.licence,
            trained: self.trained,
            source: self.source.address.as_deref(),
        };
        let built = plan.build(&state_dict).with_context(context)?;
        let mut left_out: Vec<String> = state_dict
            .classifier()
            .iter()
            .map(|name| printable(name))
            .collect();
        if state_dict.counters() > 0 {
            left_out.push(format!("{} num_batches_tracked", state_dict.counters()));
        }
        let (variant, parameters, statistics) = (built.variant, built.parameters, built.statistics);
        let mut open = opener(library);
        let written = built
            .check_and_write(&out, &mut open)
            .with_context(context)?;

        let counted = match naming {
            Naming::Torchvision => "and",
            Naming::Keras => "of them",
        };
        let left = match left_out.is_empty() {
            true => "nothing".to_owned(),
            false => left_out.join(", "),
        };
        let map = written.map_shape;
        let [height, width] = size;
        output.print(
            &json!({
                "backbone": escape_path(&written.model),
                "description": escape_path(&written.description),
                "name": self.name,
                "preset": preset,
                "digest": written.digest,
                "weights_sha256": self.source.sha256,
                "naming": naming.to_string(),
                "variant": variant.to_string(),
                "parameters": parameters,
                "statistics": statistics,
                "left_out": left_out,
                "input_size": size,
                "map_shape": [map.height, map.width, map.channels],
            }),
            &format!(
                "backbone  {} ({} bytes)\nweights   {naming}'s names, ResNet50 {variant}, {} parameters {counted} {} \
                 BatchNorm statistics\nleft out  {left}\nmaps      {map} for {height}x{width}, preset \
                 {preset}\nchecked   shapes, and finite features in ONNX Runtime\n",
                escape_path(&written.model),
                grouped(written.size_bytes),
                grouped(parameters as u64),
                grouped(statistics as u64),
            ),
        )?;
        Ok(Outcome::Done)
    }
}

/// The file, unless it is far too large.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let size = std::fs::metadata(path)?.len();
    match size > LIMIT_BYTES {
        true => Err(WeightsError::TooLarge(size).into()),
        false => Ok(std::fs::read(path)?),
    }
}

/// What is allowed, and hardly ever meant.
fn warn_of(naming: Naming, preset: Preset, variant: Option<Variant>) {
    let usual = naming.usual_preset();
    if preset != usual {
        tracing::warn!(
            "preset {preset} is recorded, and ImageNet weights in {naming}'s naming want {usual}: right only for \
             weights that were trained otherwise"
        );
    }
    if let Some(variant) = variant.filter(|variant| *variant != naming.variant()) {
        tracing::warn!(
            "the graph is ResNet50 {variant}, and {naming} trains {}: right only for weights that were trained \
             otherwise",
            naming.variant()
        );
    }
}
