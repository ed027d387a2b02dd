//! The command line of `extractor`: flags as typed, then one call into the library a verb.
//!
//! What both binaries share (output flags, exit codes, logging, downloads, the engine) is in [`common`],
//! [`download`], [`place`], [`signals`] and [`engine`].

mod backbone;
pub mod common;
pub mod download;
pub mod engine;
pub mod examples;
mod features;
mod fetch;
pub mod index;
pub mod place;
mod runtime;
mod sample;
pub mod signals;
mod store;

use std::process::ExitCode;

use clap::{Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use common::{EXIT_CODES, OutputArgs};
use examples::{EXAMPLES, with_examples};

/// Headstart, stage one: images -> frozen backbone -> feature store.
#[derive(Debug, Parser)]
#[command(name = "extractor", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    output: OutputArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Compute the features of a folder of images that are not in the store yet.
    Features(features::Args),
    /// Write the index of a folder of images: id, path and label of each.
    Index(index::Args),
    /// Look into a feature store and keep it in order.
    #[command(subcommand)]
    Store(store::Verb),
    /// Make a backbone.
    #[command(subcommand)]
    Backbone(backbone::Verb),
    /// Download a data set's archive, check it, and record which of its images count.
    Fetch(fetch::Args),
    /// ONNX Runtime's shared library.
    #[command(subcommand)]
    Runtime(runtime::Verb),
    /// Draw a small synthetic two-class data set, for trying things out.
    Sample(sample::Args),
}

/// Parses the command line, runs the verb and maps the result to an exit code.
pub fn main() -> ExitCode {
    let arguments = command().get_matches();
    let Cli { output, verb } = Cli::from_arg_matches(&arguments).unwrap_or_else(|e| e.exit());
    output.init_logging();
    common::exit(match verb {
        Verb::Features(args) => args.run(&output),
        Verb::Index(args) => args.run(&output),
        Verb::Store(verb) => verb.run(&output),
        Verb::Backbone(verb) => verb.run(&output),
        Verb::Fetch(args) => args.run(&output),
        Verb::Runtime(verb) => verb.run(&output),
        Verb::Sample(args) => args.run(&output),
    })
}

/// The command line with an example in each verb's help.
fn command() -> Command {
    with_examples(Cli::command(), EXAMPLES)
}

#[cfg(test)]
mod tests {
    use super::examples::without_example;

    #[test]
    fn every_verb_has_an_example() {
        let command = super::command();
        command.clone().debug_assert();
        assert_eq!(without_example(&command), [""; 0]);
    }
}
