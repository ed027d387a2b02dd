//! Why no backbone could be made of a model.

use std::io;

use crate::backbone::BackboneError;
use crate::engine::EngineError;
use crate::files::FileError;

/// The model is no classifier that a backbone can be cut out of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The bytes are no model.
    #[error("it is not an ONNX model")]
    NotOnnx(#[source] protobuf::Error),
    /// A model without a graph.
    #[error("it has no graph")]
    NoGraph,
    /// No node gives the tensor.
    #[error("nothing in it computes a tensor `{0}` (hint: --feature names an output of a node)")]
    NoTensor(String),
    /// A node reads what nothing gives.
    #[error("it is incomplete: a node reads `{0}`, which is nowhere")]
    Dangling(String),
    /// None or several.
    #[error("{}", poolings(.0))]
    Poolings(Vec<String>),
    /// The tensor that is pooled is what the classifier says.
    #[error(
        "nothing is learned behind the global pooling of `{pooled}`, and no 1x1 convolution before it \
         (hint: name the feature map with --feature TENSOR)"
    )]
    NothingLearned {
        /// The tensor.
        pooled: String,
    },
    /// An average over a part of the map only.
    #[error(
        "the average pooling of `{tensor}` covers {pooled} of {map} (hint: name the feature map with \
         --feature TENSOR, or give --input-size as the model was made for)"
    )]
    NotGlobal {
        /// The tensor.
        tensor: String,
        /// What is pooled.
        pooled: String,
        /// What the map is.
        map: String,
    },
    /// Weights in another file cannot be had.
    #[error("it keeps the weights `{tensor}` in another file that cannot be used: {reason}")]
    External {
        /// The weights.
        tensor: String,
        /// Why.
        reason: String,
        /// The operating system's answer.
        source: Option<io::Error>,
    },
    /// The model cannot be written as one file.
    #[error("it cannot be written as one file of less than 2 GB")]
    Encode(#[source] protobuf::Error),
    /// Cut and original compute different things.
    #[error(
        "the cut model gives other features than the original one, by up to {difference:e} of \
         {largest:e}"
    )]
    Differs {
        /// The largest difference.
        difference: f32,
        /// The largest feature.
        largest: f32,
    },
    /// The original model does not run.
    #[error("the model as it is does not run")]
    Original(#[source] BackboneError),
    /// The engine cannot open one of the two.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The cut model is no backbone.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
}

fn poolings(tensors: &[String]) -> String {
    let hint = "hint: name the feature map with --feature TENSOR";
    match tensors {
        [] => format!("it has no global average pooling ({hint})"),
        tensors => format!(
            "it has several global average poolings, of {} ({hint})",
            tensors.join(", ")
        ),
    }
}
