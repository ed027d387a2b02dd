//! `extractor backbone fetch`.

use std::path::PathBuf;

use super::source::Source;
use super::{import, weights};
use crate::backbone::registry::{self, Format};
use crate::cli::common::{Outcome, OutputArgs};
use crate::cli::features::parse_size;
use crate::fetch::{Conditions, FetchError, known};
use crate::runtime::{self, Flavour};

/// Flags of `extractor backbone fetch`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its name, as extractor backbone list has it.
    name: String,
    /// Height and width of the input.
    #[arg(long, value_name = "HxW", value_parser = parse_size, default_value = "100x100")]
    input_size: [usize; 2],
    /// Where the backbone goes; its description lies beside it [default: DATA_DIR/backbones/NAME.onnx].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let entries = registry::entries();
        let Some(entry) = entries.iter().find(|entry| entry.name == self.name) else {
            if let Some(exported) = registry::exported().iter().find(|e| e.name == self.name) {
                anyhow::bail!(
                    "{} is exported, not downloaded (hint: {})",
                    exported.name,
                    exported.how
                );
            }
            return Err(FetchError::Unknown {
                what: self.name,
                kind: "backbone",
                known: entries.into_iter().map(|entry| entry.name).collect(),
            }
            .into());
        };
        let library = runtime::locate(&output.data_dir, Flavour::Cpu)?.path;
        let environment = Conditions::default().environment;
        let remote = known::remote(&entry.url, entry.size_bytes, entry.sha256, &environment)?;
        let source = Source::get(&remote, &entry.file_name(), output)?;
        let (name, licence) = (entry.name.as_str(), Some(entry.licence.as_str()));
        match entry.format {
            Format::Onnx => import::Plan {
                source: &source,
                name,
                preset: entry.preset,
                feature: None,
                input_size: Some(self.input_size),
                licence,
                trained: Some(true),
                out: self.out,
            }
            .run(&library, output),
            Format::Safetensors => weights::Plan {
                source: &source,
                name,
                variant: None,
                preset: Some(entry.preset),
                input_size: Some(self.input_size),
                licence,
                trained: Some(true),
                out: self.out,
            }
            .run(&library, output),
        }
    }
}
