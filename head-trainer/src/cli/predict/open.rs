//! Opens a run for new images: its model, and for a head the backbone that gave its features.
//!
//! The backbone is known by its digest, so that it may lie anywhere; that everything else is as it
//! was when the features were computed follows from the store's key.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use extractor::backbone::{Model, Overrides};
use extractor::cli::common::{OutputArgs, set_threads};
use extractor::cli::engine::{Wanted, open_backbone};
use extractor::decode::Exif;
use extractor::digest::Digest;
use extractor::engine::Provider;
use extractor::files::escape_path;
use extractor::pixels;
use extractor::store::{self, StoreKey};

use crate::baseline::Baseline;
use crate::head::Head;
use crate::predict::Predictor;
use crate::run::{self, Input, Inputs, RunRecord, Trained, model_file};

/// Flags of every verb that opens a run.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct RunArgs {
    /// The run: its folder, its name, or the beginning of its name or digest.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Where the run's backbone lies now [default: where it lay, or a file of DATA_DIR/backbones].
    #[arg(long, value_name = "FILE")]
    backbone: Option<PathBuf>,
    /// A run of an earlier version: where its feature store lies now [default: where it lay].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Folder of the runs [default: DATA_DIR/runs].
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,
    /// Threads [default: as many as this process was given, by its container or Slurm too].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl RunArgs {
    /// What opens the run, with the threads that this process works with from now on.
    ///
    /// # Errors
    /// When the threads cannot be had.
    pub fn opener<'a>(
        &'a self,
        provider: Provider,
        batch_size: usize,
        output: &'a OutputArgs,
    ) -> anyhow::Result<Opener<'a>> {
        Ok(Opener {
            run: &self.run,
            runs: self.runs.as_deref(),
            backbone: self.backbone.as_deref(),
            store: self.store.as_deref(),
            provider,
            threads: set_threads(self.threads)?,
            batch_size,
            output,
        })
    }
}

/// What says how a run is opened.
pub(in crate::cli) struct Opener<'a> {
    /// The run, as typed.
    pub run: &'a Path,
    /// Folder of the runs, if it was named.
    pub runs: Option<&'a Path>,
    /// Where the backbone lies, if it was said.
    pub backbone: Option<&'a Path>,
    /// Where the feature store lies, if it was said.
    pub store: Option<&'a Path>,
    /// Execution provider.
    pub provider: Provider,
    /// Threads of the engine.
    pub threads: usize,
    /// Images a run of the backbone at most.
    pub batch_size: usize,
    /// Flags of every verb.
    pub output: &'a OutputArgs,
}

/// A run and what it takes to predict with it.
pub(in crate::cli) struct Opened<'a> {
    opener: &'a Opener<'a>,
    /// Its folder.
    pub folder: PathBuf,
    /// Its record.
    pub record: RunRecord,
    /// Its model.
    pub trained: OpenedModel,
}

/// A run's model.
pub(in crate::cli) enum OpenedModel {
    /// A head, the backbone that it sits on and the key of the features.
    Head(Box<(Head, Model, StoreKey)>),
    /// A baseline and how its images were turned.
    Baseline(Box<Baseline>, Exif),
}

