//! Backbones cut out of classifiers: made-up ones, one from a server, and a real one.
//!
//! Needs ONNX Runtime, as both the classifier and what is cut out of it are run.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::http::{Server, body};
use common::{extractor, json, test_data};
use extractor::backbone::{Model, Overrides};
use extractor::digest::Digest;
use extractor::onnx_tensor::{Dim, tensor_info};
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::{
    AttributeProto, GraphProto, Message as _, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, ValueInfoProto,
};
use protobuf::{Enum as _, EnumOrUnknown, MessageField};

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    NodeProto {
        op_type: op.to_owned(),
        name: format!("{op}_{}", outputs[0]),
        input: names(inputs),
        output: names(outputs),
        ..Default::default()
    }
}

fn with_ints(mut node: NodeProto, name: &str, ints: &[i64]) -> NodeProto {
    node.attribute.push(AttributeProto {
        name: name.to_owned(),
        type_: EnumOrUnknown::new(AttributeType::INTS),
        ints: ints.to_vec(),
        ..Default::default()
    });
    node
}

fn with_graph(mut node: NodeProto, name: &str, graph: GraphProto) -> NodeProto {
    node.attribute.push(AttributeProto {
        name: name.to_owned(),
        type_: EnumOrUnknown::new(AttributeType::GRAPH),
        g: MessageField::some(graph),
        ..Default::default()
    });
    node
}

fn tensor(name: &str, dims: &[i64]) -> TensorProto {
    let count = dims.iter().product::<i64>();
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: DataType::FLOAT.value(),
        float_data: (0..count)
            .map(|i| ((i * 7 % 11) as f32 - 4.0) / 10.0)
            .collect(),
        ..Default::default()
    }
}

fn integer(name: &str, value: i64, kind: DataType) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        data_type: kind.value(),
        int64_data: Vec::from_iter((kind == DataType::INT64).then_some(value)),
        int32_data: Vec::from_iter((kind == DataType::BOOL).then_some(value as i32)),
        ..Default::default()
    }
}

/// A tensor of these axes; 0 for one of any length.
fn value(name: &str, kind: DataType, dims: &[i64]) -> ValueInfoProto {
    let dim = |&length: &i64| match length {
        0 => Dim::Open,
        length => Dim::Fixed(length as usize),
    };
    tensor_info(name, kind, &dims.iter().map(dim).collect::<Vec<_>>())
}

const FLOAT: DataType = DataType::FLOAT;

/// A convolution, an If and a Loop whose bodies read weights of the outer graph, `pooling` of `map`,
/// and a classifier that shares a weight with them.
fn classifier(side: i64, pooling: NodeProto) -> Vec<u8> {
    let branch = |op: &str| GraphProto {
        name: op.to_owned(),
        node: vec![node(op, &["c", "shared"], &["chosen"])],
        output: vec![value("chosen", FLOAT, &[0, 4, 0, 0])],
        ..Default::default()
    };
    let choice = with_graph(node("If", &["flag"], &["s"]), "then_branch", branch("Mul"));
    let choice = with_graph(choice, "else_branch", branch("Add"));
    let turns = GraphProto {
        name: "turns".to_owned(),
        node: vec![
            node("Identity", &["go"], &["go_on"]),
            node("Add", &["v", "shift"], &["v_out"]),
        ],
        input: vec![
            value("i", DataType::INT64, &[]),
            value("go", DataType::BOOL, &[]),
            value("v", FLOAT, &[0, 4, 0, 0]),
        ],
        output: vec![
            value("go_on", DataType::BOOL, &[]),
            value("v_out", FLOAT, &[0, 4, 0, 0]),
        ],
        ..Default::default()
    };
    let graph = GraphProto {
        name: "classifier".to_owned(),
        node: vec![
            with_ints(node("Conv", &["x", "w"], &["c"]), "pads", &[1; 4]),
            choice,
            with_graph(node("Loop", &["twice", "flag", "s"], &["l"]), "body", turns),
            node("Relu", &["l"], &["map"]),
            pooling,
            node("Flatten", &["p"], &["q"]),
            node("Mul", &["q", "shared"], &["m"]),
            node("MatMul", &["m", "classes"], &["logits"]),
        ],
        initializer: vec![
            tensor("w", &[4, 3, 3, 3]),
            tensor("shared", &[1]),
            tensor("shift", &[4, 1, 1]),
            integer("twice", 2, DataType::INT64),
            integer("flag", 1, DataType::BOOL),
            tensor("classes", &[4, 10]),
        ],
        input: vec![value("x", FLOAT, &[0, 3, side, side])],
        output: vec![value("logits", FLOAT, &[0, 10])],
        ..Default::default()
    };
    let model = ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            version: 13,
            ..Default::default()
        }],
        graph: MessageField::some(graph),
        ..Default::default()
    };
    model.write_to_bytes().unwrap()
}

