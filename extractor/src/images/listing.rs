//! What a manifest lists or an archive holds, in the order of an index.
//!
//! Must not know where the bytes are.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::walk::Skipped;

/// One file that may be an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// What an index calls it.
    pub path: Vec<u8>,
    /// Number of its class in [`Listing::classes`].
    pub class: Option<u32>,
    /// What its container calls it: a number of the container's own.
    pub at: u64,
}

/// The members of a data set that is no folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Ascending by path (compared component by component).
    pub members: Vec<Member>,
    /// Class names in ascending order, those without members included.
    pub classes: Vec<String>,
    /// What is refused, with the reason.
    pub skipped: Vec<Skipped>,
    /// Hidden members, devices and the like.
    pub ignored: usize,
}

impl Listing {
    /// A listing of members with their class names, sorted and without repetitions. `more`: classes
    /// that are known to have no member.
    pub fn new(
        found: Vec<(Vec<u8>, Option<String>, u64)>,
        more: impl IntoIterator<Item = String>,
        skipped: Vec<Skipped>,
        ignored: usize,
    ) -> Listing {
        let mut numbers: BTreeMap<String, u32> = more.into_iter().map(|name| (name, 0)).collect();
        for name in found.iter().filter_map(|(_, class, _)| class.as_ref()) {
            if !numbers.contains_key(name) {
                numbers.insert(name.clone(), 0);
            }
        }
        for (number, value) in numbers.values_mut().enumerate() {
            *value = number as u32;
        }
        let members = found.into_iter().map(|(path, class, at)| Member {
            class: class.map(|name| numbers[&name]),
            path,
            at,
        });
        let mut members: Vec<Member> = members.collect();
        members.sort_by(|a, b| {
            let by_path = compare_paths(&a.path, &b.path);
            by_path.then((a.class, a.at).cmp(&(b.class, b.at)))
        });
        members.dedup_by(|a, b| a.path == b.path && a.class == b.class);
        Listing {
            members,
            classes: numbers.into_keys().collect(),
            skipped,
            ignored,
        }
    }

    /// The member of this path.
    pub fn find(&self, path: &[u8]) -> Option<&Member> {
        let found = self
            .members
            .binary_search_by(|member| compare_paths(&member.path, path));
        found.ok().map(|i| &self.members[i])
    }
}

/// The order of an index: ascending by path components.
pub(crate) fn compare_paths(a: &[u8], b: &[u8]) -> Ordering {
    a.split(|&b| b == b'/').cmp(b.split(|&b| b == b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_as_a_walk_sorts() {
        let found = ["b/1", "a-b/1", "a/2", "a/10", "a/2"].map(|path| {
            let class = path.split('/').next().map(str::to_owned);
            (path.as_bytes().to_vec(), class, 0)
        });
        let listing = Listing::new(found.to_vec(), ["z".to_owned()], Vec::new(), 0);
        let paths: Vec<_> = listing.members.iter().map(|m| &m.path[..]).collect();
        assert_eq!(paths, [&b"a/10"[..], b"a/2", b"a-b/1", b"b/1"]);
        assert_eq!(listing.classes, ["a", "a-b", "b", "z"]);
        assert_eq!(listing.find(b"a-b/1").unwrap().class, Some(1));
        assert!(listing.find(b"a").is_none());
    }

    #[test]
    fn two_labels_are_two_entries() {
        let row = |label: &str| (b"1.jpg".to_vec(), Some(label.to_owned()), 0);
        let rows = vec![row("Dog"), row("Cat"), row("Dog")];
        let listing = Listing::new(rows, [], Vec::new(), 0);
        let classes: Vec<_> = listing.members.iter().map(|m| m.class).collect();
        assert_eq!(classes, [Some(0), Some(1)]);
    }
}
