//! L-BFGS: downhill on a smooth function from its gradient alone.
//!
//! Directions are Nocedal and Wright's two-loop recursion (*Numerical Optimization*, 2nd edition,
//! algorithm 7.4, with the scaling of equation 7.20); steps satisfy the strong Wolfe conditions,
//! found by bracketing and zooming with cubic interpolation (algorithms 3.5 and 3.6, equation
//! 3.59), or, within rounding of the value, Hager and Zhang's approximate ones (*SIAM J. Optim.*
//! 16, 2005, equation 4.1). Draws no random number. This file knows nothing of heads.

use std::collections::VecDeque;

/// Sufficient decrease, c1 of the Wolfe conditions.
const DECREASE: f64 = 1e-4;
/// Curvature, c2 of the Wolfe conditions.
const CURVATURE: f64 = 0.9;
/// Rounding of a value, as a share of it.
const NOISE: f64 = 1e-14;
/// Evaluations that one line search may take.
const TRIALS: usize = 30;

/// What a function tells of a point besides its gradient.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value {
    /// The value.
    pub value: f64,
    /// How far from a minimum the gradient says the point is.
    pub norm: f64,
}

/// Writes its gradient at a point and returns its value there.
pub(super) type Function<'a> = &'a mut dyn FnMut(&[f64], &mut [f64]) -> Value;

/// The best point that a search found.
#[derive(Debug)]
pub(super) struct Minimum {
    pub point: Vec<f64>,
    pub value: f64,
    pub norm: f64,
    pub iterations: u64,
}

/// A point, the value there and the gradient there.
#[derive(Clone)]
struct At {
    point: Vec<f64>,
    value: Value,
    gradient: Vec<f64>,
}

/// A step taken and what it did to the gradient.
struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    rho: f64, // 1 / (change · step)
}

/// Goes downhill on `function` from `origin`, remembering `memory` steps for the curvature, until a point's value `is_reached`, the iterations run
/// out, or rounding lets the line search go no further.
pub(super) fn minimise(
    function: Function<'_>,
    origin: Vec<f64>,
    memory: usize,
    max_iterations: u64,
    is_reached: impl Fn(Value) -> bool,
) -> Minimum {
    let mut gradient = vec![0.0; origin.len()];
    let value = function(&origin, &mut gradient);
    let mut here = At {
        point: origin,
        value,
        gradient,
    };
    let mut pairs: VecDeque<Pair> = VecDeque::with_capacity(memory);
    let mut iterations = 0;
    while iterations < max_iterations && !is_reached(here.value) {
        let mut direction = direction(&here.gradient, &pairs);
        if dot(&direction, &here.gradient) >= 0.0 {
            // Rounding has spoilt the memory.
            pairs.clear();
            direction = here.gradient.iter().map(|g| -g).collect();
        }
        let first = match pairs.is_empty() {
            true => 1.0 / norm(&here.gradient).max(1.0),
            false => 1.0,
        };
        let there = match line_search(function, &here, &direction, first) {
            Some(there) => there,
            None if pairs.is_empty() => break,
            None => {
                // Once more along the gradient itself.
                pairs.clear();
                continue;
            }
        };
        let step: Vec<f64> = difference(&there.point, &here.point);
        let change = difference(&there.gradient, &here.gradient);
        let curvature = dot(&step, &change);
        if curvature > f64::EPSILON * dot(&change, &change) {
            if pairs.len() == memory {
                pairs.pop_front();
            }
            pairs.push_back(Pair {
                step,
                change,
                rho: 1.0 / curvature,
            });
        }
        here = there;
        iterations += 1;
    }
    Minimum {
        norm: here.value.norm,
        value: here.value.value,
        point: here.point,
        iterations,
    }
}

/// The two-loop recursion: minus the approximated inverse Hessian times `gradient`.
fn direction(gradient: &[f64], pairs: &VecDeque<Pair>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut factors = Vec::with_capacity(pairs.len());
    for pair in pairs.iter().rev() {
        let factor = pair.rho * dot(&pair.step, &direction);
        add(&mut direction, -factor, &pair.change);
        factors.push(factor);
    }
    if let Some(last) = pairs.back() {
        let scale = 1.0 / (last.rho * dot(&last.change, &last.change));
        direction.iter_mut().for_each(|d| *d *= scale);
    }
    for (pair, factor) in pairs.iter().zip(factors.iter().rev()) {
        let other = pair.rho * dot(&pair.change, &direction);
        add(&mut direction, factor - other, &pair.step);
    }
    direction
}

/// A trial step's length, the value there and the slope along the direction.
#[derive(Clone, Copy)]
struct Trial {
    length: f64,
    value: f64,
    slope: f64,
}

