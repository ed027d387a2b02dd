//! What a manifest lists or an archive holds, in the order of an index.
//!
//! Takes a path's bytes and 8 bytes more a member, and in an archive for its place nothing where
//! members lie in the order of their paths, else 4 bytes, or 8 in an archive of more than 4 GB. Must
//! not know where the bytes are.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;

use crate::paths::Paths;
use crate::walk::Skipped;

/// One file that may be an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Member<'a> {
    /// What an index calls it.
    pub path: &'a [u8],
    /// What its container calls it: a number of the container's own, in the order of the bytes.
    pub at: u64,
}

/// The members of a data set that is no folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Ascending (compared component by component). Shared with the index, so that they are in
    /// memory once.
    pub paths: Arc<Paths>,
    /// For each member the number of its class in [`Listing::classes`]; -1: none. Shared likewise.
    pub labels: Arc<Vec<i32>>,
    /// Class names in ascending order, those without members included.
    pub classes: Vec<String>,
    /// What is refused, with the reason.
    pub skipped: Vec<Skipped>,
    /// Hidden members, devices and the like.
    pub ignored: usize,
    places: Places,
}

/// Where the members lie, by position.
#[derive(Debug, Default)]
enum Places {
    /// Files: nowhere in particular.
    #[default]
    None,
    /// Member i at i.
    InOrder,
    Small(Vec<u32>),
    Large(Vec<u64>),
}

impl Places {
    fn get(&self, position: usize) -> u64 {
        match self {
            Places::None => 0,
            Places::InOrder => position as u64,
            Places::Small(places) => u64::from(places[position]),
            Places::Large(places) => places[position],
        }
    }

    fn are_sorted(&self) -> bool {
        match self {
            Places::None | Places::InOrder => true,
            Places::Small(places) => places.is_sorted(),
            Places::Large(places) => places.is_sorted(),
        }
    }

    /// Moves each to where `order` says that it comes from.
    fn permute(self, order: &[u32]) -> Places {
        let from = |i: &u32| *i as usize;
        match self {
            Places::None => Places::None,
            Places::InOrder => Places::Small(order.to_vec()),
            Places::Small(places) => Places::Small(order.iter().map(|i| places[from(i)]).collect()),
            Places::Large(places) => Places::Large(order.iter().map(|i| places[from(i)]).collect()),
        }
    }
}

/// Pieces that [`Listing::as_they_lie`] gives an order in.
const PIECES: u64 = 16;

impl Listing {
    /// Number of members.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// The member at a position.
    pub fn member(&self, position: usize) -> Member<'_> {
        Member {
            path: self.paths.get(position),
            at: self.places.get(position),
        }
    }

    /// The member of this path.
    pub fn find(&self, path: &[u8]) -> Option<Member<'_>> {
        self.position(path).map(|position| self.member(position))
    }

    /// The position of a member of this path.
    pub fn position(&self, path: &[u8]) -> Option<usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match compare_paths(self.paths.get(middle), path) {
                Ordering::Equal => return Some(middle),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// Drops the members of whose path `keep` says no.
    pub fn retain(&mut self, keep: impl Fn(&[u8]) -> bool) {
        let count = self.len() as u32;
        let order: Vec<u32> = (0..count)
            .filter(|i| keep(self.paths.get(*i as usize)))
            .collect();
        let from = |i: &u32| *i as usize;
        self.paths = Arc::new(self.paths.permuted(&order));
        self.labels = Arc::new(order.iter().map(|i| self.labels[from(i)]).collect());
        self.places = std::mem::take(&mut self.places).permute(&order);
    }

    /// Whether the members' bytes lie in the order of their paths.
    pub fn lies_in_order(&self) -> bool {
        self.places.are_sorted()
    }

    /// The members in the order in which their bytes lie, piece by piece, so that it takes next to no
    /// memory.
    pub fn as_they_lie(&self) -> impl Iterator<Item = Vec<u32>> {
        let count = self.len() as u32;
        let in_order = self.lies_in_order();
        let place = |position: u32| self.places.get(position as usize);
        let end = match in_order {
            true => u64::from(count),
            false => (0..count).map(place).max().map_or(0, |last| last + 1),
        };
        let step = end.div_ceil(PIECES).max(1);
        (0..PIECES).map(move |piece| {
            let range = (piece * step).min(end)..((piece + 1) * step).min(end);
            if in_order {
                return (range.start as u32..range.end as u32).collect();
            }
            let mut positions: Vec<u32> =
                (0..count).filter(|i| range.contains(&place(*i))).collect();
            positions.par_sort_unstable_by_key(|i| place(*i));
            positions
        })
    }
}

/// Members as they are found, in any order.
#[derive(Debug, Default)]
pub(super) struct Members {
    paths: Paths,
    labels: Vec<i32>,
    places: Vec<u64>, // empty for files, and for rows
    are_rows: bool,
    classes: BTreeMap<String, i32>,
}

/// The class of a member that has none.
pub(super) const UNLABELLED: i32 = -1;

impl Members {
    /// Room for `count` members of an archive with paths of `bytes` bytes in all.
    pub fn with_capacity(count: usize, bytes: usize) -> Members {
        Members {
            paths: Paths::with_capacity(count, bytes),
            labels: Vec::with_capacity(count),
            places: Vec::with_capacity(count),
            ..Members::default()
        }
    }

