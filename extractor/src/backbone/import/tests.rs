use std::fs;

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{
    AttributeProto, FunctionProto, GraphProto, Message as _, ModelProto, NodeProto,
    StringStringEntryProto, TensorAnnotation, TensorProto, TrainingInfoProto, tensor_proto,
};
use protobuf::{Enum as _, EnumOrUnknown, MessageField};

use super::cut::{Dropped, cut, four_axes};
use super::find::feature_map;
use super::*;

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

fn ints(mut node: NodeProto, name: &str, ints: &[i64]) -> NodeProto {
    node.attribute.push(AttributeProto {
        name: name.to_owned(),
        type_: EnumOrUnknown::new(AttributeType::INTS),
        ints: ints.to_vec(),
        ..Default::default()
    });
    node
}

fn subgraph(mut node: NodeProto, name: &str, graph: GraphProto) -> NodeProto {
    node.attribute.push(AttributeProto {
        name: name.to_owned(),
        type_: EnumOrUnknown::new(AttributeType::GRAPH),
        g: MessageField::some(graph),
        ..Default::default()
    });
    node
}

fn weights(name: &str, dims: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: tensor_proto::DataType::FLOAT.value(),
        float_data: vec![0.5; dims.iter().product::<i64>() as usize],
        ..Default::default()
    }
}

/// x -> Conv(w, b) -> Relu: `map` -> pooling -> Flatten -> Gemm(w2, b): `logits`.
fn classifier(pooling: NodeProto) -> GraphProto {
    GraphProto {
        node: vec![
            node("Conv", &["x", "w", "b"], &["c"]),
            node("Relu", &["c"], &["map"]),
            pooling,
            node("Flatten", &["p"], &["q"]),
            node("Gemm", &["q", "w2", "b"], &["logits"]),
        ],
        initializer: vec![
            weights("w", &[4, 3, 3, 3]),
            weights("b", &[4]),
            weights("w2", &[4, 4]),
        ],
        input: vec![four_axes("x")],
        output: vec![four_axes("logits")],
        ..Default::default()
    }
}

fn gap() -> NodeProto {
    node("GlobalAveragePool", &["map"], &["p"])
}

fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        graph: MessageField::some(graph),
        ..Default::default()
    }
}

fn names<'a, T>(all: &'a [T], name: impl Fn(&'a T) -> &'a str) -> Vec<&'a str> {
    all.iter().map(name).collect()
}

#[test]
fn what_the_map_needs_stays_and_the_rest_goes() {
    let mut graph = classifier(gap());
    graph.node[4].input.push("temperature".to_owned());
    graph.input.push(four_axes("temperature"));
    // As before version 4 of the format: weights are inputs, too.
    graph.input.extend([four_axes("w"), four_axes("w2")]);
    graph.value_info = ["c", "map", "p", "q"].map(four_axes).to_vec();
    let annotation = |tensor: &str| TensorAnnotation {
        tensor_name: tensor.to_owned(),
        ..Default::default()
    };
    graph.quantization_annotation = vec![annotation("c"), annotation("q")];
    let mut model = model(graph);
    model.training_info.push(TrainingInfoProto::default());
    let dropped = cut(&mut model, "map").unwrap();
    assert_eq!(
        dropped,
        Dropped {
            nodes: 3,
            initializers: 1
        }
    );
    let graph = model.graph.as_ref().unwrap();
    assert_eq!(names(&graph.node, |n| &n.op_type), ["Conv", "Relu"]);
    // The bias is the classifier's as well.
    assert_eq!(names(&graph.initializer, |t| &t.name), ["w", "b"]);
    assert_eq!(names(&graph.input, |i| &i.name), ["x", "w"]);
    assert_eq!(names(&graph.output, |o| &o.name), ["map"]);
    assert_eq!(names(&graph.value_info, |v| &v.name), ["c"]);
    let annotations = names(&graph.quantization_annotation, |a| &a.tensor_name);
    assert_eq!(annotations, ["c"]);
    assert!(model.training_info.is_empty());
}

#[test]
fn no_field_is_lost_not_even_an_unknown_one() {
    let mut before = model(classifier(gap()));
    before.producer_name = "somebody".to_owned();
    before.model_version = 7;
    before.doc_string = "a model".to_owned();
    set_metadata(&mut before, "their.key", "theirs".to_owned());
    let unknown = |fields: &mut protobuf::SpecialFields, value: u32| {
        fields.mut_unknown_fields().add_fixed32(999, value);
    };
    unknown(&mut before.special_fields, 1);
    let graph = before.graph.as_mut().unwrap();
    graph.name = "theirs".to_owned();
    unknown(&mut graph.special_fields, 2);
    unknown(&mut graph.node[0].special_fields, 3);
    unknown(&mut graph.initializer[0].special_fields, 4);
    unknown(&mut graph.input[0].special_fields, 5);
    let bytes = before.write_to_bytes().unwrap();
    let mut after = ModelProto::parse_from_bytes(&bytes).unwrap();
    cut(&mut after, "map").unwrap();

    let graph = before.graph.as_mut().unwrap();
    graph.node.truncate(2);
    graph.initializer.truncate(2);
    graph.output = vec![four_axes("map")];
    assert_eq!(after, before);
    let written = after.write_to_bytes().unwrap();
    assert_eq!(written, before.write_to_bytes().unwrap());
}

