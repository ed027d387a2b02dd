//! Backbones made of weights alone: the graph around them, and what is refused.
//!
//! The weights are those of the seeded backbone under other names, so that what comes out is known.
//! Needs ONNX Runtime, in which every result is run once.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::http::{Server, body};
use common::{extractor, json, small_backbone};
use extractor::backbone::weights::{Plan, StateDict, WeightsError};
use extractor::backbone::{Model, Overrides};
use extractor::digest::Digest;
use extractor::preprocess::Preset;
use onnx_protobuf::{GraphProto, Message as _, ModelProto};
use safetensors::tensor::{Dtype, TensorView, serialize};

/// Tensors by name: kind, shape, bytes.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn graph(path: &Path) -> GraphProto {
    let model = ModelProto::parse_from_bytes(&fs::read(path).unwrap()).unwrap();
    model.graph.unwrap()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (quads, _) = bytes.as_chunks::<4>();
    quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect()
}

fn bytes_of(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// The seeded backbone's weights as Keras names them, kernels [height, width, in, out].
fn keras() -> Tensors {
    let mut tensors = Tensors::new();
    for tensor in graph(small_backbone()).initializer {
        let shape: Vec<usize> = tensor.dims.iter().map(|&dim| dim as usize).collect();
        let entry = match shape[..] {
            [o, i, h, w] => {
                let oihw = floats(&tensor.raw_data);
                let place = |at: usize| {
                    let (y, x, input, output) =
                        (at / o / i / w, at / o / i % w, at / o % i, at % o);
                    oihw[((output * i + input) * h + y) * w + x]
                };
                let hwio = bytes_of((0..oihw.len()).map(place));
                (Dtype::F32, vec![h, w, i, o], hwio)
            }
            _ => (Dtype::F32, shape, tensor.raw_data),
        };
        tensors.insert(tensor.name, entry);
    }
    tensors
}

/// The same without biases as torchvision names them, kernels [out, in, height, width], with a classifier
/// and counters.
fn torchvision(prefix: &str) -> Tensors {
    let mut tensors = Tensors::new();
    for tensor in graph(small_backbone()).initializer {
        let (layer, part) = tensor.name.split_once('/').unwrap();
        let parts: Vec<&str> = layer.split('_').collect();
        let is_conv = parts.last() == Some(&"conv");
        let name = match parts[..] {
            ["conv1", _] if is_conv => "conv1".to_owned(),
            ["conv1", _] => "bn1".to_owned(),
            [stage, block, n, _] => {
                let stage: usize = stage["conv".len()..].parse().unwrap();
                let block: usize = block["block".len()..].parse().unwrap();
                let layer = match (n, is_conv) {
                    ("0", true) => "downsample.0".to_owned(),
                    ("0", false) => "downsample.1".to_owned(),
                    (n, true) => format!("conv{n}"),
                    (n, false) => format!("bn{n}"),
                };
                format!("layer{}.{}.{layer}", stage - 1, block - 1)
            }
            _ => unreachable!("{layer}"),
        };
        let part = match (is_conv, part) {
            (true, "bias") => continue,
            (_, "kernel" | "gamma") => "weight",
            (_, "beta") => "bias",
            (_, "moving_mean") => "running_mean",
            _ => "running_var",
        };
        let shape = tensor.dims.iter().map(|&dim| dim as usize).collect();
        let name = format!("{prefix}{name}");
        if part == "running_var" {
            let counter = format!("{name}.num_batches_tracked");
            tensors.insert(counter, (Dtype::I64, vec![], vec![0; 8]));
        }
        tensors.insert(
            format!("{name}.{part}"),
            (Dtype::F32, shape, tensor.raw_data),
        );
    }
    tensors.insert(
        format!("{prefix}fc.weight"),
        (Dtype::F32, vec![1, 2], vec![0; 8]),
    );
    tensors.insert(
        format!("{prefix}fc.bias"),
        (Dtype::F32, vec![1], vec![0; 4]),
    );
    tensors
}

fn file(tensors: &Tensors) -> Vec<u8> {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize(views, None).unwrap()
}

fn written(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("net.safetensors");
    fs::write(&path, bytes).unwrap();
    path
}

fn import(data_dir: &Path, from: &str, flags: &[&str]) -> serde_json::Value {
    let _ = fs::remove_dir_all(data_dir.join("backbones")); // none is replaced
    let mut command = extractor(data_dir);
    command.args([
        "backbone",
        "import",
        "--json",
        "--input-size",
        "32x32",
        "--weights",
        from,
    ]);
    json(&command.args(flags).assert().success().get_output().stdout)
}

/// What is said of a file that is refused; all of it in one line.
fn refused(bytes: &[u8]) -> String {
    let plan = Plan {
        name: "x",
        sha256: Digest::of(b""),
        variant: None,
        preset: Preset::Unit,
        input_size: [32, 32],
        licence: None,
        trained: None,
        source: None,
    };
    let built = StateDict::read(bytes).and_then(|weights| plan.build(&weights));
    let error: WeightsError = built.expect_err("refused");
    let said = format!("{:#}", anyhow::Error::from(error));
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.len() < 600, "{said}");
    said
}

