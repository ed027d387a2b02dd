//! Numerical parity with TensorFlow and ONNX Runtime from Python, on the stored reference tensors.

mod common;

use std::path::Path;

use extractor::backbone::{Backbone, Model, Overrides};
use extractor::decode::{RgbImage, decode_rgb8};
use extractor::engine::{EngineOptions, OnnxRuntime, Precision, Provider};
use extractor::preprocess::{Layout, Preprocessor, Preset};
use ndarray::{Array4, ArrayView1, Axis};
use ndarray_npy::ReadNpyExt;

fn npy<T: ndarray_npy::ReadableElement>(data: &Path, name: &str) -> Array4<T> {
    let path = data.join("reference").join(name);
    let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    Array4::read_npy(file).unwrap()
}

fn images(pixels_nhwc: &Array4<u8>) -> Vec<RgbImage> {
    let image = |pixels: ndarray::ArrayView3<u8>| RgbImage {
        width: pixels.dim().1,
        height: pixels.dim().0,
        pixels: pixels.iter().copied().collect(),
    };
    pixels_nhwc.axis_iter(Axis(0)).map(image).collect()
}

fn backbone(path: &Path, threads: usize, batch_size: usize) -> Backbone {
    let model = Model::read(path, &Overrides::default()).unwrap();
    let options = EngineOptions {
        library: common::library(),
        provider: Provider::Cpu,
        precision: Precision::Fp32,
        threads,
        optimized: None,
    };
    let engine = OnnxRuntime::open(&model.bytes().unwrap(), &options).unwrap();
    model.with_engine(Box::new(engine), batch_size)
}

/// Features of `images` [n * h * w * c], batches padded with zeros.
fn features(backbone: &mut Backbone, images: &[RgbImage]) -> Vec<f32> {
    let preprocessor = backbone.preprocessor();
    let (mut all, mut out) = (Vec::new(), Vec::new());
    for batch in images.chunks(backbone.batch_size) {
        let mut input = vec![0.0; backbone.batch_size * preprocessor.len()];
        for (image, slot) in batch.iter().zip(input.chunks_exact_mut(preprocessor.len())) {
            preprocessor.apply(image, slot);
        }
        let shape = backbone.run(&input, &mut out).unwrap();
        all.extend_from_slice(&out[..batch.len() * shape.len()]);
    }
    all
}

#[test]
fn preprocessed_input_is_tensorflows() {
    let Some(data) = common::test_data() else {
        return;
    };
    let decoded: Array4<u8> = npy(&data, "decoded_tf_default_u8.npy");
    let expected: Array4<f32> = npy(&data, "input_tf.npy");
    let preprocessor = Preprocessor {
        preset: Preset::Unit,
        height: 100,
        width: 100,
        layout: Layout::Nhwc,
    };
    let mut input = vec![0.0; preprocessor.len()];
    for (image, expected) in images(&decoded).iter().zip(expected.axis_iter(Axis(0))) {
        preprocessor.apply(image, &mut input);
        let expected = expected.as_standard_layout();
        for (a, b) in input.iter().zip(expected.iter()) {
            assert!((a - b).abs() <= 1e-6, "{a} {b}");
        }
    }
}

/// Against libjpeg's accurate transform the JPEG decoder may differ by 11 levels, 0.18 on average.
#[test]
fn our_decoding_stays_within_the_recorded_difference() {
    let Some(data) = common::test_data() else {
        return;
    };
    let expected: Array4<u8> = npy(&data, "decoded_tf_accurate_u8.npy");
    let names = std::fs::read_to_string(data.join("reference/files.txt")).unwrap();
    let (mut sum, mut count, mut max) = (0_u64, 0_u64, 0);
    for (name, expected) in names.lines().zip(expected.axis_iter(Axis(0))) {
        let decoded = decode_rgb8(&std::fs::read(data.join("pets").join(name)).unwrap()).unwrap();
        for (a, b) in decoded
            .pixels
            .iter()
            .zip(expected.as_standard_layout().iter())
        {
            let difference = a.abs_diff(*b);
            sum += u64::from(difference);
            count += 1;
            max = max.max(difference);
        }
    }
    assert!(max <= 11, "largest difference {max}");
    let mean = sum as f64 / count as f64;
    assert!(mean <= 0.180, "mean difference {mean}");
}

