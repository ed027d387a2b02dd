//! Why no backbone could be made of a state dict.

use safetensors::SafeTensorError;

use super::naming::Naming;
use crate::backbone::{BackboneError, MapShape};
use crate::engine::EngineError;
use crate::files::{FileError, grouped, printable};

/// The file is no state dict of a ResNet50, or its weights are no good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// Another kind of file.
    #[error("it is {what} and not a safetensors file (hint: {remedy})")]
    OtherFile {
        /// Which kind.
        what: &'static str,
        /// How to come by one.
        remedy: &'static str,
    },
    /// Too large to be a ResNet50, which is refused before it is read.
    #[error("it has {} bytes, and a ResNet50's state dict has some 100 MB (hint: is it another model's?)", grouped(*.0))]
    TooLarge(u64),
    /// The bytes are no safetensors file, or they contradict themselves.
    #[error("it is not a sound safetensors file")]
    NotSafetensors(#[source] SafeTensorError),
    /// No known names.
    #[error(
        "its tensors are named neither as torchvision's and timm's ResNet50 (layer1.0.conv1.weight) nor as Keras's \
         (conv2_block1_1_conv/kernel), but {} (hint: rename them, or export the model to ONNX and import that)",
        listed(some, usize::MAX)
    )]
    NoNaming {
        /// Some of its names.
        some: Vec<String>,
    },
    /// More than one model in a file.
    #[error(
        "it holds {} ResNets, at {} (hint: save the one that is meant alone)", places.len(), listed(places, 3)
    )]
    Several {
        /// What stands before their tensors' names.
        places: Vec<String>,
    },
    /// Two names of one tensor.
    #[error("it holds one tensor twice, as {} and {}", named(&names[0]), named(&names[1]))]
    Twice {
        /// Both.
        names: [String; 2],
    },
    /// Something lacks.
    #[error(
        "it lacks {} of {naming}'s ResNet50: {}", counted(missing.len()), listed(missing, 3)
    )]
    Missing {
        /// Whose names it has.
        naming: Naming,
        /// What lacks.
        missing: Vec<String>,
    },
    /// Something is too much: another model, whose rest may fit by chance.
    #[error(
        "{} in it belong to no ResNet50: {} (hint: is it another model, such as a ResNet101?)", counted(surplus.len()), listed(surplus, 3)
    )]
    Surplus {
        /// What is too much.
        surplus: Vec<String>,
    },
    /// Another shape.
    #[error(
        "its tensor {} has the shape {got:?}, expected {expected:?}",
        named(tensor)
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        got: Vec<usize>,
        /// The right one.
        expected: Vec<usize>,
    },
    /// Numbers of a kind that weights are not in.
    #[error("its tensor {} holds {got}, expected F32, F16 or BF16", named(tensor))]
    Elements {
        /// The tensor.
        tensor: String,
        /// What it holds.
        got: String,
    },
    /// A number that no backbone can use.
    #[error(
        "its tensor {} holds {value} (hint: these weights are damaged)",
        named(tensor)
    )]
    Value {
        /// The tensor.
        tensor: String,
        /// The number.
        value: f32,
    },
    /// A side that makes no sense.
    #[error("input size {}x{} is outside 32x32 to 4096x4096 (hint: the usual size is 100x100)", .0[0], .0[1])]
    Size([usize; 2]),
    /// It cannot be written as one model.
    #[error("cannot encode the backbone as ONNX")]
    Encode(#[source] protobuf::Error),
    /// The maps are of another shape than they should be.
    #[error("the backbone gives maps of {got}, expected {expected}")]
    MapShape {
        /// What came.
        got: MapShape,
        /// What should have.
        expected: MapShape,
    },
    /// Weights that are each finite, and a map that is not.
    #[error(
        "the backbone gives features that are not finite (hint: these weights are no trained ones)"
    )]
    NotFinite,
    /// The engine cannot open it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It does not run.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A name that fits into a line, whatever the file calls its tensors.
fn named(tensor: &str) -> String {
    let mut name = printable(tensor);
    if let Some((end, _)) = name.char_indices().nth(80) {
        name.truncate(end);
        name += "...";
    }
    format!("`{name}`")
}

fn counted(n: usize) -> String {
    crate::files::counted(n, "tensor")
}

/// The first `most` names.
fn listed(names: &[String], most: usize) -> String {
    let shown: Vec<String> = names.iter().take(most).map(|name| named(name)).collect();
    match names.len().saturating_sub(shown.len()) {
        0 if names.is_empty() => "nothing".to_owned(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