fn gap() -> NodeProto {
    node("GlobalAveragePool", &["map"], &["p"])
}

/// `extractor backbone import`, and what it says.
fn import(data_dir: &Path, from: &str, flags: &[&str]) -> serde_json::Value {
    let mut command = extractor(data_dir);
    let run = command
        .args(["backbone", "import", "--json", from])
        .args(flags);
    json(&run.assert().success().get_output().stdout)
}

fn error(data_dir: &Path, from: &str, flags: &[&str]) -> String {
    let mut command = extractor(data_dir);
    let run = command.args(["backbone", "import", "-q", from]).args(flags);
    let run = run.assert().code(1);
    let stderr = String::from_utf8(run.get_output().stderr.clone()).unwrap();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        !data_dir.join("backbones").exists() || common_names(data_dir).is_empty(),
        "{stderr}"
    );
    stderr
}

fn common_names(data_dir: &Path) -> Vec<String> {
    common::http::names(&data_dir.join("backbones"))
}

fn written(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("c.onnx");
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_backbone_is_cut_out_and_described() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = classifier(20, gap());
    let path = written(folder.path(), &bytes);
    let data = folder.path().join("data");
    let flags = [
        "--preset",
        "imagenet",
        "--name",
        "small",
        "--licence",
        "MIT",
    ];
    let said = import(&data, path.to_str().unwrap(), &flags);
    assert_eq!(said["feature_tensor"], "map");
    assert_eq!(said["difference"], 0.0);
    assert_eq!(said["map_shape"], serde_json::json!([20, 20, 4]));
    assert_eq!(said["cut_from"], Digest::of(&bytes).to_string());
    assert_eq!(common_names(&data), ["small.onnx", "small.toml"]);

    let model = data.join("backbones/small.onnx");
    let read = Model::read(&model, &Overrides::default()).unwrap();
    assert_eq!(read.spec.name, "small");
    assert_eq!(read.spec.preset.to_string(), "imagenet");
    assert_eq!(
        read.spec.digest.to_string(),
        said["digest"].as_str().unwrap()
    );
    let description = fs::read_to_string(data.join("backbones/small.toml")).unwrap();
    assert!(description.contains("licence = \"MIT\""), "{description}");
    let cut = ModelProto::parse_from_bytes(&read.bytes().unwrap()).unwrap();
    let metadata: Vec<_> = cut.metadata_props.iter().map(|e| e.key.as_str()).collect();
    assert!(metadata.contains(&"headstart.cut_at"), "{metadata:?}");
    let graph = cut.graph.unwrap();
    let left: Vec<_> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(left, ["w", "shared", "shift", "twice", "flag"]);

    // It is made again, and never replaced by another one.
    import(&data, path.to_str().unwrap(), &flags);
    let other = written(folder.path(), &classifier(24, gap()));
    let mut command = extractor(&data);
    command.args(["backbone", "import"]).arg(other).args(flags);
    command.assert().code(1).stderr(predicates::str::contains(
        "small.onnx: another backbone is there (hint: ",
    ));
    assert_eq!(fs::read(&model).unwrap(), read.bytes().unwrap());

    // A description is of its model alone.
    fs::write(&model, classifier(20, gap())).unwrap();
    let said = Model::read(&model, &Overrides::default())
        .unwrap_err()
        .to_string();
    assert!(said.contains("import it again"), "{said}");
}

#[test]
fn another_input_size_than_the_models_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), &classifier(20, gap()));
    let flags = ["--preset", "unit", "--input-size", "12x16"];
    let said = import(folder.path(), path.to_str().unwrap(), &flags);
    assert_eq!(said["map_shape"], serde_json::json!([12, 16, 4]));
    let read = Model::read(
        &folder.path().join("backbones/c.onnx"),
        &Overrides::default(),
    );
    assert_eq!(read.unwrap().spec.input_size, [12, 16]);

    // The pooling need not be global at that size, but at the model's own it must.
    let pooling = |side| {
        let node = node("AveragePool", &["map"], &["p"]);
        let node = with_ints(node, "strides", &[side, side]);
        with_ints(node, "kernel_shape", &[side, side])
    };
    let path = written(folder.path(), &classifier(20, pooling(20)));
    import(
        &folder.path().join("pooled"),
        path.to_str().unwrap(),
        &flags,
    );
    let data = folder.path().join("other");
    let path = written(folder.path(), &classifier(20, pooling(11)));
    let said = error(&data, path.to_str().unwrap(), &flags);
    assert!(said.contains("covers 11x11 of 20x20"), "{said}");
}

