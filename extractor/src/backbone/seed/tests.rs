//! The seeded backbone as a file: its parameters, its label, its bytes.

use onnx_protobuf::tensor_shape_proto::dimension::Value::{DimParam, DimValue};
use onnx_protobuf::{Message as _, ModelProto, ValueInfoProto};

use super::*;

/// SHA-256 of the file for seed 0 and 100 pixels. A change here is a new backbone: everybody's
/// feature stores of the old one become unreadable.
const GOLDEN: &str = "7e069459c86744474f73bec4af9cac2ef55c7ca4367fcd2b07ba593f7f362782";

/// The smallest input: the same parameters as at 100 pixels in a tenth of the time.
fn small(seed: u64) -> SeedOptions {
    SeedOptions { seed, size: 32 }
}

fn shape(info: &ValueInfoProto) -> Vec<String> {
    let dims = &info.type_.tensor_type().shape.dim;
    dims.iter()
        .map(|dim| match &dim.value {
            Some(DimParam(name)) => name.clone(),
            Some(DimValue(value)) => value.to_string(),
            other => panic!("a dimension of {other:?}"),
        })
        .collect()
}

#[test]
fn bytes_are_the_same_on_every_machine() {
    let backbone = resnet50(&SeedOptions::default()).unwrap();
    assert_eq!(backbone.output_shape, [4, 4, 2048]);
    // Maps of order 1, also behind the last of sixteen residual sums.
    assert!(
        (0.2..2.0).contains(&backbone.map_mean),
        "mean {}",
        backbone.map_mean
    );
    assert!(
        (0.3..3.0).contains(&backbone.map_std),
        "std {}",
        backbone.map_std
    );
    assert_eq!(Digest::of(&backbone.bytes).to_string(), GOLDEN);
}

#[test]
fn bytes_depend_on_the_seed_and_not_on_threads() {
    let with_threads = |seed, threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        Digest::of(&pool.install(|| resnet50(&small(seed))).unwrap().bytes)
    };
    assert_eq!(with_threads(5, 1), with_threads(5, 3));
    assert_ne!(with_threads(5, 3), with_threads(6, 3));
}

#[test]
fn the_file_is_keras_resnet50_and_says_untrained() {
    let backbone = resnet50(&small(3)).unwrap();
    let model = ModelProto::parse_from_bytes(&backbone.bytes).unwrap();
    let graph = &model.graph;

    let mut parameters = 0;
    let mut non_trainable = 0;
    for tensor in &graph.initializer {
        let count = tensor.dims.iter().product::<i64>() as u64;
        assert_eq!(tensor.raw_data.len() as u64, 4 * count, "{}", tensor.name);
        parameters += count;
        if tensor.name.contains("_bn/moving_") {
            non_trainable += count;
        }
    }
    assert_eq!((parameters, non_trainable), (23_587_712, 53_120));
    assert_eq!(
        (backbone.parameters, backbone.non_trainable),
        (parameters, non_trainable)
    );

    let dims = |name: &str| {
        graph
            .initializer
            .iter()
            .find(|tensor| tensor.name == name)
            .unwrap()
            .dims
            .clone()
    };
    assert_eq!(dims("conv1_conv/kernel"), [64, 3, 7, 7]);
    assert_eq!(dims("conv2_block1_0_conv/kernel"), [256, 64, 1, 1]);
    assert_eq!(dims("conv3_block1_1_conv/kernel"), [128, 256, 1, 1]);
    assert_eq!(dims("conv4_block6_2_conv/kernel"), [256, 256, 3, 3]);
    assert_eq!(dims("conv5_block3_3_conv/kernel"), [2048, 512, 1, 1]);
    assert_eq!(dims("conv5_block3_3_conv/bias"), [2048]);

    assert_eq!(graph.input.len(), 1);
    assert_eq!(
        (graph.input[0].name.as_str(), graph.output[0].name.as_str()),
        (INPUT, OUTPUT)
    );
    assert_eq!(shape(&graph.input[0]), ["N", "32", "32", "3"]);
    assert_eq!(shape(&graph.output[0]), ["N", "1", "1", "2048"]);

    // Every node's inputs are known before it: the graph is sorted and has no loose ends.
    let mut known: Vec<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    known.push(INPUT);
    for node in &graph.node {
        assert!(
            node.input.iter().all(|name| known.contains(&name.as_str())),
            "{}",
            node.name
        );
        known.extend(node.output.iter().map(String::as_str));
    }
    assert!(known.contains(&OUTPUT));

    let note = "untrained ResNet50, seed 3, BatchNorm statistics from a seeded batch";
    assert_eq!(model.doc_string, note);
    let property = |key: &str| {
        model
            .metadata_props
            .iter()
            .find(|entry| entry.key == key)
            .unwrap()
            .value
            .as_str()
    };
    assert_eq!(property("headstart.trained"), "false");
    assert_eq!(property("headstart.note"), note);
}

#[test]
fn reference_features_are_those_of_single_images() {
    let len = 32 * 32 * 3;
    let images_nhwc: Vec<f32> = (0..2 * len)
        .map(|v| (v * 37 % 101) as f32 / 100.0)
        .collect();
    let both = reference_features(&small(1), &images_nhwc).unwrap();
    assert_eq!(both.len(), 2 * 2048);
    // Inference: an image's features do not depend on its neighbours in the batch.
    assert_eq!(
        reference_features(&small(1), &images_nhwc[len..]).unwrap(),
        both[2048..]
    );
    let error = reference_features(&small(1), &images_nhwc[1..]).unwrap_err();
    assert!(error.to_string().starts_with("got 6143 values"), "{error}");
}

#[test]
fn writes_the_model_and_its_description() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/my-backbone.onnx");
    let written = write(&path, &small(4)).unwrap();
    assert_eq!(written.digest, Digest::of_file(&path).unwrap());
    assert_eq!(written.size_bytes, std::fs::metadata(&path).unwrap().len());
    let expected = "name = \"my-backbone\"\n\
                    preset = \"unit\"\n\
                    input_size = [32, 32]\n\
                    feature_tensor = \"features\"\n\
                    trained = false\n\
                    note = \"untrained ResNet50, seed 4, BatchNorm statistics from a seeded batch\"\n";
    assert_eq!(
        std::fs::read_to_string(&written.description).unwrap(),
        expected
    );
    // No temporary files stay behind, and others may read both.
    let names = std::fs::read_dir(path.parent().unwrap()).unwrap();
    assert_eq!(names.count(), 2);
}

#[test]
fn refuses_before_writing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.onnx");
    let error = write(&path, &SeedOptions { seed: 0, size: 31 }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "input size 31 is outside 32..=256 (hint: the usual size is 100)"
    );
    assert!(matches!(
        write(&folder.path().join("x.toml"), &small(0)),
        Err(SeedError::FileName(_))
    ));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn names_follow_seed_and_size() {
    assert_eq!(SeedOptions::default().name(), "resnet50-seed0");
    assert_eq!(
        SeedOptions { seed: 7, size: 224 }.name(),
        "resnet50-seed7-224px"
    );
}
