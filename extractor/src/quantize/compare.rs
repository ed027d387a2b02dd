//! Runs a float backbone and the same in 8 bits over the same images, in turns: what each makes of them, and how
//! fast.
//!
//! Both are timed in the same minute on the same batches, as a machine's speed is not the same from one minute to
//! the next. Must not know how the images are chosen, nor what a head is.

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::load::{Loaded, Loader};
use crate::backbone::{Backbone, BackboneError, MapShape};

/// Batches that one model runs before it is the other's turn. The first of them is not timed: threads of the
/// other model still spin then.
const TURN: usize = 4;

/// The two cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// One of them fails.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// They are not of the same kind.
    #[error("the float model gives feature maps of {float}, the 8-bit one of {int8}")]
    Shapes {
        /// The float model's.
        float: MapShape,
        /// The 8-bit one's.
        int8: MapShape,
    },
}

/// Pooled features of the same images by both models.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pooled {
    /// Of the float model and of the 8-bit one, each [images, channels].
    pub features: [Vec<f32>; 2],
    /// Channels of a feature map.
    pub channels: usize,
    /// Position of each image in the index.
    pub positions: Vec<u32>, // [images]
    /// Class of each image.
    pub labels: Vec<u32>, // [images]
    /// Images a second, the float model's and the 8-bit one's: the median over batches.
    pub images_per_sec: [f64; 2],
}

/// Runs `backbones`, the float one first, over the first `wanted` images of `order`, all of them labelled.
/// `skipped` hears of images that cannot be decoded (path, reason).
///
/// # Errors
/// When a backbone fails, or the two give maps of different shapes.
pub fn compare(
    backbones: &mut [Backbone; 2],
    loader: &Loader,
    (order, wanted): (&[u32], usize),
    stop: &AtomicBool,
    skipped: &mut dyn FnMut(&[u8], &str),
    done: &mut dyn FnMut(usize),
) -> Result<Pooled, CompareError> {
    let batch_size = backbones[0].batch_size;
    let mut pooled = Pooled::default();
    let mut secs: [Vec<f64>; 2] = Default::default();
    loader.load(
        order,
        (wanted, batch_size * TURN),
        stop,
        skipped,
        &mut |turn: &Loaded| {
            let images = turn.positions.len();
            let slot = loader.preprocessor.len();
            let mut input = turn.input.clone();
            input.resize(images.next_multiple_of(batch_size) * slot, 0.0);
            let batches: Vec<&[f32]> = input.chunks_exact(batch_size * slot).collect();
            let models = backbones.iter_mut().zip(&mut pooled.features);
            let mut shapes = Vec::new(); // [models]
            for ((backbone, features), secs) in models.zip(&mut secs) {
                let before = features.len();
                let shape = run(backbone, &batches, features, secs)?;
                features.truncate(before + images * shape.channels);
                pooled.channels = shape.channels;
                shapes.push(shape);
            }
            let (float, int8) = (shapes[0], shapes[1]);
            if float != int8 {
                return Err(CompareError::Shapes { float, int8 });
            }
            pooled.positions.extend_from_slice(&turn.positions);
            let labels = turn.positions.iter().map(|i| {
                let label = loader.index.entry(*i as usize).label;
                label.expect("images without a label are not judged")
            });
            pooled.labels.extend(labels);
            done(images);
            Ok(())
        },
    )?;
    pooled.images_per_sec = secs.map(|secs| batch_size as f64 / median(secs));
    Ok(pooled)
}

/// Runs `batches`, adds their pooled features to `features` and the time of all but the first to `secs`, of
/// which the first counts only where it is the only one. Returns the shape of a map.
fn run(
    backbone: &mut Backbone,
    batches: &[&[f32]],
    features: &mut Vec<f32>,
    secs: &mut Vec<f64>,
) -> Result<MapShape, BackboneError> {
    let mut maps = Vec::new(); // [batch_size, h, w, c]
    let mut shape = MapShape {
        height: 0,
        width: 0,
        channels: 0,
    };
    for (i, batch) in batches.iter().enumerate() {
        let started = Instant::now();
        shape = backbone.run(batch, &mut maps)?;
        if i > 0 || batches.len() == 1 {
            secs.push(started.elapsed().as_secs_f64());
        }
        for map in maps.chunks_exact(shape.len()) {
            features.extend(pool(map, shape.channels));
        }
    }
    Ok(shape)
}

