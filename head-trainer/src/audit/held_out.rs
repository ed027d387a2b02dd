//! Probabilities of every image by a head that did not see it: cross-validation over all sides.
//!
//! The images are dealt out to folds class by class, those that look alike into the same one,
//! since a head that saw an image's twin with the same wrong label would defend it. The head is
//! L-BFGS on standardised features; its penalty is the one of a short path at which the held-out
//! loss is lowest. This file knows nothing of what the probabilities are for.

use std::ops::ControlFlow;

use rayon::prelude::*;
use serde::Serialize;

use super::AuditError;
use crate::head::outputs_for;
use crate::matrix::Rows;
use crate::metrics::{Basic, Logits};
use crate::rng::{Purpose, Stream};
use crate::solver::lbfgs::Lbfgs;
use crate::solver::{self, FitConfig, MinimumConfig, Problem, SolverConfig};

/// Penalties that are tried unless one is given, from the strongest to the weakest. Wrong labels
/// want a strong one, 0.1 to 0.3 for some thousand images; more images want less.
pub const PENALTIES: [f64; 7] = [1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001];

/// Features and labels of the images.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    /// Features, a row an image: `[N, C]`.
    pub rows: Rows<'a>,
    /// Labels `[N]`.
    pub labels_n: &'a [u32],
    /// Number of classes, K.
    pub classes: usize,
}

/// What heads say of images that they did not see.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldOut {
    /// Probabilities `[N, K]`.
    pub probabilities_nk: Vec<f32>,
    /// Images that could be judged: the heads saw others of their class.
    pub judged: Vec<u32>,
    /// What came of each penalty that was tried, in that order.
    pub tried: Vec<Tried>,
    /// The penalty of these probabilities.
    pub chosen: Tried,
}

/// A penalty on held-out images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tried {
    /// The penalty.
    pub l2: f64,
    /// Mean cross-entropy of the judged images.
    pub loss: f64,
    /// Share of them whose label is the most probable class.
    pub accuracy: f64,
    /// Whether every search reached its gradient tolerance.
    pub converged: bool,
}

/// The fold of each image, `[N]`, below `count`. Groups of images (see
/// [`super::neighbours::groups`]) are shuffled by `seed` and dealt out, the largest first, each to
/// the fold with the fewest images of the class of its first one, then the fewest images. Without
/// groups the folds have sizes that differ by one at most in each class.
///
/// # Panics
/// When there are fewer than two folds.
pub fn folds(
    labels_n: &[u32],
    groups_n: &[u32],
    classes: usize,
    count: usize,
    seed: u64,
) -> Vec<u32> {
    assert!(count >= 2, "two folds or more");
    let mut members: Vec<Vec<u32>> = vec![Vec::new(); labels_n.len()];
    for (image, &group) in groups_n.iter().enumerate() {
        members[group as usize].push(image as u32);
    }
    members.retain(|images| !images.is_empty());
    Stream::new(seed, Purpose::Folds).shuffle(&mut members);
    members.sort_by_key(|images| std::cmp::Reverse(images.len()));
    let label = |image: u32| labels_n[image as usize] as usize;
    let mut images_fk = vec![vec![0_u32; classes]; count];
    let mut images_f = vec![0_u32; count];
    let mut fold_n = vec![0; labels_n.len()];
    for images in members {
        let class = label(images[0]);
        let room = |fold: &usize| (images_fk[*fold][class], images_f[*fold]);
        let fold = (0..count).min_by_key(room).expect("two folds or more");
        for image in images {
            fold_n[image as usize] = fold as u32;
            images_fk[fold][label(image)] += 1;
            images_f[fold] += 1;
        }
    }
    fold_n
}

/// What a fold's heads say of its images.
struct Fold {
    images: Vec<u32>,
    judged: Vec<u32>,
    logits: Vec<(Logits, bool)>, // of each penalty; whether the search converged
}

