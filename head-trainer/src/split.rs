//! Which side of the split every image is on: training, validation or test.
//!
//! A side depends on the image's id, the seed and the plan alone, never on a path, on the order
//! of a listing or on a machine:
//!
//! ```text
//! hash(id) = the first 8 bytes, big-endian, of SHA-256("headstart split v1" ‖ seed ‖ id)
//! ```
//!
//! with the seed as 8 little-endian bytes and the id as its 32 bytes. Two modes use the hash:
//!
//! - **Rank** (default): within each class, images are sorted by (hash, id) and cut at
//!   round(n * train) and round(n * (train + validation)) of n, halves up. Each side of each class
//!   is thus within one image of its exact share. A single image of a class is
//!   trained on, whatever the shares. At 80/10/10 two images are both trained on, the third of
//!   three is for validation, and from 8 on every side has one.
//! - **Threshold**: hash / 2^64 below the training share is training, below training plus
//!   validation is validation, else test; compared in whole numbers. An image never changes its
//!   side, whatever else joins or leaves the set; shares are met on average only.
//!
//! This file does no input or output; [`mod@file`] keeps a split on disk.

mod error;
pub mod file;
mod table;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use extractor::digest::ImageId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Opens every hash; a change makes every split another one.
const DOMAIN: &[u8] = b"headstart split v1";

/// A side of the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// What solvers learn from.
    Train,
    /// What choices are made by.
    Validation,
    /// What is looked at once, at the end.
    Test,
}

impl Side {
    /// All sides in order.
    pub const ALL: [Side; 3] = [Side::Train, Side::Validation, Side::Test];

    /// The word that split files use.
    pub fn name(self) -> &'static str {
        match self {
            Side::Train => "train",
            Side::Validation => "validation",
            Side::Test => "test",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How hashes become sides; see the file's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitMode {
    /// Exact shares of each class.
    #[default]
    Rank,
    /// Every image keeps its side for ever.
    Threshold,
}

impl fmt::Display for SplitMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SplitMode::Rank => "rank",
            SplitMode::Threshold => "threshold",
        })
    }
}

impl FromStr for SplitMode {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<SplitMode, PlanError> {
        match text {
            "rank" => Ok(SplitMode::Rank),
            "threshold" => Ok(SplitMode::Threshold),
            _ => Err(PlanError::Mode(text.to_owned())),
        }
    }
}

/// Shares of the three sides, in parts of their sum: `80/10/10`.
///
/// Whole numbers, so that no machine rounds them otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fractions {
    train: u32,
    validation: u32,
    test: u32,
}

/// Why a plan's text is no plan.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlanError {
    /// Not a split mode.
    #[error("`{0}` is no split mode (hint: rank or threshold)")]
    Mode(String),
    /// Not three shares.
    #[error(
        "`{0}` are no shares of a split (hint: three whole numbers up to 1000000, the first above zero, like 80/10/10)"
    )]
    Fractions(String),
}

impl Fractions {
    /// Shares of training, validation and test.
    ///
    /// # Errors
    /// When the training share is zero or a share is above a million.
    pub fn new(train: u32, validation: u32, test: u32) -> Result<Fractions, PlanError> {
        let fractions = Fractions {
            train,
            validation,
            test,
        };
        let fine = train > 0 && [train, validation, test].iter().all(|x| *x <= 1_000_000);
        if fine {
            Ok(fractions)
        } else {
            Err(PlanError::Fractions(fractions.to_string()))
        }
    }

    /// Ends of training and of validation, and the whole, in parts.
    fn ends(self) -> [u128; 3] {
        let train = u128::from(self.train);
        let validation = train + u128::from(self.validation);
        [train, validation, validation + u128::from(self.test)]
    }
}

impl Default for Fractions {
    fn default() -> Fractions {
        Fractions {
            train: 80,
            validation: 10,
            test: 10,
        }
    }
}

impl fmt::Display for Fractions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.train, self.validation, self.test)
    }
}

impl FromStr for Fractions {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Fractions, PlanError> {
        let error = || PlanError::Fractions(text.to_owned());
        let parts: Result<Vec<u32>, _> = text.split('/').map(|part| part.trim().parse()).collect();
        match parts.map_err(|_| error())?[..] {
            [train, validation, test] => {
                Fractions::new(train, validation, test).map_err(|_| error())
            }
            _ => Err(error()),
        }
    }
}