/// A step along `direction` that satisfies the strong Wolfe conditions, or, where rounding hides
/// the curvature, at least decreases the value; none if no step does.
fn line_search(function: Function<'_>, here: &At, direction: &[f64], first: f64) -> Option<At> {
    let start = Trial {
        length: 0.0,
        value: here.value.value,
        slope: dot(&here.gradient, direction),
    };
    let mut there = here.clone();
    let mut try_length = |length: f64, there: &mut At| {
        there.point.copy_from_slice(&here.point);
        add(&mut there.point, length, direction);
        there.value = function(&there.point, &mut there.gradient);
        Trial {
            length,
            value: there.value.value,
            slope: dot(&there.gradient, direction),
        }
    };
    // Close to the minimum a decrease drowns in the value's rounding, and the slope shows it still:
    // the approximate Wolfe condition.
    let noise = NOISE * start.value.abs();
    let decreases = |t: &Trial| {
        t.value <= start.value + DECREASE * t.length * start.slope
            || (t.value <= start.value + noise && t.slope <= (2.0 * DECREASE - 1.0) * start.slope)
    };
    let is_flat = |t: &Trial| t.slope.abs() <= -CURVATURE * start.slope;

    // Lengthen the step until a minimum lies between the last two trials.
    let (mut low, mut length) = (start, first);
    let mut bracket = None;
    let mut trials = 0;
    while trials < TRIALS {
        let trial = try_length(length, &mut there);
        trials += 1;
        if decreases(&trial) && is_flat(&trial) {
            return Some(there);
        }
        if !decreases(&trial) || (trials > 1 && trial.value >= low.value) {
            bracket = Some((low, trial));
            break;
        }
        if trial.slope >= 0.0 {
            bracket = Some((trial, low));
            break;
        }
        low = trial;
        length *= 4.0;
    }
    // Zoom: `low` is the better end and the function falls from it towards `high`.
    let (mut low, mut high) = bracket?;
    while trials < TRIALS {
        let trial = try_length(between(&low, &high), &mut there);
        trials += 1;
        if decreases(&trial) && is_flat(&trial) {
            return Some(there);
        }
        if !decreases(&trial) || trial.value >= low.value {
            high = trial;
        } else {
            if trial.slope * (high.length - low.length) >= 0.0 {
                high = low;
            }
            low = trial;
        }
        if (high.length - low.length).abs() <= 1e-12 * low.length.max(high.length) {
            break;
        }
    }
    (low.length > 0.0).then(|| {
        try_length(low.length, &mut there);
        there
    })
}

/// The minimum of the cubic through both trials, kept away from the ends; the middle where there
/// is none.
fn between(low: &Trial, high: &Trial) -> f64 {
    let width = high.length - low.length;
    let middle = low.length + 0.5 * width;
    let d1 = low.slope + high.slope - 3.0 * (low.value - high.value) / (low.length - high.length);
    let under_root = d1 * d1 - low.slope * high.slope;
    if under_root < 0.0 || !under_root.is_finite() {
        return middle;
    }
    let d2 = under_root.sqrt() * width.signum();
    let share = (high.slope + d2 - d1) / (high.slope - low.slope + 2.0 * d2);
    let length = high.length - width * share;
    let (nearest, farthest) = (low.length + 0.1 * width, high.length - 0.1 * width);
    match length.is_finite() {
        true => length.clamp(nearest.min(farthest), nearest.max(farthest)),
        false => middle,
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Euclidean norm.
fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// `to[i] += factor * what[i]`
fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    for (to, what) in to.iter_mut().zip(what) {
        *to += factor * what;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: usize = 10;

    fn valued(value: f64, gradient: &[f64]) -> Value {
        let norm = norm(gradient);
        Value { value, norm }
    }

    #[test]
    fn a_quadratic_by_hand() {
        // f = (x-3)²/2 + 100 (y+1)²/2; the minimum is 0 at (3, -1).
        let mut function = |p: &[f64], g: &mut [f64]| {
            let (x, y) = (p[0] - 3.0, p[1] + 1.0);
            g.copy_from_slice(&[x, 100.0 * y]);
            valued(0.5 * (x * x + 100.0 * y * y), g)
        };
        let minimum = minimise(&mut function, vec![0.0, 0.0], SMALL, 100, |v| {
            v.norm <= 1e-10
        });
        assert!(minimum.norm <= 1e-10, "{minimum:?}");
        assert!((minimum.point[0] - 3.0).abs() < 1e-9, "{minimum:?}");
        assert!((minimum.point[1] + 1.0).abs() < 1e-9, "{minimum:?}");
        assert!(minimum.iterations < 20, "{minimum:?}");
    }

    /// Rosenbrock's valley is not convex: the line search has to bend.
    #[test]
    fn rosenbrock() {
        let mut function = |p: &[f64], g: &mut [f64]| {
            let (x, y) = (p[0], p[1]);
            g[0] = -2.0 * (1.0 - x) - 400.0 * x * (y - x * x);
            g[1] = 200.0 * (y - x * x);
            valued((1.0 - x).powi(2) + 100.0 * (y - x * x).powi(2), g)
        };
        let minimum = minimise(&mut function, vec![-1.2, 1.0], SMALL, 200, |v| {
            v.norm <= 1e-9
        });
        assert!(minimum.norm <= 1e-9, "{minimum:?}");
        assert!((minimum.point[0] - 1.0).abs() < 1e-8, "{minimum:?}");
    }

    #[test]
    fn it_stops_where_rounding_ends_it() {
        let mut function = |p: &[f64], g: &mut [f64]| {
            g[0] = 4.0 * p[0].powi(3);
            valued(1e9 + p[0].powi(4), g)
        };
        let minimum = minimise(&mut function, vec![1.0], SMALL, 1000, |v| v.norm <= 0.0);
        assert!(
            minimum.iterations < 1000 && minimum.norm < 1.0,
            "{minimum:?}"
        );
    }

    #[test]
    fn at_the_minimum_already() {
        let mut function = |p: &[f64], g: &mut [f64]| {
            g[0] = 2.0 * p[0];
            valued(p[0] * p[0], g)
        };
        let minimum = minimise(&mut function, vec![0.0], SMALL, 10, |v| v.norm <= 1e-9);
        assert_eq!((minimum.iterations, minimum.value), (0, 0.0));
    }
}