/// Trains heads without each fold, with each of `penalties`, and keeps what those with the best
/// penalty say of it. The bits are the same for any number of threads.
///
/// # Errors
/// When the images outside a fold cannot be trained on, or a penalty is out of range.
///
/// # Panics
/// When there is no penalty.
pub fn held_out(
    images: Labelled<'_>,
    fold_n: &[u32],
    penalties: &[f64],
) -> Result<HeldOut, AuditError> {
    assert!(!penalties.is_empty(), "no penalty");
    let count = fold_n.iter().max().map_or(0, |last| *last as usize + 1);
    let folds = (0..count)
        .into_par_iter()
        .map(|fold| judge(images, fold_n, fold, penalties))
        .collect::<Vec<Result<Fold, AuditError>>>();
    // Of several that fail the first one is named, whichever came to its end first.
    let folds = folds
        .into_iter()
        .collect::<Result<Vec<Fold>, AuditError>>()?;

    let mut judged: Vec<u32> = folds.iter().flat_map(|f| f.judged.clone()).collect();
    judged.sort_unstable();
    if judged.is_empty() {
        return Err(AuditError::Alone);
    }
    let outputs = outputs_for(images.classes);
    let labels: Vec<u32> = judged
        .iter()
        .map(|i| images.labels_n[*i as usize])
        .collect();
    let mut best: Option<(Tried, Logits)> = None;
    let mut tried = Vec::new();
    for (number, &l2) in penalties.iter().enumerate() {
        let mut logits_no = vec![0.0; images.labels_n.len() * outputs];
        let mut converged = true;
        for fold in &folds {
            let (logits, reached) = &fold.logits[number];
            converged &= reached;
            for (&image, logits_o) in fold.images.iter().zip(logits.iter()) {
                let to = image as usize * outputs;
                logits_no[to..to + outputs].copy_from_slice(logits_o);
            }
        }
        let of = |image: &u32| &logits_no[*image as usize * outputs..][..outputs];
        let of_judged = Logits::new(judged.iter().flat_map(of).copied().collect(), outputs);
        let Basic { loss, accuracy } =
            Basic::of(&of_judged, &labels).expect("an image or more is judged");
        let one = Tried {
            l2,
            loss,
            accuracy,
            converged,
        };
        tried.push(one);
        if best.as_ref().is_none_or(|(best, _)| one.loss < best.loss) {
            best = Some((one, Logits::new(logits_no, outputs)));
        }
    }
    let (chosen, logits) = best.expect("one penalty or more");
    Ok(HeldOut {
        probabilities_nk: logits.probabilities(),
        judged,
        tried,
        chosen,
    })
}

