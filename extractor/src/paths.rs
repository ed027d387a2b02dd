//! Very many paths in little memory: their bytes one after the other, and 4 bytes more a path.
//!
//! Must not know what the paths lead to.

/// Paths by position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    bytes: Vec<u8>,
    ends: Vec<u32>,   // of each path, counted from where its block starts
    starts: Vec<u64>, // of each block of BLOCK paths, in `bytes`
}

const BLOCK: usize = 1024;

impl Paths {
    /// No paths yet, and room for `count` of `bytes` bytes in all.
    pub fn with_capacity(count: usize, bytes: usize) -> Paths {
        Paths {
            bytes: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(count),
            starts: Vec::with_capacity(count.div_ceil(BLOCK)),
        }
    }

    /// The bytes of all paths together.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a path.
    ///
    /// # Panics
    /// When 1,024 neighbours take more than 4 GB; no file system has such paths.
    pub fn push(&mut self, path: &[u8]) {
        if self.ends.len().is_multiple_of(BLOCK) {
            self.starts.push(self.bytes.len() as u64);
        }
        self.bytes.extend_from_slice(path);
        let start = self.starts.last().expect("a block was begun");
        self.ends.push(offset(self.bytes.len(), *start));
    }

    /// Number of paths.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The path at a position.
    ///
    /// # Panics
    /// When there is none.
    pub fn get(&self, position: usize) -> &[u8] {
        let block = self.starts[position / BLOCK] as usize;
        let start = match position % BLOCK {
            0 => 0,
            _ => self.ends[position - 1] as usize,
        };
        &self.bytes[block + start..block + self.ends[position] as usize]
    }

    /// All paths, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Drops the paths at positions of which `keep` says no, in place. Asks once a position, in
    /// order.
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let (mut kept, mut kept_bytes) = (0, 0);
        // What is kept moves down only, so nothing is overwritten before it was read.
        let (mut block, mut start) = (0, 0);
        for position in 0..self.len() {
            if position % BLOCK == 0 {
                block = self.starts[position / BLOCK] as usize;
            }
            let end = block + self.ends[position] as usize;
            if keep(position) {
                if kept % BLOCK == 0 {
                    self.starts[kept / BLOCK] = kept_bytes as u64;
                }
                self.bytes.copy_within(start..end, kept_bytes);
                kept_bytes += end - start;
                self.ends[kept] = offset(kept_bytes, self.starts[kept / BLOCK]);
                kept += 1;
            }
            start = end;
        }
        self.ends.truncate(kept);
        self.starts.truncate(kept.div_ceil(BLOCK));
        self.bytes.truncate(kept_bytes);
    }

    /// The paths at the positions `order`, in that order.
    ///
    /// # Panics
    /// When there is none at one of them.
    pub fn permuted(&self, order: &[u32]) -> Paths {
        let size_bytes = order.iter().map(|i| self.get(*i as usize).len()).sum();
        let mut paths = Paths::with_capacity(order.len(), size_bytes);
        order.iter().for_each(|i| paths.push(self.get(*i as usize)));
        paths
    }

    /// Gives back the memory that nothing was put into.
    pub fn shrink_to_fit(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.starts.shrink_to_fit();
    }
}

fn offset(position: usize, block: u64) -> u32 {
    u32::try_from(position as u64 - block).expect("a block of paths takes less than 4 GB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_come_back_whatever_is_dropped() {
        let all: Vec<Vec<u8>> = (0..5000_usize)
            .map(|i| vec![i as u8; (i * 7919) % 23])
            .collect();
        let mut paths = Paths::default();
        all.iter().for_each(|path| paths.push(path));
        assert!(paths.iter().eq(all.iter().map(Vec::as_slice)));
        type Keep = fn(usize) -> bool;
        let rules: [Keep; 5] = [
            |_| true,
            |i| i % 3 != 0,
            |i| !(1000..3000).contains(&i),
            |i| i == 1024,
            |_| false,
        ];
        for keep in rules {
            let mut some = paths.clone();
            some.retain(keep);
            let mut expected = Paths::default();
            for i in (0..all.len()).filter(|i| keep(*i)) {
                expected.push(&all[i]);
            }
            assert_eq!(some, expected);
            assert_eq!(some.len(), (0..all.len()).filter(|i| keep(*i)).count());
        }
    }
}
