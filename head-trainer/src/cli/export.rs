//! `head-trainer export`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use extractor::backbone::{Model, Spec};
use extractor::cli::common::{Outcome, OutputArgs};
use extractor::cli::download::Shown;
use extractor::cli::engine::{Wanted, open_backbone, open_bytes};
use extractor::engine::{Precision, Provider};
use extractor::fetch::Conditions;
use extractor::files::{Pending, escape_path, grouped};
use extractor::preprocess::Layout;
use extractor::store::StoreKey;
use serde_json::json;

use super::predict::open::{OpenedModel, RunArgs};
use crate::export::check::{Case, cases, compare};
use crate::export::web::folder::Staged;
use crate::export::web::package::{self, Engine};
use crate::export::{Parts, fuse, keras, web};
use crate::head::Head;
use crate::predict::Predictor;
use crate::run::RunRecord;

/// For `--help`.
const EXAMPLES: &str = "Examples:
  head-trainer export RUN --onnx model.onnx --license BSD-3-Clause
  head-trainer export RUN --web page
  python3 -m http.server --bind 127.0.0.1 --directory page";

/// Pictures that are checked together, where the backbone takes any number.
const TOGETHER: usize = 2;

/// Flags of `head-trainer export`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true)))]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Write preprocessing, backbone and head as one ONNX model: uint8 [N, height, width, 3] in, any
    /// size, probabilities and the number of the class out.
    #[arg(long, value_name = "FILE", group = "what")]
    onnx: Option<PathBuf>,
    /// Write a folder with a page that classifies images in the browser, for any server of static
    /// files. Fetches ONNX Runtime's WebAssembly build into DATA_DIR/web, once (33 MB).
    #[arg(long, value_name = "DIR", group = "what")]
    web: Option<PathBuf>,
    /// Write a script that builds the Keras model of a head on Keras's ResNet50 and checks it; the
    /// weights go beside it, as FILE.safetensors.
    #[arg(long, value_name = "FILE.py", group = "what")]
    keras: Option<PathBuf>,
    /// Write the head alone: its weights for pooled features, with what they are for.
    #[arg(long, value_name = "FILE", group = "what")]
    safetensors: Option<PathBuf>,
    /// Licence of the backbone's weights and of the head, for the file's metadata [default: what the
    /// backbone's description says].
    #[arg(long, value_name = "TEXT")]
    license: Option<String>,
}

/// The fused model, checked.
struct Fused {
    bytes: Vec<u8>,
    /// Images that it takes at once.
    images: usize,
    largest_difference: f32,
}

