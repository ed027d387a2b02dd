//! What a baseline is trained on: index, split and pixels, made where they are not there yet.

use std::path::{Path, PathBuf};

use anyhow::bail;
use extractor::cli::common::{Bar, OutputArgs, skipped_line};
use extractor::cli::index;
use extractor::cli::place::{IndexPlace, local_index};
use extractor::cli::signals::Signals;
use extractor::decode::Exif;
use extractor::files::{counted, escape_path, grouped};
use extractor::images::DataSet;
use extractor::index::Index;
use extractor::pixels;
use extractor::progress::Progress;
use extractor::remote::Location;
use extractor::store::{self, Store, StoreKey};

use super::{Args, MOST_SIDE};
use crate::baseline::LEAST_SIDE;
use crate::cli::train::repeat::Repeat;
use crate::dataset::{SplitSource, must_have_classes};
use crate::run::{self, RunRecord};

/// What happens at a signal while images are decoded.
const PROMISE: &str = "the batch in flight is finished and what is decoded is kept";

/// What to train on.
pub(super) struct Inputs {
    pub store: Store,
    pub index: Index,
    pub index_path: PathBuf,
    pub split: SplitSource,
    /// Images left out, each named by now.
    pub skipped: usize,
}

impl Args {
    /// What a run to be repeated was trained on.
    pub(super) fn repeated(
        &self,
        repeat: &Repeat,
        output: &OutputArgs,
    ) -> anyhow::Result<Option<Inputs>> {
        let named = self.images.named_index(output)?;
        let index_path = local_index(&named.unwrap_or_else(|| repeat.index()), output)?;
        let (store, split) = (self.local_store()?, self.images.split.split.as_deref());
        let (store, split) = repeat.inputs(&index_path, store.as_deref(), split)?;
        Ok(Some(Inputs {
            store: Store::open(&store)?,
            index: Index::read(&index_path)?,
            index_path,
            split,
            skipped: 0,
        }))
    }

    fn local_store(&self) -> anyhow::Result<Option<PathBuf>> {
        let local = |place: &Path| Location::local(place, "a store of pixels");
        Ok(self.store.as_deref().map(local).transpose()?)
    }

    /// Size and EXIF mode of the pixels: as said, or as of the newest head on the same index, so that
    /// the two see the same of each image.
    fn key(&self, runs: &Path, index: &Index) -> StoreKey {
        let digest = index.digest();
        let head = || {
            let folders = run::list(runs).unwrap_or_default().into_iter().rev();
            let records = folders.filter_map(|folder| RunRecord::read(&folder).ok());
            let mut heads = records.filter(|record| record.key.config.head().is_some());
            let record = heads.find(|record| record.key.index == digest)?;
            let store = run::Inputs::recorded(&record).store;
            Some(store::key::read(&store).ok()?.key)
        };
        let of_head = match (self.size, self.exif) {
            (Some(_), Some(_)) => None,
            _ => head(),
        };
        let least = |side: &usize| *side >= LEAST_SIDE && *side <= MOST_SIDE;
        let usual = of_head
            .as_ref()
            .map(|key| key.input_size)
            .filter(|size| size.iter().all(least))
            .unwrap_or([100, 100]);
        let exif = of_head.map_or(Exif::default(), |key| key.exif);
        pixels::key(
            self.size.map_or(usual, |size| size.0),
            self.exif.unwrap_or(exif),
        )
    }

    /// Index, split and pixels, made where they are not there yet; none if a signal ended that.
    pub(super) fn inputs(
        &self,
        signals: &Signals,
        runs: &Path,
        output: &OutputArgs,
    ) -> anyhow::Result<Option<Inputs>> {
        let Some(named) = self.images.named_index(output)? else {
            bail!("no data set is named (hint: head-trainer baseline DATA, or --index FILE)");
        };
        let place = IndexPlace::named(&named, output)?;
        let index_path = place.path.clone();
        let open = |dir: &Path| DataSet::open_at(dir, &self.columns, &output.data_dir);
        let images = self.images.dir.as_deref().map(open).transpose()?;
        let mut skipped = 0;
        // A data set may have changed since it was indexed; an index that was named is the one meant.
        let is_kept = index_path.exists() && (self.images.index.is_some() || images.is_none());
        let index = match (is_kept, &images) {
            (true, _) => Index::read(&index_path)?,
            (false, Some(images)) => {
                let indexed = index::make(images, &index_path, false, false, output)?;
                place.publish()?;
                skipped += indexed.skipped.len();
                indexed.index
            }
            (false, None) => bail!(
                "there is no index {} (hint: name the data set, too)",
                escape_path(&index_path)
            ),
        };
        must_have_classes(&index)?;
        let root = self.local_store()?;
        let root = root.unwrap_or_else(|| output.data_dir.join("pixels"));
        let key = self.key(runs, &index);
        let mut store = pixels::open(&root, &key)?.map(Store::to_try_again);
        let plan = pixels::plan(&index, store.as_ref());
        for (position, reason) in &plan.rejected {
            eprintln!(
                "{}",
                skipped_line(index.entry(*position as usize).path, reason)
            );
        }
        skipped += plan.rejected.len();
        if !plan.missing.is_empty() {
            let missing = plan.missing.len();
            let Some(images) = &images else {
                bail!(
                    "{} of {} have no pixels in {} (hint: name the data set, too)",
                    grouped(missing as u64),
                    counted(index.unique().count(), "image"),
                    escape_path(&root)
                );
            };
            let bar = Bar(Progress::new(
                "decoding",
                "images",
                missing as u64,
                output.quiet,
            ));
            let filled = signals.gently(PROMISE, |stop| {
                pixels::fill(images, &index, &plan.missing, (&root, &key), stop, &bar)
            });
            bar.0.finish();
            skipped += filled?.rejected.len();
            if let Some(e) = images.take_failure() {
                return Err(anyhow::Error::from(e).context("the images cannot be read any more"));
            }
            if signals.received().is_some() {
                return Ok(None);
            }
            store = pixels::open(&root, &key)?;
        }
        let Some(store) = store else {
            bail!("the index {} has no image", escape_path(&index_path));
        };
        Ok(Some(Inputs {
            store,
            split: self.images.split.source(&index_path),
            index,
            index_path,
            skipped,
        }))
    }
}