impl Serialize for Fractions {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fractions {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Fractions, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Everything that decides a split besides the images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitPlan {
    /// How hashes become sides.
    pub mode: SplitMode,
    /// Seed of the hash.
    pub seed: u64,
    /// Shares of the sides.
    pub fractions: Fractions,
}

/// An image was listed twice.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("image {0} is listed twice in what is to be split")]
pub struct DuplicateImage(pub ImageId);

impl SplitPlan {
    /// The side of each of `images` (id, label), in their order.
    ///
    /// The result for an image does not depend on the order of the others.
    ///
    /// # Errors
    /// When an id is listed twice.
    pub fn assign(&self, images: &[(ImageId, u32)]) -> Result<Vec<Side>, DuplicateImage> {
        self.assign_all(images.len(), |i| images[i as usize])
    }

    /// [`SplitPlan::assign`] for `count` images, of which `image` tells id and label by number. Takes
    /// 17 bytes an image.
    pub(crate) fn assign_all(
        &self,
        count: usize,
        image: impl Fn(u32) -> (ImageId, u32),
    ) -> Result<Vec<Side>, DuplicateImage> {
        let numbers = 0..u32::try_from(count).expect("an image number fits 32 bits");
        let id = |number: u32| image(number).0;
        if !numbers.clone().map(id).is_sorted_by(|a, b| a < b) {
            let mut seen = std::collections::HashSet::with_capacity(count);
            if let Some(id) = numbers.clone().map(id).find(|id| !seen.insert(*id)) {
                return Err(DuplicateImage(id));
            }
        }
        let mut keyed: Vec<(u32, u64, u32)> = numbers
            .map(|number| {
                let (id, label) = image(number);
                (label, self.hash(id), number)
            })
            .collect();
        // By class, then by (hash, id): a class is a run.
        keyed.sort_unstable_by(|a, b| {
            let by_id = || id(a.2).cmp(&id(b.2));
            (a.0, a.1).cmp(&(b.0, b.1)).then_with(by_id)
        });
        let mut sides = vec![Side::Train; count];
        for class in keyed.chunk_by(|a, b| a.0 == b.0) {
            let cuts = self.cuts(class.len());
            for (rank, &(_, hash, place)) in class.iter().enumerate() {
                sides[place as usize] = match self.mode {
                    SplitMode::Rank => side_of(rank, cuts),
                    SplitMode::Threshold => self.threshold_side(hash),
                };
            }
        }
        Ok(sides)
    }

    /// The hash that decides over `id`.
    fn hash(&self, id: ImageId) -> u64 {
        let digest = Sha256::new()
            .chain_update(DOMAIN)
            .chain_update(self.seed.to_le_bytes())
            .chain_update(id.0)
            .finalize();
        let (first, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
        u64::from_be_bytes(*first)
    }

    /// Ranks at which validation and test begin in a class of `count` images.
    fn cuts(&self, count: usize) -> [usize; 2] {
        let [train, validation, whole] = self.fractions.ends();
        let round = |parts: u128| ((2 * count as u128 * parts + whole) / (2 * whole)) as usize;
        if count == 1 {
            return [1, 1]; // a class of one image is trained on
        }
        [round(train), round(validation)]
    }

    /// The side of a hash when every image stands alone.
    fn threshold_side(&self, hash: u64) -> Side {
        let [train, validation, whole] = self.fractions.ends();
        // hash / 2^64 < part / whole, without a division
        let scaled = u128::from(hash) * whole;
        if scaled < train << 64 {
            Side::Train
        } else if scaled < validation << 64 {
            Side::Validation
        } else {
            Side::Test
        }
    }
}

/// The side of `rank`, given the ranks at which validation and test begin.
fn side_of(rank: usize, [validation, test]: [usize; 2]) -> Side {
    if rank < validation {
        Side::Train
    } else if rank < test {
        Side::Validation
    } else {
        Side::Test
    }
}

/// Number of images on each side and of each label: `counts[(side, label)]`.
pub fn count(images: impl IntoIterator<Item = (Side, u32)>) -> HashMap<(Side, u32), u64> {
    let mut counts = HashMap::new();
    for key in images {
        *counts.entry(key).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests;
