//! What a manifest lists or an archive holds, in the order of an index.
//!
//! Takes a path's bytes and 8 bytes more a member, and 8 for its place in an archive. Must not know
//! where the bytes are.

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
    /// For each member the number of its class in [`Listing::classes`]; -1: none.
    pub labels: Vec<i32>,
    /// Class names in ascending order, those without members included.
    pub classes: Vec<String>,
    /// What is refused, with the reason.
    pub skipped: Vec<Skipped>,
    /// Hidden members, devices and the like.
    pub ignored: usize,
    places: Vec<u64>, // empty for files
}

impl Listing {
    /// Number of members.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// The member at a position.
    pub fn member(&self, position: usize) -> Member<'_> {
        Member {
            path: self.paths.get(position),
            at: self.places.get(position).copied().unwrap_or(0),
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
        let kept: Vec<bool> = self.paths.iter().map(keep).collect();
        Arc::make_mut(&mut self.paths).retain(|position| kept[position]);
        let stays = || {
            let mut kept = kept.iter();
            move || kept.next().is_some_and(|kept| *kept)
        };
        let (mut label, mut place) = (stays(), stays());
        self.labels.retain(|_| label());
        self.places.retain(|_| place());
    }

    /// Whether the members' bytes lie in the order of their paths.
    pub fn lies_in_order(&self) -> bool {
        self.places.is_sorted()
    }

    /// The members in the order in which their bytes lie, where that is not the paths' order.
    pub fn as_they_lie(&self) -> Option<Vec<u32>> {
        if self.lies_in_order() {
            return None;
        }
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        order.par_sort_unstable_by_key(|&i| self.places[i as usize]);
        Some(order)
    }
}

/// Members as they are found, in any order.
#[derive(Debug, Default)]
pub(super) struct Members {
    paths: Paths,
    labels: Vec<i32>,
    places: Vec<u64>,
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
            classes: BTreeMap::new(),
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
        self.places = (0..paths.len() as u64).collect();
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
        let (mut paths, mut labels, mut places) = (self.paths, self.labels, self.places);
        paths.shrink_to_fit();
        labels.shrink_to_fit();
        places.shrink_to_fit();
        let count = u32::try_from(paths.len()).expect("fewer than 2^32 members");
        let place = |i: u32| places.get(i as usize).copied().unwrap_or(0);
        let compare = |a: u32, b: u32| {
            let by_path = compare_paths(paths.get(a as usize), paths.get(b as usize));
            by_path.then_with(|| labels[a as usize].cmp(&labels[b as usize]))
        };
        if !(1..count).all(|i| compare(i - 1, i).is_lt()) {
            let mut order: Vec<u32> = (0..count).collect();
            order.par_sort_unstable_by(|&a, &b| compare(a, b).then(place(a).cmp(&place(b))));
            let (mut all, mut their) = (
                Paths::with_capacity(paths.len(), paths.size_bytes()),
                (
                    Vec::with_capacity(labels.len()),
                    Vec::with_capacity(places.len()),
                ),
            );
            let mut last = None;
            for &i in &order {
                if last.replace(i).is_some_and(|last| compare(last, i).is_eq()) {
                    continue;
                }
                all.push(paths.get(i as usize));
                their.0.push(labels[i as usize]);
                if !places.is_empty() {
                    their.1.push(place(i));
                }
            }
            (paths, (labels, places)) = (all, their);
        }
        Listing {
            paths: Arc::new(paths),
            labels,
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
        assert_eq!(listing.labels, [0, 0, 1, 2]);
        assert_eq!(listing.find(b"a-b/1").unwrap().at, 1);
        assert_eq!(listing.find(b"a/2").unwrap().at, 2);
        assert!(listing.find(b"a").is_none());
        assert_eq!(listing.as_they_lie().unwrap(), [3, 2, 1, 0]);
    }

    #[test]
    fn two_labels_are_two_entries() {
        let mut members = Members::default();
        for label in ["Dog", "Cat", "Dog"] {
            let class = members.class(label);
            members.file(b"1.jpg", class);
        }
        let listing = members.listing(Vec::new(), 0);
        assert_eq!(listing.labels, [0, 1]);
        assert_eq!(listing.as_they_lie(), None);
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
