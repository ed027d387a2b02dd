//! From a float backbone and images of a data set to a backbone in 8 bits, and what that costs.
//!
//! Reads as images -> quantiser -> both models over a sample -> heads: [`choose`] says which images, [`load`]
//! preprocesses them as an extraction does, [`python`] runs onnxruntime's quantiser, and [`compare`] runs both
//! models. The accuracy of heads is scikit-learn's word, by the same Python: this crate trains none. What an
//! 8-bit backbone's files are is [`crate::backbone::quantized`]'s. Must not know of stores.

pub mod choose;
pub mod compare;
pub mod left_out;
pub mod load;
pub mod npy;
pub mod python;

use serde_json::json;

use compare::Pooled;
use python::{Python, PythonError};

/// How the ranges of activations are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The range that holds 99.999 % of the values: a few outliers do not make every step coarser.
    Percentile,
    /// From the least value to the largest.
    Minmax,
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Method::Percentile => "percentile 99.999",
            Method::Minmax => "minmax",
        })
    }
}

/// Folds of the cross-validation that heads are judged by.
pub const FOLDS: usize = 5;

/// What the quantiser is to do, in the folder that Python runs in.
#[derive(Debug, Clone)]
pub struct Quantiser<'a> {
    /// The float model's file.
    pub model: &'a str,
    /// Name of its input.
    pub input: &'a str,
    /// Files of preprocessed batches ([`npy`]), each of one run's shape.
    pub batches: &'a [String],
    /// How ranges are found.
    pub method: Method,
}

/// What the quantiser says of its result.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
pub struct Quantised {
    /// Convolutions and matrices whose weights are in 8 bits now.
    pub quantized_weights: usize,
    /// Which quantiser.
    pub quantizer: String,
    /// The time it took.
    pub seconds: f64,
}

impl Quantiser<'_> {
    /// Writes the model in 8 bits to the file `output`.
    ///
    /// # Errors
    /// When Python cannot be had, the quantiser fails, or it was stopped.
    pub fn run(&self, output: &str, python: &Python) -> Result<Quantised, PythonError> {
        python.run(
            "quantize",
            &json!({
                "model": self.model,
                "output": output,
                "input": self.input,
                "batches": self.batches,
                "method": self.method,
                "reduce_range": needs_reduced_range(),
            }),
        )
    }
}

/// Whether this processor's products of u8 and s8 may overflow their 16-bit sums, so that weights may have 7
/// bits only: x86-64 without VNNI.
pub fn needs_reduced_range() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        !(is_x86_feature_detected!("avx512vnni") || is_x86_feature_detected!("avxvnni"))
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// How well heads do on the features of the float model and of the 8-bit one, by cross-validation over the same
/// images in the same folds.
#[derive(Debug, Clone, PartialEq, serde::Deserialize, serde::Serialize)]
pub struct Heads {
    /// Share of images told right, by float and by 8-bit features.
    pub accuracy: [f64; 2],
    /// The second less the first.
    pub difference: f64,
    /// Standard error of the difference, from the images' own differences.
    pub standard_error: f64,
    /// Images.
    pub images: usize,
    /// Folds.
    pub folds: usize,
    /// What fitted the heads.
    pub solver: String,
}

impl Heads {
    /// What is lost, in percentage points of accuracy; negative where 8 bits do better.
    pub fn loss_points(&self) -> f64 {
        // Not -0, which would be printed.
        0.0 - 100.0 * self.difference
    }
}

/// Fits heads on pooled features of both models.
///
/// # Errors
/// When the features cannot be handed over or Python fails.
pub fn judge(pooled: &Pooled, python: &Python) -> Result<Heads, PythonError> {
    let (names, labels) = (["float.npy", "int8.npy"], "labels.npy");
    let images = pooled.labels.len();
    for (name, features) in names.iter().zip(&pooled.features) {
        let path = python.folder().join(name);
        npy::write_f32(&path, &[images, pooled.channels], features)?;
    }
    npy::write_u32(&python.folder().join(labels), &[images], &pooled.labels)?;
    python.run(
        "compare",
        &json!({ "features": names, "labels": labels, "folds": FOLDS }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_what_accuracy_falls_by() {
        let heads = |difference| Heads {
            accuracy: [0.9, 0.9 + difference],
            difference,
            standard_error: 0.001,
            images: 1000,
            folds: FOLDS,
            solver: String::new(),
        };
        assert!((heads(-0.02).loss_points() - 2.0).abs() < 1e-12);
        assert!((heads(0.005).loss_points() + 0.5).abs() < 1e-12);
        assert!(heads(0.0).loss_points().is_sign_positive());
    }
}