#[test]
fn graphs_inside_nodes_take_names_from_around_them() {
    let body = |op: &str, from_around: &str| GraphProto {
        node: vec![
            node(op, &["c", from_around], &["inner"]),
            node("Relu", &["inner"], &["out"]),
        ],
        output: vec![four_axes("out")],
        ..Default::default()
    };
    let inner = subgraph(
        node("If", &["flag"], &["l"]),
        "then_branch",
        body("Mul", "deep"),
    );
    let inner = subgraph(inner, "else_branch", body("Add", "own"));
    let around = GraphProto {
        node: vec![inner, node("Add", &["l", "v"], &["v_out"])],
        input: vec![four_axes("i"), four_axes("go"), four_axes("v")],
        initializer: vec![weights("own", &[1])],
        output: vec![four_axes("go"), four_axes("v_out")],
        ..Default::default()
    };
    let mut graph = classifier(gap());
    graph.node[1] = subgraph(node("Loop", &["n", "", "c"], &["map"]), "body", around);
    for name in ["deep", "flag", "n", "own", "inner", "out"] {
        graph.initializer.push(weights(name, &[1]));
    }
    let mut model = model(graph);
    cut(&mut model, "map").unwrap();
    let graph = model.graph.as_ref().unwrap();
    // The bodies define what else they read themselves: names of the outer graph that are the same
    // are not needed.
    let left = names(&graph.initializer, |t| &t.name);
    assert_eq!(left, ["w", "b", "deep", "flag", "n"]);
    assert_eq!(names(&graph.node, |n| &n.op_type), ["Conv", "Loop"]);
}

#[test]
fn functions_that_nothing_calls_go() {
    let function = |name: &str, calls: &str| FunctionProto {
        name: name.to_owned(),
        domain: "theirs".to_owned(),
        node: vec![NodeProto {
            domain: "theirs".to_owned(),
            ..node(calls, &["x"], &["y"])
        }],
        ..Default::default()
    };
    let mut graph = classifier(gap());
    graph.node[1].op_type = "Outer".to_owned();
    graph.node[1].domain = "theirs".to_owned();
    let mut model = model(graph);
    model.functions = vec![
        function("Inner", "Nothing"),
        function("Outer", "Inner"),
        function("Head", "Inner"),
    ];
    cut(&mut model, "map").unwrap();
    assert_eq!(names(&model.functions, |f| &f.name), ["Inner", "Outer"]);
}

#[test]
fn what_cannot_be_cut_is_named() {
    let failing = |graph: GraphProto, feature: &str| {
        let error = cut(&mut model(graph), feature).unwrap_err();
        error.to_string()
    };
    for feature in ["x", "w", "nowhere"] {
        let said = failing(classifier(gap()), feature);
        assert!(said.contains(&format!("a tensor `{feature}`")), "{said}");
    }
    let mut graph = classifier(gap());
    graph.initializer.remove(1);
    let said = failing(graph, "map");
    assert!(said.contains("reads `b`, which is nowhere"), "{said}");
}

#[test]
fn the_map_is_what_is_pooled() {
    let found = |pooling: NodeProto| feature_map(&classifier(pooling));
    let reduce = || node("ReduceMean", &["map"], &["p"]);
    for (pooling, layout, full_size) in [
        (gap(), Layout::Nchw, None),
        (ints(reduce(), "axes", &[2, 3]), Layout::Nchw, None),
        (ints(reduce(), "axes", &[-1, -2]), Layout::Nchw, None),
        (ints(reduce(), "axes", &[1, 2]), Layout::Nhwc, None),
        (
            ints(
                node("AveragePool", &["map"], &["p"]),
                "kernel_shape",
                &[7, 6],
            ),
            Layout::Nchw,
            Some([7, 6]),
        ),
    ] {
        let found = found(pooling).unwrap();
        assert_eq!(found.tensor, "map");
        assert_eq!((found.layout, found.full_size), (Some(layout), full_size));
    }
    for axes in [&[1][..], &[1, 2, 3], &[0, 1]] {
        let error = found(ints(reduce(), "axes", axes)).unwrap_err();
        assert!(error.to_string().contains("--feature"), "{error}");
    }
    // The axes as an input, by either kind of constant.
    let axes = TensorProto {
        name: "axes".to_owned(),
        dims: vec![2],
        data_type: tensor_proto::DataType::INT64.value(),
        raw_data: [(-2_i64).to_le_bytes(), (-3_i64).to_le_bytes()].concat(),
        ..Default::default()
    };
    let mut graph = classifier(node("ReduceMean", &["map", "axes"], &["p"]));
    graph.initializer.push(axes.clone());
    assert_eq!(feature_map(&graph).unwrap().layout, Some(Layout::Nhwc));
    graph.initializer.pop();
    let mut constant = node("Constant", &[], &["axes"]);
    constant.attribute.push(AttributeProto {
        name: "value".to_owned(),
        t: MessageField::some(axes),
        ..Default::default()
    });
    graph.node.insert(0, constant);
    assert_eq!(feature_map(&graph).unwrap().layout, Some(Layout::Nhwc));
}

