//! Which images look alike: exact nearest neighbours by the cosine of their pooled features.
//!
//! All pairs are compared, in tiles of a matrix product, so that N images take N² C steps and
//! next to no memory: rows are normalised tile by tile and of each image the nearest few are kept.
//! What is kept is a set of the best under a total order, so that it is the same for any number of
//! threads. This file knows rows by number and nothing of labels or sides.

use std::sync::Mutex;

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;

use crate::matrix::Rows;

/// Neighbours of an image that are kept at most.
pub const NEAREST: usize = 8;

/// Rows of a tile. Whole tiles are products of the same shape whatever the threads.
const TILE: usize = 512;

/// Two images that look alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// The lower number of the two.
    pub a: u32,
    /// The higher one.
    pub b: u32,
    /// Cosine of their features, 1 at most.
    pub similarity: f32,
}

/// The images that look alike.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Neighbours {
    /// Pairs of an image and one of its [`NEAREST`] nearest, the most similar first; of equals the
    /// lower numbers.
    pub pairs: Vec<Pair>,
    /// Pairs that are as similar as was asked for, in `pairs` or not.
    pub total: u64,
}

impl Neighbours {
    /// The pairs of that similarity.
    pub fn at_least(&self, similarity: f32) -> &[Pair] {
        let end = self.pairs.partition_point(|p| p.similarity >= similarity);
        &self.pairs[..end]
    }
}

/// A neighbour of a row.
#[derive(Clone, Copy)]
struct Near {
    similarity: f32,
    row: u32,
}

impl Near {
    fn is_before(&self, other: &Near) -> bool {
        let by_similarity = other.similarity.total_cmp(&self.similarity);
        by_similarity.then(self.row.cmp(&other.row)).is_lt()
    }
}

/// Finds the pairs of rows whose cosine is `least` or more, and counts those of `asked` or more. A
/// row of zeros is like none.
///
/// Runs on the current rayon pool; the bits are the same for any number of threads.
pub fn find(rows: Rows<'_>, least: f32, asked: f32) -> Neighbours {
    let tiles = Tiles::new(rows);
    let nearest: Vec<Mutex<Vec<Vec<Near>>>> = (0..tiles.count())
        .map(|tile| Mutex::new(vec![Vec::new(); tiles.rows(tile).len()]))
        .collect();
    let numbers: Vec<(usize, usize)> = (0..tiles.count())
        .flat_map(|a| (a..tiles.count()).map(move |b| (a, b)))
        .collect();
    let total = numbers
        .par_iter()
        .map_init(Buffers::default, |buffers, &(a, b)| {
            let pairs = tiles.similar(buffers, a, b, least);
            for (tile, later) in [(a, false), (b, true)] {
                let mut nearest = nearest[tile].lock().expect("no task panics");
                for pair in pairs {
                    let (row, other) = match later {
                        false => (pair.a, pair.b),
                        true => (pair.b, pair.a),
                    };
                    let near = Near {
                        similarity: pair.similarity,
                        row: other,
                    };
                    keep(&mut nearest[row as usize - tile * TILE], near);
                }
            }
            pairs.iter().filter(|p| p.similarity >= asked).count() as u64
        })
        .sum();
    let mut pairs = Vec::new();
    for (tile, nearest) in nearest.into_iter().enumerate() {
        let nearest = nearest.into_inner().expect("no task panics");
        for (row, nearest) in nearest.into_iter().enumerate() {
            let row = (tile * TILE + row) as u32;
            pairs.extend(nearest.into_iter().map(|near| Pair {
                a: row.min(near.row),
                b: row.max(near.row),
                similarity: near.similarity,
            }));
        }
    }
    pairs.sort_unstable_by(|x, y| {
        let by_similarity = y.similarity.total_cmp(&x.similarity);
        by_similarity.then((x.a, x.b).cmp(&(y.a, y.b)))
    });
    pairs.dedup();
    Neighbours { pairs, total }
}

/// Inserts a neighbour into those of a row if it is among the nearest.
fn keep(nearest: &mut Vec<Near>, near: Near) {
    let at = nearest.partition_point(|kept| kept.is_before(&near));
    if at < NEAREST {
        nearest.insert(at, near);
        nearest.truncate(NEAREST);
    }
}

/// Room for two tiles and their product.
#[derive(Default)]
struct Buffers {
    a: Vec<f32>,       // [TILE, C]
    b: Vec<f32>,       // [TILE, C]
    product: Vec<f32>, // [TILE, TILE]
    pairs: Vec<Pair>,
}

