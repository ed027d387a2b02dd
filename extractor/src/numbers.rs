//! Finds numbers by hash in 7 bytes a number: what they stand for stays where it lies.
//!
//! Numbers are sorted into buckets of two on average by their hashes, each with 8 more bits of its
//! hash; whoever looks one up compares those of a bucket that have the same bits with what is
//! looked for, which is next to never in vain: each look at what a number stands for waits for
//! memory, or for a disk. Made in two passes, so that
//! everything has its final size from the start. Must not know what the numbers stand for.

/// The numbers 0, 1, 2 and so on, by hash.
#[derive(Debug, Default)]
pub struct Numbers {
    ends: Vec<u32>, // of each bucket in `numbers`
    numbers: Vec<u32>,
    tags: Vec<u8>, // of each number
}

/// Numbers under way: the size of each bucket is being counted.
#[derive(Debug)]
pub struct Counting {
    counts: Vec<u32>,
    total: u32,
}

/// Numbers under way: each is being put into its bucket.
#[derive(Debug)]
pub struct Placing {
    cursors: Vec<u32>,
    numbers: Vec<u32>,
    tags: Vec<u8>,
    next: u32,
}

fn bucket(hash: u64, buckets: usize) -> usize {
    // Less than `buckets`, and every bucket as likely.
    ((u128::from(hash) * buckets as u128) >> 64) as usize
}

/// Other bits of a hash than those that choose the bucket.
fn tag(hash: u64) -> u8 {
    hash as u8
}

impl Numbers {
    /// Room for about `count` numbers.
    pub fn begin(count: usize) -> Counting {
        Counting {
            counts: vec![0; count / 2 + 1],
            total: 0,
        }
    }

    /// The numbers that may be meant, ascending.
    pub fn find(&self, hash: u64) -> impl Iterator<Item = u32> {
        let range = match self.ends.len() {
            0 => 0..0,
            buckets => self.range(bucket(hash, buckets)),
        };
        let found = self.numbers[range.clone()].iter().zip(&self.tags[range]);
        found
            .filter(move |(_, found)| **found == tag(hash))
            .map(|(number, _)| *number)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Drops numbers that stand for the `same` as a lower one. Returns them, ascending.
    pub fn drop_copies(&mut self, same: impl Fn(u32, u32) -> bool) -> Vec<u32> {
        let (mut kept, mut start) = (0, 0);
        let mut dropped = Vec::new();
        for bucket in 0..self.ends.len() {
            let (end, first) = (self.ends[bucket] as usize, kept);
            for i in start..end {
                let (number, tag) = (self.numbers[i], self.tags[i]);
                let is_copy = |n: usize| self.tags[n] == tag && same(self.numbers[n], number);
                if (first..kept).any(is_copy) {
                    dropped.push(number);
                } else {
                    (self.numbers[kept], self.tags[kept]) = (number, tag);
                    kept += 1;
                }
            }
            self.ends[bucket] = kept as u32;
            start = end;
        }
        self.numbers.truncate(kept);
        self.tags.truncate(kept);
        dropped.sort_unstable();
        dropped
    }

    fn range(&self, bucket: usize) -> std::ops::Range<usize> {
        let start = match bucket {
            0 => 0,
            _ => self.ends[bucket - 1],
        };
        start as usize..self.ends[bucket] as usize
    }
}

impl Counting {
    /// The hash of the next number.
    ///
    /// # Panics
    /// At the number 2^32.
    pub fn add(&mut self, hash: u64) {
        self.total = self.total.checked_add(1).expect("fewer than 2^32 numbers");
        let buckets = self.counts.len();
        self.counts[bucket(hash, buckets)] += 1;
    }

    /// The same hashes are to be given again, in the same order.
    pub fn again(self) -> Placing {
        let mut cursors = self.counts;
        let mut start = 0;
        for cursor in &mut cursors {
            let count = std::mem::replace(cursor, start);
            start += count;
        }
        Placing {
            cursors,
            numbers: vec![0; self.total as usize],
            tags: vec![0; self.total as usize],
            next: 0,
        }
    }
}

impl Placing {
    /// The hash of the next number.
    ///
    /// # Panics
    /// When there are more than the first time, or other ones.
    pub fn add(&mut self, hash: u64) {
        let buckets = self.cursors.len();
        let cursor = &mut self.cursors[bucket(hash, buckets)];
        self.numbers[*cursor as usize] = self.next;
        self.tags[*cursor as usize] = tag(hash);
        *cursor += 1;
        self.next += 1;
    }

    /// All were given again.
    pub fn finish(self) -> Numbers {
        Numbers {
            ends: self.cursors, // each has moved to the end of its bucket
            numbers: self.numbers,
            tags: self.tags,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_64;

    fn numbers(values: &[u32]) -> Numbers {
        let hash = |value: &u32| xxh3_64(&value.to_le_bytes());
        let mut counting = Numbers::begin(values.len());
        values.iter().for_each(|v| counting.add(hash(v)));
        let mut placing = counting.again();
        values.iter().for_each(|v| placing.add(hash(v)));
        placing.finish()
    }

    #[test]
    fn numbers_are_found_and_copies_dropped() {
        for count in [0, 1, 3, 4, 5, 1000] {
            // Each value three times, at `i`, `i + count` and `i + 2 * count`.
            let values: Vec<u32> = (0..3).flat_map(|_| 0..count).collect();
            let find = |numbers: &Numbers, value: u32| -> Vec<u32> {
                let found = numbers.find(xxh3_64(&value.to_le_bytes()));
                found.filter(|n| values[*n as usize] == value).collect()
            };
            let mut all = numbers(&values);
            for i in 0..count {
                assert_eq!(find(&all, i), [i, i + count, i + 2 * count]);
            }
            let dropped = all.drop_copies(|a, b| values[a as usize] == values[b as usize]);
            assert!(dropped.into_iter().eq(count..3 * count));
            assert_eq!(all.len(), count as usize);
            for i in 0..count {
                assert_eq!(find(&all, i), [i]);
            }
            assert!(find(&all, count).is_empty());
        }
        assert_eq!(Numbers::default().find(7).count(), 0);
    }
}