fn strides(graph: &GraphProto, node: &str) -> i64 {
    let node = graph.node.iter().find(|n| n.name == node).unwrap();
    node.attribute
        .iter()
        .find(|a| a.name == "strides")
        .unwrap()
        .ints[0]
}

fn epsilon(graph: &GraphProto) -> f32 {
    let node = graph
        .node
        .iter()
        .find(|n| n.op_type == "BatchNormalization");
    node.unwrap()
        .attribute
        .iter()
        .find(|a| a.name == "epsilon")
        .unwrap()
        .f
}

#[test]
fn keras_weights_give_the_graph_they_were_taken_from() {
    let folder = tempfile::tempdir().unwrap();
    let plain = keras();
    // A whole model's file, as HDF5 has the names, and its classifier.
    let mut nested = Tensors::new();
    for (name, tensor) in &plain {
        let layer = name.split('/').next().unwrap();
        nested.insert(format!("resnet50/{layer}/{name}:0"), tensor.clone());
    }
    let classifier = (Dtype::F32, vec![2048, 2], vec![0; 4 * 4096]);
    nested.insert(
        "resnet50/predictions/predictions/kernel:0".to_owned(),
        classifier,
    );
    let expected = graph(small_backbone());
    for (tensors, left_out) in [(plain, 0), (nested, 1)] {
        let path = written(folder.path(), &file(&tensors));
        let flags = ["--preset", "caffe", "--licence", "MIT", "--name", "keras"];
        let said = import(folder.path(), path.to_str().unwrap(), &flags);
        assert_eq!(
            (
                &said["naming"],
                &said["variant"],
                &said["parameters"],
                &said["statistics"]
            ),
            (
                &"Keras".into(),
                &"v1".into(),
                &23_587_712.into(),
                &53_120.into()
            )
        );
        assert_eq!(said["left_out"].as_array().unwrap().len(), left_out);
        let model = folder.path().join("backbones/keras.onnx");
        let made = graph(&model);
        assert!(made.initializer == expected.initializer);
        assert!(made.node == expected.node);
        let read = Model::read(&model, &Overrides::default()).unwrap();
        assert_eq!(read.spec.described_preset, Some(Preset::Caffe));
        let description = fs::read_to_string(model.with_extension("toml")).unwrap();
        for line in [
            "licence = \"MIT\"",
            said["weights_sha256"].as_str().unwrap(),
            "v1 without",
        ] {
            assert!(description.contains(line), "{line}: {description}");
        }
    }
}

#[test]
fn torchvision_weights_have_their_stride_in_the_3x3() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), &file(&torchvision("module.")));
    let path = path.to_str().unwrap();
    let said = import(folder.path(), path, &["--preset", "imagenet"]);
    assert_eq!(
        (&said["naming"], &said["variant"], &said["parameters"]),
        (&"torchvision".into(), &"v1.5".into(), &23_508_032.into())
    );
    let left_out = [
        "module.fc.bias",
        "module.fc.weight",
        "53 num_batches_tracked",
    ];
    assert_eq!(said["left_out"], serde_json::json!(left_out));
    assert_eq!(said["map_shape"], serde_json::json!([1, 1, 2048]));
    let made = graph(&folder.path().join("backbones/net.onnx"));
    let both = |graph: &GraphProto| {
        ["conv3_block1_1_conv", "conv3_block1_2_conv"].map(|node| strides(graph, node))
    };
    assert_eq!((both(&made), epsilon(&made)), ([1, 2], 1e-5));
    assert!(
        made.initializer
            .iter()
            .all(|tensor| !tensor.name.ends_with("bias"))
    );
    let seeded = graph(small_backbone());
    let kernels = |graph: GraphProto| {
        let all = graph.initializer.into_iter();
        let kernels = all.filter(|tensor| tensor.name.ends_with("kernel"));
        kernels.map(|tensor| tensor.raw_data).collect::<Vec<_>>()
    };
    assert!(kernels(made) == kernels(seeded));

    let said = import(
        folder.path(),
        path,
        &["--preset", "imagenet", "--variant", "v1"],
    );
    assert_eq!(said["variant"], "v1");
    let made = graph(&folder.path().join("backbones/net.onnx"));
    assert_eq!((both(&made), epsilon(&made)), ([2, 1], 1e-5));
}

