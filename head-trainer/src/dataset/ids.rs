//! Images' ids by number, in ascending order: they stay where the index has them.
//!
//! Must not know what the numbers are for.

use extractor::digest::ImageId;
use extractor::index::Index;

/// Ids of some entries of an index. Takes 4 bytes an id, and what the index takes.
#[derive(Clone, Debug)]
pub struct Ids {
    index: Index,
    entries: Vec<u32>, // positions
}

impl Ids {
    /// The ids of the entries at `entries`, which ascend by id.
    pub(super) fn new(index: Index, entries: Vec<u32>) -> Ids {
        Ids { index, entries }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &ImageId> {
        self.entries.iter().map(|i| self.index.id(*i as usize))
    }

    /// The number of an id, or where it would be, as [`slice::binary_search`] has it.
    ///
    /// # Errors
    /// When it is not there.
    pub fn binary_search(&self, id: &ImageId) -> Result<usize, usize> {
        let entries = &self.entries;
        entries.binary_search_by(|i| self.index.id(*i as usize).cmp(id))
    }
}

impl std::ops::Index<usize> for Ids {
    type Output = ImageId;

    fn index(&self, number: usize) -> &ImageId {
        self.index.id(self.entries[number] as usize)
    }
}
