//! `extractor backbone import`, `list` and `fetch`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::json;

use crate::backbone::described_preset;
use crate::backbone::import::{Classifier, Cut, Imported};
use crate::backbone::registry::{self, Entry};
use crate::cli::common::{Outcome, OutputArgs};
use crate::cli::download::Shown;
use crate::cli::features::parse_size;
use crate::digest::Digest;
use crate::engine::{Engine, EngineOptions, OnnxRuntime, Provider};
use crate::fetch::set::{address, file_name};
use crate::fetch::{Conditions, FetchError, Remote, download, known};
use crate::files::{escape_path, grouped};
use crate::given;
use crate::net::shown;
use crate::preprocess::Preset;
use crate::runtime::{self, Flavour};

/// Flags of `extractor backbone import`.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// The classifier: an ONNX file, or its address.
    #[arg(value_name = "FILE|URL")]
    from: String,
    /// SHA-256 that the file must have.
    #[arg(long, value_name = "HEX")]
    sha256: Option<Digest>,
    /// Preprocessing that the weights were trained with; needed unless the model is a known one or a
    /// description lies beside it.
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// The feature map's tensor [default: what the last global average pooling pools].
    #[arg(long, value_name = "TENSOR")]
    feature: Option<String>,
    /// Licence of the weights, to be recorded.
    #[arg(long, value_name = "TEXT")]
    licence: Option<String>,
    /// Name [default: the file's].
    #[arg(long)]
    name: Option<String>,
    /// Height and width of the input [default: what the model fixes].
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    input_size: Option<[usize; 2]>,
    /// Where the backbone goes; its description lies beside it [default: DATA_DIR/backbones/NAME.onnx].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Flags of `extractor backbone fetch`.
#[derive(Debug, clap::Args)]
pub struct FetchArgs {
    /// The classifier's name, as extractor backbone list has it.
    name: String,
    /// Height and width of the input.
    #[arg(long, value_name = "HxW", value_parser = parse_size, default_value = "100x100")]
    input_size: [usize; 2],
    /// Where the backbone goes; its description lies beside it [default: DATA_DIR/backbones/NAME.onnx].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// A classifier's file at hand.
struct Source {
    path: PathBuf,
    sha256: Digest,
    /// Address that it came from, without passwords.
    address: Option<String>,
}

impl ImportArgs {
    pub(super) fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let library = runtime::locate(&output.data_dir, Flavour::Cpu)?.path;
        let local = Path::new(&self.from);
        let source = match (local.is_file(), address(&self.from)) {
            (true, _) => {
                let sha256 = Digest::of_file(local)
                    .with_context(|| format!("cannot read {}", escape_path(local)))?;
                if let Some(expected) = self.sha256.filter(|expected| *expected != sha256) {
                    return Err(FetchError::Occupied {
                        path: local.to_owned(),
                        got: sha256,
                        expected,
                    }
                    .into());
                }
                Source {
                    path: local.to_owned(),
                    sha256,
                    address: None,
                }
            }
            (false, Some(url)) => get(
                &Remote {
                    url,
                    size_bytes: None,
                    sha256: self.sha256,
                },
                output,
            )?,
            (false, None) => bail!(
                "{} is neither a file nor an http or https address (hint: extractor backbone list names \
                 classifiers that fetch knows)",
                self.from
            ),
        };
        let known = registry::of_digest(&source.sha256);
        let preset = match (self.preset, &known) {
            (Some(preset), _) => Some(preset),
            (None, Some(entry)) => Some(entry.preset),
            (None, None) => described_preset(&source.path, &source.sha256)?,
        };
        let Some(preset) = preset else {
            bail!(
                "nothing says which preprocessing {} was trained with (hint: give --preset: imagenet for \
                 models of torchvision and the ONNX zoo, caffe for Keras's ResNet50, unit for x/255, raw \
                 for models that scale their input themselves)",
                escape_path(&source.path)
            );
        };
        let stem = source.path.file_stem().unwrap_or_default();
        let stem = stem.to_string_lossy().into_owned();
        let name = self.name.unwrap_or(stem);
        let is_known = known.is_some();
        let licence = self.licence.or(known.map(|entry| entry.licence));
        let plan = Plan {
            source: &source,
            name: &name,
            preset,
            feature: self.feature.as_deref(),
            input_size: self.input_size,
            licence: licence.as_deref(),
            trained: is_known.then_some(true),
            out: self.out,
        };
        plan.run(&library, output)
    }
}

impl FetchArgs {
    pub(super) fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let entries = registry::entries();
        let Some(entry) = entries.iter().find(|entry| entry.name == self.name) else {
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
        let plan = Plan {
            source: &get(&remote, output)?,
            name: &entry.name,
            preset: entry.preset,
            feature: None,
            input_size: Some(self.input_size),
            licence: Some(&entry.licence),
            trained: Some(true),
            out: self.out,
        };
        plan.run(&library, output)
    }
}