#[test]
fn half_precision_is_widened() {
    let folder = tempfile::tempdir().unwrap();
    type Narrow = fn(f32) -> (u16, f32);
    let kinds: [(Dtype, Narrow); 2] = [
        (Dtype::F16, |x| {
            let narrow = half::f16::from_f32(x);
            (narrow.to_bits(), narrow.to_f32())
        }),
        (Dtype::BF16, |x| {
            let narrow = half::bf16::from_f32(x);
            (narrow.to_bits(), narrow.to_f32())
        }),
    ];
    for (dtype, narrow) in kinds {
        let mut tensors = torchvision("");
        let stem = floats(&tensors["conv1.weight"].2);
        for (kind, _, bytes) in tensors.values_mut() {
            if *kind == Dtype::F32 {
                *kind = dtype;
                let values = floats(bytes).into_iter();
                *bytes = values.flat_map(|x| narrow(x).0.to_le_bytes()).collect();
            }
        }
        let path = written(folder.path(), &file(&tensors));
        import(folder.path(), path.to_str().unwrap(), &["--preset", "unit"]);
        let made = graph(&folder.path().join("backbones/net.onnx"));
        let kernel = made
            .initializer
            .iter()
            .find(|t| t.name == "conv1_conv/kernel");
        let widened = bytes_of(stem.into_iter().map(|x| narrow(x).1));
        assert!(kernel.unwrap().raw_data == widened, "{dtype:?}");
    }
}

#[test]
fn the_preset_is_suggested_and_not_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let run = |flags: &[&str], code: i32| {
        let mut command = extractor(folder.path());
        let run = command.args(["backbone", "import"]).args(flags).assert();
        String::from_utf8(run.code(code).get_output().stderr.clone()).unwrap()
    };
    for (tensors, suggestion) in [
        (torchvision(""), "--preset imagenet"),
        (keras(), "--preset caffe"),
    ] {
        let path = written(folder.path(), &file(&tensors));
        let stderr = run(&["--weights", path.to_str().unwrap()], 1);
        assert!(stderr.contains(suggestion), "{stderr}");
        assert!(!folder.path().join("backbones").exists());
    }
    let path = folder.path().join("net.safetensors");
    let path = path.to_str().unwrap();
    let stderr = run(&[path], 1);
    assert!(stderr.contains("import --weights"), "{stderr}");
    let size = ["--input-size", "32x40"];
    let stderr = run(
        &["--weights", path, "--preset", "unit", size[0], size[1]],
        0,
    );
    assert!(stderr.contains("preset unit is recorded"), "{stderr}");
}

#[test]
fn weights_from_a_server() {
    let bytes = file(&torchvision(""));
    let sha256 = Digest::of(&bytes).to_string();
    let server = Server::start(move |_| body("application/octet-stream", &bytes[..]));
    let folder = tempfile::tempdir().unwrap();
    let url = server.url("/models/r50.safetensors");
    let said = import(
        folder.path(),
        &url,
        &["--preset", "imagenet", "--sha256", &sha256],
    );
    assert_eq!(said["weights_sha256"], sha256);
    let toml = fs::read_to_string(folder.path().join("backbones/r50.toml")).unwrap();
    assert!(toml.contains(&format!("source = \"{url}\"")), "{toml}");
    let mut command = extractor(folder.path());
    let run = command
        .args(["backbone", "list", "--json"])
        .assert()
        .success();
    let listed = json(&run.get_output().stdout);
    let on_disk = &listed["on_disk"][0];
    assert_eq!(
        (&on_disk["name"], &on_disk["preset"]),
        (&"r50".into(), &"imagenet".into())
    );
    assert_eq!(listed["exported"][0]["preset"], "caffe");
}

