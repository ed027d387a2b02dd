//! What OpenVINO's execution provider is told, and how it is found out whether it does so.
//!
//! It takes a precision as a hint: a value that it does not know, and a processor without the
//! instructions, give float32 without a word. So a small model is run beside the real one whose answer
//! tells the two apart. Must not know how ONNX Runtime is called.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::{
    AttributeProto, GraphProto, Message as _, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto,
};
use protobuf::{Enum as _, EnumOrUnknown, MessageField};

use super::Precision;
use crate::onnx_tensor::{Dim, tensor_info};

/// What `auto` says where the CPU provider runs and this would be faster.
pub(super) const FASTER: &str = "; on a processor like this one OpenVINO in bf16 ran 2.2 times as fast \
    where it was measured: extractor runtime fetch --flavour openvino, then --ep openvino --precision bf16";

/// The provider's options for the processor.
///
/// `ACCURACY` keeps the provider from choosing a precision by itself. One stream and no pinning:
/// threads that are pinned to the first cores are in the way of those of another process.
pub(super) fn options(precision: Precision, threads: usize) -> Vec<(&'static str, String)> {
    let hint = match precision {
        Precision::Bf16 => "bf16",
        Precision::Fp32 | Precision::Tf32 => "f32",
    };
    let config = serde_json::json!({ "CPU": {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads.max(1),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": false,
    }});
    vec![
        ("device_type", "CPU".to_owned()),
        ("precision", "ACCURACY".to_owned()),
        ("load_config", config.to_string()),
    ]
}

/// Name of the probe's input.
pub(super) const INPUT: &str = "input";
/// Name of the probe's output.
pub(super) const OUTPUT: &str = "output";
/// Shape of the probe's input, [N, channels, height, width].
pub(super) const SHAPE: [usize; 4] = [1, CHANNELS, 4, 4];
const CHANNELS: usize = 64;
/// Every number that goes in: bfloat16, with 7 bits after the point, rounds it to 1; float16 and
/// TensorFloat-32, with 10, to something else.
const VALUE: f32 = 1.0 + 1.0 / 1024.0 + 1.0 / 16384.0;

/// A 1x1 convolution that sums the channels.
pub(super) fn probe() -> Vec<u8> {
    let ints = |name: &str, values: &[i64]| AttributeProto {
        name: name.to_owned(),
        type_: EnumOrUnknown::new(AttributeType::INTS),
        ints: values.to_vec(),
        ..Default::default()
    };
    let weights_oihw = TensorProto {
        name: "weights".to_owned(),
        dims: vec![CHANNELS as i64, CHANNELS as i64, 1, 1],
        data_type: DataType::FLOAT.value(),
        float_data: vec![1.0; CHANNELS * CHANNELS],
        ..Default::default()
    };
    let dims = SHAPE.map(Dim::Fixed);
    let graph = GraphProto {
        name: "probe".to_owned(),
        node: vec![NodeProto {
            op_type: "Conv".to_owned(),
            name: "sum".to_owned(),
            input: vec![INPUT.to_owned(), "weights".to_owned()],
            output: vec![OUTPUT.to_owned()],
            attribute: vec![ints("kernel_shape", &[1, 1])],
            ..Default::default()
        }],
        initializer: vec![weights_oihw],
        input: vec![tensor_info(INPUT, DataType::FLOAT, &dims)],
        output: vec![tensor_info(OUTPUT, DataType::FLOAT, &dims)],
        ..Default::default()
    };
    let model = ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            version: 17,
            ..Default::default()
        }],
        graph: MessageField::some(graph),
        ..Default::default()
    };
    model.write_to_bytes().expect("a model of one node")
}

/// What is wrong, of the lines of `text` that ONNX Runtime or OpenVINO says; `otherwise` words what is
/// not OpenVINO's.
pub(super) fn reason(text: &str, otherwise: impl Fn(&str) -> String) -> String {
    if text.contains("fallback to CPU EP has been explicitly disabled") {
        return "it does not take the whole model, or was not made; the CPU provider would have run the \
                rest under its name"
            .to_owned();
    }
    match text.contains("Exception from ") {
        // A stack of `Exception from FILE:LINE:`, and then what it is about.
        true => {
            let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let last = lines.next_back().unwrap_or_default();
            last.chars().take(300).collect()
        }
        false => otherwise(text),
    }
}

/// What goes into the probe.
pub(super) fn question() -> Vec<f32> {
    vec![VALUE; SHAPE.iter().product()]
}

/// The precision that the probe's `answer` was computed in, if it is one of ours.
pub(super) fn computed_in(answer: &[f32]) -> Option<Precision> {
    let channels = CHANNELS as f32;
    let all = |value: f32| !answer.is_empty() && answer.iter().all(|&a| a == value);
    // Sums of 64 equal numbers of few digits: exact in any order.
    match () {
        () if all(channels * VALUE) => Some(Precision::Fp32),
        () if all(channels) => Some(Precision::Bf16),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_tells_the_precisions_apart() {
        assert_eq!(computed_in(&[64.0 * VALUE; 9]), Some(Precision::Fp32));
        assert_eq!(computed_in(&[64.0625; 9]), None);
        assert_eq!(computed_in(&[64.0; 9]), Some(Precision::Bf16));
        assert_eq!(computed_in(&[64.0, 64.0 * VALUE]), None);
        assert_eq!(computed_in(&[]), None);
    }

    #[test]
    fn options_are_json_with_the_hint() {
        let options = options(Precision::Bf16, 0);
        let config: serde_json::Value = serde_json::from_str(&options[2].1).unwrap();
        assert_eq!(config["CPU"]["INFERENCE_PRECISION_HINT"], "bf16");
        assert_eq!(config["CPU"]["INFERENCE_NUM_THREADS"], 1);
    }
}
