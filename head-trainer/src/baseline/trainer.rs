//! The network with its optimizer: one update for each batch.

use super::Images;
use super::network::{MOMENTUM, Network};
use super::pass::Pass;
use super::unfold::Placement;
use crate::solver::adam::{AdamConfig, BatchResult, Rates};

/// A network in training.
#[derive(Debug)]
pub struct Trainer {
    network: Network,
    means: Vec<f32>,   // m of every trainable parameter
    squares: Vec<f32>, // v
    steps: u64,
    rates: Rates,
    momentum: f64,
    class_weights_k: Option<Vec<f32>>,
    pass: Pass,
    labels_b: Vec<u32>,
}

impl Trainer {
    /// Starts at `network`, with the rates of `config` (of its numbers nothing else counts), for
    /// batches of `batch_size` images or so.
    pub fn new(network: Network, config: &AdamConfig, batch_size: usize) -> Trainer {
        let count = network.parameters.len();
        Trainer {
            rates: Rates::new(config),
            momentum: MOMENTUM,
            pass: Pass::new(&network.shape, batch_size),
            network,
            means: vec![0.0; count],
            squares: vec![0.0; count],
            steps: 0,
            class_weights_k: None,
            labels_b: Vec::new(),
        }
    }

    /// How much of the moving moments each batch leaves; 0.99 unless said.
    pub fn with_momentum(mut self, momentum: f64) -> Trainer {
        self.momentum = momentum;
        self
    }

    /// Multiplies the losses of each class by its weight, `[K]`.
    pub fn with_class_weights(mut self, weights_k: &[f64]) -> Trainer {
        self.class_weights_k = Some(weights_k.iter().map(|w| *w as f32).collect());
        self
    }

    /// The step size from the next update on.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.rates.set_learning_rate(learning_rate);
    }

    /// The network as it is now.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The network at the end.
    pub fn into_network(self) -> Network {
        self.network
    }

    /// Number of updates so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The moving means of the gradient and of its square.
    pub(super) fn moments(&self) -> [Vec<f32>; 2] {
        [self.means.clone(), self.squares.clone()]
    }

    /// Goes on as if `steps` updates had been made that led to this network and these moments.
    pub(super) fn resume(&mut self, steps: u64, network: Network, moments: [Vec<f32>; 2]) {
        (self.network, self.steps) = (network, steps);
        [self.means, self.squares] = moments;
        for _ in 0..steps {
            self.rates.next_alpha();
        }
    }

    /// One update on the images that `batch` lists, each placed as `placements` says, or as it is
    /// where that is empty; returns their loss before it. `labels_n` holds every row's label.
    ///
    /// Runs on the current rayon pool; the bits are the same for any number of threads.
    ///
    /// # Panics
    /// When `batch` is empty or lists a row that does not exist, or the images are not of the
    /// network's size.
    pub fn step(
        &mut self,
        images: &dyn Images,
        labels_n: &[u32],
        batch: &[u32],
        placements: &[Placement],
    ) -> BatchResult {
        assert!(!batch.is_empty(), "a batch has at least one row");
        let size = images.size();
        assert_eq!(
            size, self.network.shape.size,
            "images of the network's size"
        );
        self.labels_b.clear();
        self.labels_b
            .extend(batch.iter().map(|row| labels_n[*row as usize]));
        let load = |place: usize, pixels: &mut [u8]| {
            let placement = placements.get(place).copied().unwrap_or_default();
            placement.apply(images.pixels(batch[place]), size, pixels);
        };
        let result = self.pass.run(
            &self.network,
            &self.labels_b,
            self.class_weights_k.as_deref(),
            &load,
        );
        self.network.follow(&self.pass.moments, self.momentum);
        self.steps += 1;
        let alpha = self.rates.next_alpha();
        let moments = [&mut self.means[..], &mut self.squares[..]];
        self.rates.descend(
            alpha,
            0.0,
            &mut self.network.parameters,
            moments,
            &self.pass.gradient,
        );
        result
    }
}
