//! The fused layer against its definition in f64, and its gradient against finite differences.

use super::*;

/// Two images of an odd height and width, with a pooled row and column left out.
const STAGE: Stage = Stage {
    height: 7,
    width: 9,
    channels: 1,
    filters: 5,
};
const GAMMA: [f32; 5] = [1.0, -0.7, 0.3, -1.5, 2.0];
const BETA: [f32; 5] = [-0.9, -0.4, -0.3, -1.3, -1.0];
const IMAGES: usize = 2;

fn image_len() -> usize {
    STAGE.conv_height() * STAGE.width * STAGE.filters
}

/// Multiples of 1/16 that look random: differences are exact and ties occur.
fn inputs() -> Vec<f32> {
    let number = |i: usize| ((i * 7919 + i * i * 31) % 97) as f32 / 16.0 - 2.0;
    (0..IMAGES * image_len()).map(number).collect()
}

/// Weights of the activations in the loss.
fn weights() -> Vec<f64> {
    let count = IMAGES * STAGE.pooled_len();
    (0..count).map(|i| (i as f64 * 1.7).sin()).collect()
}

/// Activations and loss by definition: normalise everything, then ReLU, then the maximum.
fn by_definition(x: &[f64], gamma: &[f64], beta: &[f64]) -> (Vec<f64>, f64) {
    let (width, filters) = (STAGE.width, STAGE.filters);
    let at = |image: usize, y: usize, x: usize, f: usize| {
        image * image_len() + (y * width + x) * filters + f
    };
    let (height, meant) = (STAGE.conv_height(), STAGE.conv_width());
    let count = (IMAGES * height * meant) as f64;
    let mut y = vec![0.0; x.len()];
    for f in 0..filters {
        let places = || {
            (0..IMAGES).flat_map(move |i| {
                (0..height).flat_map(move |r| (0..meant).map(move |c| at(i, r, c, f)))
            })
        };
        let mean = places().map(|p| x[p]).sum::<f64>() / count;
        let variance = places().map(|p| (x[p] - mean).powi(2)).sum::<f64>() / count;
        for p in places() {
            y[p] = gamma[f] * (x[p] - mean) / (variance + 1e-3).sqrt() + beta[f];
        }
    }
    let mut activations = Vec::new();
    for image in 0..IMAGES {
        for (r, c) in (0..height / 2).flat_map(|r| (0..meant / 2).map(move |c| (2 * r, 2 * c))) {
            for f in 0..filters {
                let four = [(r, c), (r, c + 1), (r + 1, c), (r + 1, c + 1)];
                let four = four.map(|(r, c)| y[at(image, r, c, f)].max(0.0));
                activations.push(four.into_iter().fold(0.0, f64::max));
            }
        }
    }
    let loss = activations.iter().zip(weights()).map(|(a, w)| a * w).sum();
    (activations, loss)
}

/// The layer's activations and its gradients by x, gamma and beta.
fn ours(x: &[f32]) -> (Vec<f32>, Vec<f32>, Sums) {
    let (pooled, signs) = (STAGE.pooled_len(), signs(&GAMMA));
    let mut sums = Sums::zeros(STAGE.filters);
    let mut extremes = vec![0.0; IMAGES * pooled];
    let mut places = vec![9; IMAGES * pooled];
    for (image, x) in x.chunks_exact(image_len()).enumerate() {
        sums.add_moments(&STAGE, x);
        let (extremes, places) = (
            &mut extremes[image * pooled..],
            &mut places[image * pooled..],
        );
        pool(&STAGE, x, &signs, extremes, places);
    }
    let count = (IMAGES * STAGE.places()) as f64;
    let norm = Norm::new(&sums.moments(count), &GAMMA, &BETA);
    let mut activations = vec![9.0; extremes.len()];
    norm.activate(&extremes, &mut activations);
    let mut slopes: Vec<f32> = weights().iter().map(|w| *w as f32).collect();
    let mut back = Sums::zeros(STAGE.filters);
    norm.through_relu(&extremes, &activations, &mut slopes, &mut back);
    let descent = norm.descent(&back, count);
    let mut gradient = x.to_vec();
    for (image, x) in gradient.chunks_exact_mut(image_len()).enumerate() {
        let (slopes, places) = (&slopes[image * pooled..], &places[image * pooled..]);
        descent.apply(&STAGE, x, slopes, places);
    }
    (activations, gradient, back)
}