#[test]
fn what_is_not_said_is_not_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let path = written(folder.path(), &classifier(20, gap()));
    let from = path.to_str().unwrap();
    let said = error(&data, from, &[]);
    assert!(said.contains("give --preset"), "{said}");
    let said = error(&data, from, &["--preset", "unit", "--feature", "nowhere"]);
    assert!(said.contains("a tensor `nowhere`"), "{said}");
    let said = error(&data, from, &["--preset", "unit", "--feature", "q"]);
    assert!(said.contains("not 4 axes"), "{said}");
    let said = error(&data, from, &["--preset", "unit", "--out", from]);
    assert!(said.contains("is what the backbone is made of"), "{said}");
    let said = error(
        &data,
        from,
        &["--preset", "unit", "--sha256", &"0".repeat(64)],
    );
    assert!(said.contains("has SHA-256"), "{said}");
    let open = written(folder.path(), &classifier(0, gap()));
    let said = error(&data, open.to_str().unwrap(), &["--preset", "unit"]);
    assert!(said.contains("--input-size"), "{said}");
    fs::write(&path, "no model").unwrap();
    let said = error(&data, from, &["--preset", "unit"]);
    assert!(said.contains("not an ONNX model"), "{said}");
    let said = error(&data, "nothing.onnx", &["--preset", "unit"]);
    assert!(said.contains("neither a file nor"), "{said}");

    // A description beside the classifier says it, and a tensor may be named.
    let path = written(folder.path(), &classifier(20, gap()));
    fs::write(path.with_extension("toml"), "preset = \"caffe\"\n").unwrap();
    let said = import(&data, from, &["--feature", "c"]);
    assert_eq!(
        (&said["preset"], &said["feature_tensor"]),
        (&"caffe".into(), &"c".into())
    );
}

#[test]
fn another_preset_than_the_one_recorded_says_what_it_costs() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(folder.path(), &classifier(20, gap()));
    import(
        folder.path(),
        path.to_str().unwrap(),
        &["--preset", "imagenet"],
    );
    let images = folder.path().join("images");
    common::sample(&images, 2);
    let backbone = folder.path().join("backbones/c.onnx");
    for (preset, said) in [("unit", Some("from 92.5 % to 87.1 %")), ("imagenet", None)] {
        let mut command = common::features_with(&backbone, folder.path(), &images, 4);
        let run = command.args(["--preset", preset]).output().unwrap();
        assert!(run.status.success());
        let stderr = String::from_utf8_lossy(&run.stderr);
        match said {
            Some(said) => assert!(stderr.contains(said), "{stderr}"),
            None => assert!(!stderr.contains("but the backbone was trained"), "{stderr}"),
        }
    }
}

#[test]
fn a_classifier_from_a_server() {
    let bytes = classifier(20, gap());
    let sha256 = Digest::of(&bytes).to_string();
    let server = Server::start(move |_| body("application/octet-stream", &bytes[..]));
    let folder = tempfile::tempdir().unwrap();
    let url = server.url("/models/tiny.onnx");
    let flags = ["--preset", "unit", "--sha256", &sha256];
    import(folder.path(), &url, &flags);
    let again = import(folder.path(), &url, &flags);
    assert_eq!(again["cut_from"], sha256);
    assert_eq!(
        common_names(folder.path()),
        ["originals", "tiny.onnx", "tiny.toml"]
    );
    assert_eq!(server.targets(), ["/models/tiny.onnx"]);
    let toml = fs::read_to_string(folder.path().join("backbones/tiny.toml")).unwrap();
    assert!(toml.contains(&format!("source = \"{url}\"")), "{toml}");
}

#[test]
fn known_classifiers_are_listed_and_fetched_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = extractor(folder.path());
    let run = command
        .args(["backbone", "list", "--json"])
        .assert()
        .success();
    let listed = json(&run.get_output().stdout);
    let names: Vec<_> = listed["known"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["name"])
        .collect();
    assert!(names.contains(&&"resnet50-v1-12".into()), "{names:?}");

    let server = Server::start(|_| body("application/octet-stream", "another file"));
    let mut command = extractor(folder.path());
    command
        .env("PIP_CONFIG_FILE", "/dev/null")
        .env("HEADSTART_MIRROR", server.url(""));
    let run = command
        .args(["backbone", "fetch", "resnet50-v1-12"])
        .assert()
        .code(1);
    let stderr = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    assert!(
        stderr.contains("12 bytes, expected 102,576,593"),
        "{stderr}"
    );
    assert!(server.targets()[0].ends_with("/resnet50-v1-12.onnx"));
    let mut command = extractor(folder.path());
    let run = command
        .args(["backbone", "fetch", "resnet"])
        .assert()
        .code(1);
    let stderr = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    assert!(stderr.contains("resnet50-v1-12"), "{stderr}");
}

#[test]
fn squeezenet_loses_its_classifier() {
    let Some(test_data) = test_data() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let from = test_data.join("models/squeezenet1.1_classifier.onnx");
    let flags = ["--preset", "imagenet", "--input-size", "100x100"];
    let said = import(folder.path(), from.to_str().unwrap(), &flags);
    assert_eq!(said["map_shape"][2], 512);
    assert_eq!(said["difference"], 0.0);
}
