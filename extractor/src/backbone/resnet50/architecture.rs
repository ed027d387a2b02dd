//! The layers of ResNet50 without its top, as plain data.
//!
//! The ONNX writer and the reference forward pass both walk this description, so they cannot
//! disagree about a stride. Nothing here knows of weights or of file formats.

/// Where the stride of a stage's first block sits. The same weights give other features in the other
/// variant, and no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Variant {
    /// In the first 1x1 convolution: He et al. 2015, and Keras.
    V1,
    /// In the 3x3 convolution: torchvision and timm.
    #[value(name = "v1.5")]
    V1_5,
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Variant::V1 => "v1",
            Variant::V1_5 => "v1.5",
        })
    }
}

/// BatchNorm's epsilon in `tf.keras.applications`.
pub const KERAS_EPSILON: f32 = 1.001e-5;
/// BatchNorm's epsilon in torchvision and timm.
pub const TORCH_EPSILON: f32 = 1e-5;

/// Bottleneck width, number of blocks and first stride of each of the four stages.
const STAGES: [(usize, usize, usize); 4] = [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)];

/// A bottleneck's output has this many times its width in channels.
const EXPANSION: usize = 4;

/// A biased convolution and the BatchNorm behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvBn {
    /// Keras's layer name without its `_conv` or `_bn`, for example `conv2_block1_1`.
    pub name: String,
    /// Place in [`Architecture::layers`], which is also the layer's random stream.
    pub index: usize,
    /// Channels in.
    pub in_channels: usize,
    /// Channels out.
    pub out_channels: usize,
    /// Side of the square kernel.
    pub kernel: usize,
    /// Stride in both directions.
    pub stride: usize,
    /// Zeros added on each of the four sides.
    pub pad: usize,
}

impl ConvBn {
    /// Inputs to one output value.
    pub fn fan_in(&self) -> usize {
        self.in_channels * self.kernel * self.kernel
    }

    /// Whether the layer is the last one of a block's branch, whose output joins the shortcut.
    pub fn ends_block(&self) -> bool {
        self.name.ends_with("_3")
    }

    /// Side of the output for an input of side `side`.
    pub fn out_side(&self, side: usize) -> usize {
        out_side(side, self.kernel, self.stride, self.pad)
    }
}

/// A residual block: `relu(shortcut(x) + branch(x))`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Keras's name, for example `conv2_block1`.
    pub name: String,
    /// The projection of a stage's first block; later blocks add their input itself.
    pub shortcut: Option<ConvBn>,
    /// 1x1, 3x3, 1x1; the first or second carries the stride; ReLU behind both.
    pub branch: [ConvBn; 3],
}

/// The whole backbone: stem, max pool 3x3/2 behind one pixel of padding, sixteen blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// 7x7/2 behind three pixels of padding.
    pub stem: ConvBn,
    /// All blocks of all stages, in order.
    pub blocks: Vec<Block>,
    /// What every BatchNorm adds to its variance.
    pub epsilon: f32,
}

impl Architecture {
    /// ResNet50.
    pub fn resnet50(variant: Variant, epsilon: f32) -> Architecture {
        let mut counter = 0;
        let mut layer = |name: String, (in_channels, out_channels), kernel, stride, pad| {
            let index = counter;
            counter += 1;
            ConvBn {
                name,
                index,
                in_channels,
                out_channels,
                kernel,
                stride,
                pad,
            }
        };
        let stem = layer("conv1".to_owned(), (3, 64), 7, 2, 3);
        let mut blocks = Vec::new();
        let mut channels = 64;
        for (stage, &(width, count, first_stride)) in STAGES.iter().enumerate() {
            for block in 1..=count {
                let name = format!("conv{}_block{block}", stage + 2);
                let wide = width * EXPANSION;
                let stride = if block == 1 { first_stride } else { 1 };
                let shortcut = (block == 1)
                    .then(|| layer(format!("{name}_0"), (channels, wide), 1, stride, 0));
                let (first, second) = match variant {
                    Variant::V1 => (stride, 1),
                    Variant::V1_5 => (1, stride),
                };
                let branch = [
                    layer(format!("{name}_1"), (channels, width), 1, first, 0),
                    layer(format!("{name}_2"), (width, width), 3, second, 1),
                    layer(format!("{name}_3"), (width, wide), 1, 1, 0),
                ];
                channels = wide;
                blocks.push(Block {
                    name,
                    shortcut,
                    branch,
                });
            }
        }
        Architecture {
            stem,
            blocks,
            epsilon,
        }
    }

