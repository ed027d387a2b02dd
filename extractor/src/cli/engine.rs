//! Opens a backbone in ONNX Runtime, as every verb that runs one does.

use std::borrow::Cow;
use std::path::Path;

use anyhow::Context;

use crate::backbone::{Backbone, Model};
use crate::engine::{EngineOptions, OnnxRuntime, Optimized, Provider};
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
    let mut options = options(provider, threads, data_dir)?;
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
pub fn open_bytes(
    model: &[u8],
    provider: Provider,
    threads: usize,
    data_dir: &Path,
) -> anyhow::Result<OnnxRuntime> {
    let options = options(provider, threads, data_dir)?;
    Ok(OnnxRuntime::open(model, &options)?)
}

fn options(provider: Provider, threads: usize, data_dir: &Path) -> anyhow::Result<EngineOptions> {
    let library = match provider {
        Provider::Cpu => runtime::locate(data_dir, Flavour::Cpu),
        Provider::Cuda | Provider::Auto => runtime::locate(data_dir, Flavour::Cuda)
            .or_else(|_| runtime::locate(data_dir, Flavour::Cpu)),
    }?;
    Ok(EngineOptions {
        library: library.path,
        provider,
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
    provider: Provider,
    threads: usize,
    batch_size: usize,
    data_dir: &Path,
) -> anyhow::Result<Backbone> {
    let backbone = open_session(model, provider, threads, batch_size, data_dir)?;
    say_what_runs(&backbone);
    Ok(backbone)
}

/// [`open_backbone`] without the note.
///
/// # Errors
/// As [`open_engine`].
pub fn open_session(
    model: Model,
    provider: Provider,
    threads: usize,
    batch_size: usize,
    data_dir: &Path,
) -> anyhow::Result<Backbone> {
    let engine = open_engine(&model, provider, threads, data_dir)?;
    Ok(model.with_engine(Box::new(engine), batch_size))
}

/// Notes what runs a backbone.
pub fn say_what_runs(backbone: &Backbone) {
    let info = backbone.engine().info();
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
}
