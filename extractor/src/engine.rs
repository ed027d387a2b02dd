//! What runs a model: the [`Engine`] trait, which tests replace by a deterministic fake, how one is
//! wanted, and what really runs.
//!
//! Must not know about images, presets or stores, nor how ONNX Runtime is called.

mod onnxruntime;
mod openvino;
mod optimized;
mod precision;
mod words;

use std::path::PathBuf;

pub use onnxruntime::{OnnxRuntime, ReadModel, version};
pub use optimized::Optimized;
pub(crate) use optimized::processor_features;
pub use precision::{Precision, Unfit};

/// An engine's own error.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The execution provider wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Provider {
    /// CUDA where it works, else the CPU; says which. What has the precision, where that is not fp32.
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU, or an error with the reason.
    Cuda,
    /// OpenVINO on the processor, or an error with the reason.
    Openvino,
}

/// What really runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// `onnxruntime` and its version.
    pub engine: String,
    /// `CPU`, `CUDA` or `OpenVINO`.
    pub provider: &'static str,
    /// Why `auto` did not take a faster provider, if it did not, and how to get one.
    pub note: Option<String>,
}

/// Runs a model on batches.
pub trait Engine {
    /// What runs.
    fn info(&self) -> &EngineInfo;

    /// Runs `data`, a tensor of `shape`, through the model's input `input` and writes the output
    /// tensor `output` into `out` (cleared first). Returns the output's shape.
    ///
    /// # Errors
    /// When the engine fails or the output is not a float32 tensor.
    fn run(
        &mut self,
        input: &str,
        shape: [usize; 4],
        data: &[f32],
        output: &str,
        out: &mut Vec<f32>,
    ) -> Result<Vec<usize>, EngineError>;
}

/// The engine cannot be loaded or fails.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The shared library cannot be loaded or is too old.
    #[error(
        "cannot use the ONNX Runtime library {} (hint: extractor runtime fetch gets one that fits; \
         ORT_DYLIB_PATH names another)", path.display()
    )]
    Library {
        /// The library.
        path: PathBuf,
        /// The loader's answer.
        #[source]
        source: Cause,
    },
    /// CUDA was asked for and cannot be had.
    #[error(
        "the CUDA execution provider cannot be used: {reason} (hint: it needs the library that \
         extractor runtime fetch --flavour cuda gets, an NVIDIA driver, and CUDA 13 and cuDNN 9 where \
         the loader finds them, as by LD_LIBRARY_PATH; --ep cpu runs without)"
    )]
    Cuda {
        /// ONNX Runtime's reason.
        reason: String,
    },
    /// OpenVINO was asked for and cannot be had.
    #[error(
        "the OpenVINO execution provider cannot be used: {reason} (hint: it needs the library that \
         extractor runtime fetch --flavour openvino gets, for Linux on x86-64; --ep cpu runs without, in \
         fp32)"
    )]
    Openvino {
        /// The reason, ONNX Runtime's or ours.
        reason: String,
    },
    /// The precision cannot be had.
    #[error(transparent)]
    Precision(#[from] Unfit),
    /// The model cannot be opened.
    #[error("ONNX Runtime cannot open the model")]
    Model(#[source] Cause),
    /// A batch failed.
    #[error("ONNX Runtime failed on a batch")]
    Run(#[source] Cause),
}

/// How to open a session.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// ONNX Runtime's shared library.
    pub library: PathBuf,
    /// Execution provider.
    pub provider: Provider,
    /// Arithmetic.
    pub precision: Precision,
    /// Threads one operator may use; at least 1.
    pub threads: usize,
    /// Where the model is kept as the engine optimised it; the CPU provider alone uses it.
    pub optimized: Option<Optimized>,
}
