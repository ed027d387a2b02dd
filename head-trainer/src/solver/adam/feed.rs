//! A batch's rows as Adam shall see them: standardised, some channels left out.
//!
//! Plain rows are borrowed where they lie; others are copied into one batch's memory. This file
//! knows nothing of losses.

use super::AdamConfig;
use crate::matrix::Rows;
use crate::rng::{Purpose, Stream};
use crate::solver::Problem;

/// Hands out batches of a problem's rows.
pub(super) struct Feed<'a> {
    problem: &'a Problem<'a>,
    dropout: f32,
    random: Stream,
    features_bc: Vec<f32>,
    labels_b: Vec<u32>,
    listed: Vec<u32>, // 0, 1, ...
}

impl<'a> Feed<'a> {
    /// Rows of `problem`, with the dropout of `config`.
    pub fn new(problem: &'a Problem<'a>, config: &AdamConfig) -> Feed<'a> {
        Feed {
            problem,
            dropout: config.dropout as f32,
            random: Stream::new(config.seed, Purpose::Dropout),
            features_bc: Vec::new(),
            labels_b: Vec::new(),
            listed: Vec::new(),
        }
    }

    /// Rows, their labels and the numbers among them that stand for those of `batch`.
    pub fn rows<'b>(&'b mut self, batch: &'b [u32]) -> (Rows<'b>, &'b [u32], &'b [u32]) {
        let problem = self.problem;
        if problem.standardizer().is_none() && self.dropout == 0.0 {
            return (problem.rows(), problem.labels(), batch);
        }
        let channels = problem.rows().channels();
        self.features_bc.resize(batch.len() * channels, 0.0);
        self.labels_b.clear();
        self.listed.clear();
        let scale = 1.0 / (1.0 - self.dropout);
        let copies = self.features_bc.chunks_exact_mut(channels);
        for ((copy_c, &row), number) in copies.zip(batch).zip(0..) {
            problem.copy_row(row, copy_c);
            if self.dropout > 0.0 {
                for x in copy_c {
                    *x = match self.random.happens(self.dropout) {
                        true => 0.0,
                        false => *x * scale,
                    };
                }
            }
            self.labels_b.push(problem.label(row));
            self.listed.push(number);
        }
        let rows = Rows::new(&self.features_bc, channels).expect("whole rows were copied");
        (rows, &self.labels_b, &self.listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_leaves_out_a_share_and_keeps_the_mean() {
        let values = vec![3.0; 2 * 10_000];
        let rows = Rows::new(&values, 10_000).unwrap();
        let problem = Problem::new(rows, &[0, 1], 2, &[0, 1], &[]).unwrap();
        let config = |seed, dropout| AdamConfig {
            seed,
            dropout,
            ..AdamConfig::default()
        };
        let mut feed = Feed::new(&problem, &config(1, 0.25));
        let mut first = Vec::new();
        for _ in 0..2 {
            let (rows, labels, listed) = feed.rows(&[1, 0]);
            assert_eq!((labels, listed), (&[1, 0][..], &[0, 1][..]));
            let row = rows.row(0);
            let left_out = row.iter().filter(|x| **x == 0.0).count();
            // Five standard deviations of a binomial.
            assert!(left_out.abs_diff(2500) < 217, "{left_out}");
            assert!(row.iter().all(|x| *x == 0.0 || *x == 4.0));
            assert_ne!(row, first);
            first = row.to_vec();
        }
        let mut other = Feed::new(&problem, &config(2, 0.25));
        assert_ne!(other.rows(&[1, 0]).0.row(0), first);
        let mut plain = Feed::new(&problem, &config(1, 0.0));
        assert_eq!(plain.rows(&[1]).0.row(1)[0], 3.0);
    }
}
