//! The whole network: its gradient against finite differences, its bits for any number of threads.

use super::*;
use crate::baseline::Images;

struct Made {
    size: [usize; 2],
    pixels: Vec<u8>,
}

impl Images for Made {
    fn size(&self) -> [usize; 2] {
        self.size
    }

    fn len(&self) -> usize {
        self.pixels.len() / (self.size[0] * self.size[1] * 3)
    }

    fn pixels(&self, row: u32) -> &[u8] {
        let len = self.size[0] * self.size[1] * 3;
        &self.pixels[row as usize * len..][..len]
    }
}

fn made(size: [usize; 2], count: usize) -> Made {
    let len = count * size[0] * size[1] * 3;
    Made {
        size,
        pixels: (0..len)
            .map(|i| (127.0 + 120.0 * (i as f32 * 0.731 + (i / 97) as f32).sin()) as u8)
            .collect(),
    }
}

fn run(pass: &mut Pass, network: &Network, images: &Made, labels: &[u32]) -> BatchResult {
    let weights = [0.5, 2.0, 1.5];
    pass.run(network, labels, Some(&weights), &|place, pixels| {
        pixels.copy_from_slice(images.pixels(place as u32));
    })
}

/// A small network some of whose gammas are negative.
fn network(classes: usize) -> (Network, Made, Vec<u32>) {
    let shape = Shape {
        size: [33, 36],
        filters: [3, 4, 5],
        classes,
    };
    let mut network = Network::initial(shape, 3);
    for ranges in network.ranges.0.clone() {
        for (i, gamma) in network.parameters[ranges.gamma].iter_mut().enumerate() {
            *gamma = [1.2, -0.8, 0.5][i % 3];
        }
        for (i, beta) in network.parameters[ranges.beta].iter_mut().enumerate() {
            *beta = [0.2, 0.5, -0.1][i % 3];
        }
        for (i, bias) in network.parameters[ranges.bias].iter_mut().enumerate() {
            *bias = 0.3 - 0.2 * i as f32;
        }
    }
    let labels = (0..6).map(|i| i % classes as u32).collect();
    (network, made(shape.size, 6), labels)
}

/// Along the gradient of each group of parameters, the loss rises by the gradient's square. A long
/// step crosses kinks of ReLU and maximum, a short one drowns in f32; one of several must agree.
#[test]
fn gradient_agrees_with_differences() {
    for classes in [2, 3] {
        let (network, images, labels) = network(classes);
        let mut pass = Pass::new(&network.shape, labels.len());
        run(&mut pass, &network, &images, &labels);
        let gradient = pass.gradient.clone();
        let (stages, dense) = &network.ranges;
        let mut groups = vec![dense.weights.clone(), dense.bias.clone()];
        for ranges in stages {
            assert!(gradient[ranges.bias.clone()].iter().all(|g| *g == 0.0));
            groups.extend([&ranges.kernel, &ranges.gamma, &ranges.beta].map(Clone::clone));
        }
        for group in groups {
            // Several directions, so that a wrong number cannot hide among right ones.
            for direction in 0..if group.len() > 3 { 3 } else { 1 } {
                let along: Vec<f32> = gradient[group.clone()]
                    .iter()
                    .enumerate()
                    .map(|(i, g)| {
                        if direction == 0 || i % 3 == direction {
                            *g
                        } else {
                            0.0
                        }
                    })
                    .collect();
                let square: f64 = along.iter().map(|g| f64::from(*g).powi(2)).sum();
                let mut error_of = |length: f64| {
                    let step = (length / square.sqrt()) as f32;
                    let mut loss = |sign: f32| {
                        let mut moved = network.clone();
                        for (w, g) in moved.parameters[group.clone()].iter_mut().zip(&along) {
                            *w += sign * step * g;
                        }
                        run(&mut pass, &moved, &images, &labels).loss_sum / labels.len() as f64
                    };
                    let rise = (loss(1.0) - loss(-1.0)) / f64::from(2.0 * step);
                    (rise / square - 1.0).abs()
                };
                let errors = [1e-2, 1e-3, 1e-4, 1e-5].map(&mut error_of);
                assert!(
                    errors.into_iter().fold(f64::MAX, f64::min) < 0.02,
                    "{classes} classes, {group:?}, direction {direction}: {errors:?}"
                );
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let (network, images, labels) = network(2);
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let mut pass = Pass::new(&network.shape, 1);
            let result = run(&mut pass, &network, &images, &labels);
            let rows: Vec<u32> = (0..6).collect();
            (
                result,
                pass.gradient,
                pass.moments,
                network.logits(&images, &rows),
            )
        })
    };
    let one = with(1);
    assert_eq!(with(2), one);
    assert_eq!(with(5), one);
}

/// Memory kept from a batch to the next changes nothing, whatever their sizes.
#[test]
fn a_batch_leaves_nothing_behind() {
    let (network, images, labels) = network(2);
    let mut pass = Pass::new(&network.shape, 6);
    run(&mut pass, &network, &images, &labels);
    let first = (pass.gradient.clone(), pass.moments.clone());
    run(&mut pass, &network, &images, &labels[..3]);
    assert_ne!(pass.gradient, first.0);
    run(&mut pass, &network, &images, &labels);
    assert_eq!((pass.gradient, pass.moments), first);
}

/// With the batch's own moments, inference sees what training sees.
#[test]
fn inference_agrees_with_training() {
    let (mut network, images, labels) = network(2);
    let mut pass = Pass::new(&network.shape, 6);
    let result = pass.run(&network, &labels, None, &|place, pixels| {
        pixels.copy_from_slice(images.pixels(place as u32));
    });
    for ((moving, batch), ranges) in network
        .moving
        .iter_mut()
        .zip(&pass.moments)
        .zip(&network.ranges.0)
    {
        let biases = &network.parameters[ranges.bias.clone()];
        let with = batch.mean.iter().zip(biases);
        moving[0] = with.map(|(m, b)| (m + f64::from(*b)) as f32).collect();
        moving[1] = batch.variance.iter().map(|v| *v as f32).collect();
    }
    let rows: Vec<u32> = (0..6).collect();
    let basic = crate::metrics::Basic::of(&network.logits(&images, &rows), &labels).unwrap();
    let mean = result.loss_sum / 6.0;
    assert!((basic.loss - mean).abs() < 1e-5, "{} {mean}", basic.loss);
    assert_eq!(basic.accuracy, result.correct as f64 / 6.0);
}
