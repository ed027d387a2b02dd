//! The first stage's convolution, a strip of rows at a time: its output is by far the largest thing
//! in the network, and a strip of it stays in the cache until it was looked at. Knows nothing of
//! what is done with a strip.

use super::conv::Conv;
use super::shape::Stage;
use super::unfold::{UNFOLDED, unfold};

/// Rows of a strip; even, so that no 2 x 2 is cut.
const STRIP: usize = 14;

/// The first stage's convolution, on unfolded images ([`super::unfold`]).
#[derive(Clone, Debug)]
pub(super) struct First {
    /// Its sizes.
    pub stage: Stage,
    /// The same for unfolded images.
    pub conv: Conv,
    /// The kernel for unfolded images, `[1, 3, 9, F]`.
    pub kernel: Vec<f32>,
}

/// Memory for one strip.
#[derive(Debug)]
pub(super) struct StripMemory {
    unfolded: Vec<f32>, // [STRIP, W, 9]
    output: Vec<f32>,   // [STRIP, W, F]
}

/// A strip of an image.
pub(super) struct Strip<'a> {
    /// Rows of the output.
    pub rows: usize,
    /// The input, `[rows, W, 9]`.
    pub unfolded: &'a [f32],
    /// The output, `[rows, W, F]`.
    pub output: &'a mut [f32],
    /// Where its part of the pooled output begins.
    pub pooled: usize,
}

impl StripMemory {
    /// Memory for strips of a stage.
    pub fn new(stage: &Stage) -> StripMemory {
        StripMemory {
            unfolded: vec![0.0; STRIP * stage.width * UNFOLDED],
            output: vec![0.0; STRIP * stage.width * stage.filters],
        }
    }
}

impl First {
    /// Calls `each` with every strip of the image `pixels`, `[H, W, 3]`.
    pub fn strips(&self, pixels: &[u8], memory: &mut StripMemory, mut each: impl FnMut(Strip<'_>)) {
        let stage = &self.stage;
        for top in (0..stage.conv_height()).step_by(STRIP) {
            let rows = STRIP.min(stage.conv_height() - top);
            let seen = &pixels[top * stage.width * 3..];
            unfold(seen, stage.width, rows, &mut memory.unfolded);
            let output = &mut memory.output[..rows * stage.width * stage.filters];
            self.conv
                .forward(&self.kernel, &memory.unfolded, rows, output);
            each(Strip {
                rows,
                unfolded: &memory.unfolded,
                output,
                pooled: top / 2 * stage.pooled_width() * stage.filters,
            });
        }
    }
}
