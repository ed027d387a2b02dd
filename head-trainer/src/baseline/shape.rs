//! The sizes of the baseline: of each layer's input and output, and where each parameter lies.
//!
//! All trainable parameters are one flat slice, in the order and layout that Keras lists them, the
//! dense kernel alone the other way round: for each of the three stages `kernel` `[3, 3, C, F]`,
//! `bias` `[F]`, `gamma` `[F]`, `beta` `[F]`, then `weights` `[O, D]` and `bias` `[O]` of the dense
//! layer. So an optimizer, a sum of gradients or a file needs to know nothing of layers. This file
//! knows nothing of numbers.

use std::ops::Range;

use crate::head::outputs_for;

/// Number of stages: convolution, normalisation, ReLU, maximum over 2 x 2.
pub(super) const STAGES: usize = 3;

/// Filters of each stage, by default.
pub const FILTERS: [usize; STAGES] = [32, 32, 64];

/// The smallest image side that leaves one number after all layers: 30 > 28 > 14 > 12 > 6 > 4 > 2
/// > 1.
pub const LEAST_SIDE: usize = 30;

/// What decides the sizes of all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Height and width of an image.
    pub size: [usize; 2],
    /// Filters of each stage.
    pub filters: [usize; STAGES],
    /// Number of classes, K.
    pub classes: usize,
}

/// Sizes within one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stage {
    /// Height of the input.
    pub height: usize,
    /// Width of the input, W.
    pub width: usize,
    /// Channels of the input, C.
    pub channels: usize,
    /// Filters, F: channels of the output.
    pub filters: usize,
}

impl Stage {
    /// Rows of the convolution's output.
    pub fn conv_height(&self) -> usize {
        self.height - 2
    }

    /// Columns of the convolution's output. In memory its rows are as wide as the input's; the
    /// last two columns mean nothing.
    pub fn conv_width(&self) -> usize {
        self.width - 2
    }

    /// Rows of the pooled output; an odd last row is left out.
    pub fn pooled_height(&self) -> usize {
        self.conv_height() / 2
    }

    /// Columns of the pooled output; an odd last column is left out.
    pub fn pooled_width(&self) -> usize {
        self.conv_width() / 2
    }

    /// Numbers in the pooled output of an image.
    pub fn pooled_len(&self) -> usize {
        self.pooled_height() * self.pooled_width() * self.filters
    }

    /// Places of the convolution's output in an image, over which it is normalised.
    pub fn places(&self) -> usize {
        self.conv_height() * self.conv_width()
    }
}

/// Where a stage's parameters lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StageRanges {
    /// `[3, 3, C, F]`.
    pub kernel: Range<usize>,
    /// `[F]`, as are the others.
    pub bias: Range<usize>,
    pub gamma: Range<usize>,
    pub beta: Range<usize>,
}

/// Where the dense layer's parameters lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DenseRanges {
    /// `[O, D]`.
    pub weights: Range<usize>,
    /// `[O]`.
    pub bias: Range<usize>,
}

impl Shape {
    /// The default network for images of `size` (height, width) in `classes` classes.
    pub fn new(size: [usize; 2], classes: usize) -> Shape {
        Shape {
            size,
            filters: FILTERS,
            classes,
        }
    }

    /// Whether every layer has an output.
    pub fn is_usable(&self) -> bool {
        self.size.iter().all(|side| *side >= LEAST_SIDE)
            && self.filters.iter().all(|filters| *filters > 0)
            && self.classes >= 2
    }

    /// Numbers in an image, `[H, W, 3]`.
    pub fn pixels(&self) -> usize {
        self.size[0] * self.size[1] * 3
    }

    /// Outputs, O: 1 for two classes, one a class for more.
    pub fn outputs(&self) -> usize {
        outputs_for(self.classes)
    }

    /// Sizes within each stage.
    pub(super) fn stages(&self) -> [Stage; STAGES] {
        let mut input = (self.size, 3);
        self.filters.map(|filters| {
            let ([height, width], channels) = input;
            let stage = Stage {
                height,
                width,
                channels,
                filters,
            };
            input = ([stage.pooled_height(), stage.pooled_width()], filters);
            stage
        })
    }

    /// Height, width and channels of the dense layer's input: the last stage's output, averaged
    /// over 2 x 2.
    pub(super) fn averaged(&self) -> [usize; 3] {
        let last = self.stages()[STAGES - 1];
        [
            last.pooled_height() / 2,
            last.pooled_width() / 2,
            last.filters,
        ]
    }

    /// Inputs of the dense layer, D.
    pub fn dense_inputs(&self) -> usize {
        self.averaged().iter().product()
    }

    /// Where each parameter lies.
    pub(super) fn ranges(&self) -> ([StageRanges; STAGES], DenseRanges) {
        let mut end = 0;
        let mut next = |count: usize| {
            let start = end;
            end += count;
            start..end
        };
        let stages = self.stages().map(|stage| StageRanges {
            kernel: next(9 * stage.channels * stage.filters),
            bias: next(stage.filters),
            gamma: next(stage.filters),
            beta: next(stage.filters),
        });
        let dense = DenseRanges {
            weights: next(self.outputs() * self.dense_inputs()),
            bias: next(self.outputs()),
        };
        (stages, dense)
    }

    /// Number of parameters that training changes by gradients.
    pub fn trainable(&self) -> usize {
        self.ranges().1.bias.end
    }

    /// Number of all parameters: each stage's moving mean and variance are not trained.
    pub fn parameters(&self) -> usize {
        self.trainable() + 2 * self.filters.iter().sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tutorials_network() {
        let shape = Shape::new([100, 100], 2);
        let sides = shape
            .stages()
            .map(|s| (s.height, s.conv_height(), s.pooled_height()));
        assert_eq!(sides, [(100, 98, 49), (49, 47, 23), (23, 21, 10)]);
        assert_eq!(shape.averaged(), [5, 5, 64]);
        assert_eq!(shape.dense_inputs(), 1600);
        assert_eq!((shape.trainable(), shape.parameters()), (30_497, 30_753));
        let ten = Shape::new([100, 100], 10);
        assert_eq!(ten.trainable(), 30_497 + 9 * 1601);
    }

    #[test]
    fn the_smallest_image() {
        let shape = Shape::new([LEAST_SIDE, LEAST_SIDE], 2);
        assert!(shape.is_usable());
        assert_eq!(shape.averaged(), [1, 1, 64]);
        assert!(!Shape::new([LEAST_SIDE - 1, 100], 2).is_usable());
    }
}