#[test]
fn what_is_no_resnet50_is_refused_with_its_tensor() {
    type Change = fn(&mut Tensors);
    let vector = |values: [f32; 64]| (Dtype::F32, vec![64], bytes_of(values));
    let cases: [(Change, &str); 8] = [
        (
            |t| drop(t.remove("layer3.2.bn2.running_var")),
            "lacks 1 tensor of torchvision's ResNet50: `layer3.2.bn2.running_var`",
        ),
        (
            |t| {
                let more = t["layer3.5.conv1.weight"].clone();
                t.insert("layer3.6.conv1.weight".to_owned(), more);
            },
            "`layer3.6.conv1.weight` (hint: is it another model",
        ),
        (
            |t| t.get_mut("conv1.weight").unwrap().1 = vec![64, 7, 7, 3],
            "`conv1.weight` has the shape [64, 7, 7, 3], expected [64, 3, 7, 7]",
        ),
        (
            |t| t.get_mut("bn1.weight").unwrap().0 = Dtype::I32,
            "`bn1.weight` holds I32",
        ),
        (
            |t| {
                let again = t["layer1.0.conv1.weight"].clone();
                t.insert("ema.layer1.0.conv1.weight".to_owned(), again);
            },
            "holds 2 ResNets, at `ema.`, ``",
        ),
        (
            |t| {
                let rest = std::mem::take(t).into_iter();
                t.extend(rest.map(|(name, tensor)| (name.replace('.', "/"), tensor)));
            },
            "but `bn1/bias`",
        ),
        (
            |t| {
                let name = "x".repeat(1 << 20) + "\n\u{1b}[2J";
                t.insert(name, (Dtype::F32, vec![0], vec![]));
            },
            "xxx...",
        ),
        (
            |t| {
                let values = t["conv1.weight"].clone();
                t.insert("optimizer.conv1.weight".to_owned(), values);
            },
            "`optimizer.conv1.weight`",
        ),
    ];
    let whole = torchvision("");
    for (change, expected) in cases {
        let mut tensors = whole.clone();
        change(&mut tensors);
        let said = refused(&file(&tensors));
        assert!(said.contains(expected), "{expected}: {said}");
    }
    for (name, value, expected) in [
        ("bn1.bias", f32::NAN, "`bn1.bias` holds NaN"),
        ("bn1.weight", f32::INFINITY, "`bn1.weight` holds inf"),
        ("bn1.running_var", -0.5, "`bn1.running_var` holds -0.5"),
    ] {
        let mut tensors = whole.clone();
        let mut values = [1.0; 64];
        values[63] = value;
        tensors.insert(name.to_owned(), vector(values));
        let said = refused(&file(&tensors));
        assert!(said.contains(expected), "{said}");
    }
    let mut both = keras();
    let again = both["conv1_conv/bias"].clone();
    both.insert("conv1_conv/bias:0".to_owned(), again);
    assert!(refused(&file(&both)).contains("twice"));
}

#[test]
fn hostile_and_other_files_are_refused() {
    let with_header = |header: &str, data: &[u8]| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    };
    let entry = |start: usize, end: usize| {
        format!(r#"{{"dtype":"F32","shape":[1],"data_offsets":[{start},{end}]}}"#)
    };
    let name = "layer1.0.conv1.weight";
    let overlapping = format!(r#"{{"a":{},"{name}":{}}}"#, entry(0, 4), entry(0, 4));
    let beyond = format!(r#"{{"{name}":{}}}"#, entry(0, 4));
    let overflow = format!(
        r#"{{"{name}":{{"dtype":"F32","shape":[{0},{0}],"data_offsets":[0,4]}}}}"#,
        u64::MAX
    );
    for (bytes, expected) in [
        (vec![], "not a sound safetensors file"),
        (
            u64::MAX.to_le_bytes().to_vec(),
            "not a sound safetensors file",
        ),
        (
            (1_u64 << 40).to_le_bytes().repeat(4),
            "not a sound safetensors file",
        ),
        (
            with_header(&overlapping, &[0; 4]),
            "not a sound safetensors file",
        ),
        (
            with_header(&beyond, &[0; 2]),
            "not a sound safetensors file",
        ),
        (
            with_header(&overflow, &[0; 4]),
            "not a sound safetensors file",
        ),
        (
            with_header(&"[".repeat(100_000), &[]),
            "not a sound safetensors file",
        ),
        (with_header("{}", &[]), "but nothing"),
        (
            b"PK\x03\x04 a checkpoint of PyTorch".to_vec(),
            "pickle of PyTorch",
        ),
        (
            b"\x80\x02}q\x00. an old one of many bytes".to_vec(),
            "pickle of PyTorch",
        ),
        (
            b"\x89HDF\r\n\x1a\n of Keras, of many bytes".to_vec(),
            "make backbone",
        ),
    ] {
        let said = refused(&bytes);
        assert!(said.contains(expected), "{expected}: {said}");
    }
}
