//! `head-trainer explain`.

mod text;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use extractor::cli::common::{Outcome, OutputArgs, skipped_line};
use extractor::cli::place::local_index;
use extractor::decode::{RgbImage, decode_oriented};
use extractor::digest::{Digest, ImageId};
use extractor::files::{FileError, counted, escape, escape_path, write_atomically};
use extractor::images::Columns;
use extractor::index::Index;
use extractor::store::Store;
use extractor::view::Views;
use serde::Serialize;
use serde_json::json;

use super::data::load;
use super::out::Out;
use super::stores;
use crate::dataset::{SplitSource, WantedViews};
use crate::explain::colour::Scale;
use crate::explain::wanted::{self, Wanted};
use crate::explain::{Explainer, Explanation, Ground, Pictures, draw, mistakes, png};
use crate::head::Head;
use crate::run::{self, Input, Inputs, RunRecord};
use crate::split::Side;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SideName {
    Train,
    Validation,
    Test,
}

impl From<SideName> for Side {
    fn from(name: SideName) -> Side {
        match name {
            SideName::Train => Side::Train,
            SideName::Validation => Side::Validation,
            SideName::Test => Side::Test,
        }
    }
}

/// Flags of `head-trainer explain`, as typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run whose head is explained: its folder, its name, or the beginning of its name or digest.
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// The images: files, paths as the index has them, or ids or their beginnings.
    #[arg(value_name = "IMAGE", required_unless_present = "mistakes")]
    images: Vec<PathBuf>,
    /// Also the N most confident mistakes of a side.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    mistakes: Option<u32>,
    /// The side of the mistakes.
    #[arg(long, value_enum, default_value = "validation", requires = "mistakes")]
    side: SideName,
    /// The class whose map is made [default: of two the second, whose logit is the head's; of more
    /// the one that the image is taken for].
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// Folder of the pictures and explain.json [default: a new one in DATA_DIR/explained].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The longer side of a picture in pixels; a smaller image keeps its size.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=8192))]
    size: u16,
    /// Folder of the runs [default: DATA_DIR/runs].
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,
    /// Where the run's feature store lies now, or a folder that holds it [default: where it lay].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Where the run's index lies now [default: where it lay].
    #[arg(long, value_name = "FILE")]
    index: Option<PathBuf>,
    /// With --mistakes: where the run's split lies now [default: where it lay].
    #[arg(long, value_name = "FILE", requires = "mistakes")]
    split: Option<PathBuf>,
    /// Where the data set lies now, for the pictures [default: where it lay when it was indexed].
    #[arg(long, value_name = "DATA")]
    data: Option<PathBuf>,
    #[command(flatten)]
    columns: Columns,
}

/// What is told of an image.
#[derive(Debug, Serialize)]
struct Explained {
    id: ImageId,
    /// What the index calls it, or the file; escaped.
    path: Option<String>,
    /// Its class in the index, if it has one.
    label: Option<String>,
    predicted: String,
    /// In the order of the classes.
    probabilities: Vec<f32>,
    /// The class of the map.
    class: String,
    /// Its raw logit: the map's mean plus the bias.
    logit: f32,
    bias: f32,
    mean: f64,
    /// Rows of the map.
    map: Vec<Vec<f32>>,
    /// What values of map plus bias the picture's colours begin and end with.
    scale: [f32; 2],
    /// The picture's file.
    picture: String,
    /// Whether the image lies under the map.
    over_image: bool,
}

impl Args {
    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let runs = self.runs.clone();
        let runs = runs.unwrap_or_else(|| output.data_dir.join("runs"));
        let folder = run::find(&runs, &self.run)?;
        let work = Work::open(&self, &folder, output)
            .with_context(|| format!("cannot explain {}", escape_path(&folder)))?;
        let class = self.class.as_deref().map(|name| work.class(name));
        let class = class.transpose()?;
        let out = Out::new(self.out.as_deref(), &output.data_dir.join("explained"))?;

