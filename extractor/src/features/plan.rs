//! What of an index is still to be computed: which images, and which of their views.
//!
//! Must not know how anything is computed.

use rayon::prelude::*;

use crate::index::{Entry, Index};
use crate::store::Store;
use crate::view::{View, Views};

/// Views that images lack. Takes 12 bytes for each run of neighbours in the index that lack the
/// same ones: next to nothing where all of them or none are to be computed.
#[derive(Debug, Default)]
pub struct Work {
    runs: Vec<Run>,
    sets: Vec<Vec<View>>,
    images: usize,
    rows: usize,
}

/// Neighbours in the index.
#[derive(Debug)]
struct Run {
    first: u32,
    count: u32,
    set: u32,
}

impl Work {
    /// Adds an image, by its position in the index, and the views that it lacks.
    pub fn push(&mut self, position: u32, views: &[View]) {
        // Almost all images lack the same views.
        let known = self.sets.iter().rposition(|set| set == views);
        let set = known.unwrap_or_else(|| {
            self.sets.push(views.to_vec());
            self.sets.len() - 1
        });
        let set = u32::try_from(set).expect("fewer sets than images");
        match self.runs.last_mut() {
            Some(run) if run.set == set && run.first + run.count == position => run.count += 1,
            _ => self.runs.push(Run {
                first: position,
                count: 1,
                set,
            }),
        }
        self.images += 1;
        self.rows += views.len();
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.images == 0
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Positions in the index and the views to be computed, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[View])> {
        self.runs.iter().flat_map(|run| {
            let views = &self.sets[run.set as usize][..];
            (run.first..run.first + run.count).map(move |position| (position, views))
        })
    }
}

/// The images of an index, sorted by what the store knows of them.
#[derive(Debug, Default)]
pub struct Plan {
    /// Images that lack wanted views, in the index's order, one an id.
    pub missing: Work,
    /// Images with a row of every wanted view.
    pub cached: usize,
    /// Wanted rows of the images of the index that are there.
    pub cached_rows: usize,
    /// Positions of images that lack nothing that can be had, but a row all the same, with the
    /// reason.
    pub rejected: Vec<(u32, String)>,
}

/// Which of the wanted `views` of the images of `index` are not in `store` yet; all of them, if
/// there is no store yet.
pub fn plan(index: &Index, store: Option<&Store>, views: &Views) -> Plan {
    plan_of(index, store, views, |_| true)
}

/// [`plan`] for those images alone whose first entry in the index is `wanted`.
pub fn plan_of(
    index: &Index,
    store: Option<&Store>,
    views: &Views,
    wanted: impl Fn(&Entry) -> bool,
) -> Plan {
    let named: Vec<(View, String)> = views.iter().map(|v| (*v, v.to_string())).collect();
    let look = |position: u32| {
        let id = index.entry(position as usize).id;
        let mut looked = Looked::default();
        for (view, name) in &named {
            match store {
                Some(store) if store.locate(&id, name).is_some() => looked.cached_rows += 1,
                Some(store) if store.rejected_view(&id, name).is_some() => {
                    looked.rejected = looked.rejected.or(store.rejected_view(&id, name));
                }
                _ => looked.missing.push(*view),
            }
        }
        looked
    };
    let mut plan = Plan::default();
    let mut ours = index
        .unique()
        .filter(|position| wanted(&index.entry(*position as usize)));
    // In parallel, as each look-up waits for memory.
    loop {
        let positions: Vec<u32> = ours.by_ref().take(CHUNK).collect();
        if positions.is_empty() {
            return plan;
        }
        let looked: Vec<Looked> = positions.par_iter().map(|i| look(*i)).collect();
        for (position, looked) in positions.into_iter().zip(looked) {
            plan.cached_rows += looked.cached_rows;
            match looked.rejected {
                _ if !looked.missing.is_empty() => plan.missing.push(position, &looked.missing),
                Some(reason) => plan.rejected.push((position, reason.to_owned())),
                None => plan.cached += 1,
            }
        }
    }
}

/// Images that are looked up together.
const CHUNK: usize = 16_384;

/// What the store knows of an image.
#[derive(Default)]
struct Looked<'a> {
    cached_rows: usize,
    rejected: Option<&'a str>,
    missing: Vec<View>,
}
