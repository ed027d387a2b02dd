//! Where candidates are trained and judged: folds of the training side, or its validation side
//! with several seeds.

use crate::rng::{Purpose, Stream};

/// Rows to train on and rows to judge by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Training rows, all views of an image one after the other.
    pub train: Vec<u32>,
    /// Where each image's rows begin among those, and the end of the last one's.
    pub starts: Vec<u32>,
    /// Rows to judge by, an image's own.
    pub validation: Vec<u32>,
}

/// The training side as a data set lists it: rows, where each image's begin, and its own row.
#[derive(Clone, Copy, Debug)]
pub struct TrainSide<'a> {
    /// All rows, the views of an image one after the other, its own (`identity`) first.
    pub rows: &'a [u32],
    /// Where each image's rows begin among those, and the end of the last one's.
    pub starts: &'a [u32],
}

impl TrainSide<'_> {
    fn rows_of(&self, image: usize) -> &[u32] {
        &self.rows[self.starts[image] as usize..self.starts[image + 1] as usize]
    }
}

/// `count` folds of the training side: each image is judged once, by a head that saw neither it
/// nor any of its views. The images of each class are shuffled by `seed` and dealt out in turn, so
/// that the folds have the same shares of the classes and sizes that differ by one at most.
///
/// # Panics
/// When there are fewer than two folds.
pub fn folds(side: TrainSide<'_>, labels_n: &[u32], count: usize, seed: u64) -> Vec<Part> {
    assert!(count >= 2, "two folds or more");
    let images = side.starts.len().saturating_sub(1);
    let label = |image: usize| labels_n[side.rows_of(image)[0] as usize];
    let mut order: Vec<usize> = (0..images).collect();
    Stream::new(seed, Purpose::Folds).shuffle(&mut order);
    order.sort_by_key(|&image| label(image));
    let mut fold_of = vec![0; images];
    for (turn, image) in order.into_iter().enumerate() {
        fold_of[image] = turn % count;
    }
    let part = |fold: usize| {
        let mut part = Part {
            train: Vec::new(),
            starts: vec![0],
            validation: Vec::new(),
        };
        for (image, judged_in) in fold_of.iter().enumerate() {
            let rows = side.rows_of(image);
            if *judged_in == fold {
                part.validation.push(rows[0]);
            } else {
                part.train.extend(rows);
                part.starts.push(part.train.len() as u32);
            }
        }
        part
    };
    (0..count).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_is_judged_once_and_never_seen() {
        // 23 images; image i has 1 + i % 3 rows; the first is its own.
        let (mut rows, mut starts, mut labels, mut own) = (vec![], vec![0], vec![], vec![]);
        for image in 0..23_u32 {
            own.push(rows.len() as u32);
            for _ in 0..=image % 3 {
                rows.push(rows.len() as u32);
                labels.push(u32::from(image % 4 == 0));
            }
            starts.push(rows.len() as u32);
        }
        let side = TrainSide {
            rows: &rows,
            starts: &starts,
        };
        let parts = folds(side, &labels, 5, 7);
        let mut judged: Vec<u32> = parts.iter().flat_map(|p| p.validation.clone()).collect();
        judged.sort_unstable();
        assert_eq!(judged, own);
        for part in &parts {
            assert!((4..=5).contains(&part.validation.len()));
            let of_one = part
                .validation
                .iter()
                .filter(|row| labels[**row as usize] == 1);
            assert!((1..=2).contains(&of_one.count()));
            assert_eq!(part.starts.len() - 1 + part.validation.len(), 23);
            assert_eq!(*part.starts.last().unwrap() as usize, part.train.len());
            for row in &part.validation {
                let image = own.partition_point(|start| start <= row) - 1;
                let views = starts[image]..starts[image + 1];
                assert!(part.train.iter().all(|row| !views.contains(row)));
            }
        }
        assert_eq!(folds(side, &labels, 5, 7), parts);
        assert_ne!(folds(side, &labels, 5, 8), parts);
    }
}