    /// The number of a class until [`Members::listing`]; it is listed even if it gets no member.
    pub fn class(&mut self, name: &str) -> i32 {
        if let Some(number) = self.classes.get(name) {
            return *number;
        }
        let number = i32::try_from(self.classes.len()).expect("fewer than 2^31 classes");
        self.classes.insert(name.to_owned(), number);
        number
    }

    /// A file.
    pub fn file(&mut self, path: &[u8], class: i32) {
        self.paths.push(path);
        self.labels.push(class);
    }

    /// A member of an archive.
    pub fn member(&mut self, path: &[u8], class: i32, at: u64) {
        self.file(path, class);
        self.places.push(at);
    }

    /// All members of an archive at once, at the places 0, 1, 2 and so on.
    pub fn rows(&mut self, paths: Paths, labels: Vec<i32>) {
        self.are_rows = true;
        (self.paths, self.labels) = (paths, labels);
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Sorted, classes numbered by name, without repetitions: a path has one entry a class.
    pub fn listing(mut self, skipped: Vec<Skipped>, ignored: usize) -> Listing {
        let mut numbers = vec![0; self.classes.len()];
        for (number, old) in self.classes.values().enumerate() {
            numbers[*old as usize] = number as i32;
        }
        for label in self.labels.iter_mut().filter(|label| **label >= 0) {
            *label = numbers[*label as usize];
        }
        let (mut paths, mut labels) = (self.paths, self.labels);
        paths.shrink_to_fit();
        labels.shrink_to_fit();
        let mut places = match (self.are_rows, self.places) {
            (true, _) => Places::InOrder,
            (false, places) if places.is_empty() => Places::None,
            (false, places) => match places.iter().all(|place| u32::try_from(*place).is_ok()) {
                true => Places::Small(places.iter().map(|place| *place as u32).collect()),
                false => Places::Large(places),
            },
        };
        let count = u32::try_from(paths.len()).expect("fewer than 2^32 members");
        let compare = |a: u32, b: u32| {
            let by_path = compare_paths(paths.get(a as usize), paths.get(b as usize));
            by_path.then_with(|| labels[a as usize].cmp(&labels[b as usize]))
        };
        if !(1..count).all(|i| compare(i - 1, i).is_lt()) {
            let mut order: Vec<u32> = (0..count).collect();
            let place = |i: u32| places.get(i as usize);
            order.par_sort_unstable_by(|&a, &b| compare(a, b).then(place(a).cmp(&place(b))));
            order.dedup_by(|later, first| compare(*first, *later).is_eq());
            // One after the other, so that no more than one is there twice.
            paths = paths.permuted(&order);
            labels = order.iter().map(|i| labels[*i as usize]).collect();
            places = places.permute(&order);
        }
        Listing {
            paths: Arc::new(paths),
            labels: Arc::new(labels),
            places,
            classes: self.classes.into_keys().collect(),
            skipped,
            ignored,
        }
    }
}

/// The order of an index: ascending by path components.
pub(crate) fn compare_paths(a: &[u8], b: &[u8]) -> Ordering {
    // As if `/` came before every other byte.
    let differs = a.iter().zip(b).position(|(a, b)| a != b);
    match differs {
        None => a.len().cmp(&b.len()),
        Some(at) => match (a[at], b[at]) {
            (b'/', _) => Ordering::Less,
            (_, b'/') => Ordering::Greater,
            (a, b) => a.cmp(&b),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sorted_as_a_walk_sorts() {
        let mut members = Members::default();
        members.class("z");
        for (at, path) in ["b/1", "a-b/1", "a/2", "a/10", "a/2"].iter().enumerate() {
            let class = members.class(path.split('/').next().unwrap());
            members.member(path.as_bytes(), class, at as u64);
        }
        let listing = members.listing(Vec::new(), 0);
        let paths: Vec<_> = listing.paths.iter().collect();
        assert_eq!(paths, [&b"a/10"[..], b"a/2", b"a-b/1", b"b/1"]);
        assert_eq!(listing.classes, ["a", "a-b", "b", "z"]);
        assert_eq!(*listing.labels, [0, 0, 1, 2]);
        assert_eq!(listing.find(b"a-b/1").unwrap().at, 1);
        assert_eq!(listing.find(b"a/2").unwrap().at, 2);
        assert!(listing.find(b"a").is_none());
        assert!(!listing.lies_in_order());
        assert!(listing.as_they_lie().flatten().eq([3, 2, 1, 0]));
    }

    #[test]
    fn two_labels_are_two_entries() {
        let mut members = Members::default();
        for label in ["Dog", "Cat", "Dog"] {
            let class = members.class(label);
            members.file(b"1.jpg", class);
        }
        let listing = members.listing(Vec::new(), 0);
        assert_eq!(*listing.labels, [0, 1]);
        assert!(listing.lies_in_order());
        assert!(listing.as_they_lie().flatten().eq([0, 1]));
    }

    proptest! {
        #[test]
        fn paths_compare_by_components(a in "[ab/.]{0,6}", b in "[ab/.]{0,6}") {
            let split = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
            let expected = split(&a).cmp(&split(&b));
            prop_assert_eq!(compare_paths(a.as_bytes(), b.as_bytes()), expected);
        }
    }
}
