//! How long an audit takes at full size. Ignored by default; `make bench WHAT=audit` runs it.

use std::time::Instant;

use head_trainer::audit::held_out::Labelled;
use head_trainer::audit::{AuditConfig, TOGETHER, audit, neighbours};
use head_trainer::matrix::Rows;
use head_trainer::rng::{Purpose, Stream};

const IMAGES: usize = 25_000;
const CHANNELS: usize = 2_048;

#[test]
#[ignore = "a measurement"]
fn audit_at_full_size() {
    let mut stream = Stream::new(1, Purpose::Initial);
    let labels_n: Vec<u32> = (0..IMAGES).map(|_| stream.below(2)).collect();
    let mut features = Vec::with_capacity(IMAGES * CHANNELS);
    for &label in &labels_n {
        let size = 1.0 + stream.symmetric(0.5);
        for c in 0..CHANNELS {
            let shift = if c % 16 == 0 { 0.1 * label as f32 } else { 0.0 };
            features.push((stream.symmetric(0.5) * size + 0.1 + shift).max(0.0));
        }
    }
    let rows = Rows::new(&features, CHANNELS).unwrap();
    let images = Labelled {
        rows,
        labels_n: &labels_n,
        classes: 2,
    };
    println!("{IMAGES} images, {CHANNELS} channels");
    for least in [TOGETHER as f32, 0.1] {
        let start = Instant::now();
        let pairs = neighbours::find(rows, least, least).total;
        let secs = start.elapsed().as_secs_f64();
        println!("pairs of {least} or more: {pairs} in {secs:.2} s");
    }
    let start = Instant::now();
    let found = audit(images, &AuditConfig::default()).unwrap();
    let secs = start.elapsed().as_secs_f64();
    println!("audit in {secs:.2} s: {:?}", found.held_out.chosen);
}