/// With whole-numbered pixels every sum in the 1-bit ResNet50 is an integer, so that any right
/// runtime agrees exactly; so must any number of threads, batch size and order.
#[test]
fn resnet50_w1a2_features_are_exact() {
    let Some(data) = common::test_data() else {
        return;
    };
    let input = images(&npy(&data, "input_tf_rounded_u8.npy"));
    let expected_nchw: Array4<f32> = npy(&data, "features_resnet50_w1a2_unit_tf_rounded_u8.npy");
    let expected: Vec<f32> = expected_nchw
        .permuted_axes([0, 2, 3, 1])
        .as_standard_layout()
        .iter()
        .copied()
        .collect();
    let model = data.join("models/resnet50_w1a2_i8_100_nhwc.onnx");
    let found = features(&mut backbone(&model, 2, 8), &input);
    assert!(found == expected, "features differ from the stored ones");
}

#[test]
fn mobilenetv2_features_agree() {
    let Some(data) = common::test_data() else {
        return;
    };
    let decoded = images(&npy(&data, "decoded_tf_default_u8.npy"));
    let expected_nchw: Array4<f32> = npy(&data, "features_mobilenetv2_norm_tf.npy");
    let expected = expected_nchw.permuted_axes([0, 2, 3, 1]);
    let expected = expected.as_standard_layout();
    let model = data.join("models/mobilenetv2_100.onnx");
    let found = features(&mut backbone(&model, 2, 16), &decoded);
    for (a, b) in found.iter().zip(expected.iter()) {
        assert!((a - b).abs() <= 1e-3, "{a} {b}");
    }
}

/// A row is the same bits for any number of threads and wherever it stands in whichever batch of
/// the same size.
#[test]
fn rows_do_not_depend_on_threads_or_neighbours() {
    let Some(data) = common::test_data() else {
        return;
    };
    let mut decoded = images(&npy(&data, "decoded_tf_default_u8.npy"));
    let model = data.join("models/mobilenetv2_100.onnx");
    let one = features(&mut backbone(&model, 1, 8), &decoded);
    let map = one.len() / decoded.len();
    assert!(
        one == features(&mut backbone(&model, 2, 8), &decoded),
        "threads change bits"
    );
    decoded.reverse();
    decoded.truncate(13);
    let reversed = features(&mut backbone(&model, 2, 8), &decoded);
    for (a, b) in one.chunks(map).rev().zip(reversed.chunks(map)) {
        assert!(a == b, "neighbours change bits");
    }
}

/// Our decoding instead of TensorFlow's moves pooled MobileNetV2 features by a cosine of at most
/// 0.003.
#[test]
fn from_jpegs_only_the_decoder_differs() {
    let Some(data) = common::test_data() else {
        return;
    };
    let names = std::fs::read_to_string(data.join("reference/files.txt")).unwrap();
    let ours: Vec<RgbImage> = names
        .lines()
        .map(|name| decode_rgb8(&std::fs::read(data.join("pets").join(name)).unwrap()).unwrap())
        .collect();
    let theirs = images(&npy(&data, "decoded_tf_default_u8.npy"));
    let mut backbone = backbone(&data.join("models/mobilenetv2_100.onnx"), 2, 16);
    let pooled = |features: Vec<f32>| {
        let shape = (16, 16, 1280); // [N, H * W, C]
        ndarray::Array3::from_shape_vec(shape, features)
            .unwrap()
            .mean_axis(Axis(1))
            .unwrap()
    };
    let (ours, theirs) = (
        pooled(features(&mut backbone, &ours)),
        pooled(features(&mut backbone, &theirs)),
    );
    let cosine =
        |a: ArrayView1<f32>, b: ArrayView1<f32>| a.dot(&b) / (a.dot(&a).sqrt() * b.dot(&b).sqrt());
    for (a, b) in ours.rows().into_iter().zip(theirs.rows()) {
        assert!(cosine(a, b) >= 0.997, "{}", cosine(a, b));
    }
}