/// Trains on the images outside a fold and judges those in it.
fn judge(
    Labelled {
        rows,
        labels_n,
        classes,
    }: Labelled<'_>,
    fold_n: &[u32],
    fold: usize,
    penalties: &[f64],
) -> Result<Fold, AuditError> {
    let numbers = 0..labels_n.len() as u32;
    let (images, train): (Vec<u32>, Vec<u32>) =
        numbers.partition(|image| fold_n[*image as usize] as usize == fold);
    let error = |source| AuditError::Fold {
        fold: fold + 1,
        source,
    };
    let problem = Problem::new(rows, labels_n, classes, &train, &images).map_err(error)?;
    let minimum = MinimumConfig::default();
    let config = FitConfig {
        standardize: true,
        ..FitConfig::new(SolverConfig::Lbfgs(Lbfgs(minimum)))
    };
    let mut logits = Vec::with_capacity(penalties.len());
    solver::fit_path(&problem, &config, &minimum, penalties, &mut |fit| {
        let converged = fit.convergence.is_none_or(|c| c.converged);
        logits.push((Logits::of(&fit.head, rows, &images), converged));
        ControlFlow::Continue(())
    })?;
    let mut seen_k = vec![false; classes];
    for &image in &train {
        seen_k[labels_n[image as usize] as usize] = true;
    }
    let seen = |image: &u32| seen_k[labels_n[*image as usize] as usize];
    Ok(Fold {
        judged: images.iter().copied().filter(seen).collect(),
        logits,
        images,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::neighbours::groups;

    #[test]
    fn folds_are_even_in_each_class() {
        // 23 of class 0, 11 of class 1, alone.
        let labels: Vec<u32> = (0..34).map(|i| u32::from(i % 3 == 2)).collect();
        let alone: Vec<u32> = (0..34).collect();
        let folds_of = |seed| folds(&labels, &alone, 2, 5, seed);
        let fold_n = folds_of(7);
        for fold in 0..5 {
            let of = |class| {
                let here = fold_n.iter().zip(&labels);
                here.filter(|(f, label)| (**f, **label) == (fold, class))
                    .count()
            };
            assert!((4..=5).contains(&of(0)) && (2..=3).contains(&of(1)));
            assert!((6..=8).contains(&(of(0) + of(1))));
        }
        assert_eq!(folds_of(7), fold_n);
        assert_ne!(folds_of(8), fold_n);
    }

    #[test]
    fn groups_stay_together() {
        let labels: Vec<u32> = (0..60).map(|i| i % 2).collect();
        let pair = |a, b| crate::audit::neighbours::Pair {
            a,
            b,
            similarity: 1.0,
        };
        let groups_n = groups(60, &[pair(1, 8), pair(8, 40), pair(2, 3)], 60);
        for seed in 0..20 {
            let fold_n = folds(&labels, &groups_n, 2, 4, seed);
            assert_eq!(fold_n[1], fold_n[8]);
            assert_eq!(fold_n[1], fold_n[40]);
            assert_eq!(fold_n[2], fold_n[3]);
            for fold in 0..4 {
                let size = fold_n.iter().filter(|f| **f == fold).count();
                assert!((13..=17).contains(&size), "{size}");
            }
        }
    }

    /// Two channels that say the class, and noise.
    fn made_up(images: u32, classes: u32) -> (Vec<f32>, Vec<u32>) {
        let mut stream = Stream::new(3, Purpose::Initial);
        let labels: Vec<u32> = (0..images).map(|i| i % classes).collect();
        let mut values = Vec::new();
        for &label in &labels {
            for c in 0..classes {
                values.push(stream.symmetric(1.0) + if c == label { 2.0 } else { 0.0 });
            }
        }
        (values, labels)
    }

    #[test]
    fn a_wrong_label_is_improbable_and_the_threads_change_nothing() {
        for classes in [2, 3] {
            let (values, mut labels_n) = made_up(90, classes);
            labels_n[4] = (labels_n[4] + 1) % classes;
            let images = Labelled {
                rows: Rows::new(&values, classes as usize).unwrap(),
                labels_n: &labels_n,
                classes: classes as usize,
            };
            let alone: Vec<u32> = (0..90).collect();
            let fold_n = folds(&labels_n, &alone, classes as usize, 5, 0);
            let found = held_out(images, &fold_n, &PENALTIES).unwrap();
            assert_eq!(found.judged.len(), 90);
            assert_eq!(found.tried.len(), PENALTIES.len());
            assert!(found.tried.iter().all(|t| t.converged));
            let least = found.tried.iter().map(|t| t.loss).fold(1e9, f64::min);
            assert_eq!(found.chosen.loss, least);
            let of = |image: usize| {
                found.probabilities_nk[image * classes as usize + labels_n[image] as usize]
            };
            assert!(of(4) < 0.2, "{}", of(4));
            let threads = rayon::ThreadPoolBuilder::new()
                .num_threads(3)
                .build()
                .unwrap();
            assert_eq!(
                threads
                    .install(|| held_out(images, &fold_n, &PENALTIES))
                    .unwrap(),
                found
            );
            // A penalty alone, from the beginning, ends in the same place.
            let l2 = found.chosen.l2;
            let alone = held_out(images, &fold_n, &[l2]).unwrap();
            assert!((alone.chosen.loss - found.chosen.loss).abs() < 1e-3);
        }
    }

    #[test]
    fn an_image_is_judged_only_if_others_of_its_class_were_seen() {
        let (values, mut labels_n) = made_up(40, 3);
        for label in &mut labels_n {
            *label = (*label).min(1);
        }
        labels_n[7] = 2;
        let images = Labelled {
            rows: Rows::new(&values, 3).unwrap(),
            labels_n: &labels_n,
            classes: 3,
        };
        let alone: Vec<u32> = (0..40).collect();
        let fold_n = folds(&labels_n, &alone, 3, 4, 0);
        let found = held_out(images, &fold_n, &[0.1]).unwrap();
        let expected: Vec<u32> = (0..40).filter(|i| *i != 7).collect();
        assert_eq!(found.judged, expected);

        // Of two classes none may be missing.
        let labels_n: Vec<u32> = (0..40).map(|i| u32::from(i == 7)).collect();
        let images = Labelled {
            labels_n: &labels_n,
            classes: 2,
            ..images
        };
        let error = held_out(images, &folds(&labels_n, &alone, 2, 4, 0), &[0.1]).unwrap_err();
        assert!(matches!(error, AuditError::Fold { .. }), "{error}");
    }
}
