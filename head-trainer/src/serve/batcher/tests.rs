//! The queue, with a model that says how many images were together.

use std::thread;

use extractor::decode::Exif;
use extractor::decode::RgbImage;
use extractor::preprocess::{Layout, Preprocessor, Preset};

use super::*;
use crate::explain::png;

const SHARE: usize = 4 * 4 * 3;

fn plan(queue: usize, batch_size: usize, batch_wait: Duration) -> Plan {
    Plan {
        loader: Loader {
            preprocessor: Preprocessor {
                preset: Preset::Raw,
                height: 4,
                width: 4,
                layout: Layout::Nhwc,
            },
            exif: Exif::Ignore,
        },
        batch_size,
        batch_wait,
        queue,
        pixels: 64,
    }
}

fn batcher(queue: usize, batch_size: usize) -> Arc<Batcher> {
    let plan = plan(queue, batch_size, Duration::ZERO);
    Batcher::new(plan, Arc::default())
}

/// A picture of one grey.
fn grey(level: u8, side: usize) -> Vec<u8> {
    let pixels = vec![level; side * side * 3];
    let image = RgbImage {
        width: side,
        height: side,
        pixels,
    };
    png(&image).unwrap()
}

/// Says of each image its level and, as class, how many were together.
fn model(input: Vec<f32>) -> Said {
    let images = input.chunks_exact(SHARE);
    let count = images.len() as u32;
    let said = |image: &[f32]| {
        Ok(Prediction {
            class: count,
            probabilities_k: vec![],
            logits_o: vec![image[0]],
        })
    };
    Ok(images.map(said).collect())
}

fn submit(batcher: &Arc<Batcher>, bytes: Vec<u8>) -> oneshot::Receiver<Outcome> {
    let place = batcher.reserve(1).unwrap().pop().unwrap();
    Batcher::submit(place, bytes)
}

/// Waits until `n` images are decoded.
fn ready(batcher: &Batcher, n: usize) {
    while batcher.lock().ready.len() < n {
        thread::yield_now();
    }
}

#[test]
fn what_is_ready_goes_together_and_in_batches() {
    let batcher = batcher(5, 3);
    let levels: Vec<u8> = (0..5).collect();
    let outcomes = levels.iter().map(|level| submit(&batcher, grey(*level, 4)));
    let outcomes: Vec<_> = outcomes.collect();
    ready(&batcher, 5);
    assert_eq!(batcher.waiting(), 5);
    assert_eq!(batcher.reserve(1).unwrap_err().status, 429);
    batcher.close();
    batcher.run(model);
    assert_eq!(batcher.waiting(), 0);
    let mut together = Vec::new();
    for (level, outcome) in levels.into_iter().zip(outcomes) {
        let (_, prediction) = outcome.blocking_recv().unwrap().unwrap();
        assert_eq!(prediction.logits_o, [f32::from(level)]);
        together.push(prediction.class);
    }
    together.sort_unstable();
    assert_eq!(together, [2, 2, 3, 3, 3]);
    assert_eq!(batcher.metrics.predicted.get(), 5);
}

#[test]
fn a_batch_waits_for_more() {
    let wait = Duration::from_secs(3600);
    let batcher = Batcher::new(plan(9, 2, wait), Arc::default());
    let first = submit(&batcher, grey(1, 4));
    thread::scope(|scope| {
        scope.spawn(|| batcher.run(model));
        let second = submit(&batcher, grey(2, 4));
        for outcome in [first, second] {
            assert_eq!(outcome.blocking_recv().unwrap().unwrap().1.class, 2);
        }
        batcher.close();
    });
}

#[test]
fn places_are_had_all_or_none_and_given_back() {
    let batcher = batcher(3, 1);
    let two = batcher.reserve(2).unwrap();
    assert!(batcher.reserve(2).is_err());
    assert!(batcher.reserve(usize::MAX).is_err());
    assert_eq!(batcher.waiting(), 2);
    drop(two);
    assert_eq!(batcher.reserve(3).unwrap().len(), 3);
}

#[test]
fn a_broken_and_a_large_image_are_refused_at_once() {
    let batcher = batcher(3, 1);
    let status = |bytes: Vec<u8>| {
        let outcome = submit(&batcher, bytes).blocking_recv().unwrap();
        let problem = outcome.unwrap_err();
        (problem.status, problem.detail)
    };
    let whole = grey(1, 4);
    let (code, detail) = status(whole[..whole.len() - 20].to_vec());
    assert_eq!(code, 422);
    assert!(detail.starts_with("broken image: "), "{detail}");
    let none = "not a JPEG, PNG, GIF, BMP or WebP image";
    assert_eq!(status(b"text".to_vec()), (422, none.to_owned()));
    let large = "9x9 pixels are more than the limit of 64";
    assert_eq!(status(grey(1, 9)), (413, large.to_owned()));
    assert_eq!(batcher.metrics.rejected.get(), 3);
    assert_eq!(batcher.waiting(), 0);
}

#[test]
fn nothing_is_computed_that_nobody_waits_for() {
    let batcher = batcher(2, 2);
    drop(submit(&batcher, grey(1, 4)));
    let wanted = submit(&batcher, grey(2, 4));
    ready(&batcher, 1);
    batcher.close();
    batcher.run(model);
    assert_eq!(wanted.blocking_recv().unwrap().unwrap().1.class, 1);
}

#[test]
fn a_model_that_fails_or_panics_costs_its_batch_alone() {
    let batcher = batcher(3, 1);
    let outcomes: Vec<_> = (0..3).map(|i| submit(&batcher, grey(i, 4))).collect();
    ready(&batcher, 3);
    batcher.close();
    let mut runs = 0;
    batcher.run(|input| {
        runs += 1;
        match runs {
            1 => Err("no memory".to_owned()),
            2 => panic!("a bug, as is wanted here"),
            _ => model(input),
        }
    });
    let mut codes: Vec<u16> = outcomes
        .into_iter()
        .map(|outcome| match outcome.blocking_recv().unwrap() {
            Ok(_) => 200,
            Err(problem) => problem.status,
        })
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, [200, 500, 500]);
}
