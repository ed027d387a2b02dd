//! What an audit found in the words of people: ids, paths, names of classes, sides. And the tables
//! that it leaves.
//!
//! Tables are CSV with a header, in order of what deserves to be looked at first:
//!
//! - `label_errors.csv`: the images whose label the heads contradict, the most doubtful first.
//!   `score` is the probability of the given class less that of the most probable other one;
//!   `confident` says whether the image is off the diagonal of the confident joint.
//! - `near_duplicates.csv`: pairs that look alike, the most similar first.
//! - `exact_duplicates.csv`: a row for every path of an image that has several, those with two
//!   labels first. An image with two labels, or without features, is on no side.
//!
//! Paths are escaped as in [`extractor::files::escape`]; of an image with several paths, the tables
//! of labels and of near-duplicates have the first one.

use std::path::Path;

use extractor::digest::ImageId;
use extractor::files::{escape, write_atomically};
use extractor::index::{Entry, Index};
use serde::Serialize;

use super::Audit;
use super::errors::Suspect;
use super::neighbours::Pair;
use crate::dataset::Dataset;
use crate::run::{RunError, csv_bytes};
use crate::split::Side;

/// A label that is probably wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelError {
    /// From 1, the most doubtful.
    pub rank: usize,
    /// The image.
    pub id: String,
    /// Its first path.
    pub path: String,
    /// Its side of the split.
    pub side: Side,
    /// The class that it has.
    pub given: String,
    /// The class that it should probably have.
    pub suggested: String,
    /// Probability of the given class.
    pub given_probability: f32,
    /// Probability of the suggested class.
    pub suggested_probability: f32,
    /// The margin, -1 to 1; see [`Suspect::score`].
    pub score: f32,
    /// Whether the confident joint says so.
    pub confident: bool,
}

/// Two images that look alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NearDuplicate {
    /// Cosine of their pooled features.
    pub similarity: f32,
    /// The first image.
    pub id_a: String,
    /// Its first path.
    pub path_a: String,
    /// Its class.
    pub label_a: String,
    /// Its side.
    pub side_a: Side,
    /// The second image.
    pub id_b: String,
    /// Its first path.
    pub path_b: String,
    /// Its class.
    pub label_b: String,
    /// Its side.
    pub side_b: Side,
    /// Whether they are on different sides of the split.
    pub crosses_split: bool,
    /// Whether they are of different classes.
    pub labels_differ: bool,
}

/// A path of an image that has several.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExactDuplicate {
    /// The image.
    pub id: String,
    /// The path.
    pub path: String,
    /// The class that it has there, if any.
    pub label: Option<String>,
    /// The image's side, if it takes part.
    pub side: Option<Side>,
    /// Paths of the image.
    pub copies: usize,
    /// Whether the image has two labels or more.
    pub labels_differ: bool,
}

/// The tables.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Labels that the heads contradict, the most doubtful first.
    pub label_errors: Vec<LabelError>,
    /// Pairs that look alike, the most similar first.
    pub near_duplicates: Vec<NearDuplicate>,
    /// Paths of images that have several, those with two labels first.
    pub exact_duplicates: Vec<ExactDuplicate>,
}

impl Report {
    /// Puts names to numbers. `index` is the one that `dataset` was put together from.
    ///
    /// # Panics
    /// When it is another one.
    pub fn new(audit: &Audit, dataset: &Dataset, index: &Index) -> Report {
        let names = Names::new(dataset, index);
        let doubtful = audit.errors.doubtful().enumerate();
        Report {
            label_errors: doubtful
                .map(|(at, suspect)| names.label_error(at + 1, suspect))
                .collect(),
            near_duplicates: audit.near.pairs.iter().map(|p| names.near(p)).collect(),
            exact_duplicates: names.exact(),
        }
    }

    /// Writes the tables into a folder.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), RunError> {
        table(folder, "label_errors.csv", LABEL_ERRORS, &self.label_errors)?;
        let near = &self.near_duplicates;
        table(folder, "near_duplicates.csv", NEAR_DUPLICATES, near)?;
        let exact = &self.exact_duplicates;
        table(folder, "exact_duplicates.csv", EXACT_DUPLICATES, exact)
    }
}

