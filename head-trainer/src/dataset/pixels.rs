//! What the baseline is trained on: the images themselves, joined with labels and sides as a head's
//! features are.
//!
//! Must not know what is done with them.

use std::ops::Deref;

use extractor::index::Index;
use extractor::store::{Features, RowRef, Store};
use rayon::prelude::*;

use super::{DatasetError, Joined, SplitSource};
use crate::baseline::Images;

/// Images, labels and sides, in ascending order of the ids.
#[derive(Debug)]
pub struct PixelSet {
    /// The store of pixels.
    pub store: Store,
    joined: Joined,
    rows: Vec<RowRef>,
    size: [usize; 2],
}

impl Deref for PixelSet {
    type Target = Joined;

    fn deref(&self) -> &Joined {
        &self.joined
    }
}

impl PixelSet {
    /// Joins a store of pixels with `index` and a split. Reads every pixel once, to compare the
    /// checksums.
    ///
    /// # Errors
    /// [`DatasetError`]; a damaged shard is one, and so is a store of something else.
    pub fn load(
        store: Store,
        index: &Index,
        split: &SplitSource,
    ) -> Result<PixelSet, DatasetError> {
        store
            .shards()
            .par_iter()
            .try_for_each(|shard| shard.verify())?;
        let (joined, rows) = Joined::load(index, &store, split)?;
        let is_pixels = |row: &RowRef| matches!(store.features(*row), Features::U8(_));
        if !rows.iter().all(is_pixels) {
            return Err(DatasetError::NoPixels(store.folder().to_owned()));
        }
        let size = store.key().input_size;
        Ok(PixelSet {
            store,
            joined,
            rows,
            size,
        })
    }
}

impl Images for PixelSet {
    fn size(&self) -> [usize; 2] {
        self.size
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn pixels(&self, row: u32) -> &[u8] {
        match self.store.features(self.rows[row as usize]) {
            Features::U8(pixels_hwc) => pixels_hwc,
            _ => unreachable!("looked at when it was loaded"),
        }
    }
}
