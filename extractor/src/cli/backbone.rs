//! `extractor backbone`.

mod fetch;
mod import;
mod list;
mod quantize;
mod source;
mod weights;

use std::path::PathBuf;

use serde_json::json;

use super::common::{Outcome, OutputArgs};
use crate::backbone::seed::{self, SeedOptions};
use crate::files::{escape_path, grouped};

/// Verbs of `extractor backbone`.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Write an untrained ResNet50 with seeded weights, for trying things out without a download.
    Seed(SeedArgs),
    /// Cut a backbone out of a classifier (an ONNX file, or its address), and check that both compute the
    /// same; or build a ResNet50 around its weights (--weights, a safetensors file).
    Import(import::Args),
    /// Make an 8-bit backbone of a float32 one, calibrated on your images; what it costs in accuracy of heads is
    /// measured before it is written.
    Quantize(quantize::Args),
    /// The backbones that fetch knows by name, and those that are there.
    List,
    /// Download what is known by name and make a backbone of it.
    Fetch(fetch::Args),
}

/// Flags of `extractor backbone seed`.
#[derive(Debug, clap::Args)]
pub struct SeedArgs {
    /// Seed of the weights.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Side of the square input in pixels.
    #[arg(long, default_value_t = 100)]
    size: u32,
    /// Where the model goes; its description lies beside it [default: DATA_DIR/backbones/NAME.onnx].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Verb {
    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        match self {
            Verb::Seed(args) => args.run(output),
            Verb::Import(args) => args.run(output),
            Verb::Quantize(args) => args.run(output),
            Verb::List => list::run(output),
            Verb::Fetch(args) => args.run(output),
        }
    }
}

impl SeedArgs {
    fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let options = SeedOptions {
            seed: self.seed,
            size: self.size,
        };
        let path = self.out.unwrap_or_else(|| {
            output
                .data_dir
                .join("backbones")
                .join(format!("{}.onnx", options.name()))
        });
        let written = seed::write(&path, &options)?;
        output.print(
            &json!({
                "backbone": escape_path(&written.model),
                "description": escape_path(&written.description),
                "digest": written.digest,
                "parameters": written.parameters,
                "map_shape": written.output_shape,
                "trained": false,
            }),
            &format!(
                "backbone  {} ({})\nparameters {}\n",
                escape_path(&written.model),
                options.note(),
                grouped(written.parameters)
            ),
        )?;
        Ok(Outcome::Done)
    }
}
