//! `head-trainer export`: the built binary with ONNX Runtime. The fused model is opened again and
//! given real pictures; what it says is what `predict` says of them.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::library;
use common::tiny::{SIZE, Tiny, picture, with_engine};
use extractor::engine::{EngineOptions, OnnxRuntime, Precision, Provider};
use extractor::preprocess::{Layout, Preset};
use extractor::store::Dtype;
use head_trainer::head::Head;
use head_trainer::run;
use onnx_protobuf::{Message as _, ModelProto};
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use protobuf::MessageField;
use serde_json::Value;

fn export(data: &Path, run: &Path, args: &[&str]) -> assert_cmd::assert::Assert {
    let mut command = with_engine(data);
    command.arg("export").arg(run).args(args);
    command.assert()
}

/// Label and probability by the name of a class's picture, from `head-trainer predict`.
fn predicted(data: &Path, run: &Path) -> Vec<(String, f32)> {
    let mut command = with_engine(data);
    command.arg("predict").arg(run).arg(data.join("set"));
    command.arg("--json");
    let output = command.assert().code(0).get_output().stdout.clone();
    let lines = serde_json::Deserializer::from_slice(&output).into_iter::<Value>();
    lines
        .map(|line| {
            let line = line.unwrap();
            let probability = line["probability"].as_f64().unwrap() as f32;
            (line["label"].as_str().unwrap().to_owned(), probability)
        })
        .collect()
}

fn open(model: &Path) -> OnnxRuntime {
    let options = EngineOptions {
        library: library(),
        provider: Provider::Cpu,
        precision: Precision::Fp32,
        threads: 1,
        optimized: None,
    };
    OnnxRuntime::open(&fs::read(model).unwrap(), &options).unwrap()
}

fn metadata(model: &Path) -> BTreeMap<String, String> {
    let model = ModelProto::parse_from_bytes(&fs::read(model).unwrap()).unwrap();
    let entries = model.metadata_props.into_iter();
    entries.map(|entry| (entry.key, entry.value)).collect()
}

#[test]
fn the_model_says_what_predict_says() {
    let presets = [Preset::Unit, Preset::Caffe, Preset::Imagenet, Preset::Raw];
    let layouts = [Layout::Nchw, Layout::Nhwc];
    for (n, preset) in presets.into_iter().enumerate() {
        let tiny = Tiny {
            preset,
            layout: layouts[n % 2],
            dtype: [Dtype::F32, Dtype::F16][n / 2],
            classes: [&["Cat", "Dog"][..], &["a", "b", "c"]][n % 2],
            opset: [9, 13, 17, 20][n],
            batch: [None, None, Some(1), None][n],
        };
        let args: &[&str] = match n {
            0 => &["--threshold", "cost:1:3", "--temperature"],
            _ => &["--standardize", "--temperature"],
        };
        let data = tempfile::tempdir().unwrap();
        let data = data.path();
        let run = tiny.run(data, args);
        let file = data.join("model.onnx");
        export(data, &run, &["--onnx", file.to_str().unwrap()])
            .code(0)
            .stdout(contains("difference"));
        let mut model = open(&file);
        let predicted = predicted(data, &run);
        assert_eq!(predicted.len(), 20 * tiny.classes.len());
        for (i, (label, probability)) in predicted.iter().enumerate() {
            let picture = picture((i / 20) as u64, (i % 20) as u64);
            let shape = [1, picture.height, picture.width, 3];
            let (probabilities, class) = model
                .classify(
                    "image",
                    (shape, &picture.pixels),
                    ["probabilities", "label"],
                )
                .unwrap();
            assert_eq!(probabilities.len(), tiny.classes.len());
            let class = class[0] as usize;
            assert_eq!(tiny.classes[class], label);
            let off = (probabilities[class] - probability).abs();
            assert!(off <= 1e-5, "{preset}: {off}");
        }
        let head = run::head(&run).unwrap();
        let metadata = metadata(&file);
        let says = |name: &str| metadata[&format!("headstart.{name}")].as_str();
        assert_eq!(says("labels"), serde_json::json!(tiny.classes).to_string());
        assert_eq!(says("temperature"), head.decision.temperature.to_string());
        assert_eq!(says("preset"), preset.to_string());
        assert_eq!(says("run"), head.metadata["run"]);
    }
}