const LABEL_ERRORS: &[&str] = &[
    "rank",
    "id",
    "path",
    "side",
    "given",
    "suggested",
    "given_probability",
    "suggested_probability",
    "score",
    "confident",
];

const NEAR_DUPLICATES: &[&str] = &[
    "similarity",
    "id_a",
    "path_a",
    "label_a",
    "side_a",
    "id_b",
    "path_b",
    "label_b",
    "side_b",
    "crosses_split",
    "labels_differ",
];

const EXACT_DUPLICATES: &[&str] = &["id", "path", "label", "side", "copies", "labels_differ"];

fn table(
    folder: &Path,
    name: &str,
    columns: &[&str],
    rows: &[impl Serialize],
) -> Result<(), RunError> {
    let path = folder.join(name);
    let bytes = csv_bytes(&path, columns, rows)?;
    Ok(write_atomically(&path, &bytes)?)
}

/// The names of a data set's images and classes.
struct Names<'a> {
    dataset: &'a Dataset,
    entries: Vec<Entry<'a>>, // by id, those of an id in the order of the index
}

impl Names<'_> {
    fn new<'a>(dataset: &'a Dataset, index: &'a Index) -> Names<'a> {
        let mut entries: Vec<Entry> = index.iter().collect();
        entries.sort_by_key(|entry| entry.id); // stable
        Names { dataset, entries }
    }

    fn class(&self, label: u32) -> String {
        self.dataset.classes[label as usize].clone()
    }

    /// Id, first path, class and side of an image.
    fn image(&self, image: u32) -> (String, String, String, Side) {
        let image = image as usize;
        let id = self.dataset.ids[image];
        let first = self.entries.partition_point(|entry| entry.id < id);
        let entry = &self.entries[first];
        assert_eq!(entry.id, id, "the data set's own index");
        (
            id.to_string(),
            escape(entry.path),
            self.class(self.dataset.labels_n[image]),
            self.dataset.sides_n[image],
        )
    }

    fn label_error(&self, rank: usize, suspect: &Suspect) -> LabelError {
        let (id, path, given, side) = self.image(suspect.image);
        LabelError {
            rank,
            id,
            path,
            side,
            given,
            suggested: self.class(suspect.suggested),
            given_probability: suspect.given_probability,
            suggested_probability: suspect.suggested_probability,
            score: suspect.score,
            confident: suspect.confident,
        }
    }

    fn near(&self, pair: &Pair) -> NearDuplicate {
        let (id_a, path_a, label_a, side_a) = self.image(pair.a);
        let (id_b, path_b, label_b, side_b) = self.image(pair.b);
        NearDuplicate {
            similarity: pair.similarity,
            crosses_split: side_a != side_b,
            labels_differ: label_a != label_b,
            id_a,
            path_a,
            label_a,
            side_a,
            id_b,
            path_b,
            label_b,
            side_b,
        }
    }

    fn exact(&self) -> Vec<ExactDuplicate> {
        let side = |id: &ImageId| {
            let image = self.dataset.ids.binary_search(id).ok();
            image.map(|image| self.dataset.sides_n[image])
        };
        let by_id = self.entries.chunk_by(|a, b| a.id == b.id);
        let several = by_id.filter(|entries| entries.len() > 1);
        let mut images: Vec<(bool, &[Entry])> = several
            .map(|entries| {
                let mut labels = entries.iter().filter_map(|entry| entry.label);
                let first = labels.next();
                (labels.any(|label| Some(label) != first), entries)
            })
            .collect();
        images.sort_by_key(|(labels_differ, entries)| (!labels_differ, entries[0].path));
        let rows = images.into_iter().flat_map(|(labels_differ, entries)| {
            entries.iter().map(move |entry| ExactDuplicate {
                id: entry.id.to_string(),
                path: escape(entry.path),
                label: entry.label.map(|label| self.class(label)),
                side: side(&entry.id),
                copies: entries.len(),
                labels_differ,
            })
        });
        rows.collect()
    }
}