struct Tiles<'a> {
    rows: Rows<'a>,
    scale_n: Vec<f32>, // 1 / |row|, 0 for a row of zeros
}

impl Tiles<'_> {
    fn new(rows: Rows<'_>) -> Tiles<'_> {
        let numbers = 0..u32::try_from(rows.count()).expect("a row number fits 32 bits");
        let scale = |row: u32| {
            let squares = rows.row(row).iter().map(|x| f64::from(*x) * f64::from(*x));
            let norm = squares.sum::<f64>().sqrt();
            if norm > 0.0 { (1.0 / norm) as f32 } else { 0.0 }
        };
        Tiles {
            rows,
            scale_n: numbers.into_par_iter().map(scale).collect(),
        }
    }

    fn count(&self) -> usize {
        self.rows.count().div_ceil(TILE)
    }

    fn rows(&self, tile: usize) -> std::ops::Range<usize> {
        tile * TILE..self.rows.count().min((tile + 1) * TILE)
    }

    /// The normalised rows of a tile, `[TILE, C]`.
    fn normalised(&self, tile: usize, to: &mut Vec<f32>) {
        to.clear();
        for row in self.rows(tile) {
            let scale = self.scale_n[row];
            to.extend(self.rows.row(row as u32).iter().map(|x| x * scale));
        }
    }

    /// The pairs of a row of tile `a` and a later one of tile `b` that are similar.
    fn similar<'b>(&self, buffers: &'b mut Buffers, a: usize, b: usize, least: f32) -> &'b [Pair] {
        self.normalised(a, &mut buffers.a);
        self.normalised(b, &mut buffers.b);
        let (rows_a, rows_b, channels) = (self.rows(a), self.rows(b), self.rows.channels());
        let view =
            |values, rows| ArrayView2::from_shape((rows, channels), values).expect("whole rows");
        let (of_a, of_b) = (
            view(&buffers.a, rows_a.len()),
            view(&buffers.b, rows_b.len()),
        );
        buffers.product.resize(TILE * TILE, 0.0);
        let product = &mut buffers.product[..rows_a.len() * rows_b.len()];
        let mut into =
            ArrayViewMut2::from_shape((rows_a.len(), rows_b.len()), product).expect("whole rows");
        general_mat_mul(1.0, &of_a, &of_b.t(), 0.0, &mut into);
        buffers.pairs.clear();
        let products = buffers.product.chunks_exact(rows_b.len());
        for (row, similarities) in rows_a.zip(products) {
            for (other, &similarity) in rows_b.clone().zip(similarities) {
                if similarity >= least && other > row {
                    buffers.pairs.push(Pair {
                        a: row as u32,
                        b: other as u32,
                        similarity: similarity.min(1.0),
                    });
                }
            }
        }
        &buffers.pairs
    }
}

