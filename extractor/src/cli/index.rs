//! `extractor index`.

use std::path::{Path, PathBuf};

use anyhow::bail;
use serde_json::json;

use super::common::{Outcome, OutputArgs, retry, skipped_line};
use super::place::IndexPlace;
use crate::files::{counted, escape, grouped};
use crate::images::{Columns, DataSet, LeftOut, Source};
use crate::index::{DigestCache, Index, Indexed, remove_parts};
use crate::part::Part;
use crate::progress::Progress;

/// Flags of `extractor index`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The images: a folder with one sub-folder a class, a manifest (.csv, .tsv, .parquet, a folder
    /// of .parquet), or a .zip or .tar archive, which is read in place; or the URL of one.
    #[arg(value_name = "DATA")]
    dir: PathBuf,
    /// Where the index goes [default: DATA_DIR/indexes/NAME-DIGEST.arrow].
    #[arg(long, value_name = "FILE")]
    index: Option<PathBuf>,
    /// Stop with exit 1 if any file has to be skipped.
    #[arg(long)]
    strict: bool,
    /// Read every file again instead of trusting unchanged time stamps.
    #[arg(long)]
    rehash: bool,
    #[command(flatten)]
    columns: Columns,
}

impl Args {
    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let place = IndexPlace::open(self.index.as_deref(), &self.dir, output)?;
        let data = DataSet::open_at(&self.dir, &self.columns, &output.data_dir)?;
        let indexed = make(&data, &place.path, self.strict, self.rehash, output)?;
        place.publish()?;
        let index = &indexed.index;
        let (counts, unique) = (index.class_counts(), index.unique().count());
        let mut text = format!(
            "index     {}\nimages    {} ({} different)\n",
            place.shown(),
            grouped(index.len() as u64),
            grouped(unique as u64)
        );
        text += &class_lines(index, unique);
        text += &left_out_line(&data);
        output.print(
            &json!({
                "index": place.shown(),
                "digest": index.digest(),
                "images": index.len(),
                "unique": unique,
                "classes": index.classes.iter().zip(counts).collect::<Vec<_>>(),
                "skipped": indexed.skipped.len(),
                "ignored": indexed.ignored,
                "left_out": data.left_out.map_or(0, |left_out| left_out.images),
            }),
            &text,
        )?;
        match indexed.skipped.len() {
            _ if indexed.transient > 0 => Ok(retry(indexed.transient)),
            0 => Ok(Outcome::Done),
            n => {
                let of = counted(index.len() + n, "file");
                tracing::warn!("{n} of {of} skipped, each named above");
                Ok(Outcome::Skipped)
            }
        }
    }
}

/// Messages of one kind before only their number is said.
const SHOWN: usize = 5;

/// A line a class, with its number of files, and one for copies: `unique` images are different.
pub fn class_lines(index: &Index, unique: usize) -> String {
    let mut text = String::new();
    for (name, count) in index.classes.iter().zip(index.class_counts()) {
        let name = escape(name.as_bytes());
        text += &format!("class     {name}: {}\n", counted(count, "file"));
    }
    let copies = index.len() - unique;
    if copies > 0 {
        text += &format!(
            "copies    {}: the same images again\n",
            counted(copies, "file")
        );
    }
    text
}

/// A line for what the selection beside a data set leaves out, if it leaves out anything.
pub fn left_out_line(data: &DataSet) -> String {
    match data.left_out {
        Some(LeftOut { keep, images }) if images > 0 => format!(
            "left out  {} by the rule {keep} (extractor fetch --keep-all keeps them)\n",
            counted(images, "file")
        ),
        _ => String::new(),
    }
}

/// Indexes `data` into the file `path`, naming on stderr what is skipped and what is odd.
///
/// `rehash`: read every file instead of trusting the digest cache beside the index.
pub fn make(
    data: &DataSet,
    path: &Path,
    strict: bool,
    rehash: bool,
    output: &OutputArgs,
) -> anyhow::Result<Indexed> {
    make_part(data, Part::WHOLE, path, strict, rehash, output)
}

/// [`make`] for one part of `data`.
pub fn make_part(
    data: &DataSet,
    part: Part,
    path: &Path,
    strict: bool,
    rehash: bool,
    output: &OutputArgs,
) -> anyhow::Result<Indexed> {
    let progress = Progress::files("indexing", output.quiet);
    let cache = if rehash {
        DigestCache::unread(path)
    } else {
        DigestCache::read(path)
    };
    let mut indexed = Index::of_part(data, part, &cache, || progress.add(1))?;
    progress.finish();
    for skipped in &indexed.skipped {
        eprintln!("{}", skipped_line(&skipped.path, &skipped.reason));
    }
    if strict && let Some(first) = indexed.skipped.first() {
        bail!(
            "{} (--strict stops here; without it the file is skipped)",
            skipped_line(&first.path, &first.reason)
        );
    }
    indexed.index = indexed.index.kept_in(path, &data.path)?;
    if part.is_whole() {
        warn_of(data, &indexed);
    }
    cache.update(path, &mut indexed.stamps, data.opened)?;
    if part.is_whole() {
        remove_parts(path);
    }
    Ok(indexed)
}

fn warn_of(data: &DataSet, indexed: &Indexed) {
    let kind = match data.source {
        Source::Folder(_) | Source::Prefix(_) => "class folder",
        Source::Files(..) | Source::Archive(..) => "class",
    };
    for class in &indexed.empty_classes {
        let class = escape(class.as_bytes());
        tracing::warn!("{kind} {class} has no image and gets no label");
    }
    let conflicts = indexed.index.label_conflicts();
    for (id, entries) in conflicts.iter().take(SHOWN) {
        let paths: Vec<_> = entries.iter().take(SHOWN).map(|e| escape(e.path)).collect();
        tracing::warn!(
            "the same image has several labels and is left out of training: {} (id {})",
            paths.join(", "),
            id.short()
        );
    }
    if conflicts.len() > SHOWN {
        tracing::warn!(
            "{} in all have several labels and are left out of training",
            counted(conflicts.len(), "image")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_class_name_breaks_a_line() {
        let index = Index::new(vec!["\u{1b}[2Jcat\n".to_owned()]);
        assert_eq!(
            class_lines(&index, 0),
            "class     \\u{1b}[2Jcat\\n: 0 files\n"
        );
    }
}
