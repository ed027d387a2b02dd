//! The stores that a sweep compares: all that can fail is checked on every one of them before any
//! head is trained.
//!
//! Candidates of different stores are judged on the same images, those that all stores have, in
//! the same folds. The features of one store at a time are mapped, so that a sweep over many takes
//! the memory of one; to that end each is loaded once to be checked and once to be trained on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use extractor::digest::Digest;
use extractor::files::{counted, escape_path, grouped};
use extractor::view::View;
use serde::Serialize;

use super::Job;
use super::images::{Image, Images, JudgedOn, check_images, parts};
use crate::cli::data::load;
use crate::cli::train::provenance;
use crate::dataset::{Dataset, DatasetError, SplitSource};
use crate::solver::Problem;
use crate::split::Side;
use crate::split::file::SplitOrigin;
use crate::sweep::{self, Data, SweepError};

/// The stores, checked.
pub(super) struct Stores<'a> {
    /// Those that are compared, one or more.
    pub all: Vec<Checked>,
    /// Those that are not.
    pub passed_over: Vec<PassedOver>,
    /// What they have in common.
    pub common: Common,
    job: &'a Job<'a>,
    split_source: SplitSource,
    kept: Option<(usize, Dataset)>,
}

/// What all stores have in common.
pub(super) struct Common {
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Digest of the index.
    pub index_digest: Digest,
    /// The split.
    pub split: SplitOrigin,
    /// The images.
    pub images: Images,
}

/// A store that can be trained on.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Checked {
    /// Its folder.
    #[serde(skip)]
    pub folder: PathBuf,
    /// Its folder, for people.
    pub store: String,
    /// Digest of its key.
    pub store_key: Digest,
    /// Views that training images are seen in.
    pub views: Vec<String>,
    /// Where its features come from, by name.
    pub provenance: BTreeMap<String, String>,
    #[serde(skip)]
    ids: Digest, // of those of its images
}

/// A store that lacks images or views.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PassedOver {
    /// Its folder.
    store: String,
    /// Why.
    reason: String,
}

impl<'a> Stores<'a> {
    /// Loads each store in turn and checks what can be checked. With `--all-stores`, those that
    /// lack images of the index, or views that were asked for, are passed over with a warning.
    pub fn check(
        job: &'a Job<'a>,
        folders: &[PathBuf],
        stop: &AtomicBool,
    ) -> anyhow::Result<Stores<'a>> {
        let args = &job.args.data;
        let mut split_source = args.images.split.source(job.index);
        let (mut all, mut passed_over, mut reason) = (Vec::new(), Vec::new(), None);
        let mut common: Option<Common> = None;
        let mut kept = None;
        for folder in folders {
            if stop.load(Ordering::Relaxed) {
                return Err(SweepError::Stopped.into());
            }
            drop(kept.take());
            let dataset = match load(folder, job.index, &split_source, &args.views, job.output) {
                Ok(dataset) => dataset,
                Err(e) if job.args.all_stores && lacks_something(&e) => {
                    tracing::warn!("passed over: {e}");
                    passed_over.push(PassedOver {
                        store: escape_path(folder),
                        reason: e.to_string(),
                    });
                    reason.get_or_insert(e);
                    continue;
                }
                Err(e) => return Err(e),
            };
            if let SplitSource::Own { resplit, .. } = &mut split_source {
                *resplit = false; // once is enough
            }
            check_store(job, &dataset)
                .with_context(|| format!("cannot sweep over {}", escape_path(folder)))?;
            let images = images_of(&dataset, job.judged_on);
            match &mut common {
                None => {
                    common = Some(Common {
                        classes: dataset.classes.clone(),
                        index_digest: dataset.index_digest,
                        split: dataset.split.clone(),
                        images: Images::new(images),
                    });
                }
                Some(common) => {
                    common.check(&dataset)?;
                    common.images.restrict(images);
                }
            }
            all.push(Checked::new(folder, &dataset));
            kept = Some((all.len() - 1, dataset));
        }
        let Some(common) = common else {
            let reason = reason.context("no feature store was looked at")?;
            return Err(reason.context("none of the feature stores can be used"));
        };
        check_images(&common.images, &common.classes, job.judged_on)?;
        let stores = Stores {
            all,
            passed_over,
            common,
            job,
            split_source,
            kept,
        };
        stores.warn();
        Ok(stores)
    }

    /// Says what people should know before they compare.
    fn warn(&self) {
        let images = &self.common.images;
        if images.left_out() > 0 {
            tracing::warn!(
                "{} that some stores lack, as they were rejected, are left out of all: heads are \
                 compared on the {} that all have",
                counted(images.left_out(), "image"),
                grouped(images.all.len() as u64)
            );
        }
        let first = &self.all[0];
        if let Some(other) = self.all.iter().find(|s| s.views != first.views) {
            tracing::warn!(
                "training images are seen in {} in {}, but in {} in {} (hint: --views identity)",
                first.views.join(", "),
                first.store,
                other.views.join(", "),
                other.store
            );
        }
    }

    /// A store's data set, the same as it was when it was checked. Nothing of another store is
    /// mapped any more when this begins.
    pub fn load(&mut self, number: usize) -> anyhow::Result<Dataset> {
        if let Some((kept, dataset)) = self.kept.take()
            && kept == number
        {
            return Ok(dataset);
        }
        let (store, job) = (&self.all[number], self.job);
        let views = &job.args.data.views;
        // What there is to say of the store was said when it was checked.
        let silent = tracing::subscriber::NoSubscriber::default();
        let dataset = tracing::subscriber::with_default(silent, || {
            Dataset::load(&store.folder, job.index, &self.split_source, views)
        })?;
        self.common.check(&dataset)?;
        let now = Checked::new(&store.folder, &dataset);
        ensure!(
            (now.ids, &now.views, now.store_key) == (store.ids, &store.views, store.store_key),
            "the feature store {} changed while the sweep ran (hint: run it again)",
            store.store
        );
        Ok(dataset)
    }

    /// Gives a data set back, in case that it is loaded again next.
    pub fn keep(&mut self, number: usize, dataset: Dataset) {
        self.kept = Some((number, dataset));
    }
}

