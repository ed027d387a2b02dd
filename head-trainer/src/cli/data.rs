//! The flags that say what to train on, common to the verbs that read features: data set, store,
//! split, views.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use extractor::backbone::described;
use extractor::cli::common::{OutputArgs, default_index_path, set_threads};
use extractor::cli::place::local_index;
use extractor::digest::Digest;
use extractor::engine::Precision;
use extractor::files::escape_path;
use extractor::preprocess::Preset;
use extractor::store::{Dtype, Store};

use super::stores;
use crate::dataset::{Dataset, Joined, SplitSource, StoreFilter, WantedViews};
use crate::run::{Counts, Places, RunRecord};
use crate::split::{Fractions, Side, SplitMode};

/// Flags that say how images get their sides.
#[derive(Debug, clap::Args)]
pub(super) struct SplitArgs {
    /// A split of your own: CSV with the columns id,split or path,split or class,file,split.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["split_mode", "split_seed", "split_fractions", "resplit"])]
    pub split: Option<PathBuf>,
    /// rank: exact shares of each class; threshold: an image keeps its side as the set grows
    /// [default: rank, or what the index's split file says].
    #[arg(long, value_name = "MODE")]
    split_mode: Option<SplitMode>,
    /// Seed of the split [default: 0, or what the index's split file says].
    #[arg(long, value_name = "N")]
    split_seed: Option<u64>,
    /// Shares of training, validation and test [default: 80/10/10, or what the file says].
    #[arg(long, value_name = "A/B/C")]
    split_fractions: Option<Fractions>,
    /// Make the index's split anew.
    #[arg(long)]
    resplit: bool,
}

impl SplitArgs {
    /// How images get their sides.
    pub fn source(&self, index_path: &Path) -> SplitSource {
        match &self.split {
            Some(path) => SplitSource::Given(path.clone()),
            None => SplitSource::Own {
                path: index_path.with_extension("split.csv"),
                mode: self.split_mode,
                seed: self.split_seed,
                fractions: self.split_fractions,
                resplit: self.resplit,
            },
        }
    }
}

/// Flags that say which images there are, by index and split.
#[derive(Debug, clap::Args)]
pub(super) struct ImageArgs {
    /// The data set (folder, manifest or archive); its index is looked up by it.
    #[arg(value_name = "DATA")]
    pub dir: Option<PathBuf>,
    /// The index [default: the one that `extractor features DATA` writes].
    #[arg(long, value_name = "FILE")]
    pub index: Option<PathBuf>,
    #[command(flatten)]
    pub split: SplitArgs,
    /// Threads [default: as many as the machine gives this process]; changes no result.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

impl ImageArgs {
    /// Lets the current process use as many threads as was said.
    pub fn set_threads(&self) -> anyhow::Result<()> {
        set_threads(self.threads).map(drop)
    }

    /// The index file, if one was named.
    pub fn named_index(&self, output: &OutputArgs) -> anyhow::Result<Option<PathBuf>> {
        match (&self.index, &self.dir) {
            (Some(path), _) => Ok(Some(path.clone())),
            (None, Some(dir)) => Ok(Some(default_index_path(&output.data_dir, dir)?)),
            (None, None) => Ok(None),
        }
    }

    /// The index file.
    ///
    /// # Errors
    /// When none is named or it is not there.
    pub fn index(&self, output: &OutputArgs) -> anyhow::Result<PathBuf> {
        let Some(named) = self.named_index(output)? else {
            bail!(
                "no data set is named (hint: give the one that the features are of, or --index FILE)"
            );
        };
        let path = local_index(&named, output)?;
        ensure!(
            path.exists(),
            "there is no index {} (hint: run make features on this data set first)",
            escape_path(&named)
        );
        Ok(path)
    }
}

/// Flags that say which features of them.
#[derive(Debug, clap::Args)]
pub(super) struct DataArgs {
    #[command(flatten)]
    pub images: ImageArgs,
    /// A feature store, or a folder of them, or the URL of either [default: DATA_DIR/features].
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Take the store of this backbone (an ONNX file).
    #[arg(long, value_name = "FILE")]
    pub backbone: Option<PathBuf>,
    /// Take the store with this preprocessing.
    #[arg(long, value_enum)]
    pub preset: Option<Preset>,
    /// Take the store of this element type.
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// Take the store of features that were computed in this arithmetic.
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    /// Views of the training images to train on: all (that every one has in the store), or a list
    /// such as identity,hflip,crop:4. Validation and test see identity alone. adam: one of them,
    /// drawn anew, each time an image comes by; lbfgs, linfa: each is a training row.
    #[arg(long, value_name = "LIST", default_value = "all")]
    pub views: WantedViews,
}

impl DataArgs {
    /// The store that is meant, brought in if it lies in an object store.
    pub fn find_store(&self, output: &OutputArgs) -> anyhow::Result<PathBuf> {
        let filter = self.filter()?;
        stores::find_one(self.store.as_deref(), &filter, output)
    }

    /// All stores that may be meant, brought in if they lie in an object store.
    pub fn find_stores(&self, output: &OutputArgs) -> anyhow::Result<Vec<PathBuf>> {
        let filter = self.filter()?;
        stores::find_all(self.store.as_deref(), &filter, output)
    }

    /// Which store is meant.
    fn filter(&self) -> anyhow::Result<StoreFilter> {
        let (mut backbone, mut usual_preset) = (None, None);
        if let Some(path) = &self.backbone {
            let digest = Digest::of_file(path)
                .with_context(|| format!("cannot read the backbone {}", escape_path(path)))?;
            usual_preset = described(path, &digest)?.preset;
            backbone = Some(digest);
        }
        Ok(StoreFilter {
            backbone,
            usual_preset,
            preset: self.preset,
            dtype: self.dtype,
            precision: self.precision,
        })
    }

    /// The data set with the features in `store`.
    pub fn load(&self, store: &Path, index: &Path, output: &OutputArgs) -> anyhow::Result<Dataset> {
        let split = self.images.split.source(index);
        load(store, index, &split, &self.views, output)
    }
}

/// Writes down which images a run saw and where they lay.
pub(super) fn tell(record: &mut RunRecord, images: &Joined, store: &Store, index: &Path) {
    record.places = Places {
        store: escape_path(store.folder()),
        index: escape_path(index),
        split: escape_path(&images.split.path),
        backbone: None,
    };
    record.store = Some(store.key().clone());
    record.split_plan = images.split.header.map(|header| header.plan);
    record.counts = Counts {
        train: images.counts_on(Side::Train),
        validation: images.counts_on(Side::Validation),
        test: images.counts_on(Side::Test),
    };
}

/// The data set, with a warning if its features were computed by several engines.
pub(super) fn load(
    store: &Path,
    index: &Path,
    split: &SplitSource,
    views: &WantedViews,
    output: &OutputArgs,
) -> anyhow::Result<Dataset> {
    let dataset = Dataset::load_showing(store, index, split, views, output.quiet)?;
    if let Some(warning) = dataset.store.mixture() {
        tracing::warn!("{warning}");
    }
    Ok(dataset)
}
