//! `extractor runtime`.

use serde_json::json;

use super::common::{Outcome, OutputArgs};
use crate::engine;
use crate::files::escape_path;
use crate::progress::Progress;
use crate::runtime::{self, Event, FetchOptions, Flavour};

/// Verbs of `extractor runtime`.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Download ONNX Runtime's shared library (once) out of its PyPI wheel.
    Fetch(FlavourArgs),
    /// Say which library is used and which could be fetched.
    Info(FlavourArgs),
}

/// Which build of ONNX Runtime.
#[derive(Debug, clap::Args)]
pub struct FlavourArgs {
    /// The build: for the CPU, or for the CPU and NVIDIA GPUs.
    #[arg(long, value_enum, default_value = "cpu")]
    flavour: Flavour,
}

impl Verb {
    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        match self {
            Verb::Fetch(args) => fetch(args.flavour, output),
            Verb::Info(args) => info(args.flavour, output),
        }
    }
}

fn fetch(flavour: Flavour, output: &OutputArgs) -> anyhow::Result<Outcome> {
    let options = FetchOptions::new(&output.data_dir, flavour);
    let mut progress: Option<(Progress, u64)> = None;
    let path = runtime::fetch(&options, &mut |event| match event {
        Event::Progress {
            done_bytes,
            total_bytes,
        } => {
            let (progress, last) = progress.get_or_insert_with(|| {
                (
                    Progress::new("downloading", "bytes", total_bytes, output.quiet),
                    0,
                )
            });
            progress.add(done_bytes.saturating_sub(*last));
            // A second attempt counts from 0 again; the bar waits for it.
            *last = done_bytes.max(*last);
        }
        event @ (Event::AlreadyInstalled { .. } | Event::Overridden { .. }) => {
            tracing::debug!("{event}");
        }
        event => tracing::info!("{event}"),
    })?;
    if let Some((progress, _)) = progress {
        progress.finish();
    }
    let version = engine::version(&path)?;
    output.print(
        &json!({ "library": escape_path(&path), "engine": version }),
        &format!("runtime   {} ({version})\n", escape_path(&path)),
    )?;
    Ok(Outcome::Done)
}

fn info(flavour: Flavour, output: &OutputArgs) -> anyhow::Result<Outcome> {
    let info = runtime::info(&output.data_dir, flavour);
    let version = match &info.located {
        Ok(located) => Some(engine::version(&located.path)?),
        Err(_) => None,
    };
    let library = info.located.as_ref().ok().map(|l| escape_path(&l.path));
    let mut text = info.to_string();
    if let Some(version) = &version {
        text += &format!("\nengine    {version}");
    }
    output.print(&json!({ "library": library, "engine": version }), &text)?;
    Ok(Outcome::Done)
}