impl Common {
    fn check(&self, dataset: &Dataset) -> anyhow::Result<()> {
        for (what, is_same) in [
            ("index", self.index_digest == dataset.index_digest),
            ("split", self.split.digest == dataset.split.digest),
        ] {
            ensure!(
                is_same,
                "the {what} changed while the sweep ran (hint: run it again)"
            );
        }
        Ok(())
    }
}

impl Checked {
    fn new(folder: &Path, dataset: &Dataset) -> Checked {
        let bytes: Vec<u8> = dataset.ids.iter().flat_map(|id| id.0).collect();
        Checked {
            folder: folder.to_owned(),
            store: escape_path(folder),
            store_key: dataset.store.key().digest(),
            views: dataset.views.iter().map(View::to_string).collect(),
            provenance: provenance(&dataset.store),
            ids: Digest::of(&bytes),
        }
    }

    /// One of the fields of its provenance.
    pub fn field(&self, name: &str) -> &str {
        self.provenance.get(name).map_or("", String::as_str)
    }
}

fn lacks_something(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(DatasetError::Missing { .. } | DatasetError::MissingView { .. })
    )
}

/// Everything that can keep candidates from being trained on a store.
fn check_store(job: &Job<'_>, dataset: &Dataset) -> anyhow::Result<()> {
    let parts = parts(dataset, job.judged_on, |_| true)?;
    let data = Data {
        rows: dataset.pooled.rows(),
        labels_n: &dataset.labels_n,
        classes: dataset.classes.len(),
        parts: &parts,
    };
    sweep::check(data, job.candidates)?;
    if job.args.train {
        let validation = dataset.rows_on(Side::Validation);
        let (rows, labels) = (data.rows, data.labels_n);
        Problem::new(
            rows,
            labels,
            data.classes,
            dataset.train_rows(),
            &validation,
        )?;
    }
    Ok(())
}

/// The images on the sides that are looked at.
fn images_of(dataset: &Dataset, judged_on: JudgedOn) -> BTreeSet<Image> {
    let sides = match judged_on {
        JudgedOn::Folds { .. } => &[Side::Train][..],
        JudgedOn::Seeds { .. } => &[Side::Train, Side::Validation],
    };
    let ids = dataset.ids.iter().zip(&dataset.sides_n);
    let images = ids
        .zip(&dataset.labels_n)
        .map(|((&id, &side), &label)| (id, side, label));
    images.filter(|(_, side, _)| sides.contains(side)).collect()
}