        let (mut images, mut skipped) = work.wanted(&self.images);
        images.extend(work.mistakes(&self, output)?);
        let mut seen = HashSet::new();
        images.retain(|image| seen.insert(image.id));
        let (mut explained, mut alone) = (Vec::new(), Vec::new());
        for image in &images {
            match work.explainer.explain(&image.id, class) {
                Ok(explanation) => {
                    let picture = work.picture(image);
                    let ground = match &picture {
                        Ok(picture) => Ground::Picture(picture),
                        Err(error) => {
                            alone.push((name(image), format!("{error:#}")));
                            work.explainer.plain()
                        }
                    };
                    let size = self.size.into();
                    explained.push(work.draw(image, &explanation, ground, size, out.path())?);
                }
                Err(error) => {
                    skipped.push((name(image), format!("{:#}", anyhow::Error::from(error))))
                }
            }
        }
        warn_of_maps_alone(&alone);
        for (path, reason) in &skipped {
            eprintln!("{}", skipped_line(path, reason));
        }
        if explained.is_empty() && !skipped.is_empty() {
            let count = counted(skipped.len(), "image");
            bail!("nothing could be explained of {count}, named above");
        }

        let head = work.explainer.head();
        let mut value = json!({
            "run": escape_path(&folder),
            "run_digest": work.record.digest,
            "store": escape_path(work.explainer.store().folder()),
            "index": escape_path(&work.inputs.index),
            "classes": head.classes,
            "images": explained,
            "skipped": skipped
                .iter()
                .map(|(path, reason)| json!({ "image": escape(path), "reason": reason }))
                .collect::<Vec<_>>(),
        });
        let record = serde_json::to_string_pretty(&value)? + "\n";
        write_atomically(&out.path().join("explain.json"), record.as_bytes())?;
        let place = out.publish(&Digest::of(record.as_bytes()))?;
        for image in &mut explained {
            image.picture = escape_path(&place.join(&image.picture));
        }
        value["images"] = json!(explained);
        value["explained"] = json!(escape_path(&place));
        output.print(&value, &text::text(&work, &explained, &folder, &place))?;
        Ok(match skipped.len() {
            0 => Outcome::Done,
            n => {
                tracing::warn!("{} skipped, each named above", counted(n, "image"));
                Outcome::Skipped
            }
        })
    }
}

/// What a skipped image is called.
fn name(image: &Wanted) -> Vec<u8> {
    let id = || image.id.to_string().into_bytes();
    image.path.clone().unwrap_or_else(id)
}

/// Says which images have no picture; those of one reason, such as that the data set is gone, in
/// one line.
fn warn_of_maps_alone(alone: &[(Vec<u8>, String)]) {
    for same in alone.chunk_by(|a, b| a.1 == b.1) {
        let (first, reason) = &same[0];
        let more = match same.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        let first = escape(first);
        tracing::warn!("{first}{more}: the map is drawn alone, as there is no picture: {reason}");
    }
}

/// The run and what it was made of.
struct Work {
    record: RunRecord,
    inputs: Inputs,
    explainer: Explainer,
    index: Index,
    /// Or why there are none.
    pictures: anyhow::Result<Pictures>,
}

impl Work {
    fn open(args: &Args, folder: &Path, output: &OutputArgs) -> anyhow::Result<Work> {
        let record = RunRecord::read(folder)?;
        ensure!(
            record.key.config.head().is_some(),
            "it is a baseline, which has no cached maps (hint: take a run of train or sweep --train)"
        );
        let head = run::head(folder)
            .context("it has no head to explain (hint: take a run of train or sweep --train)")?;
        let wanted = match args.mistakes {
            Some(_) => &Input::ALL[..],
            None => &[Input::Store, Input::Index],
        };
        let store = args.store.as_deref();
        let store = store.map(|place| stores::local(place, record.key.store_key, output));
        let index = args.index.as_deref().map(|path| local_index(path, output));
        let (store, index) = (store.transpose()?, index.transpose()?);
        let inputs = Inputs::recorded(&record)
            .moved_to(store.as_deref(), index.as_deref(), args.split.as_deref())
            .checked(&record, wanted)?;
        let explainer = Explainer::new(head, Store::open(&inputs.store)?)?;
        let pictures = Pictures::open(
            &inputs.index,
            args.data.as_deref(),
            &args.columns,
            explainer.exif(),
            Some(&output.data_dir),
        );
        Ok(Work {
            record,
            index: Index::read(&inputs.index)?,
            inputs,
            explainer,
            pictures: pictures.map_err(Into::into),
        })
    }

    fn head(&self) -> &Head {
        self.explainer.head()
    }

