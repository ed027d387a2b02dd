//! Global average pooling: a feature map's mean over its positions, one number a channel.
//!
//! Reads the mapped store row by row and in parallel. Every row is summed in one fixed order in
//! f32, so that the result does not depend on the number of threads. Must not know about labels.

use extractor::backbone::MapShape;
use extractor::store::{Features, RowRef, Store};
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

/// Pools the given rows of a store: [rows.len(), C], flat.
pub fn pool(store: &Store, shape: MapShape, rows: &[RowRef]) -> Vec<f32> {
    let mut pooled_nc = vec![0.0; rows.len() * shape.channels];
    pooled_nc
        .par_chunks_exact_mut(shape.channels)
        .zip(rows)
        .for_each_init(
            || vec![0.0_f32; shape.len()],
            |widened, (pooled_c, row)| match store.features(*row) {
                Features::F32(map_hwc) => average(map_hwc, pooled_c),
                Features::F16(map_hwc) => {
                    map_hwc.convert_to_f32_slice(widened);
                    average(widened, pooled_c);
                }
            },
        );
    pooled_nc
}

/// Mean over the positions of a map [h * w, C] into [C].
fn average(map_hwc: &[f32], pooled_c: &mut [f32]) {
    let channels = pooled_c.len();
    pooled_c.fill(0.0);
    for position_c in map_hwc.chunks_exact(channels) {
        for (sum, value) in pooled_c.iter_mut().zip(position_c) {
            *sum += value;
        }
    }
    let positions = (map_hwc.len() / channels) as f32;
    for sum in pooled_c {
        *sum /= positions;
    }
}

#[cfg(test)]
mod tests {
    use super::average;

    #[test]
    fn hand_computed() {
        // two positions, three channels
        let mut pooled = [9.0; 3];
        average(&[1.0, 2.0, 3.0, 5.0, 6.0, -3.0], &mut pooled);
        assert_eq!(pooled, [3.0, 4.0, 0.0]);
    }
}
