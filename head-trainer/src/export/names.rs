//! Names in an ONNX graph: which there are, and how one becomes another.
//!
//! Graphs inside of nodes (the branches of an `If`, say) see the names around them and count.

use std::collections::HashSet;

use onnx_protobuf::{AttributeProto, GraphProto};

/// All names of tensors and nodes.
pub(super) fn all(graph: &GraphProto) -> HashSet<String> {
    let mut names = HashSet::new();
    collect(graph, &mut names);
    names
}

fn collect(graph: &GraphProto, names: &mut HashSet<String>) {
    let infos = graph
        .input
        .iter()
        .chain(&graph.output)
        .chain(&graph.value_info);
    names.extend(infos.map(|info| info.name.clone()));
    names.extend(graph.initializer.iter().map(|tensor| tensor.name.clone()));
    for tensor in &graph.sparse_initializer {
        names.extend(
            tensor
                .values
                .as_ref()
                .into_iter()
                .map(|values| values.name.clone()),
        );
    }
    for node in &graph.node {
        names.extend(node.input.iter().chain(&node.output).cloned());
        names.insert(node.name.clone());
        for attribute in &node.attribute {
            attribute
                .g
                .as_ref()
                .into_iter()
                .chain(&attribute.graphs)
                .for_each(|graph| collect(graph, names));
        }
    }
}

/// `name`, or what is like it and not taken.
pub(super) fn free(name: &str, taken: &HashSet<String>) -> String {
    let numbered = (2..).map(|n| format!("{name}_{n}"));
    std::iter::once(name.to_owned())
        .chain(numbered)
        .find(|name| !taken.contains(name))
        .expect("numbers do not end")
}

/// A beginning, ending in a slash, that no name has.
pub(super) fn free_prefix(name: &str, taken: &HashSet<String>) -> String {
    let numbered = (2..).map(|n| format!("{name}_{n}/"));
    std::iter::once(format!("{name}/"))
        .chain(numbered)
        .find(|prefix| !taken.iter().any(|name| name.starts_with(prefix)))
        .expect("numbers do not end")
}

/// Renames the tensor `from` wherever it occurs.
pub(super) fn rename(graph: &mut GraphProto, from: &str, to: &str) {
    let set = |name: &mut String| {
        if name == from {
            to.clone_into(name);
        }
    };
    let infos = graph.input.iter_mut().chain(&mut graph.output);
    infos
        .chain(&mut graph.value_info)
        .for_each(|info| set(&mut info.name));
    graph
        .initializer
        .iter_mut()
        .for_each(|tensor| set(&mut tensor.name));
    for tensor in &mut graph.sparse_initializer {
        tensor
            .values
            .as_mut()
            .into_iter()
            .for_each(|values| set(&mut values.name));
    }
    graph
        .quantization_annotation
        .iter_mut()
        .for_each(|annotation| {
            set(&mut annotation.tensor_name);
            let names = annotation.quant_parameter_tensor_names.iter_mut();
            names.for_each(|entry| set(&mut entry.value));
        });
    for node in &mut graph.node {
        node.input.iter_mut().chain(&mut node.output).for_each(set);
        for AttributeProto { g, graphs, .. } in &mut node.attribute {
            g.as_mut()
                .into_iter()
                .chain(graphs)
                .for_each(|graph| rename(graph, from, to));
        }
    }
}

#[cfg(test)]
mod tests {
    use onnx_protobuf::NodeProto;
    use protobuf::MessageField;

    use super::*;

    fn node(input: &str, output: &str) -> NodeProto {
        NodeProto {
            name: format!("{output}_node"),
            input: vec![input.to_owned()],
            output: vec![output.to_owned()],
            ..Default::default()
        }
    }

    #[test]
    fn a_branch_sees_the_names_around_it() {
        let branch = GraphProto {
            node: vec![node("image", "inner")],
            ..Default::default()
        };
        let mut outer = node("image", "x");
        outer.attribute.push(AttributeProto {
            g: MessageField::some(branch),
            ..Default::default()
        });
        let mut graph = GraphProto {
            node: vec![outer],
            ..Default::default()
        };
        let expected = ["image", "inner", "inner_node", "x", "x_node"];
        assert_eq!(all(&graph), expected.map(str::to_owned).into());
        rename(&mut graph, "image", "photo");
        let taken = all(&graph);
        assert!(
            taken.contains("photo") && !taken.contains("image"),
            "{taken:?}"
        );
        assert_eq!(free("image", &taken), "image");
        assert_eq!(free("x", &taken), "x_2");
        assert_eq!(free_prefix("x", &taken), "x/");
        let taken = HashSet::from(["x/a".to_owned()]);
        assert_eq!(free_prefix("x", &taken), "x_2/");
    }
}