#[test]
fn poolings_inside_the_backbone_are_not_the_last() {
    // Squeeze and excitation.
    let mut graph = classifier(gap());
    graph.node.splice(
        0..1,
        [
            node("Conv", &["x", "w", "b"], &["e"]),
            node("GlobalAveragePool", &["e"], &["s"]),
            node("Conv", &["s", "w"], &["g"]),
            node("Mul", &["e", "g"], &["c"]),
        ],
    );
    assert_eq!(feature_map(&graph).unwrap().tensor, "map");
    // A small average pooling with a convolution behind it.
    let small = ints(node("AveragePool", &["x"], &["a"]), "kernel_shape", &[2, 2]);
    graph.node.insert(0, small);
    graph.node[1].input[0] = "a".to_owned();
    assert_eq!(feature_map(&graph).unwrap().tensor, "map");
    // Two heads.
    graph
        .node
        .push(node("GlobalAveragePool", &["c"], &["other"]));
    let error = feature_map(&graph).unwrap_err().to_string();
    assert!(error.contains("of map, c (hint: name"), "{error}");
}

#[test]
fn a_classifier_before_the_pooling_is_cut_off_as_well() {
    // As in SqueezeNet: Dropout, a convolution to the classes, Relu, pooling.
    let mut graph = classifier(gap());
    graph.node = vec![
        node("Conv", &["x", "w", "b"], &["c"]),
        node("Relu", &["c"], &["map"]),
        node("Dropout", &["map"], &["d"]),
        node("Conv", &["d", "classes"], &["k"]),
        node("Relu", &["k"], &["r"]),
        node("GlobalAveragePool", &["r"], &["p"]),
        node("Flatten", &["p"], &["logits"]),
    ];
    graph.initializer.push(weights("classes", &[10, 4, 1, 1]));
    let found = feature_map(&graph).unwrap();
    assert_eq!(
        (found.tensor.as_str(), found.layout),
        ("map", Some(Layout::Nchw))
    );
    graph.initializer.pop();
    graph.initializer.push(weights("classes", &[10, 4, 3, 3]));
    let error = feature_map(&graph).unwrap_err().to_string();
    assert!(error.contains("global pooling of `r`"), "{error}");
}

#[test]
fn weights_in_other_files_are_taken_in() {
    let folder = tempfile::tempdir().unwrap();
    let data: Vec<u8> = (0..64).collect();
    fs::write(folder.path().join("weights.bin"), &data).unwrap();
    let entry = |key: &str, value: &str| StringStringEntryProto {
        key: key.to_owned(),
        value: value.to_owned(),
        ..Default::default()
    };
    let external = |location: &str, offset: &str, length: &str| {
        let mut graph = classifier(gap());
        let tensor = &mut graph.initializer[1];
        tensor.float_data.clear();
        tensor.data_location = EnumOrUnknown::new(tensor_proto::DataLocation::EXTERNAL);
        tensor.external_data = vec![
            entry("location", location),
            entry("offset", offset),
            entry("length", length),
        ];
        model(graph)
    };
    let mut good = external("weights.bin", "16", "16");
    assert_eq!(
        external::take_in(&mut good, Some(folder.path())).unwrap(),
        16
    );
    let tensor = &good.graph.as_ref().unwrap().initializer[1];
    assert_eq!(tensor.raw_data, data[16..32]);
    assert!(tensor.external_data.is_empty() && tensor.data_location.value() == 0);

    for (location, offset, length, word) in [
        ("../outside.bin", "0", "16", "not in the model's folder"),
        ("/etc/passwd", "0", "16", "not in the model's folder"),
        ("", "0", "16", "not in the model's folder"),
        ("gone.bin", "0", "16", "gone.bin"),
        ("weights.bin", "60", "16", "weights.bin"),
        ("weights.bin", "18446744073709551615", "16", "weights.bin"),
        ("weights.bin", "x", "16", "malformed"),
    ] {
        let mut bad = external(location, offset, length);
        let error = external::take_in(&mut bad, Some(folder.path())).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    let error = external::take_in(&mut external("weights.bin", "0", "16"), None).unwrap_err();
    assert!(error.to_string().contains("comes alone"), "{error}");
}
