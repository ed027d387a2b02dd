//! What a head is trained on: the store's pooled features joined with the index's labels and the
//! split's sides.
//!
//! Images are in ascending order of their ids, so that a batch depends neither on names nor on
//! places. Left out, and counted: images without a label, images with two labels, images that gave
//! no features. A side is an image's, so that all its views are on it; validation and test are of
//! `identity` alone. Must not know about solvers.

mod ids;
mod joined;
mod pixels;
mod stores;
mod views;

use std::path::{Path, PathBuf};

use extractor::files::counted_as;
use extractor::index::{Index, IndexError};
use extractor::store::{Store, StoreError};
use extractor::view::{View, Views};

pub use self::ids::Ids;
pub use self::joined::Joined;
pub(crate) use self::joined::must_have_classes;
pub use self::pixels::PixelSet;
pub use self::stores::{Candidate, StoreFilter, choose, find_store, find_stores, fitting};
use self::views::TrainRows;
pub use self::views::WantedViews;
use crate::pooled::{Pooled, PooledStore};
use crate::split::file::SplitFileError;
use crate::split::{DuplicateImage, Fractions, Side, SplitMode};

/// The data set cannot be put together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The split.
    #[error(transparent)]
    Split(#[from] SplitFileError),
    /// An image was given twice to the split.
    #[error(transparent)]
    Twice(#[from] DuplicateImage),
    /// There is nothing to tell apart.
    #[error(
        "the index has {} ({}), but there must be two or more (hint: put the images of each class \
         into a folder of its own)",
        counted_as(.0.len(), "class", "classes"), .0.join(", ")
    )]
    Classes(Vec<String>),
    /// No store fits.
    #[error("no feature store in {} is {wanted} (hint: run make features; there are: {})", root.display(), there.join(", "))]
    NoStore {
        /// Where was looked.
        root: PathBuf,
        /// What was asked for.
        wanted: String,
        /// The stores that are there.
        there: Vec<String>,
    },
    /// Several stores fit.
    #[error("several feature stores fit: {} (hint: choose with --backbone, --preset, --dtype or --store; with make: BACKBONE=FILE, HEAD_ARGS=\"--preset NAME\")", .0.join(", "))]
    SeveralStores(Vec<String>),
    /// A view was asked for that training images lack.
    #[error(
        "{missing} of {total} training images have no row of the view {view} in {} (hint: run make \
         features FEATURES_ARGS=\"--views ...\" first; --views all takes what is there)",
        store.display()
    )]
    MissingView {
        /// The view.
        view: View,
        /// Training images without it.
        missing: usize,
        /// Training images.
        total: usize,
        /// The store.
        store: PathBuf,
    },
    /// A store that was taken for one of pixels is none.
    #[error("{} is no store of pixels (hint: --store names a folder of them)", .0.display())]
    NoPixels(PathBuf),
    /// Images of the index were never extracted.
    #[error(
        "{missing} of {total} images have no features in {} (hint: run make features with this data \
         set and this backbone first; DATA= and BACKBONE= must be the same for both verbs)",
        store.display()
    )]
    Missing {
        /// Images without a row or a rejection.
        missing: usize,
        /// Images with a label.
        total: usize,
        /// The store.
        store: PathBuf,
    },
}

/// How images get their sides.
#[derive(Debug, Clone, PartialEq)]
pub enum SplitSource {
    /// A file that the user brings.
    Given(PathBuf),
    /// A file of our own, made once for the index and reused.
    Own {
        /// Where it lies.
        path: PathBuf,
        /// Mode, if asked for.
        mode: Option<SplitMode>,
        /// Seed of the hash, if asked for.
        seed: Option<u64>,
        /// Shares, if asked for.
        fractions: Option<Fractions>,
        /// Make it anew.
        resplit: bool,
    },
}

/// What was left out of training, in images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Without a label.
    pub unlabelled: usize,
    /// With more than one label.
    pub conflicting: usize,
    /// Labelled, but rejected when features were computed.
    pub rejected: usize,
}

/// Pooled features, and through [`Joined`] labels and sides. The first rows are the images' own
/// (`identity`), image by image; those of the training images' other views follow.
#[derive(Debug)]
pub struct Dataset {
    /// The store they come from.
    pub store: Store,
    joined: Joined,
    /// Views that training images are seen in.
    pub views: Views,
    /// Pooled features of all rows [N, C].
    pub pooled: Pooled,
    /// C.
    pub channels: usize,
    train_rows: TrainRows,
}

impl std::ops::Deref for Dataset {
    type Target = Joined;

    fn deref(&self) -> &Joined {
        &self.joined
    }
}

impl Dataset {
    /// Joins the store in `store` with the index in `index` and a split. Pools what was not pooled
    /// before.
    ///
    /// # Errors
    /// [`DatasetError`]; a damaged record batch is an error, too.
    pub fn load(
        store: &Path,
        index: &Path,
        split: &SplitSource,
        wanted: &WantedViews,
    ) -> Result<Dataset, DatasetError> {
        Dataset::load_showing(store, index, split, wanted, true)
    }

    /// [`Dataset::load`] that shows the progress of the pooling, unless it has to be `quiet`.
    ///
    /// # Errors
    /// Those of [`Dataset::load`].
    pub fn load_showing(
        store: &Path,
        index: &Path,
        split: &SplitSource,
        wanted: &WantedViews,
        quiet: bool,
    ) -> Result<Dataset, DatasetError> {
        let index = Index::read(index)?;
        must_have_classes(&index)?;
        let store = Store::open(store)?;
        // First, as it finds damage, which must not look like a missing row.
        let pooled = PooledStore::open(&store, quiet)?;
        let (mut joined, mut rows) = Joined::load(&index, &store, split)?;
        let Some(shape) = store.map_shape() else {
            return Err(DatasetError::Missing {
                missing: 0,
                total: 0,
                store: store.folder().to_owned(),
            });
        };
        let train = joined.rows_on(Side::Train);
        let views = views::resolve(wanted, &store, &joined.ids, &train)?;
        let train_rows = TrainRows::add(&store, &joined.ids, &train, &views, &mut rows);
        let labels = joined.labels_of(&train_rows.added);
        joined.labels_n.extend(labels);
        let pooled = pooled.gather(&rows);
        Ok(Dataset {
            views,
            train_rows,
            store,
            joined,
            pooled,
            channels: shape.channels,
        })
    }

    /// Numbers of the rows to train on, all views of an image one after the other.
    pub fn train_rows(&self) -> &[u32] {
        &self.train_rows.rows
    }

    /// Where each training image's rows begin among those, and the end of the last one's.
    pub fn train_starts(&self) -> &[u32] {
        &self.train_rows.starts
    }
}