#[test]
fn forward_is_the_definition_with_gammas_of_both_signs() {
    let x = inputs();
    let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    let (expected, _) = by_definition(&wide, &GAMMA.map(f64::from), &BETA.map(f64::from));
    let (activations, ..) = ours(&x);
    let zeros = expected.iter().filter(|a| **a == 0.0).count();
    assert!(zeros > 10 && zeros < expected.len() / 2, "{zeros}");
    for (i, (found, expected)) in activations.iter().zip(&expected).enumerate() {
        assert!((f64::from(*found) - expected).abs() < 1e-5, "{i}");
    }
}

#[test]
fn gradients_agree_with_differences() {
    const H: f64 = 1e-6;
    let x: Vec<f32> = inputs();
    // Without ties, so that there is a derivative.
    let x: Vec<f32> = (0..)
        .zip(&x)
        .map(|(i, x)| x + 1e-3 * (i as f32).sin())
        .collect();
    let (_, gradient, back) = ours(&x);
    let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    let (gamma, beta) = (GAMMA.map(f64::from), BETA.map(f64::from));
    let slope = |of: &dyn Fn(f64) -> f64| (of(H) - of(-H)) / (2.0 * H);
    for (i, found) in gradient.iter().enumerate() {
        let moved = |step: f64| {
            let mut x = x.clone();
            x[i] += step;
            by_definition(&x, &gamma, &beta).1
        };
        let expected = slope(&moved);
        assert!(
            (f64::from(*found) - expected).abs() < 2e-5,
            "{i}: {found} {expected}"
        );
    }
    for f in 0..STAGE.filters {
        let moved = |parameters: [f64; 5], step: f64| {
            let mut parameters = parameters;
            parameters[f] += step;
            parameters
        };
        let by_gamma = slope(&|step| by_definition(&x, &moved(gamma, step), &beta).1);
        let by_beta = slope(&|step| by_definition(&x, &gamma, &moved(beta, step)).1);
        assert!((back.second[f] - by_gamma).abs() < 2e-5, "{f}");
        assert!((back.first[f] - by_beta).abs() < 2e-5, "{f}");
    }
}

/// Of equal numbers the first counts, whatever the sign of gamma, and it alone gets the gradient.
#[test]
fn ties_go_to_the_first() {
    let stage = Stage {
        height: 4,
        width: 4,
        channels: 1,
        filters: 2,
    };
    let mut x = vec![3.0; 16];
    (x[0], x[1]) = (2.0, 4.0); // place 0, filters 0 and 1
    let (mut extremes, mut places) = ([0.0; 2], [9; 2]);
    pool(&stage, &x, &[1.0, -1.0], &mut extremes, &mut places);
    assert_eq!((extremes, places), ([3.0, 3.0], [1, 1]));
    x.fill(5.0);
    pool(&stage, &x, &[1.0, -1.0], &mut extremes, &mut places);
    assert_eq!((extremes, places), ([5.0, 5.0], [0, 0]));
    let descent = Descent {
        scale: vec![2.0, -1.0],
        slope: vec![0.0; 2],
        offset: vec![0.5; 2],
    };
    descent.apply(&stage, &mut x, &[3.0, 4.0], &places);
    let (first, other) = ([5.5, -4.5], [-0.5, -0.5]);
    assert_eq!(x[..4], [first, other].concat());
    assert_eq!(x[8..12], [other, other].concat());
    assert_eq!([&x[4..8], &x[12..]].concat(), [0.0; 8]);
}
