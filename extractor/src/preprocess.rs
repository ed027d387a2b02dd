//! From a decoded image to the numbers a backbone expects: resize, colour preset, layout.
//!
//! Must not know where images come from or what a backbone does with them.

use std::fmt;

use crate::decode::RgbImage;
use crate::resize;

/// How 8-bit RGB becomes a backbone's input. A backbone is only as good as the preset it was
/// trained with.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// RGB, x / 255: the tutorial's. Wrong for Keras's ImageNet weights.
    Unit,
    /// BGR, x - [103.939, 116.779, 123.68]: what Keras's ResNet50 weights expect.
    Caffe,
    /// RGB, (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]: torchvision and the ONNX zoo.
    Imagenet,
    /// RGB, x, from 0 to 255: models that scale their input themselves, such as Keras's EfficientNet.
    Raw,
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Preset::Unit => "unit",
            Preset::Caffe => "caffe",
            Preset::Imagenet => "imagenet",
            Preset::Raw => "raw",
        })
    }
}

/// Order of a 4-D tensor's axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Batch, height, width, channels: TensorFlow's.
    Nhwc,
    /// Batch, channels, height, width: PyTorch's.
    Nchw,
}

/// Turns decoded images into one image's share of the input tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preprocessor {
    /// Colour preset.
    pub preset: Preset,
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Order of the axes in the output.
    pub layout: Layout,
}

/// What [`Preset::Caffe`] subtracts.
pub const CAFFE_MEAN_BGR: [f32; 3] = [103.939, 116.779, 123.68];
/// What [`Preset::Imagenet`] subtracts.
pub const IMAGENET_MEAN_RGB: [f32; 3] = [0.485, 0.456, 0.406];
/// What [`Preset::Imagenet`] divides by then.
pub const IMAGENET_STD_RGB: [f32; 3] = [0.229, 0.224, 0.225];

impl Preprocessor {
    /// Numbers an image takes: `height * width * 3`.
    pub fn len(&self) -> usize {
        self.height * self.width * 3
    }

    /// Whether an image takes no numbers at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Axes of a batch of `images`.
    pub fn shape(&self, images: usize) -> [usize; 4] {
        match self.layout {
            Layout::Nhwc => [images, self.height, self.width, 3],
            Layout::Nchw => [images, 3, self.height, self.width],
        }
    }

    /// Resizes and normalises `image` into `out` ([H, W, 3] or [3, H, W] as the layout says).
    ///
    /// # Panics
    /// When `out` is not [`Preprocessor::len`] long.
    pub fn apply(&self, image: &RgbImage, out: &mut [f32]) {
        assert_eq!(out.len(), self.len(), "an image's share of the input");
        match self.preset {
            Preset::Unit => self.write(image, out, |rgb| rgb.map(|v| v / 255.0)),
            Preset::Caffe => self.write(image, out, |[r, g, b]| {
                let bgr = [b, g, r];
                std::array::from_fn(|c| bgr[c] - CAFFE_MEAN_BGR[c])
            }),
            Preset::Imagenet => self.write(image, out, |rgb| {
                std::array::from_fn(|c| {
                    (rgb[c] / 255.0 - IMAGENET_MEAN_RGB[c]) / IMAGENET_STD_RGB[c]
                })
            }),
            Preset::Raw => self.write(image, out, |rgb| rgb),
        }
    }

    fn write(&self, image: &RgbImage, out: &mut [f32], colour: impl Fn([f32; 3]) -> [f32; 3]) {
        let (height, width) = (self.height, self.width);
        match self.layout {
            Layout::Nhwc => resize::bilinear(image, height, width, |y, x, rgb| {
                let at = (y * width + x) * 3;
                out[at..at + 3].copy_from_slice(&colour(rgb));
            }),
            Layout::Nchw => {
                let plane = height * width;
                resize::bilinear(image, height, width, |y, x, rgb| {
                    for (c, value) in colour(rgb).into_iter().enumerate() {
                        out[c * plane + y * width + x] = value;
                    }
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(preset: Preset, layout: Layout) -> Vec<f32> {
        let image = RgbImage {
            width: 2,
            height: 1,
            pixels: vec![255, 0, 51, 102, 204, 153],
        };
        let preprocessor = Preprocessor {
            preset,
            height: 1,
            width: 2,
            layout,
        };
        let mut out = vec![f32::NAN; preprocessor.len()];
        preprocessor.apply(&image, &mut out);
        out
    }

    #[test]
    fn presets_by_hand() {
        assert_eq!(
            apply(Preset::Unit, Layout::Nhwc),
            [1.0, 0.0, 0.2, 0.4, 0.8, 0.6]
        );
        assert_eq!(
            apply(Preset::Raw, Layout::Nhwc),
            [255.0, 0.0, 51.0, 102.0, 204.0, 153.0]
        );
        let caffe = apply(Preset::Caffe, Layout::Nhwc);
        assert_eq!(caffe[..3], [51.0 - 103.939, 0.0 - 116.779, 255.0 - 123.68]);
        let imagenet = apply(Preset::Imagenet, Layout::Nhwc);
        let expected = [2.248_908_3, -2.035_714_3, -0.915_555_6];
        for (value, expected) in imagenet.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-6, "{value} {expected}");
        }
    }

    #[test]
    fn channels_first_is_the_transpose() {
        assert_eq!(
            apply(Preset::Unit, Layout::Nchw),
            [1.0, 0.4, 0.0, 0.8, 0.2, 0.6]
        );
    }
}
