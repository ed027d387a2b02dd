//! A training of the baseline: from its checkpoint if there is one, to its published run.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use extractor::files::{counted, create_folder, escape_path};
use extractor::progress::Progress;

use crate::baseline::{self, Baseline, BaselineConfig, Checkpoints};
use crate::cli::data::tell;
use crate::dataset::PixelSet;
use crate::decide::Choices;
use crate::judge::{Judgeable, judge};
use crate::run::{Contents, Draft, Model, RunKey, RunRecord, Trained};
use crate::split::Side;

/// What a training needs besides its data and configuration.
pub(super) struct Around<'a> {
    /// The index file.
    pub index_path: &'a Path,
    /// How long the inputs took to read.
    pub load_secs: f64,
    /// Folder of checkpoints.
    pub checkpoints: &'a Path,
    /// Begin anew even where a checkpoint is.
    pub fresh: bool,
    /// No progress.
    pub quiet: bool,
}

/// Trains a baseline, judges it on every side and publishes the run: its record and its folder.
pub(super) fn train(
    set: &PixelSet,
    config: &BaselineConfig,
    choices: Choices,
    draft: Draft,
    around: &Around<'_>,
) -> anyhow::Result<(RunRecord, PathBuf)> {
    let (train, validation) = (set.rows_on(Side::Train), set.rows_on(Side::Validation));
    choices.check(set.classes.len(), &set.labels_of(&validation))?;
    let key = RunKey {
        store_key: set.store.key().digest(),
        index: set.index_digest,
        split: set.split.digest,
        config: Trained::Baseline {
            baseline: config.clone(),
        },
        choices,
        views: vec![extractor::store::IDENTITY.to_owned()],
    };
    let data = baseline::Data {
        images: set,
        labels_n: &set.labels_n,
        classes: set.classes.len(),
        train: &train,
        validation: &validation,
    };
    let digest = key.digest();
    let checkpoint = around
        .checkpoints
        .join(format!("baseline-{}.safetensors", digest.short()));
    let goes_on = checkpoint.exists();
    match (goes_on, around.fresh) {
        (true, true) => remove(&checkpoint)?,
        (true, false) => tracing::info!(
            "going on from the checkpoint {} (hint: --fresh begins anew)",
            escape_path(&checkpoint)
        ),
        (false, _) => create_folder(around.checkpoints)?,
    }
    let checkpoints = Checkpoints {
        path: checkpoint.clone(),
        key: format!("{digest} {}", env!("CARGO_PKG_VERSION")),
    };
    let progress = Cell::new(None);
    let fit_started = Instant::now();
    let fit = baseline::train(
        &data,
        config,
        Some(&checkpoints),
        &mut |event| match event {
            baseline::Progress::Step { step, total } => {
                let bar: Progress = progress.take().unwrap_or_else(|| {
                    let bar = Progress::new("training", "steps", total, around.quiet);
                    bar.add(step.step - 1);
                    bar
                });
                bar.add(1);
                progress.set(Some(bar));
            }
            baseline::Progress::Epoch(epoch) => tracing::debug!(
                "epoch {}: validation {:?}",
                epoch.epoch,
                epoch.validation_accuracy
            ),
        },
    )?;
    if let Some(bar) = progress.take() {
        bar.finish();
    }
    let fit_secs = fit_started.elapsed().as_secs_f64();
    warn_of_lag(config, fit.steps.len());
    let judged = judge(&choices, |side| {
        let rows = set.rows_on(side);
        Judgeable {
            ids: set.predicted_ids_of(side, &rows),
            labels: set.labels_of(&rows),
            logits: fit.network.logits(set, &rows),
        }
    })?;
    let mut record = RunRecord::of_baseline(key, set.classes.clone(), &fit);
    record.decision = judged.decision;
    record.metrics = judged.metrics;
    tell(&mut record, set, &set.store, around.index_path);
    let [height, width] = set.store.key().input_size;
    record.provenance = [
        ("preset", "unit".to_owned()),
        ("input_size", format!("{height}x{width}")),
        ("decoder", set.store.key().decoder.clone()),
        ("exif", set.store.key().exif.to_string()),
        ("resize", set.store.key().resize.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    record.secs.insert("load".to_owned(), around.load_secs);
    // After an interruption the epochs before it count as well.
    let epochs_secs: f64 = fit.history.iter().map(|epoch| epoch.secs).sum();
    record
        .secs
        .insert("fit".to_owned(), fit_secs.max(epochs_secs));
    let saved = Baseline {
        network: fit.network.clone(),
        classes: record.classes.clone(),
        decision: judged.decision,
        metadata: BTreeMap::from([
            ("store_key".to_owned(), record.key.store_key.to_string()),
            ("preset".to_owned(), "unit".to_owned()),
            ("run".to_owned(), digest.to_string()),
        ]),
    };
    let folder = draft.publish(&Contents {
        record: &record,
        model: Model::Baseline(&saved),
        steps: &fit.steps,
        predictions: &judged.predictions,
    })?;
    remove(&checkpoint)?;
    Ok((record, folder))
}

/// Share of their first values in the moving moments at which a finished network is not what it was
/// trained to be.
pub(super) const LAG: f64 = 0.01;

/// Says so where a training was too short for its moving moments.
fn warn_of_lag(config: &BaselineConfig, steps: usize) {
    let rest = config.lag(steps as u64);
    if rest > LAG {
        tracing::warn!(
            "after {} the moving moments of batch normalisation hold {:.0} % of their first values \
             still, so validation and test look worse than they would (hint: --momentum 0.9, as Keras's \
             0.99 is for long trainings, or more --epochs)",
            counted(steps, "step"),
            100.0 * rest
        );
    }
}

fn remove(checkpoint: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(checkpoint) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error)
            .with_context(|| format!("cannot remove the checkpoint {}", escape_path(checkpoint))),
        _ => Ok(()),
    }
}