impl Args {
    /// Refuses to write over a run's own `[folder, backbone]`.
    fn spare(&self, [run, backbone]: [&Path; 2]) -> anyhow::Result<()> {
        let files = [&self.onnx, &self.safetensors, &self.keras];
        for file in files.into_iter().flatten() {
            let same = |other: &Path| match (file.canonicalize(), other.canonicalize()) {
                (Ok(file), Ok(other)) => file == other || file.parent() == Some(&other),
                _ => false,
            };
            anyhow::ensure!(
                !same(run) && !same(backbone),
                "{} belongs to the run (hint: export to another place)",
                escape_path(file)
            );
        }
        Ok(())
    }

    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let opener = self.run.opener(Provider::Cpu, TOGETHER, output)?;
        let threads = opener.threads;
        let opened = opener.open()?;
        let folder = escape_path(&opened.folder);
        let OpenedModel::Head(model) = opened.trained else {
            bail!(
                "{folder} is a baseline, which is not exported (hint: take a run of train or sweep --train)"
            );
        };
        let (head, backbone, key) = *model;
        if key.precision != Precision::Fp32 {
            tracing::warn!(
                "the head was trained on features that were computed in {}; what is exported computes in \
                 fp32 and is checked in it (hint: compare both on images of yours, or train on features \
                 in fp32)",
                key.precision
            );
        }
        self.spare([&opened.folder, &backbone.path])?;
        let license = self.license.clone().or_else(|| backbone.licence());
        let metadata = metadata(&opened.record, &key, license.as_deref());
        // What can fail for outer reasons comes before the costly work.
        let pending = self.onnx.as_deref().map(|file| {
            Pending::new(file).with_context(|| format!("cannot write {}", escape_path(file)))
        });
        let pending = pending.transpose()?;
        let page = self.web.as_deref().map(|folder| {
            Page::new(folder, output)
                .with_context(|| format!("cannot write the page {}", escape_path(folder)))
        });
        let page = page.transpose()?;
        let keras = self.keras.as_deref().map(|file| {
            KerasFiles::new(file, self.safetensors.as_deref(), &backbone)
                .with_context(|| format!("cannot write the Keras model {}", escape_path(file)))
        });
        let keras = keras.transpose()?;
        let mut text = format!("run          {folder}\n");
        if let Some(file) = &self.safetensors {
            let mut described = head.clone();
            described.metadata.extend(metadata.clone());
            described.save(file)?;
            text += &format!("head         {}\n", escape_path(file));
        }
        let mut largest_difference = None;
        let (mut onnx, mut page_folder, mut script) = (None, None, None);
        let name = name(&head, &backbone);
        let parts = match pending.is_some() || page.is_some() || keras.is_some() {
            true => Some(Measured::new(&head, backbone, &key, threads, output)?),
            false => None,
        };
        if let (Some(keras), Some(parts)) = (keras, &parts) {
            let written = escape_path(&keras.publish(&head, parts, &metadata)?);
            text +=
                &format!("keras        {written} (running it builds the model and checks it)\n");
            script = Some(written);
        }
        if let Some(parts) = parts.filter(|_| pending.is_some() || page.is_some()) {
            let fused = parts
                .fused(&head, &key, &metadata, threads, &output.data_dir)
                .with_context(|| format!("cannot make one model of {folder}"))?;
            largest_difference = Some(fused.largest_difference);
            if let Some(mut pending) = pending {
                pending.write_all(&fused.bytes)?;
                let file = escape_path(&pending.publish()?);
                text += &format!("model        {file}\n");
                onnx = Some(file);
            }
            if let Some(page) = page {
                let files = web::files(&web::Parts {
                    name: &name,
                    head: &head,
                    model: &fused.bytes,
                    images: fused.images,
                    exif: key.exif,
                    provenance: &metadata,
                    engine: &page.engine,
                });
                let written = escape_path(&page.staged.publish(&files)?);
                text += &format!(
                    "page         {written} (python3 -m http.server --directory serves it)\n"
                );
                page_folder = Some(written);
            }
            text += &format!(
                "size         {} bytes\ndifference   {:.1e} at most to the run's own probabilities, on \
                 pictures of several sizes\n",
                grouped(fused.bytes.len() as u64),
                fused.largest_difference
            );
        }
        output.print(
            &json!({
                "run": folder,
                "onnx": onnx,
                "web": page_folder,
                "keras": script,
                "largest_difference": largest_difference,
                "safetensors": self.safetensors.as_deref().map(escape_path),
            }),
            &text,
        )?;
        Ok(Outcome::Done)
    }
}

/// A page under way: its engine is there, and its folder may be written.
struct Page {
    staged: Staged,
    engine: Engine,
}

impl Page {
    fn new(folder: &Path, output: &OutputArgs) -> anyhow::Result<Page> {
        let staged = Staged::new(folder)?;
        let mut shown = Shown::new(output.quiet);
        let conditions = Conditions::default();
        let engine = package::fetch(&output.data_dir, &conditions, &mut |e| shown.hear(e));
        shown.finish();
        Ok(Page {
            staged,
            engine: engine?,
        })
    }
}

/// What a page is called.
fn name(head: &Head, backbone: &Model) -> String {
    let classes = match &head.classes[..] {
        [a, b] => format!("{a} or {b}"),
        [a, b, c] => format!("{a}, {b} or {c}"),
        many => format!("{} classes", many.len()),
    };
    format!("{classes}: a head on {}", backbone.spec.name)
}

