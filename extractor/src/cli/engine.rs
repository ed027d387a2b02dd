//! Opens a backbone in ONNX Runtime, as every verb that runs one does.

use std::borrow::Cow;
use std::path::Path;

use anyhow::Context;

use crate::backbone::{Backbone, Model};
use crate::engine::{EngineOptions, OnnxRuntime, Optimized, Precision, Provider};
use crate::files::escape_path;
use crate::runtime::{self, Flavour};

/// What a model is to run on, and how.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Execution provider.
    pub provider: Provider,
    /// Arithmetic.
    pub precision: Precision,
    /// Threads one operator may use; at least 1.
    pub threads: usize,
}

impl Wanted {
    /// The CPU provider in float32.
    pub fn on_the_cpu(threads: usize) -> Wanted {
        Wanted {
            provider: Provider::Cpu,
            precision: Precision::Fp32,
            threads,
        }
    }
}

/// Opens ONNX Runtime with a backbone: the library that fits the wanted provider.
///
/// # Errors
/// When there is no library, or it refuses the provider or the model.
pub fn open_engine(model: &Model, wanted: Wanted, data_dir: &Path) -> anyhow::Result<OnnxRuntime> {
    let mut options = options(wanted, data_dir)?;
    let other = data_dir.join("optimized");
    options.optimized = Some(Optimized::beside(&model.path, model.spec.digest, other));
    let bytes = || Ok(Cow::Owned(model.bytes()?));
    OnnxRuntime::open_lazily(&bytes, &options)
        .with_context(|| format!("cannot open the backbone {}", escape_path(&model.path)))
}

/// [`open_engine`] for the bytes of any ONNX model.
///
/// # Errors
/// The same.
pub fn open_bytes(model: &[u8], wanted: Wanted, data_dir: &Path) -> anyhow::Result<OnnxRuntime> {
    Ok(OnnxRuntime::open(model, &options(wanted, data_dir)?)?)
}

fn options(wanted: Wanted, data_dir: &Path) -> anyhow::Result<EngineOptions> {
    let Wanted {
        provider,
        precision,
        threads,
    } = wanted;
    let library = match provider.for_precision(precision)? {
        Provider::Cpu => runtime::locate(data_dir, Flavour::Cpu),
        Provider::Openvino => runtime::locate(data_dir, Flavour::Openvino),
        Provider::Cuda | Provider::Auto => runtime::locate(data_dir, Flavour::Cuda)
            .or_else(|_| runtime::locate(data_dir, Flavour::Cpu)),
    }?;
    Ok(EngineOptions {
        library: library.path,
        provider,
        precision,
        threads,
        optimized: None,
    })
}

/// The backbone in an open engine, with a note of what runs it.
///
/// # Errors
/// As [`open_engine`].
pub fn open_backbone(
    model: Model,
    wanted: Wanted,
    batch_size: usize,
    data_dir: &Path,
) -> anyhow::Result<Backbone> {
    let backbone = open_session(model, wanted, batch_size, data_dir)?;
    say_what_runs(&backbone, wanted.precision);
    Ok(backbone)
}

/// [`open_backbone`] without the note.
///
/// # Errors
/// As [`open_engine`].
pub fn open_session(
    model: Model,
    wanted: Wanted,
    batch_size: usize,
    data_dir: &Path,
) -> anyhow::Result<Backbone> {
    let engine = open_engine(&model, wanted, data_dir)?;
    Ok(model.with_engine(Box::new(engine), batch_size))
}

/// Notes what runs a backbone.
pub fn say_what_runs(backbone: &Backbone, precision: Precision) {
    let info = backbone.engine().info();
    let note = info
        .note
        .as_deref()
        .map(|n| format!(" ({n})"))
        .unwrap_or_default();
    tracing::info!(
        "running on {}, {} provider{}{note}",
        info.engine,
        info.provider,
        in_precision(precision)
    );
}

/// `, bf16` for people, and nothing where the precision is the usual one.
pub fn in_precision(precision: Precision) -> String {
    match precision {
        Precision::Fp32 => String::new(),
        other => format!(", {other}"),
    }
}
