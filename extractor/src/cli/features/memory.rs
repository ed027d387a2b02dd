//! What memory an extraction takes, against what its process was given.
//!
//! Must not know of images or stores.

use crate::backbone::Model;
use crate::files::grouped;
use crate::given;

/// Warns if the memory that this process was given will hardly do for `model` in batches of
/// `batch_size` over an index of `images`.
pub(super) fn warn(model: &Model, batch_size: u16, images: usize) {
    let needed = needed_bytes(
        model.len_bytes,
        batch_size.into(),
        model.spec.input_size,
        images as u64,
    );
    if let Some(warning) = tight(given::memory_bytes(), needed) {
        tracing::warn!("{warning}");
    }
}

/// Memory that several sessions may take together.
const MOST_BYTES: u64 = 1_000_000_000;

/// How many sessions of `model` in batches of `batch_size` fit what an extraction may take, or this
/// process was given, if that is less; at least one. Those that are `mapped` share the weights.
pub(super) fn most_sessions(model: &Model, batch_size: usize, mapped: bool) -> usize {
    let most = given::memory_bytes().map_or(MOST_BYTES, |given| given.min(MOST_BYTES));
    sessions_in(
        most,
        model.len_bytes,
        batch_size as u64,
        model.spec.input_size,
        mapped,
    )
}

fn sessions_in(
    most_bytes: u64,
    model_bytes: u64,
    batch_size: u64,
    size: [usize; 2],
    mapped: bool,
) -> usize {
    let one = needed_bytes(model_bytes, batch_size, size, 0);
    let weights = if mapped { 0 } else { model_bytes };
    // Weights and batch of another one, without what there is once.
    let next = needed_bytes(model_bytes + weights, 2 * batch_size, size, 0) - one;
    1 + (most_bytes.saturating_sub(one) / next.max(1)) as usize
}

/// Memory that an extraction takes, in bytes, about: measured with ResNet50 and MobileNetV2 at
/// 100x100 in batches of 16 to 256, within a tenth. Other networks differ.
fn needed_bytes(
    model_bytes: u64,
    batch_size: u64,
    [height, width]: [usize; 2],
    images: u64,
) -> u64 {
    const EACH_PIXEL: u64 = 330; // of a batch: activations, input and maps
    let batch = batch_size * (height * width) as u64 * EACH_PIXEL;
    (64 << 20) + 3 * model_bytes + batch + 64 * images
}

/// A warning if the memory that this process was `given` will hardly do.
fn tight(given: Option<u64>, needed: u64) -> Option<String> {
    let mebibytes = |bytes: u64| grouped(bytes >> 20);
    given.filter(|given| *given < needed).map(|given| {
        format!(
            "this process was given {} MiB of memory, and an extraction like this one takes about {} MiB \
             (hint: give the job more, or lower --batch-size)",
            mebibytes(given),
            mebibytes(needed)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{needed_bytes, sessions_in, tight};

    #[test]
    fn a_job_with_too_little_memory_is_told() {
        // Measured: 523 MB (ResNet50, 94.4 MB) and 307 MB (MobileNetV2, 8.9 MB).
        for (model, batch, measured) in [
            (94_400_000, 64, 523.0),
            (94_400_000, 256, 1105.0),
            (8_900_000, 64, 307.0),
        ] {
            let needed = needed_bytes(model, batch, [100, 100], 300) as f64 / f64::from(1 << 20);
            assert!((needed / measured - 1.0).abs() < 0.1, "{needed} {measured}");
        }
        assert_eq!(
            sessions_in(1_000_000_000, 94_400_000, 64, [100, 100], true),
            3
        );
        assert_eq!(
            sessions_in(500_000_000, 94_400_000, 64, [100, 100], true),
            1
        );
        assert_eq!(
            sessions_in(1_000_000_000, 94_400_000, 64, [100, 100], false),
            1
        );
        assert_eq!(tight(None, 1), None);
        assert_eq!(tight(Some(2 << 30), 1 << 30), None);
        let warning = tight(Some(600 << 20), 1 << 30).unwrap();
        assert!(
            warning.contains("given 600 MiB") && warning.contains("1,024 MiB"),
            "{warning}"
        );
    }
}
