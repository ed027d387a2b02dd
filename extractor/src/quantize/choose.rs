//! Which images calibrate a quantiser and which judge its result: the same on every machine, balanced over the
//! classes, and apart from each other as far as the data set goes.
//!
//! Both are orders of all images that may be taken, as one that cannot be decoded is replaced by the next. An
//! image's place follows from its id. Must not know what images are used for, nor read any.

use std::collections::{BTreeMap, HashSet};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::digest::ImageId;
use crate::index::Index;

/// Images that a class needs to be judged by.
pub const PER_CLASS: usize = 10;

/// Another seed than whatever else deals images by their ids.
const SEED: u64 = 0x7175_616e_7469_7a65;

/// Positions of images in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orders {
    /// For the calibration: all of them, class by class in turn.
    pub calibrate: Vec<u32>,
    /// For the comparison: labelled ones, class by class in turn, each class from its other end.
    pub judge: Vec<u32>,
    /// Classes in it.
    pub judged_classes: usize,
}

/// Orders the images of `index` but those in `left_out` and those with several labels. At most as many
/// classes are judged as `judged` images have room for, [`PER_CLASS`] each: the first of the index that have so
/// many images.
pub fn orders(index: &Index, judged: usize, left_out: &HashSet<ImageId>) -> Orders {
    let conflicts = index.label_conflicts();
    let mut classes: BTreeMap<Option<u32>, Vec<(u64, u32)>> = BTreeMap::new();
    for position in index.unique() {
        let entry = index.entry(position as usize);
        if left_out.contains(&entry.id) || conflicts.contains_key(&entry.id) {
            continue;
        }
        let place = xxh3_64_with_seed(&entry.id.0, SEED);
        classes
            .entry(entry.label)
            .or_default()
            .push((place, position));
    }
    for class in classes.values_mut() {
        class.sort_unstable();
    }
    let class = |class: &Vec<(u64, u32)>| -> Vec<u32> { class.iter().map(|(_, i)| *i).collect() };
    let all = classes.values().map(class).collect();
    let labelled = classes.iter().filter(|(label, _)| label.is_some());
    let enough = labelled.filter(|(_, class)| class.len() >= PER_CLASS);
    let reversed = enough.map(|(_, images)| class(images).into_iter().rev().collect());
    let judged: Vec<Vec<u32>> = reversed.take(judged / PER_CLASS).collect();
    Orders {
        calibrate: in_turn(all),
        judged_classes: judged.len(),
        judge: in_turn(judged),
    }
}

/// The first of each list, then the second of each, and so on.
fn in_turn(lists: Vec<Vec<u32>>) -> Vec<u32> {
    let longest = lists.iter().map(Vec::len).max().unwrap_or(0);
    let turn = |n: usize| lists.iter().filter_map(move |list| list.get(n).copied());
    (0..longest).flat_map(turn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::index::Entry;

    /// An index of `counts` images a class, and of `unlabelled`.
    fn index(counts: &[usize], unlabelled: usize) -> Index {
        let mut index = Index::new((0..counts.len()).map(|c| format!("class {c}")).collect());
        let labels = counts.iter().enumerate();
        let labels = labels.flat_map(|(class, n)| std::iter::repeat_n(Some(class as u32), *n));
        for (i, label) in labels
            .chain(std::iter::repeat_n(None, unlabelled))
            .enumerate()
        {
            let path = format!("{i:05}.jpg");
            index.push(Entry {
                id: Digest::of(path.as_bytes()),
                path: path.as_bytes(),
                label,
            });
        }
        index
    }

    fn count(index: &Index, positions: &[u32], label: Option<u32>) -> usize {
        let labels = positions.iter().map(|i| index.entry(*i as usize).label);
        labels.filter(|found| *found == label).count()
    }

    #[test]
    fn both_are_balanced_and_apart() {
        let index = index(&[300, 50], 7);
        let orders = orders(&index, 100, &HashSet::new());
        assert_eq!(orders.calibrate.len(), 357);
        assert_eq!(orders.judge.len(), 350);
        let (calibrate, judge) = (&orders.calibrate[..60], &orders.judge[..60]);
        assert_eq!(count(&index, calibrate, Some(1)), 26);
        assert_eq!(count(&index, calibrate, None), 7);
        assert_eq!(count(&index, judge, Some(1)), 30);
        assert_eq!(count(&index, judge, None), 0);
        let both = calibrate.iter().filter(|i| judge.contains(i));
        let of_the_small_class = both
            .clone()
            .all(|i| index.entry(*i as usize).label == Some(1));
        // 26 and 30 of 50 must meet in 6; of the large class none does.
        assert!(of_the_small_class);
        assert_eq!(both.count(), 6);
    }

    #[test]
    fn the_order_follows_from_ids_alone() {
        let (one, mut other) = (
            index(&[40, 40], 0),
            Index::new(vec!["a".into(), "b".into()]),
        );
        for (i, entry) in one.iter().rev().enumerate() {
            let path = format!("moved/{i:05}");
            other.push(Entry {
                path: path.as_bytes(),
                ..entry
            });
        }
        let ids = |index: &Index, order: Vec<u32>| -> Vec<Digest> {
            order.iter().map(|i| *index.id(*i as usize)).collect()
        };
        let [first, second] = [&one, &other].map(|index| orders(index, 50, &HashSet::new()));
        assert_eq!(ids(&one, first.judge), ids(&other, second.judge));
        assert_eq!(ids(&one, first.calibrate), ids(&other, second.calibrate));
    }

    #[test]
    fn what_is_left_out_copied_or_contradictory_is_not_taken() {
        let mut index = index(&[20, 20], 0);
        let copy = |index: &mut Index, of: usize, path: &[u8], label| {
            let id = *index.id(of);
            let label = Some(label);
            index.push(Entry { id, path, label });
        };
        copy(&mut index, 0, b"same", 0);
        copy(&mut index, 1, b"other label", 1);
        let orders = orders(&index, 1000, &HashSet::from([*index.id(2)]));
        let mut taken = orders.calibrate.clone();
        taken.sort_unstable();
        let expected: Vec<u32> = (0..40).filter(|i| ![1, 2].contains(i)).collect();
        assert_eq!(taken, expected);
        assert_eq!(orders.judge.len(), 38);
    }

    #[test]
    fn small_classes_and_those_without_room_are_not_judged() {
        let index = index(&[30, 9, 10, 30], 100);
        let judged = |images| orders(&index, images, &HashSet::new()).judged_classes;
        assert_eq!(
            [judged(1000), judged(30), judged(29), judged(9)],
            [3, 3, 2, 0]
        );
        let order = orders(&index, 20, &HashSet::new()).judge;
        assert_eq!(count(&index, &order, Some(0)), 30);
        assert_eq!(count(&index, &order, Some(2)), 10);
        assert_eq!(order.len(), 40);
    }
}