/// What a model is made of, and what the run says of some pictures.
struct Measured {
    bytes: Vec<u8>,
    spec: Spec,
    map_layout: Layout,
    cases: Vec<Case>,
}

impl Measured {
    fn new(
        head: &Head,
        model: Model,
        key: &StoreKey,
        threads: usize,
        output: &OutputArgs,
    ) -> anyhow::Result<Measured> {
        let (bytes, spec) = (model.bytes()?, model.spec.clone());
        let wanted = Wanted::on_the_cpu(threads);
        let backbone = open_backbone(model, wanted, TOGETHER, &output.data_dir)?;
        let mut predictor = Predictor::of_head(head.clone(), backbone, key);
        let mut pictures = cases(&mut predictor, spec.batch.unwrap_or(TOGETHER))?;
        if spec.batch.is_none() {
            pictures.extend(cases(&mut predictor, 1)?);
        }
        Ok(Measured {
            map_layout: predictor.map_layout().context("the backbone did not run")?,
            bytes,
            spec,
            cases: pictures,
        })
    }

    /// Makes the fused model and checks it.
    fn fused(
        &self,
        head: &Head,
        key: &StoreKey,
        metadata: &BTreeMap<String, String>,
        threads: usize,
        data_dir: &Path,
    ) -> anyhow::Result<Fused> {
        let bytes = fuse(&Parts {
            head,
            backbone: &self.bytes,
            spec: &self.spec,
            map_layout: self.map_layout,
            dtype: key.dtype,
            metadata,
        })?;
        let mut engine = open_bytes(&bytes, Wanted::on_the_cpu(threads), data_dir)?;
        let largest_difference = compare(&mut engine, &self.cases, head.decision)?;
        Ok(Fused {
            bytes,
            images: self.spec.batch.unwrap_or(1),
            largest_difference,
        })
    }
}

/// A Keras model under way: its two files may be written, and the backbone is Keras's.
struct KerasFiles {
    script: Pending,
    weights: Pending,
    backbone: keras::Backbone,
}

impl KerasFiles {
    fn new(script: &Path, head: Option<&Path>, model: &Model) -> anyhow::Result<KerasFiles> {
        ensure!(
            script.extension().is_some_and(|e| e == "py"),
            "its name does not end in .py (hint: --keras model.py)"
        );
        let weights = script.with_extension("safetensors");
        ensure!(
            head != Some(&weights),
            "its weights and the head would be one file (hint: another name for --safetensors)"
        );
        Ok(KerasFiles {
            backbone: keras::Backbone::read(&model.bytes()?, &model.spec)?,
            script: Pending::new(script)?,
            weights: Pending::new(&weights)?,
        })
    }

    fn publish(
        mut self,
        head: &Head,
        parts: &Measured,
        metadata: &BTreeMap<String, String>,
    ) -> anyhow::Result<PathBuf> {
        let reference = &parts.cases[0];
        let weights = keras::weights(&self.backbone, head, &parts.spec, reference, metadata);
        self.weights.write_all(&weights)?;
        self.script.write_all(keras::SCRIPT.as_bytes())?;
        self.weights.publish()?;
        Ok(self.script.publish()?)
    }
}

/// What the files say of where the model comes from.
fn metadata(record: &RunRecord, key: &StoreKey, license: Option<&str>) -> BTreeMap<String, String> {
    let mut metadata = record.provenance.clone();
    let more = [
        ("run", record.digest.to_string()),
        ("run_created_utc", record.created_utc.clone()),
        ("store_key", record.key.store_key.to_string()),
        ("store_key_fields", key.to_json()),
        ("resize", key.resize.clone()),
        ("exif", key.exif.to_string()),
    ];
    metadata.extend(more.map(|(name, value)| (name.to_owned(), value)));
    for (name, version) in &record.versions {
        metadata.insert(format!("{name}_version"), version.clone());
    }
    if let Some(license) = license {
        metadata.insert("license".to_owned(), license.to_owned());
    }
    metadata
}
