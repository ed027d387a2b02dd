//! The command line of `head-trainer`: flags as typed, then one call into the library a verb.

mod audit;
mod baseline;
mod choices;
mod data;
mod examples;
mod explain;
mod export;
mod out;
mod predict;
mod report;
mod result;
mod runs;
mod serve;
mod stores;
mod sweep;
mod table;
mod train;

use std::process::ExitCode;

use clap::{Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use examples::EXAMPLES;
use extractor::cli::common::{self, EXIT_CODES, OutputArgs};
use extractor::cli::examples::with_examples;

/// Headstart, stage two: feature store -> pooled features -> classifier head.
#[derive(Debug, Parser)]
#[command(name = "head-trainer", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    output: OutputArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Train a head on cached features.
    Train(Box<train::Args>),
    /// Train many heads on folds of the training side and compare them.
    Sweep(Box<sweep::Args>),
    /// Train the small CNN end to end on the same images, to compare heads with.
    Baseline(Box<baseline::Args>),
    /// Compare runs on one page: curves, metrics, mistakes, times.
    Report(report::Args),
    /// Look at the runs that were recorded.
    Runs(runs::Args),
    /// Find labels that are probably wrong, and images that look alike or are there twice.
    Audit(Box<audit::Args>),
    /// Say what new images show: a label and its probability for each.
    Predict(Box<predict::Args>),
    /// Predict over HTTP, for other programs, until stopped.
    Serve(Box<serve::Args>),
    /// Write a run's model for other programs: one ONNX file from pixels to probabilities, or the head.
    Export(export::Args),
    /// Show where in its image a head finds what it goes by, from cached features alone.
    Explain(Box<explain::Args>),
}

/// Parses the command line, runs the verb and maps the result to an exit code.
pub fn main() -> ExitCode {
    let arguments = command().get_matches();
    let Cli { output, verb } = Cli::from_arg_matches(&arguments).unwrap_or_else(|e| e.exit());
    output.init_logging();
    common::exit(match verb {
        Verb::Train(args) => args.run(&output),
        Verb::Sweep(args) => args.run(&output),
        Verb::Baseline(args) => args.run(&output),
        Verb::Report(args) => args.run(&output),
        Verb::Runs(args) => args.run(&output),
        Verb::Audit(args) => args.run(&output),
        Verb::Predict(args) => args.run(&output),
        Verb::Serve(args) => args.run(&output),
        Verb::Export(args) => args.run(&output),
        Verb::Explain(args) => args.run(&output),
    })
}

/// The command line with an example in each verb's help.
fn command() -> Command {
    with_examples(Cli::command(), EXAMPLES)
}

#[cfg(test)]
mod tests {
    use extractor::cli::examples::without_example;

    #[test]
    fn every_verb_has_an_example() {
        let command = super::command();
        command.clone().debug_assert();
        assert_eq!(without_example(&command), [""; 0]);
    }
}
