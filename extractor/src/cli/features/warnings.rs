//! What a trainer would refuse or regret, said before the costly step.
//!
//! Must not know of stores or engines.

use std::path::Path;

use crate::backbone::{self, Model};
use crate::files::{counted_as, escape, escape_path};
use crate::index::Indexed;

/// Warns of an untrained backbone and of a preset that is not its own.
pub(super) fn warn_of(model: &Model) {
    let spec = &model.spec;
    if spec.trained == Some(false) {
        tracing::warn!(
            "the backbone {} is untrained; its features show that the pipeline works, not how good \
             it is (make backbone exports the ImageNet ResNet50)",
            spec.name
        );
    }
    if let Some(warning) = backbone::preset_warning(spec.described_preset, spec.preset) {
        tracing::warn!("{warning}");
    }
}

/// Says what a trainer would refuse or regret: found out now, not after hours of extraction.
pub(super) fn warn_of_classes(indexed: &Indexed, dir: &Path) {
    let classes = &indexed.index.classes;
    let sides = ["train", "training", "val", "valid", "validation", "test"];
    let is_side = |name: &String| sides.contains(&name.to_lowercase().as_str());
    if !classes.is_empty() && classes.iter().all(is_side) {
        tracing::warn!(
            "the classes {} look like a split, not like classes (hint: name a data set whose folders \
             or labels are the classes; bring the split with head-trainer train --split FILE)",
            escape(classes.join(", ").as_bytes())
        );
    } else if classes.len() < 2 {
        let below = match &classes[..] {
            [only] if dir.is_dir() => format!(", such as {}", escape_path(&dir.join(only))),
            _ => String::new(),
        };
        tracing::warn!(
            "found {}, and a head tells two or more apart (hint: name the folder whose sub-folders are the \
             classes{below}, or a manifest with a column of labels)",
            counted_as(classes.len(), "class", "classes")
        );
    }
}