/// Downloads a classifier into `DATA_DIR/backbones/originals`, where the next import finds it if its
/// digest is known.
fn get(remote: &Remote, output: &OutputArgs) -> anyhow::Result<Source> {
    let folder = output.data_dir.join("backbones").join("originals");
    let path = folder.join(file_name(&remote.url)?);
    if remote.sha256.is_none() && path.exists() {
        bail!(
            "{} is there, and nothing says that it is the same (hint: give --sha256, or name the file)",
            escape_path(&path)
        );
    }
    let mut bar = Shown::new(output.quiet);
    let sha256 = download(remote, &path, &Conditions::default(), &mut |event| {
        bar.hear(event);
    });
    bar.finish();
    Ok(Source {
        path,
        sha256: sha256?,
        address: Some(shown(&remote.url)),
    })
}

/// What is to be made of which file.
struct Plan<'a> {
    source: &'a Source,
    name: &'a str,
    preset: Preset,
    feature: Option<&'a str>,
    input_size: Option<[usize; 2]>,
    licence: Option<&'a str>,
    trained: Option<bool>,
    out: Option<PathBuf>,
}

impl Plan<'_> {
    fn run(self, library: &Path, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let path = &self.source.path;
        let usual = || {
            let name = format!("{}.onnx", self.name);
            output.data_dir.join("backbones").join(name)
        };
        let out = self.out.clone().unwrap_or_else(usual);
        let is_same = |a: &Path, b: &Path| {
            let real = |path: &Path| path.canonicalize().ok();
            real(a).is_some() && real(a) == real(b)
        };
        if is_same(&out, path) {
            bail!(
                "{} is the classifier itself (hint: give --out FILE or --name NAME)",
                escape_path(&out)
            );
        }
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", escape_path(path)))?;
        let classifier = Classifier {
            bytes: &bytes,
            folder: match self.source.address {
                None => Some(crate::files::folder_of(path)),
                Some(_) => None,
            },
            name: self.name,
            preset: self.preset,
            feature: self.feature,
            input_size: self.input_size,
            licence: self.licence,
            trained: self.trained,
            source: self.source.address.as_deref(),
        };
        let context = || format!("cannot make a backbone of {}", escape_path(path));
        let cut = classifier.cut().with_context(context)?;
        let options = EngineOptions {
            library: library.to_owned(),
            provider: Provider::Cpu,
            threads: given::threads(),
        };
        let facts = Facts::of(&cut, &self);
        let imported = cut
            .check_and_write(&out, &mut |model| {
                let engine = OnnxRuntime::open(model, &options)?;
                Ok(Box::new(engine) as Box<dyn Engine>)
            })
            .with_context(context)?;
        facts.print(&imported, output)?;
        Ok(Outcome::Done)
    }
}

/// What is said of an import.
struct Facts {
    name: String,
    preset: Preset,
    feature: String,
    why: String,
    dropped: String,
    from: Digest,
}

impl Facts {
    fn of(cut: &Cut, plan: &Plan) -> Facts {
        Facts {
            name: plan.name.to_owned(),
            preset: plan.preset,
            feature: cut.feature.tensor.clone(),
            why: cut.feature.why.clone(),
            dropped: cut.dropped.to_string(),
            from: plan.source.sha256,
        }
    }

    fn print(&self, imported: &Imported, output: &OutputArgs) -> anyhow::Result<()> {
        let Facts {
            name,
            preset,
            feature,
            why,
            dropped,
            from,
        } = self;
        let [height, width] = imported.input_size;
        let same = match imported.difference {
            0.0 => "the same bits from both".to_owned(),
            difference => format!("equal to {difference:.0e} of the largest feature"),
        };
        output.print(
            &json!({
                "backbone": escape_path(&imported.model),
                "description": escape_path(&imported.description),
                "name": name,
                "preset": preset,
                "digest": imported.digest,
                "cut_from": from,
                "feature_tensor": feature,
                "input_size": imported.input_size,
                "map_shape": [
                    imported.map_shape.height, imported.map_shape.width, imported.map_shape.channels
                ],
                "difference": imported.difference,
            }),
            &format!(
                "backbone  {} ({} bytes)\nfeatures  {feature}: {why}\ncut off   {dropped}\nmaps      {} for \
                 {height}x{width}, preset {preset}\nchecked   {same}\n",
                escape_path(&imported.model),
                grouped(imported.size_bytes),
                imported.map_shape,
            ),
        )
    }
}

/// Prints what is known by name.
pub(super) fn list(output: &OutputArgs) -> anyhow::Result<Outcome> {
    let entries = registry::entries();
    let line = |entry: &Entry| {
        format!(
            "{:<16}{:>8.1} MB  {:<9} {:<11} {}\n",
            entry.name,
            // For people: far below one digit shown.
            entry.size_bytes as f64 / 1e6,
            entry.preset.to_string(),
            entry.licence,
            entry.what
        )
    };
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| {
            json!({
                "name": entry.name,
                "what": entry.what,
                "url": entry.url.as_str(),
                "size_bytes": entry.size_bytes,
                "sha256": entry.sha256,
                "preset": entry.preset,
                "licence": entry.licence,
            })
        })
        .collect();
    let text: String = entries.iter().map(line).collect();
    output.print(&rows, &text)?;
    Ok(Outcome::Done)
}
