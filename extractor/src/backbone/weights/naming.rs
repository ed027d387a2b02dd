//! The names that frameworks give the tensors of a ResNet50, and which of a file's tensors is which.
//!
//! Must not know how a file is read.

use std::collections::{BTreeMap, BTreeSet};

use super::WeightsError;
use crate::backbone::resnet50::{Architecture, ConvBn, KERAS_EPSILON, TORCH_EPSILON, Variant};
use crate::preprocess::Preset;

/// Whose names the tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// `layer1.0.conv1.weight`, kernels [out, in, height, width]; timm has the same.
    Torchvision,
    /// `conv2_block1_1_conv/kernel`, kernels [height, width, in, out].
    Keras,
}

/// What a tensor is to its convolution or BatchNorm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The convolution's kernel.
    Kernel,
    /// The convolution's bias.
    Bias,
    /// BatchNorm's factor.
    Gamma,
    /// BatchNorm's summand.
    Beta,
    /// BatchNorm's running mean.
    Mean,
    /// BatchNorm's running variance.
    Variance,
}

/// A file's tensors, sorted out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sorted {
    /// Whose names they have.
    pub naming: Naming,
    /// Name as [`Naming::tensor`] has it -> the file's own name for it.
    pub own: BTreeMap<String, String>,
    /// The file's names of what no backbone needs: the classifier's tensors.
    pub classifier: Vec<String>,
    /// How many `num_batches_tracked` there are, which only training needs.
    pub counters: usize,
}

impl std::fmt::Display for Naming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Naming::Torchvision => "torchvision",
            Naming::Keras => "Keras",
        })
    }
}

impl Naming {
    /// The variant that the framework builds.
    pub fn variant(self) -> Variant {
        match self {
            Naming::Torchvision => Variant::V1_5,
            Naming::Keras => Variant::V1,
        }
    }

    /// The framework's epsilon in BatchNorm.
    pub(super) fn epsilon(self) -> f32 {
        match self {
            Naming::Torchvision => TORCH_EPSILON,
            Naming::Keras => KERAS_EPSILON,
        }
    }

    /// The preprocessing of the framework's own ImageNet weights: a suggestion, as a file may hold others.
    pub fn usual_preset(self) -> Preset {
        match self {
            Naming::Torchvision => Preset::Imagenet,
            Naming::Keras => Preset::Caffe,
        }
    }

    /// What a layer consists of.
    pub(super) fn parts(self) -> &'static [Part] {
        use Part::{Beta, Bias, Gamma, Kernel, Mean, Variance};
        match self {
            Naming::Torchvision => &[Kernel, Gamma, Beta, Mean, Variance],
            Naming::Keras => &[Kernel, Bias, Gamma, Beta, Mean, Variance],
        }
    }

    /// Parameters of a ResNet50 without its top, as the framework counts them, and BatchNorm's means and
    /// variances: Keras counts these among the parameters, torchvision calls them buffers.
    pub(super) fn parameters(self) -> (usize, usize) {
        match self {
            Naming::Torchvision => (23_508_032, 53_120),
            Naming::Keras => (23_587_712, 53_120),
        }
    }

    /// The names of all layers' convolutions and BatchNorms, in the order of [`Architecture::layers`].
    pub(super) fn layers(self, architecture: &Architecture) -> Vec<[String; 2]> {
        if self == Naming::Keras {
            let names =
                |layer: &ConvBn| [format!("{}_conv", layer.name), format!("{}_bn", layer.name)];
            return architecture.layers().map(names).collect();
        }
        let mut names = vec![["conv1".to_owned(), "bn1".to_owned()]];
        let (mut stage, mut place) = (0, 0);
        for block in &architecture.blocks {
            (stage, place) = match block.shortcut {
                Some(_) => (stage + 1, 0),
                None => (stage, place + 1),
            };
            let at = format!("layer{stage}.{place}");
            if block.shortcut.is_some() {
                names.push([0, 1].map(|part| format!("{at}.downsample.{part}")));
            }
            names.extend((1..=3).map(|n| [format!("{at}.conv{n}"), format!("{at}.bn{n}")]));
        }
        names
    }

    /// The name of a tensor of a layer called `[convolution, batch_norm]`.
    pub(super) fn tensor(self, [convolution, batch_norm]: &[String; 2], part: Part) -> String {
        let layer = match part {
            Part::Kernel | Part::Bias => convolution,
            _ => batch_norm,
        };
        let (separator, word) = match (self, part) {
            (Naming::Torchvision, Part::Kernel | Part::Gamma) => (".", "weight"),
            (Naming::Torchvision, Part::Bias | Part::Beta) => (".", "bias"),
            (Naming::Torchvision, Part::Mean) => (".", "running_mean"),
            (Naming::Torchvision, Part::Variance) => (".", "running_var"),
            (Naming::Keras, Part::Kernel) => ("/", "kernel"),
            (Naming::Keras, Part::Bias) => ("/", "bias"),
            (Naming::Keras, Part::Gamma) => ("/", "gamma"),
            (Naming::Keras, Part::Beta) => ("/", "beta"),
            (Naming::Keras, Part::Mean) => ("/", "moving_mean"),
            (Naming::Keras, Part::Variance) => ("/", "moving_variance"),
        };
        format!("{layer}{separator}{word}")
    }

    /// A tensor by which a ResNet of bottlenecks is known, wherever in a model it is.
    fn mark(self) -> &'static str {
        match self {
            Naming::Torchvision => "layer1.0.conv1.weight",
            Naming::Keras => "conv2_block1_1_conv/kernel",
        }
    }

    /// A file's name as (what stands before, the name as [`Naming::tensor`] has it).
    fn split(self, name: &str) -> (String, String) {
        if self == Naming::Torchvision {
            // A layer's path begins with one of these words, as a whole component.
            let starts = [
                "conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.", "fc.",
            ];
            let begins = |at: &usize| {
                let is_start = *at == 0 || name[..*at].ends_with('.');
                is_start && starts.iter().any(|start| name[*at..].starts_with(start))
            };
            let at = name
                .char_indices()
                .map(|(at, _)| at)
                .find(begins)
                .unwrap_or(0);
            return (name[..at].to_owned(), name[at..].to_owned());
        }
        let bare = name.strip_suffix(":0").unwrap_or(name);
        let mut path: Vec<&str> = bare.split('/').collect();
        let (Some(part), Some(layer)) = (path.pop(), path.pop()) else {
            return (String::new(), bare.to_owned());
        };
        // HDF5 files have a group of a layer's name around its tensors.
        if path.last() == Some(&layer) {
            path.pop();
        }
        (path.join("/"), format!("{layer}/{part}"))
    }

    /// Whether a tensor is the classifier's, which a backbone goes without.
    fn is_classifier(self, name: &str) -> bool {
        match self {
            Naming::Torchvision => name.starts_with("fc."),
            Naming::Keras => ["predictions/", "probs/", "fc1000/"]
                .iter()
                .any(|top| name.starts_with(top)),
        }
    }
}

