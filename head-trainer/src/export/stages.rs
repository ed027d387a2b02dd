//! What comes before and after the backbone: preprocessing as [`extractor::resize`] and
//! [`extractor::preprocess`] have it, pooling, head, temperature and threshold.
//!
//! Only operators that mean the same in every operator set from 9 on.

use extractor::backbone::Spec;
use extractor::preprocess::{CAFFE_MEAN_BGR, IMAGENET_MEAN_RGB, IMAGENET_STD_RGB, Layout, Preset};
use extractor::store::Dtype;
use onnx_protobuf::tensor_proto::DataType;

use super::graph::{Nodes, int, ints, to};
use super::{IMAGE, LABEL, PROBABILITIES, Parts};

/// From the pixels to the backbone's `input`.
pub(super) fn preprocessing(nodes: &mut Nodes<'_>, spec: &Spec, input: &str) {
    let rgb = resized(nodes, spec.input_size);
    let coloured = coloured(nodes, spec.preset, rgb);
    match spec.input_layout {
        Layout::Nhwc => nodes.named("Identity", input, &[&coloured], vec![]),
        Layout::Nchw => {
            let order = vec![ints("perm", &[0, 3, 1, 2])];
            nodes.named("Transpose", input, &[&coloured], order);
        }
    }
}

/// Where the samples of one axis of the output lie in the image.
struct Taps {
    low: String,    // [out]
    high: String,   // [out]
    weight: String, // of the second, [1, out, 1, 1] or [1, 1, out, 1]
}

/// The taps of axis `axis`, which becomes `output` samples; see [`extractor::resize::taps`].
fn taps(nodes: &mut Nodes<'_>, shape: &str, axis: i64, output: usize) -> Taps {
    let name = |part: &str| format!("{}/{part}", ["N", "y", "x"][axis as usize]);
    let which = nodes.integers(&name("axis"), &[axis]);
    let side = nodes.add(
        "Gather",
        &name("side_int"),
        &[shape, &which],
        vec![int("axis", 0)],
    );
    let side = nodes.add("Cast", &name("side"), &[&side], to(DataType::FLOAT));
    let length = nodes.floats(&name("length"), &[1], &[output as f32]);
    let scale = nodes.add("Div", &name("scale"), &[&side, &length], vec![]);
    let centres: Vec<f32> = (0..output).map(|i| i as f32 + 0.5).collect();
    let centres = nodes.floats(&name("centres"), &[output], &centres);
    let half = nodes.floats(&name("half"), &[1], &[0.5]);
    let scaled = nodes.add("Mul", &name("scaled"), &[&centres, &scale], vec![]);
    let at = nodes.add("Sub", &name("at"), &[&scaled, &half], vec![]);
    let floor = nodes.add("Floor", &name("floor"), &[&at], vec![]);
    let ceil = nodes.add("Ceil", &name("ceil"), &[&at], vec![]);

    let zero = nodes.floats(&name("zero"), &[1], &[0.0]);
    let one = nodes.floats(&name("one"), &[1], &[1.0]);
    let last = nodes.add("Sub", &name("last"), &[&side, &one], vec![]);
    let low = nodes.add("Max", &name("low_float"), &[&floor, &zero], vec![]);
    let high = nodes.add("Max", &name("high_float"), &[&ceil, &zero], vec![]);
    let high = nodes.add("Min", &name("high_inside"), &[&high, &last], vec![]);
    let weight = nodes.add("Sub", &name("weight_flat"), &[&at, &floor], vec![]);
    let mut dims = [1; 4];
    dims[axis as usize] = output as i64;
    let dims = nodes.integers(&name("weight_shape"), &dims);
    Taps {
        low: nodes.add("Cast", &name("low"), &[&low], to(DataType::INT64)),
        high: nodes.add("Cast", &name("high"), &[&high], to(DataType::INT64)),
        weight: nodes.add("Reshape", &name("weight"), &[&weight, &dims], vec![]),
    }
}

/// The resized images, [N, H, W, 3], from 0 to 255.
fn resized(nodes: &mut Nodes<'_>, [height, width]: [usize; 2]) -> String {
    let shape = nodes.add("Shape", "shape", &[IMAGE], vec![]);
    let y = taps(nodes, &shape, 1, height);
    let x = taps(nodes, &shape, 2, width);
    let mut sample = |row: &str, y: &str, column: &str, x: &str| {
        let name = |part: &str| format!("{row}_{column}/{part}");
        let rows = nodes.add("Gather", &name("rows"), &[IMAGE, y], vec![int("axis", 1)]);
        let pixels = nodes.add("Gather", &name("pixels"), &[&rows, x], vec![int("axis", 2)]);
        nodes.add("Cast", &name("samples"), &[&pixels], to(DataType::FLOAT))
    };
    let top_left = sample("top", &y.low, "left", &x.low);
    let top_right = sample("top", &y.low, "right", &x.high);
    let bottom_left = sample("bottom", &y.high, "left", &x.low);
    let bottom_right = sample("bottom", &y.high, "right", &x.high);
    // Tap::between
    let mut between = |name: &str, low: &str, high: &str, weight: &str| {
        let part = |part: &str| format!("{name}/{part}");
        let apart = nodes.add("Sub", &part("apart"), &[high, low], vec![]);
        let share = nodes.add("Mul", &part("share"), &[&apart, weight], vec![]);
        nodes.add("Add", &part("between"), &[low, &share], vec![])
    };
    let top = between("top", &top_left, &top_right, &x.weight);
    let bottom = between("bottom", &bottom_left, &bottom_right, &x.weight);
    between("resized", &top, &bottom, &y.weight)
}

