//! The baseline's training steps, timed beside other libraries: a measurement that does nothing
//! unless `scripts/bench_baseline.py` (`make bench WHAT=baseline`) runs it.
//!
//! `baseline_speed serve SIDE BATCH STEPS` makes images of that side and then, for each line on
//! stdin, does STEPS updates, answering with a line of JSON: the seconds of each. Threads:
//! `RAYON_NUM_THREADS`.

use std::io::{self, BufRead as _};
use std::time::Instant;

use head_trainer::baseline::{Images, Network, Shape, Trainer};
use head_trainer::solver::adam::AdamConfig;

/// Batches of images there are.
const BATCHES: usize = 8;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args[..] {
        [serve, numbers @ ..] if serve == "serve" && numbers.len() == 3 => {
            let numbers: Vec<usize> = numbers.iter().map(|n| n.parse().unwrap()).collect();
            answer(numbers[0], numbers[1], numbers[2]);
        }
        _ => println!("skipped: a measurement, see scripts/bench_baseline.py"),
    }
}

struct Made {
    side: usize,
    pixels: Vec<u8>,
}

impl Images for Made {
    fn size(&self) -> [usize; 2] {
        [self.side; 2]
    }

    fn len(&self) -> usize {
        self.pixels.len() / (self.side * self.side * 3)
    }

    fn pixels(&self, row: u32) -> &[u8] {
        let len = self.side * self.side * 3;
        &self.pixels[row as usize * len..][..len]
    }
}

fn answer(side: usize, batch: usize, steps: usize) {
    let count = BATCHES * batch;
    let images = Made {
        side,
        // Weyl's sequence: numbers that look random to a convolution.
        pixels: (0..(count * side * side * 3) as u64)
            .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
            .collect(),
    };
    let labels: Vec<u32> = (0..count as u32).map(|i| (i / 3) % 2).collect();
    let rows: Vec<u32> = (0..count as u32).collect();
    let network = Network::initial(Shape::new([side; 2], 2), 0);
    let mut trainer = Trainer::new(network, &AdamConfig::default(), batch);
    let mut batches = rows.chunks_exact(batch).cycle();
    trainer.step(&images, &labels, batches.next().unwrap(), &[]);
    println!("{{\"ready\": \"ours\"}}");
    for line in io::stdin().lock().lines() {
        line.unwrap();
        let secs: Vec<f64> = (0..steps)
            .map(|_| {
                let start = Instant::now();
                trainer.step(&images, &labels, batches.next().unwrap(), &[]);
                start.elapsed().as_secs_f64()
            })
            .collect();
        println!(
            "{{\"secs\": {}, \"all\": {secs:?}}}",
            secs.iter().sum::<f64>()
        );
    }
}