/// Says which of a file's tensors is which.
///
/// # Errors
/// When they are no ResNet50's, or more than one's, or there are others beside.
pub fn sort<'a>(names: impl Iterator<Item = &'a str>) -> Result<Sorted, WeightsError> {
    let names: BTreeSet<&str> = names.collect();
    let mut found = Vec::new();
    for naming in [Naming::Torchvision, Naming::Keras] {
        let places = names.iter().map(|name| naming.split(name));
        let marked = places.filter(|(_, name)| name == naming.mark());
        found.extend(marked.map(|(place, _)| (naming, place)));
    }
    found.dedup();
    let (naming, place) = match &found[..] {
        [one] => one.clone(),
        [] => {
            let some = names.iter().take(3).map(|name| (*name).to_owned());
            return Err(WeightsError::NoNaming {
                some: some.collect(),
            });
        }
        several => {
            let places = several.iter().map(|(_, place)| place.clone());
            return Err(WeightsError::Several {
                places: places.collect(),
            });
        }
    };
    let architecture = Architecture::resnet50(naming.variant(), naming.epsilon());
    let mut needed = BTreeSet::new();
    let mut counters = BTreeSet::new();
    for layer in naming.layers(&architecture) {
        needed.extend(
            naming
                .parts()
                .iter()
                .map(|&part| naming.tensor(&layer, part)),
        );
        counters.insert(format!("{}.num_batches_tracked", layer[1]));
    }
    let mut sorted = Sorted {
        naming,
        own: BTreeMap::new(),
        classifier: Vec::new(),
        counters: 0,
    };
    let mut surplus = Vec::new();
    for own in names {
        let (at, name) = naming.split(own);
        if at != place {
            surplus.push(own.to_owned());
        } else if needed.contains(&name) {
            if let Some(other) = sorted.own.insert(name, own.to_owned()) {
                return Err(WeightsError::Twice {
                    names: [other, own.to_owned()],
                });
            }
        } else if naming.is_classifier(&name) {
            sorted.classifier.push(own.to_owned());
        } else if counters.contains(&name) {
            sorted.counters += 1;
        } else {
            surplus.push(own.to_owned());
        }
    }
    // What is lacking says more of what the file is than what is too much.
    let missing = needed
        .into_iter()
        .filter(|name| !sorted.own.contains_key(name));
    let missing: Vec<String> = missing.collect();
    if !missing.is_empty() {
        return Err(WeightsError::Missing { naming, missing });
    }
    match surplus.is_empty() {
        true => Ok(sorted),
        false => Err(WeightsError::Surplus { surplus }),
    }
}
