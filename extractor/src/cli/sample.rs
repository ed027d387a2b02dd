//! `extractor sample`.

use std::path::PathBuf;

use serde_json::json;

use super::common::{Outcome, OutputArgs};
use crate::files::{escape_path, grouped};
use crate::progress::Progress;
use crate::sample::{self, SampleOptions};

/// Flags of `extractor sample`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder to draw into [default: DATA_DIR/sample].
    out: Option<PathBuf>,
    /// Images of each class.
    #[arg(long, default_value_t = SampleOptions::DEFAULT_PER_CLASS, value_name = "N")]
    per_class: usize,
    /// Seed of the drawings.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Args {
    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let options = SampleOptions {
            out: self.out.unwrap_or_else(|| output.data_dir.join("sample")),
            per_class: self.per_class,
            seed: self.seed,
        };
        let total = 2 * options.per_class as u64;
        let progress = Progress::new("drawing", "images", total, output.quiet);
        let summary = sample::write(&options, &|_| progress.add(1))?;
        progress.finish();
        output.print(
            &json!({
                "out": escape_path(&summary.out),
                "images": summary.images,
                "written": summary.written,
                "size_bytes": summary.size_bytes,
            }),
            &format!(
                "sample    {}: {} synthetic images, {} bytes\n",
                escape_path(&summary.out),
                grouped(summary.images as u64),
                grouped(summary.size_bytes)
            ),
        )?;
        Ok(Outcome::Done)
    }
}