    /// The number of the class `name`.
    fn class(&self, name: &str) -> anyhow::Result<u32> {
        let classes = &self.head().classes;
        let number = classes.iter().position(|class| class == name);
        let number = number.with_context(|| {
            let there = escape(classes.join(", ").as_bytes());
            format!(
                "no class is called {} (there are: {there})",
                escape(name.as_bytes())
            )
        })?;
        Ok(number as u32)
    }

    /// The images that were named, and those that nothing is known of with the reason.
    fn wanted(&self, names: &[PathBuf]) -> (Vec<Wanted>, Vec<(Vec<u8>, String)>) {
        let (mut images, mut skipped) = (Vec::new(), Vec::new());
        for name in names {
            match wanted::find(name, &self.index, self.explainer.store()) {
                Ok(image) => images.push(image),
                Err(error) => {
                    use std::os::unix::ffi::OsStrExt;
                    let reason = format!("{:#}", anyhow::Error::from(error));
                    skipped.push((name.as_os_str().as_bytes().to_vec(), reason));
                }
            }
        }
        (images, skipped)
    }

    /// The most confident mistakes, if they were asked for.
    fn mistakes(&self, args: &Args, output: &OutputArgs) -> anyhow::Result<Vec<Wanted>> {
        let Some(count) = args.mistakes else {
            return Ok(Vec::new());
        };
        let split = SplitSource::Given(self.inputs.split.clone());
        let views = WantedViews::Only(Views::identity());
        let (store, index) = (&self.inputs.store, &self.inputs.index);
        let dataset = load(store, index, &split, &views, output)?;
        ensure!(
            dataset.index_digest == self.record.key.index,
            "the index {} was written anew meanwhile",
            escape_path(index)
        );
        let all = mistakes(self.head(), &dataset, args.side.into());
        let (side, found) = (Side::from(args.side), counted(all.len(), "mistake"));
        tracing::info!("{found} on the {side} side");
        let wanted = all.into_iter().take(count as usize).map(|mistake| Wanted {
            id: mistake.id,
            path: wanted::first_path(&self.index, &mistake.id),
            file: None,
        });
        Ok(wanted.collect())
    }

    /// The class of an image in the index, if it has one and no other.
    fn label(&self, id: &ImageId) -> Option<String> {
        let entries = self.index.iter().filter(|entry| entry.id == *id);
        let mut labels = entries.filter_map(|entry| entry.label);
        let first = labels.next()?;
        let only = labels.all(|label| label == first);
        only.then(|| self.index.classes[first as usize].clone())
    }

    /// The image's pixels: of the file that was named, or else of the data set.
    fn picture(&self, image: &Wanted) -> anyhow::Result<RgbImage> {
        if let Some(file) = &image.file {
            let bytes = std::fs::read(file).map_err(FileError::new("read", file))?;
            ensure!(
                Digest::of(&bytes) == image.id,
                "{} has changed",
                escape_path(file)
            );
            return Ok(decode_oriented(&bytes, self.explainer.exif())?);
        }
        let entries = self.index.iter().filter(|entry| entry.id == image.id);
        match &self.pictures {
            Ok(pictures) => Ok(pictures.picture(&image.id, entries.map(|entry| entry.path))?),
            Err(error) => bail!("{error:#}"),
        }
    }

    /// Draws an explanation into `folder`, the longer side of `size` pixels at most.
    fn draw(
        &self,
        image: &Wanted,
        explanation: &Explanation,
        ground: Ground<'_>,
        size: usize,
        folder: &Path,
    ) -> anyhow::Result<Explained> {
        let map = &explanation.map;
        let picture = format!("{}.png", explanation.id.short());
        let drawn = draw(ground, Some(map), size);
        write_atomically(&folder.join(&picture), &png(&drawn)?)?;
        let class = |class: u32| self.head().classes[class as usize].clone();
        Ok(Explained {
            id: explanation.id,
            path: image.path.as_deref().map(escape),
            label: self.label(&image.id),
            predicted: class(explanation.predicted),
            probabilities: explanation.probabilities_k.clone(),
            class: class(map.class),
            logit: explanation.logit(),
            bias: map.bias,
            mean: map.mean(),
            map: map
                .values_hw
                .chunks(map.width)
                .map(<[f32]>::to_vec)
                .collect(),
            scale: Scale::of(map).ends(),
            picture,
            over_image: matches!(ground, Ground::Picture(_)),
        })
    }
}
