//! The network's end: average over 2 x 2, flatten, a dense layer; forward and backward.
//!
//! Flattening changes nothing in memory, `[H, W, C]` being the order of the dense layer's inputs.
//! An odd last row or column is left out, as in Keras. This file knows nothing of losses.

use crate::kernels::{dot, vectorised};

/// Writes the mean of each 2 x 2 of `input_hwc`, `[height, width, channels]`, to `averages_hwc`,
/// `[height / 2, width / 2, channels]`.
pub(super) fn average(
    input_hwc: &[f32],
    [height, width, channels]: [usize; 3],
    averages_hwc: &mut [f32],
) {
    let row = width * channels;
    let means = averages_hwc.chunks_exact_mut((width / 2) * channels);
    let rows = input_hwc[..height * row].chunks_exact(2 * row);
    for (two_rows, means) in rows.zip(means) {
        let (upper, lower) = two_rows.split_at(row);
        let windows = upper.chunks_exact(2 * channels);
        let windows = windows.zip(lower.chunks_exact(2 * channels));
        for ((upper, lower), means) in windows.zip(means.chunks_exact_mut(channels)) {
            for (c, mean) in means.iter_mut().enumerate() {
                let sum = (upper[c] + upper[channels + c]) + (lower[c] + lower[channels + c]);
                *mean = 0.25 * sum;
            }
        }
    }
}

/// The derivative by the input of [`average`], of that by its output: a quarter to each.
pub(super) fn average_gradient(
    slopes_hwc: &[f32],
    [_, width, channels]: [usize; 3],
    gradient_hwc: &mut [f32],
) {
    let row = width * channels;
    gradient_hwc.fill(0.0);
    let slopes = slopes_hwc.chunks_exact((width / 2) * channels);
    for (two_rows, slopes) in gradient_hwc.chunks_exact_mut(2 * row).zip(slopes) {
        for row in two_rows.chunks_exact_mut(row) {
            let windows = row.chunks_exact_mut(2 * channels);
            for (window, slopes) in windows.zip(slopes.chunks_exact(channels)) {
                for (i, gradient) in window.iter_mut().enumerate() {
                    *gradient = 0.25 * slopes[i % channels];
                }
            }
        }
    }
}

/// `logits[o] = Σ weights[o, d] input[d] + bias[o]`.
pub(super) fn forward(weights_od: &[f32], bias_o: &[f32], input_d: &[f32], logits_o: &mut [f32]) {
    let units = weights_od.chunks_exact(input_d.len()).zip(bias_o);
    for (logit, (weights_d, bias)) in logits_o.iter_mut().zip(units) {
        *logit = dot(weights_d, input_d) + bias;
    }
}

/// Adds the gradients of weights and bias, and writes that of the input to `input_slopes_d`, of
/// the derivative by the logits.
pub(super) fn backward(
    weights_od: &[f32],
    input_d: &[f32],
    residuals_o: &[f32],
    [gradient_od, gradient_o]: [&mut [f32]; 2],
    input_slopes_d: &mut [f32],
) {
    input_slopes_d.fill(0.0);
    let inputs = input_d.len();
    let units = weights_od.chunks_exact(inputs);
    let units = units.zip(gradient_od.chunks_exact_mut(inputs));
    for ((weights_d, gradient_d), (residual, bias)) in units.zip(residuals_o.iter().zip(gradient_o))
    {
        *bias += residual;
        vectorised(
            #[inline(always)]
            || {
                for d in 0..inputs {
                    gradient_d[d] += residual * input_d[d];
                    input_slopes_d[d] += residual * weights_d[d];
                }
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_by_hand() {
        // 3 x 5 places of two channels; the last row and column are left out.
        let input: Vec<f32> = (0..30).map(|i| i as f32).collect();
        let mut averages = [0.0; 4];
        average(&input, [3, 5, 2], &mut averages);
        assert_eq!(averages, [6.0, 7.0, 10.0, 11.0]);
        let mut gradient = [9.0; 30];
        average_gradient(&[4.0, 8.0, 12.0, 16.0], [3, 5, 2], &mut gradient);
        let row = [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0, 0.0, 0.0];
        assert_eq!(gradient[..10], row);
        assert_eq!(gradient[10..20], row);
        assert_eq!(gradient[20..], [0.0; 10]);
    }

    #[test]
    fn dense_by_hand() {
        let (weights, bias, input) = ([1.0, 2.0, -1.0, 0.5], [0.25, -1.0], [3.0, 4.0]);
        let mut logits = [9.0; 2];
        forward(&weights, &bias, &input, &mut logits);
        assert_eq!(logits, [11.25, -2.0]);
        let (mut gradient, mut gradient_bias, mut slopes) = ([1.0; 4], [1.0; 2], [9.0; 2]);
        backward(
            &weights,
            &input,
            &[2.0, -1.0],
            [&mut gradient, &mut gradient_bias],
            &mut slopes,
        );
        assert_eq!(gradient, [7.0, 9.0, -2.0, -3.0]);
        assert_eq!(gradient_bias, [3.0, 0.0]);
        assert_eq!(slopes, [3.0, 3.5]);
    }
}
