//! Examples at the end of each verb's `--help`: `scripts/test_readme.py` runs them all.
//!
//! Must not know what a verb does. Where a verb says more than an example at its end, it says so itself.

use clap::Command;

/// The verbs of `extractor`, each with its examples.
pub(super) const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "features",
        &[
            "extractor features PetImages --backbone resnet50.onnx",
            "extractor features PetImages --backbone resnet50.onnx --views identity,hflip --dtype f16",
            "extractor features PetImages --backbone resnet50.onnx --dry-run",
        ],
    ),
    ("index", &["extractor index PetImages --index pets.arrow"]),
    (
        "store inspect",
        &["extractor store inspect STORE --index INDEX"],
    ),
    (
        "store verify",
        &["extractor store verify STORE --quarantine"],
    ),
    (
        "store compact",
        &["extractor store compact STORE --grace 7d"],
    ),
    ("store gc", &["extractor store gc STORE --keep INDEX --yes"]),
    (
        "backbone seed",
        &["extractor backbone seed --seed 1 --out seeded.onnx"],
    ),
    (
        "backbone import",
        &[
            "extractor backbone import squeezenet.onnx --preset imagenet --input-size 100x100",
            "extractor backbone import --weights weights.safetensors --preset imagenet",
        ],
    ),
    (
        "backbone quantize",
        &[
            "extractor backbone quantize resnet50.onnx PetImages --calibrate 64",
            "extractor backbone quantize resnet50.onnx PetImages --calibrate 100 --name resnet50-100",
        ],
    ),
    ("backbone list", &["extractor backbone list"]),
    (
        "backbone fetch",
        &["extractor backbone fetch mobilenetv2-12 --input-size 100x100"],
    ),
    (
        "fetch",
        &[
            "extractor fetch cats-vs-dogs",
            "extractor fetch pets.zip --keep-all",
        ],
    ),
    ("runtime fetch", &["extractor runtime fetch"]),
    ("runtime info", &["extractor runtime info"]),
    ("sample", &["extractor sample drawn --per-class 50"]),
];

/// `command` with `examples` at the end of its verbs' help.
#[must_use]
pub fn with_examples(command: Command, examples: &[(&str, &[&str])]) -> Command {
    examples.iter().fold(command, |command, (path, lines)| {
        let path: Vec<&str> = path.split(' ').collect();
        with_lines(command, &path, lines)
    })
}

fn with_lines(command: Command, path: &[&str], lines: &[&str]) -> Command {
    let Some((first, rest)) = path.split_first() else {
        let title = if lines.len() == 1 {
            "Example"
        } else {
            "Examples"
        };
        return command.after_help(format!("{title}:\n  {}", lines.join("\n  ")));
    };
    command.mut_subcommand(*first, |verb| with_lines(verb, rest, lines))
}

/// The verbs of `command` that have none, for tests of both binaries.
pub fn without_example(command: &Command) -> Vec<String> {
    let name = command.get_name();
    if command.has_subcommands() {
        let verbs = command.get_subcommands();
        return verbs
            .flat_map(without_example)
            .map(|verb| format!("{name} {verb}"))
            .collect();
    }
    let help = command.get_after_help().map(ToString::to_string);
    match help {
        Some(help) if help.contains("Example") => Vec::new(),
        _ => vec![name.to_owned()],
    }
}
