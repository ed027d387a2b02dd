//! Opens a backbone in ONNX Runtime, as every verb that runs one does.

use std::path::Path;

use anyhow::Context;

use crate::backbone::{Backbone, Model};
use crate::engine::{Engine as _, EngineOptions, OnnxRuntime, Provider};
use crate::files::escape_path;
use crate::runtime::{self, Flavour};

/// Opens ONNX Runtime with a backbone: the library that fits the wanted provider.
///
/// # Errors
/// When there is no library, or it refuses the provider or the model.
pub fn open_engine(
    model: &Model,
    provider: Provider,
    threads: usize,
    data_dir: &Path,
) -> anyhow::Result<OnnxRuntime> {
    open_bytes(model.bytes(), provider, threads, data_dir)
        .with_context(|| format!("cannot open the backbone {}", escape_path(&model.path)))
}

/// [`open_engine`] for the bytes of any ONNX model.
///
/// # Errors
/// The same.
pub fn open_bytes(
    model: &[u8],
    provider: Provider,
    threads: usize,
    data_dir: &Path,
) -> anyhow::Result<OnnxRuntime> {
    let library = match provider {
        Provider::Cpu => runtime::locate(data_dir, Flavour::Cpu),
        Provider::Cuda | Provider::Auto => runtime::locate(data_dir, Flavour::Cuda)
            .or_else(|_| runtime::locate(data_dir, Flavour::Cpu)),
    }?;
    let options = EngineOptions {
        library: library.path,
        provider,
        threads,
    };
    Ok(OnnxRuntime::open(model, &options)?)
}

/// The backbone in an open engine, with a note of what runs it.
///
/// # Errors
/// As [`open_engine`].
pub fn open_backbone(
    model: Model,
    provider: Provider,
    threads: usize,
    batch_size: usize,
    data_dir: &Path,
) -> anyhow::Result<Backbone> {
    let engine = open_engine(&model, provider, threads, data_dir)?;
    let info = engine.info();
    let note = info
        .note
        .as_deref()
        .map(|n| format!(" ({n})"))
        .unwrap_or_default();
    tracing::info!(
        "running on {}, {} provider{note}",
        info.engine,
        info.provider
    );
    Ok(model.with_engine(Box::new(engine), batch_size))
}