impl<'a> Opener<'a> {
    /// Reads the run and finds its backbone.
    pub fn open(&'a self) -> anyhow::Result<Opened<'a>> {
        let root = self.output.data_dir.join("runs");
        let folder = run::find(self.runs.unwrap_or(&root), self.run)?;
        self.read(&folder)
            .with_context(|| format!("cannot open the run {}", escape_path(&folder)))
    }

    fn read(&'a self, folder: &Path) -> anyhow::Result<Opened<'a>> {
        let record = RunRecord::read(folder)?;
        let trained = match &record.key.config {
            Trained::Head(_) => {
                let head = run::head(folder)?;
                let key = self.store_key(&record)?;
                let model = self.backbone(&record, &key)?;
                OpenedModel::Head(Box::new((head, model, key)))
            }
            Trained::Baseline { .. } => {
                ensure!(
                    self.backbone.is_none(),
                    "it is a baseline, which has no backbone (hint: leave --backbone out)"
                );
                let baseline = Baseline::load(&model_file(folder, &record.key.config))?;
                let exif = exif_of(&baseline, &record)?;
                OpenedModel::Baseline(Box::new(baseline), exif)
            }
        };
        Ok(Opened {
            opener: self,
            folder: folder.to_owned(),
            record,
            trained,
        })
    }

    /// The key of the store that the run was trained on: its record's, or that of the store where
    /// an earlier version did not write it down.
    fn store_key(&self, record: &RunRecord) -> anyhow::Result<StoreKey> {
        let wanted = record.key.store_key;
        let recorded = record.store.as_ref();
        if let Some(key) = recorded.filter(|key| key.digest() == wanted) {
            return Ok(key.clone());
        }
        let inputs = Inputs::recorded(record)
            .moved_to(self.store, None, None)
            .checked(record, &[Input::Store])?;
        Ok(store::key::read(&inputs.store)?.key)
    }

    /// The backbone, made to give the features that `key` is of.
    fn backbone(&self, record: &RunRecord, key: &StoreKey) -> anyhow::Result<Model> {
        let path = self.backbone_file(record, key)?;
        let overrides = Overrides {
            preset: Some(key.preset),
            input_size: Some(key.input_size),
        };
        let mut model = Model::read(&path, &overrides)?;
        let (now, then) = (model.spec.digest, key.backbone);
        ensure!(
            now == then,
            "the backbone {} has digest {}, the run's had {} (hint: say with --backbone where that lies)",
            escape_path(&path),
            now.short(),
            then.short()
        );
        // What a description beside the file said then.
        model.spec.feature_tensor = key.feature_tensor.clone();
        model.spec.input_layout = key.input_layout;
        model.spec.feature_layout = key.feature_layout;
        let today = StoreKey::new(&model.spec, key.exif, key.dtype).with_precision(key.precision);
        ensure!(
            today == *key,
            "this version turns images into features otherwise than when the run was trained \
             ({}, {}; then {}, {}) (hint: run make features and train anew)",
            today.decoder,
            today.resize,
            key.decoder,
            key.resize
        );
        Ok(model)
    }

    fn backbone_file(&self, record: &RunRecord, key: &StoreKey) -> anyhow::Result<PathBuf> {
        if let Some(path) = self.backbone {
            return Ok(path.to_owned());
        }
        let lay = Inputs::recorded(record).backbone;
        if let Some(path) = lay.as_ref().filter(|path| path.is_file()) {
            return Ok(path.clone());
        }
        let folder = self.output.data_dir.join("backbones");
        let mut files: Vec<PathBuf> = match std::fs::read_dir(&folder) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(_) => Vec::new(), // there is none
        };
        files.retain(|path| path.extension().is_some_and(|e| e == "onnx"));
        files.sort();
        let is_it = |path: &PathBuf| Digest::of_file(path).is_ok_and(|d| d == key.backbone);
        if let Some(path) = files.into_iter().find(is_it) {
            return Ok(path);
        }
        let name = record.provenance.get("backbone_name");
        let place = match lay {
            Some(lay) => format!("{} or {}", escape_path(&lay), escape_path(&folder)),
            None => escape_path(&folder),
        };
        bail!(
            "its backbone {} (digest {}) is not in {place} (hint: say with --backbone FILE where it lies)",
            name.map_or("", String::as_str),
            key.backbone.short()
        )
    }
}

/// How a baseline's images were turned: the mode that gives the key of its store.
fn exif_of(baseline: &Baseline, record: &RunRecord) -> anyhow::Result<Exif> {
    let size = baseline.network.shape().size;
    let is_it = |exif: &Exif| pixels::key(size, *exif).digest() == record.key.store_key;
    let exif = [Exif::Ignore, Exif::Apply].into_iter().find(is_it);
    exif.context(
        "this version turns images into pixels otherwise than when the run was trained (hint: train \
         it anew)",
    )
}

impl Opened<'_> {
    /// The model, ready for images.
    pub fn predictor(self) -> anyhow::Result<Predictor> {
        let opener = self.opener;
        Ok(match self.trained {
            OpenedModel::Head(opened) => {
                let (head, model, key) = *opened;
                // In the arithmetic of the features that the head was trained on.
                let wanted = Wanted {
                    provider: opener.provider,
                    precision: key.precision,
                    threads: opener.threads,
                };
                let data_dir = &opener.output.data_dir;
                let backbone = open_backbone(model, wanted, opener.batch_size, data_dir)?;
                Predictor::of_head(head, backbone, &key)
            }
            OpenedModel::Baseline(baseline, exif) => Predictor::of_baseline(*baseline, exif),
        })
    }
}
