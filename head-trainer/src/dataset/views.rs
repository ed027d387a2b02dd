//! Which views of the training images are trained on, and their rows.
//!
//! A view that only some training images have is never used silently: asked for, it is refused;
//! with `all`, it is left out and named. An image whose features cannot be stored in some view
//! takes part with its others.

use std::collections::BTreeSet;
use std::str::FromStr;

use extractor::digest::ImageId;
use extractor::files::{counted, grouped};
use extractor::store::{IDENTITY, RowRef, Store};
use extractor::view::{ParseViewsError, View, Views};

use super::{DatasetError, Ids};

/// What views to train on, as asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum WantedViews {
    /// All that every training image has in the store.
    #[default]
    All,
    /// These.
    Only(Views),
}

impl FromStr for WantedViews {
    type Err = ParseViewsError;

    /// `all`, or a list such as `identity,hflip,crop:4`.
    fn from_str(text: &str) -> Result<WantedViews, ParseViewsError> {
        match text {
            "all" => Ok(WantedViews::All),
            list => list.parse().map(WantedViews::Only),
        }
    }
}

/// The views to train on. `train` lists the numbers of the training images in `ids`.
pub(super) fn resolve(
    wanted: &WantedViews,
    store: &Store,
    ids: &Ids,
    train: &[u32],
) -> Result<Views, DatasetError> {
    let total = train.len();
    let missing = |view: &View| {
        let name = view.to_string();
        let lacks = |id: &ImageId| {
            store.locate(id, &name).is_none() && store.rejected_view(id, &name).is_none()
        };
        train.iter().filter(|i| lacks(&ids[**i as usize])).count()
    };
    match wanted {
        WantedViews::Only(views) => {
            for view in views.iter() {
                match missing(view) {
                    0 => {}
                    missing => {
                        return Err(DatasetError::MissingView {
                            view: *view,
                            missing,
                            total,
                            store: store.folder().to_owned(),
                        });
                    }
                }
            }
            Ok(views.clone())
        }
        WantedViews::All => {
            // Views of other data sets in the same store are none of ours.
            let mut there = BTreeSet::from([View::Identity]);
            there.extend(
                store
                    .views()
                    .iter()
                    .filter_map(|(name, _)| name.parse::<View>().ok()),
            );
            let (mut used, mut partial) = (Vec::new(), Vec::new());
            for view in there {
                match missing(&view) {
                    0 => used.push(view),
                    missing if missing < total => partial.push((view, missing)),
                    _ => {}
                }
            }
            if let (Some(most), [(first, _), ..]) = (
                partial.iter().map(|(_, missing)| missing).max(),
                &partial[..],
            ) {
                let views: Views = partial.iter().map(|(view, _)| *view).collect();
                tracing::warn!(
                    "not used: {views}, as up to {} of {} training images have no row of {} (hint: \
                     run make features with the same --views to its end)",
                    grouped(*most as u64),
                    grouped(total as u64),
                    if partial.len() == 1 {
                        first.to_string()
                    } else {
                        "them".to_owned()
                    },
                );
            }
            Ok(used.into_iter().collect())
        }
    }
}

/// The training side's rows, image by image.
#[derive(Debug)]
pub(super) struct TrainRows {
    /// Row numbers, all views of an image one after the other.
    pub rows: Vec<u32>,
    /// Where each image's begin, and the end of the last one's.
    pub starts: Vec<u32>,
    /// The image of every row that was added to the images' own.
    pub added: Vec<u32>,
}

impl TrainRows {
    /// Lists the rows of the training images in `views` and adds those to `all` that are not there:
    /// row i of the first ones is the `identity` of image i.
    pub fn add(
        store: &Store,
        ids: &Ids,
        train: &[u32],
        views: &Views,
        all: &mut Vec<RowRef>,
    ) -> TrainRows {
        let names: Vec<String> = views.iter().map(View::to_string).collect();
        let mut rows = Vec::with_capacity(train.len() * names.len());
        let mut starts = Vec::with_capacity(train.len() + 1);
        starts.push(0);
        let mut added = Vec::new();
        let number = |count: usize| u32::try_from(count).expect("a row number fits 32 bits");
        let mut lacking = 0;
        for &image in train {
            let before = rows.len();
            for name in &names {
                if name == IDENTITY {
                    rows.push(image);
                } else if let Some(row) = store.locate(&ids[image as usize], name) {
                    rows.push(number(all.len()));
                    all.push(row);
                    added.push(image);
                }
            }
            lacking += usize::from(rows.len() - before < names.len());
            if rows.len() == before {
                rows.push(image);
            }
            starts.push(number(rows.len()));
        }
        if lacking > 0 {
            tracing::warn!(
                "the features of {} cannot be stored in some views; they take part with the others",
                counted(lacking, "training image")
            );
        }
        TrainRows {
            rows,
            starts,
            added,
        }
    }
}