    /// Every convolution, in the order of [`ConvBn::index`].
    pub fn layers(&self) -> impl Iterator<Item = &ConvBn> {
        std::iter::once(&self.stem).chain(
            self.blocks
                .iter()
                .flat_map(|block| block.shortcut.iter().chain(&block.branch)),
        )
    }

    /// Side and channels of the feature map for an input of side `side`.
    pub fn output(&self, side: usize) -> (usize, usize) {
        let pooled = pooled_side(self.stem.out_side(side));
        self.blocks
            .iter()
            .fold((pooled, self.stem.out_channels), |(side, _), block| {
                let out_side = |side, layer: &ConvBn| layer.out_side(side);
                let side = block.branch.iter().fold(side, out_side);
                (side, block.branch[2].out_channels)
            })
    }
}

/// Side of the max pool's output.
pub fn pooled_side(side: usize) -> usize {
    out_side(side, 3, 2, 1)
}

fn out_side(side: usize, kernel: usize, stride: usize, pad: usize) -> usize {
    (side + 2 * pad - kernel) / stride + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_match_keras() {
        let resnet = Architecture::resnet50(Variant::V1, KERAS_EPSILON);
        let later = Architecture::resnet50(Variant::V1_5, TORCH_EPSILON);
        for (size, side) in [(100, 4), (224, 7), (33, 2), (32, 1)] {
            assert_eq!(resnet.output(size), (side, 2048));
            assert_eq!(later.output(size), (side, 2048));
        }
        assert_eq!(resnet.stem.out_side(100), 50);
        assert_eq!(pooled_side(50), 25);
        assert_eq!(resnet.layers().count(), 53);
        assert_eq!(
            resnet.layers().filter(|layer| layer.ends_block()).count(),
            16
        );
        assert!(
            resnet
                .layers()
                .enumerate()
                .all(|(place, layer)| layer.index == place)
        );
    }

    /// Sides and channels written down from Keras's summary for (100, 100, 3).
    #[test]
    fn stages_match_keras() {
        let resnet = Architecture::resnet50(Variant::V1, KERAS_EPSILON);
        let mut side = 25;
        let mut seen = Vec::new();
        for block in &resnet.blocks {
            side = block.branch[0].out_side(side);
            if block.shortcut.is_some() {
                let widths = block.branch.each_ref().map(|layer| layer.out_channels);
                seen.push((block.name.as_str(), side, widths));
            }
        }
        let expected = [
            ("conv2_block1", 25, [64, 64, 256]),
            ("conv3_block1", 13, [128, 128, 512]),
            ("conv4_block1", 7, [256, 256, 1024]),
            ("conv5_block1", 4, [512, 512, 2048]),
        ];
        assert_eq!(seen, expected);
        assert_eq!(resnet.blocks.len(), 16);
        // v1: the stride sits in the first 1x1, never in the 3x3.
        assert!(
            resnet
                .blocks
                .iter()
                .all(|block| block.branch[1].stride == 1)
        );
        assert_eq!(resnet.blocks[3].branch[0].stride, 2);
        // v1.5: the other way round.
        let strides = |at: usize| {
            let later = Architecture::resnet50(Variant::V1_5, TORCH_EPSILON);
            later.blocks[at].branch.each_ref().map(|layer| layer.stride)
        };
        assert_eq!((strides(3), strides(4)), ([1, 2, 1], [1, 1, 1]));
    }
}