/// The resized images in the preset's colours.
fn coloured(nodes: &mut Nodes<'_>, preset: Preset, rgb: String) -> String {
    let mut by = |op: &str, name: &str, x: &str, values: &[f32]| {
        let constant = nodes.floats(&format!("{name}_by"), &[values.len()], values);
        nodes.add(op, name, &[x, &constant], vec![])
    };
    match preset {
        Preset::Raw => rgb,
        Preset::Unit => by("Div", "unit", &rgb, &[255.0]),
        Preset::Imagenet => {
            let unit = by("Div", "unit", &rgb, &[255.0]);
            let centred = by("Sub", "centred", &unit, &IMAGENET_MEAN_RGB);
            by("Div", "scaled", &centred, &IMAGENET_STD_RGB)
        }
        Preset::Caffe => {
            let order = nodes.integers("bgr_order", &[2, 1, 0]);
            let bgr = nodes.add("Gather", "bgr", &[&rgb, &order], vec![int("axis", 3)]);
            let mean = nodes.floats("centred_by", &[3], &CAFFE_MEAN_BGR);
            nodes.add("Sub", "centred", &[&bgr, &mean], vec![])
        }
    }
}

/// From the feature `map` to the outputs.
pub(super) fn decision(nodes: &mut Nodes<'_>, parts: &Parts<'_>, map: &str) {
    let (linear, decision) = (&parts.head.linear, parts.head.decision);
    let (outputs, channels) = (linear.outputs(), linear.channels());
    let mut map = map.to_owned();
    if parts.dtype == Dtype::F16 {
        map = nodes.add("Cast", "map_f16", &[&map], to(DataType::FLOAT16));
        map = nodes.add("Cast", "map", &[&map], to(DataType::FLOAT));
    }
    if parts.map_layout == Layout::Nhwc {
        let order = vec![ints("perm", &[0, 3, 1, 2])];
        map = nodes.add("Transpose", "map_nchw", &[&map], order);
    }
    let pooled = nodes.add("GlobalAveragePool", "pooled_map", &[&map], vec![]);
    let pooled = nodes.add("Flatten", "pooled", &[&pooled], vec![int("axis", 1)]);
    let weights = nodes.floats("weight", &[outputs, channels], &linear.weights_oc);
    let bias = nodes.floats("bias", &[outputs], &linear.bias_o);
    let head = vec![int("transB", 1)];
    let logits = nodes.add("Gemm", "logits", &[&pooled, &weights, &bias], head);
    let temperature = nodes.floats("temperature", &[1], &[decision.temperature as f32]);
    let divided = nodes.add(
        "Div",
        "logits_by_temperature",
        &[&logits, &temperature],
        vec![],
    );
    if outputs > 1 {
        nodes.named("Softmax", PROBABILITIES, &[&divided], vec![int("axis", 1)]);
        let first = vec![int("axis", 1), int("keepdims", 0)];
        nodes.named("ArgMax", LABEL, &[&logits], first);
        return;
    }
    let second = nodes.add("Sigmoid", "second", &[&divided], vec![]);
    let negated = nodes.add("Neg", "negated", &[&divided], vec![]);
    let first = nodes.add("Sigmoid", "first", &[&negated], vec![]);
    nodes.named(
        "Concat",
        PROBABILITIES,
        &[&first, &second],
        vec![int("axis", 1)],
    );
    // Decision::class
    let (what, above) = match decision.threshold {
        0.5 => (logits, 0.0),
        threshold => (second, below(threshold)),
    };
    let threshold = nodes.floats("threshold", &[1], &[above]);
    let above = nodes.add("Greater", "above", &[&what, &threshold], vec![]);
    let class = nodes.add("Cast", "class", &[&above], to(DataType::INT64));
    let flat = nodes.integers("label_shape", &[-1]);
    nodes.named("Reshape", LABEL, &[&class, &flat], vec![]);
}

/// The largest f32 that is not above `x`: an f32 is above the one as it is above the other.
fn below(x: f64) -> f32 {
    let nearest = x as f32;
    match f64::from(nearest) > x {
        true => nearest.next_down(),
        false => nearest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_divides_the_same_numbers() {
        for x in [0.1, 0.25, 1.0 / 3.0, 0.7, 0.99999999] {
            let below = below(x);
            assert!(
                f64::from(below) <= x && f64::from(below.next_up()) > x,
                "{x}"
            );
        }
    }
}
