//! Which images of a data set belong to one of its parts.
//!
//! Files are dealt by the hash of their path, so that a file stays in its part whatever is added
//! and whether or not there is an index. Members of an archive are dealt in runs of neighbours, so that
//! what lies together is read by one process. Must not know what a part is computed for.

use xxhash_rust::xxh3::xxh3_64;

use super::{DataSet, Listing, Source};
use crate::part::Part;

/// Members of a run at most.
const RUN: u64 = 256;
/// Runs a part at least, where there are that many members: parts differ by one run.
const RUNS: u64 = 16;

/// The images of one part.
#[derive(Debug)]
pub struct Dealt<'a> {
    part: Part,
    runs: Option<Runs<'a>>,
}

#[derive(Debug)]
struct Runs<'a> {
    listing: &'a Listing,
    ranks: Option<Vec<u32>>, // of each position, where members do not lie in the paths' order
    length: u64,
}

impl DataSet {
    /// What of this data set belongs to `part`: of files those for which XXH3-64 (seed 0) of the
    /// relative path, taken as a fraction of 2^64, falls into the part's share; of `M` members of an
    /// archive, in the order in which they lie, every N-th run of `M / 16 N` members, 256 at most.
    pub fn dealt(&self, part: Part) -> Dealt<'_> {
        let runs = match &self.source {
            Source::Archive(archive, _) if !part.is_whole() => {
                Some(Runs::of(&archive.listing, part))
            }
            _ => None,
        };
        Dealt { part, runs }
    }
}

impl Dealt<'_> {
    /// All images.
    pub fn all() -> Dealt<'static> {
        Dealt {
            part: Part::WHOLE,
            runs: None,
        }
    }

    /// Whether these are all images.
    pub fn is_all(&self) -> bool {
        self.part.is_whole()
    }

    /// Whether the image that an index calls `path` is among them.
    pub fn has(&self, path: &[u8]) -> bool {
        if self.is_all() {
            return true;
        }
        match &self.runs {
            None => self.part.has_hash(xxh3_64(path)),
            // What is not in the archive is nobody's; the first part says so.
            Some(runs) => self.part.has_turn(runs.run_of(path).unwrap_or(0)),
        }
    }
}

impl<'a> Runs<'a> {
    fn of(listing: &'a Listing, part: Part) -> Runs<'a> {
        let ranks = (!listing.lies_in_order()).then(|| {
            let mut ranks = vec![0; listing.len()];
            for (rank, position) in (0..).zip(listing.as_they_lie().flatten()) {
                ranks[position as usize] = rank;
            }
            ranks
        });
        let members = listing.len() as u64;
        Runs {
            listing,
            ranks,
            length: (members / (RUNS * u64::from(part.of()))).clamp(1, RUN),
        }
    }

    fn run_of(&self, path: &[u8]) -> Option<u64> {
        let position = self.listing.position(path)?;
        let rank = match &self.ranks {
            Some(ranks) => ranks[position] as usize,
            None => position,
        };
        Some(rank as u64 / self.length)
    }
}