#[test]
fn nothing_of_the_backbone_is_lost_and_names_do_not_collide() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let tiny = Tiny::default();
    // A backbone whose own names are those of the fused model.
    let backbone = tiny.write_backbone(&data.join("named"));
    let mut before = ModelProto::parse_from_bytes(&fs::read(&backbone).unwrap()).unwrap();
    before.producer_name = "somebody".to_owned();
    before.metadata_props.push(Default::default());
    before.metadata_props[0].key = "author".to_owned();
    let graph = before.graph.as_mut().unwrap();
    graph.doc_string = "about the graph".to_owned();
    graph.input[0].name = "image".to_owned();
    graph.output[0].name = "probabilities".to_owned();
    graph.node[0].input[0] = "image".to_owned();
    graph.node[0].name = "headstart/shape".to_owned();
    graph.node[1].output[0] = "probabilities".to_owned();
    // As files of the first version have it: initial values are inputs, too.
    before.ir_version = 3;
    let mut kernel = graph.input[0].clone();
    kernel.name = "kernel".to_owned();
    kernel.type_.as_mut().unwrap().mut_tensor_type().shape = MessageField::none();
    graph.input.push(kernel);
    let bytes = before.write_to_bytes().unwrap();
    let run = tiny.run_with(data, Some(&bytes), &[]);
    let file = data.join("model.onnx");
    let args = ["--onnx", file.to_str().unwrap(), "--license", "MIT"];
    export(data, &run, &args).code(0);
    let after = ModelProto::parse_from_bytes(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(after.producer_name, "somebody");
    assert_eq!(after.opset_import, before.opset_import);
    assert_eq!(metadata(&file)["author"], "");
    assert_eq!(metadata(&file)["headstart.license"], "MIT");
    let (old, new) = (before.graph.unwrap(), after.graph.unwrap());
    assert_eq!(new.doc_string, old.doc_string);
    let inputs: Vec<&str> = new.input.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(inputs, ["image"]);
    let node = new.node.iter().find(|node| node.name == "headstart/shape");
    assert_eq!(node.unwrap().input, ["backbone_image", "kernel"]);
    assert!(new.node.iter().any(|node| node.name == "headstart_2/shape"));
    assert!(new.initializer.contains(&old.initializer[0]));
    // Equal runs are equal files.
    let again = data.join("again.onnx");
    export(
        data,
        &run,
        &["--onnx", again.to_str().unwrap(), "--license", "MIT"],
    )
    .code(0);
    assert_eq!(fs::read(&file).unwrap(), fs::read(&again).unwrap());
}

#[test]
fn the_head_alone() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let run = Tiny::default().run(data, &["--standardize", "--threshold", "f1"]);
    let file = data.join("head.safetensors");
    export(data, &run, &["--safetensors", file.to_str().unwrap()]).code(0);
    let (head, expected) = (Head::load(&file).unwrap(), run::head(&run).unwrap());
    assert_eq!(head.linear, expected.linear);
    assert_eq!(head.classes, expected.classes);
    assert_eq!(head.decision, expected.decision);
    let [height, width] = SIZE;
    assert_eq!(head.metadata["input_size"], format!("{height}x{width}"));
    assert_eq!(head.metadata["backbone_name"], "tiny");
}

#[test]
fn what_cannot_be_exported_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let tiny = Tiny {
        opset: 8,
        ..Tiny::default()
    };
    let run = tiny.run(data, &[]);
    export(data, &run, &[]).code(2).stderr(contains("--onnx"));
    let file = data.join("model.onnx");
    export(data, &run, &["--onnx", file.to_str().unwrap()])
        .code(1)
        .stderr(contains("operator set 8"));
    assert!(!file.exists());
    let there = fs::read_dir(data).unwrap().flatten();
    let left = there.filter(|entry| entry.file_name().to_string_lossy().contains("model"));
    assert_eq!(left.count(), 0);
}