/// Global average pooling of a map [h, w, c].
fn pool(map: &[f32], channels: usize) -> impl Iterator<Item = f32> {
    let mut sums = vec![0.0_f64; channels];
    for position in map.chunks_exact(channels) {
        for (sum, value) in sums.iter_mut().zip(position) {
            *sum += f64::from(*value);
        }
    }
    let positions = (map.len() / channels) as f64;
    sums.into_iter().map(move |sum| (sum / positions) as f32)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
    }
}

/// Cosine of the angle between each image's two features: the mean and the least of all.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Cosine {
    /// Mean.
    pub mean: f64,
    /// Least.
    pub least: f64,
}

impl Pooled {
    /// How alike the features are; 1 where all are the same but for a factor.
    pub fn cosine(&self) -> Cosine {
        let [float, int8] = &self.features;
        let images = float.chunks_exact(self.channels.max(1));
        let cosines = images.zip(int8.chunks_exact(self.channels.max(1)));
        let (mut sum, mut least, mut count) = (0.0, f64::INFINITY, 0);
        for (a, b) in cosines {
            let cosine = cosine(a, b);
            (sum, least, count) = (sum + cosine, cosine.min(least), count + 1);
        }
        Cosine {
            mean: sum / f64::from(count),
            least,
        }
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        products.sum()
    };
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    match lengths > 0.0 {
        true => dot(a, b) / lengths,
        // Both zero are alike, one alone is not.
        false => f64::from(u8::from(dot(a, a) == dot(b, b))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::Spec;
    use crate::decode::Exif;
    use crate::digest::Digest;
    use crate::engine::{Engine, EngineError, EngineInfo};
    use crate::images::{ImageBytes, Images};
    use crate::index::{Entry, Index};
    use crate::preprocess::{Layout, Preset};
    use crate::transient::Unreadable;

    /// Gives maps [1, 2, 2], or [2, 1, 2] if `tall`: two positions that hold `scale` times the image's first two numbers, both the first
    /// and the first plus 2 at the other.
    struct Fake {
        info: EngineInfo,
        scale: f32,
        tall: bool,
    }

    impl Engine for Fake {
        fn info(&self) -> &EngineInfo {
            &self.info
        }

        fn run(
            &mut self,
            _: &str,
            shape: [usize; 4],
            data: &[f32],
            _: &str,
            out: &mut Vec<f32>,
        ) -> Result<Vec<usize>, EngineError> {
            out.clear();
            for image in data.chunks_exact(data.len() / shape[0]) {
                let [a, b] = [image[0], image[1]].map(|v| v * self.scale);
                out.extend([a, b, a + 2.0, b + 2.0]);
            }
            Ok(match self.tall {
                true => vec![shape[0], 2, 1, 2],
                false => vec![shape[0], 1, 2, 2],
            })
        }
    }

    /// Images of one pixel, drawn when asked for; `broken` is none.
    struct Pixels;

    fn pixel(path: &[u8]) -> Vec<u8> {
        let n: u8 = std::str::from_utf8(path).unwrap().parse().unwrap();
        let mut png = std::io::Cursor::new(Vec::new());
        let image = image::RgbImage::from_pixel(1, 1, image::Rgb([n, 10, 0]));
        image.write_to(&mut png, image::ImageFormat::Png).unwrap();
        png.into_inner()
    }

    impl Images for Pixels {
        fn read(&self, path: &[u8]) -> Result<ImageBytes<'_>, Unreadable> {
            match path {
                b"7" => Err("torn".into()),
                path => Ok(pixel(path).into()),
            }
        }
    }

    fn backbone(scale: f32, tall: bool) -> Backbone {
        let spec = Spec {
            name: "fake".to_owned(),
            digest: Digest::of(b""),
            input: "x".to_owned(),
            input_layout: Layout::Nhwc,
            input_size: [1, 1],
            batch: None,
            feature_tensor: "y".to_owned(),
            feature_layout: Some(Layout::Nhwc),
            preset: Preset::Raw,
            described_preset: None,
            trained: None,
        };
        let info = EngineInfo {
            engine: "fake".to_owned(),
            provider: "CPU",
            note: None,
        };
        Backbone::new(spec, Box::new(Fake { info, scale, tall }), 2)
    }

    /// Thirteen of them.
    fn index() -> Index {
        let mut index = Index::new(vec!["even".into(), "odd".into()]);
        for n in 0..13_u32 {
            let path = n.to_string();
            let id = Digest::of(&pixel(path.as_bytes()));
            let (path, label) = (path.as_bytes(), Some(n % 2));
            index.push(Entry { id, path, label });
        }
        index
    }

    #[test]
    fn maps_of_different_shapes_are_an_error() {
        let index = index();
        let mut backbones = [backbone(1.0, false), backbone(1.0, true)];
        let loader = Loader {
            images: &Pixels,
            index: &index,
            exif: Exif::Ignore,
            preprocessor: backbones[0].preprocessor(),
        };
        let compared = compare(
            &mut backbones,
            &loader,
            (&[1, 2], 2),
            &AtomicBool::new(false),
            &mut |_, _| {},
            &mut |_| {},
        );
        let error = compared.unwrap_err().to_string();
        let expected = "the float model gives feature maps of 1x2x2, the 8-bit one of 2x1x2";
        assert_eq!(error, expected);
    }

    #[test]
    fn both_pool_the_same_images_in_order() {
        let index = index();
        let mut backbones = [backbone(1.0, false), backbone(-3.0, false)];
        let loader = Loader {
            images: &Pixels,
            index: &index,
            exif: Exif::Ignore,
            preprocessor: backbones[0].preprocessor(),
        };
        let order = [5, 7, 1, 0, 2, 3, 4, 6, 8, 9, 10, 11, 12];
        let (mut skipped, mut done) = (Vec::new(), 0);
        let pooled = compare(
            &mut backbones,
            &loader,
            (&order, 11),
            &AtomicBool::new(false),
            &mut |path, reason| skipped.push((path.to_vec(), reason.to_owned())),
            &mut |n| done += n,
        )
        .unwrap();
        // A turn of 8 images and one of 3, the last batch of which is filled up.
        let taken = [5, 1, 0, 2, 3, 4, 6, 8, 9, 10, 11];
        assert_eq!(skipped, [(b"7".to_vec(), "torn".to_owned())]);
        assert_eq!(done, 11);
        assert_eq!(pooled.positions, taken);
        assert_eq!(pooled.labels, taken.map(|n| n % 2));
        assert_eq!(pooled.channels, 2);
        // The mean of v and v + 2 is v + 1.
        let expected = |scale: f32| taken.map(|n| [scale * n as f32 + 1.0, scale * 10.0 + 1.0]);
        assert_eq!(pooled.features[0], expected(1.0).concat());
        assert_eq!(pooled.features[1], expected(-3.0).concat());
        assert!(pooled.images_per_sec.iter().all(|n| *n > 0.0));
    }

    #[test]
    fn cosines_by_hand() {
        let pooled = |float: &[f32], int8: &[f32]| Pooled {
            features: [float.to_vec(), int8.to_vec()],
            channels: 2,
            ..Pooled::default()
        };
        let cosine = pooled(&[1.0, 0.0, 3.0, 4.0], &[1.0, 1.0, 6.0, 8.0]).cosine();
        let half = 0.5_f64.sqrt();
        assert!((cosine.least - half).abs() < 1e-12);
        assert!((cosine.mean - (half + 1.0) / 2.0).abs() < 1e-12);
        let zeros = pooled(&[0.0, 0.0, 0.0, 0.0], &[0.0, 0.0, 1.0, 0.0]).cosine();
        assert_eq!((zeros.mean, zeros.least), (0.5, 0.0));
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