/// The group of each of `count` images, `[N]`: images that look alike, directly or by way of
/// others, are in one, which is named by its lowest number. The most similar pairs join first, and
/// none joins where a group of more than `most` images would come of it.
pub fn groups(count: usize, pairs: &[Pair], most: usize) -> Vec<u32> {
    let mut parent_n: Vec<u32> = (0..count as u32).collect();
    let mut size_n = vec![1_usize; count];
    fn root(parent_n: &mut [u32], mut at: u32) -> u32 {
        while parent_n[at as usize] != at {
            let above = parent_n[parent_n[at as usize] as usize];
            parent_n[at as usize] = above;
            at = above;
        }
        at
    }
    for pair in pairs {
        let (a, b) = (root(&mut parent_n, pair.a), root(&mut parent_n, pair.b));
        let size = size_n[a as usize] + size_n[b as usize];
        if a != b && size <= most {
            let (low, high) = (a.min(b), a.max(b));
            parent_n[high as usize] = low;
            size_n[low as usize] = size;
        }
    }
    (0..count as u32)
        .map(|at| root(&mut parent_n, at))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(a: u32, b: u32, similarity: f32) -> Pair {
        Pair { a, b, similarity }
    }

    #[test]
    fn cosines_by_hand() {
        #[rustfmt::skip]
        let values = [
            3.0, 4.0, // 0
            4.0, 3.0, // 1: 24/25 like 0
            6.0, 8.0, // 2: 0, twice as long
            0.0, 0.0, // 3: like none
            -3.0, -4.0, // 4: the contrary of 0
        ];
        let rows = Rows::new(&values, 2).unwrap();
        let found = find(rows, 0.9, 0.95);
        assert_eq!(found.total, 3);
        let expected = [pair(0, 2, 1.0), pair(0, 1, 0.96), pair(1, 2, 0.96)];
        for (found, expected) in found.pairs.iter().zip(expected) {
            assert_eq!((found.a, found.b), (expected.a, expected.b));
            assert!((found.similarity - expected.similarity).abs() < 1e-6);
        }
        assert_eq!(found.at_least(0.97).len(), 1);
        let one = find(rows, 0.9, 0.97);
        assert_eq!((one.pairs, one.total), (found.pairs, 1));
        assert_eq!(
            find(Rows::new(&[], 2).unwrap(), 0.9, 0.9),
            Neighbours::default()
        );
    }

    #[test]
    fn of_many_equal_images_each_keeps_the_nearest_few() {
        let values = vec![1.0; 3 * 40];
        let found = find(Rows::new(&values, 3).unwrap(), 0.5, 0.5);
        assert_eq!(found.total, 40 * 39 / 2);
        // Every image keeps the lowest numbers but its own.
        let few = NEAREST as u32;
        assert!(
            found
                .pairs
                .iter()
                .all(|pair| pair.a < few + 1 && pair.a < pair.b)
        );
        assert!((0..40).all(|i| found.pairs.iter().any(|p| p.a == i || p.b == i)));
        let groups = groups(40, &found.pairs, 40);
        assert!(groups.iter().all(|group| *group == 0));
    }

    #[test]
    fn groups_by_hand() {
        let pairs = [pair(4, 5, 0.99), pair(1, 4, 0.98), pair(2, 3, 0.97)];
        assert_eq!(groups(7, &pairs, 3), [0, 1, 2, 2, 1, 1, 6]);
        // The most similar pair joins; the next one would make three of them.
        assert_eq!(groups(7, &pairs, 2), [0, 1, 2, 2, 4, 4, 6]);
        assert_eq!(groups(3, &[], 1), [0, 1, 2]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Small whole numbers have exact products, so that only the normalisation rounds.
        #[test]
        fn as_by_brute_force(
            count in 0_usize..1200,
            channels in 1_usize..20,
            seed in any::<u64>(),
            least in 0.3_f32..0.95,
        ) {
            use crate::rng::{Purpose, Stream};
            let mut stream = Stream::new(seed, Purpose::Initial);
            let values: Vec<f32> = (0..count * channels)
                .map(|_| stream.below(7) as f32 - 3.0)
                .collect();
            let rows = Rows::new(&values, channels).unwrap();
            let found = find(rows, least, least);
            let threads = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
            prop_assert_eq!(&found, &threads.install(|| find(rows, least, least)));

            let cosine = |a: u32, b: u32| {
                let dot = |a: &[f32], b: &[f32]| -> f64 {
                    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
                };
                let (a, b) = (rows.row(a), rows.row(b));
                let norms = (dot(a, a) * dot(b, b)).sqrt();
                if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
            };
            const ROUNDING: f64 = 1e-5;
            let (mut surely, mut perhaps) = (0, 0);
            let mut neighbours = vec![Vec::new(); count];
            for a in 0..count as u32 {
                for b in a + 1..count as u32 {
                    let similarity = cosine(a, b);
                    surely += u64::from(similarity > f64::from(least) + ROUNDING);
                    perhaps += u64::from(similarity > f64::from(least) - ROUNDING);
                    neighbours[a as usize].push(similarity);
                    neighbours[b as usize].push(similarity);
                }
            }
            prop_assert!((surely..=perhaps).contains(&found.total));
            let mut listed = vec![Vec::new(); count];
            for pair in &found.pairs {
                prop_assert!(pair.a < pair.b);
                let similarity = cosine(pair.a, pair.b);
                prop_assert!((f64::from(pair.similarity) - similarity).abs() < ROUNDING);
                listed[pair.a as usize].push(similarity);
                listed[pair.b as usize].push(similarity);
            }
            // Each image's nearest are listed.
            for (listed, neighbours) in listed.iter_mut().zip(&mut neighbours) {
                listed.sort_by(|a, b| b.total_cmp(a));
                neighbours.sort_by(|a, b| b.total_cmp(a));
                let wanted = neighbours.iter().take(NEAREST);
                let wanted = wanted.filter(|s| **s > f64::from(least) + ROUNDING);
                for (rank, wanted) in wanted.enumerate() {
                    prop_assert!((listed[rank] - wanted).abs() < ROUNDING);
                }
            }
        }
    }
}