/// What `export --web` says where its engine comes from a mirror, and whether it left anything.
fn refused_page(data: &Path, run: &Path, mirror: &str, page: &Path, code: i32) -> String {
    let mut command = with_engine(data);
    command.env("HEADSTART_MIRROR", mirror);
    command.arg("export").arg(run).arg("--web").arg(page);
    let output = command.assert().code(code).get_output().clone();
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_page_whose_engine_cannot_be_had_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let run = Tiny::default().run(data, &[]);
    let page = data.join("page");
    // Nothing listens there, which may pass.
    let offline = refused_page(data, &run, "http://127.0.0.1:1", &page, 75);
    let lines: Vec<&str> = offline.lines().filter(|l| l.starts_with("error")).collect();
    assert_eq!(lines.len(), 1, "{offline}");
    assert!(
        lines[0].contains("onnxruntime-web") && lines[0].contains("hint"),
        "{offline}"
    );
    // A mirror with another file.
    let mirror = data.join("mirror/onnxruntime-web/-");
    fs::create_dir_all(&mirror).unwrap();
    let file = fs::File::create(mirror.join("onnxruntime-web-1.30.0.tgz")).unwrap();
    file.set_len(33_106_585).unwrap(); // the right size, and nothing in it
    let url = format!("file://{}", data.join("mirror").display());
    let other = refused_page(data, &run, &url, &page, 1);
    assert!(other.contains("has SHA-256"), "{other}");
    // A folder of somebody else is refused before anything is asked for.
    let theirs = data.join("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("thesis.tex"), "x").unwrap();
    let occupied = refused_page(data, &run, "http://127.0.0.1:1", &theirs, 1);
    assert!(occupied.contains("thesis.tex"), "{occupied}");
    let left = fs::read_dir(data).unwrap().flatten();
    let temporary = left.filter(|e| e.file_name().to_string_lossy().starts_with(".tmp-"));
    assert_eq!((page.exists(), temporary.count()), (false, 0));
}

#[test]
fn a_keras_model_wants_keras_s_backbone_and_a_name_of_its_own() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let run = Tiny::default().run(data, &[]);
    let script = data.join("model.py");
    let name = script.to_str().unwrap();
    export(data, &run, &["--keras", name])
        .code(1)
        .stderr(contains("export_resnet50.py").and(contains("hint")));
    let head = data.join("model.safetensors");
    export(
        data,
        &run,
        &["--keras", name, "--safetensors", head.to_str().unwrap()],
    )
    .code(1)
    .stderr(contains("one file"));
    export(data, &run, &["--keras", "model.txt"])
        .code(1)
        .stderr(contains(".py"));
    assert!(!script.exists() && !head.exists());
}

#[test]
fn the_run_is_spared_and_the_licence_is_that_of_the_backbone() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let run = Tiny::default().run(data, &[]);
    let head = run.join("head.safetensors");
    let backbone = data.join("elsewhere/tiny.onnx");
    let before = [&head, &backbone].map(|file| fs::read(file).unwrap());
    for (flag, file) in [("--safetensors", &head), ("--onnx", &backbone)] {
        export(data, &run, &[flag, file.to_str().unwrap()])
            .code(1)
            .stderr(contains("belongs to the run (hint: "));
    }
    assert_eq!(
        [&head, &backbone].map(|file| fs::read(file).unwrap()),
        before
    );

    let description = backbone.with_extension("toml");
    let text = fs::read_to_string(&description).unwrap() + "licence = \"Zlib\"\n";
    fs::write(&description, text).unwrap();
    let file = data.join("model.onnx");
    export(data, &run, &["--onnx", file.to_str().unwrap()]).code(0);
    assert_eq!(metadata(&file)["headstart.license"], "Zlib");
}
