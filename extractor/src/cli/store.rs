//! `extractor store`: look into feature stores and keep them in order.

mod inspect;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use super::common::{Outcome, OutputArgs};
use crate::files::{escape_path, grouped};
use crate::index::Index;
use crate::progress::Progress;
use crate::store::{self, compact, gc, verify, writer};

/// Verbs of `extractor store`.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Say what is in a store: key, provenance, rows, shards, rejected images; with --index what
    /// of a data set is done. Exit 4 if rows of the index are missing, 3 if none is missing but
    /// some images were rejected.
    Inspect(inspect::Args),
    /// Read every byte and say what is damaged. Exit 5 if something is, set aside or not.
    Verify(VerifyArgs),
    /// Merge small shards and remove duplicate rows. Loses nothing: a replaced shard stays until
    /// it has been replaced for the grace period, so a later run removes it.
    Compact(CompactArgs),
    /// Say which rows no index needs; with --yes drop them. Shards and temporary files of killed
    /// runs go only after the grace period.
    Gc(GcArgs),
}

/// Flags of `extractor store verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The store, or the folder it lies in if it is the only one there.
    store: PathBuf,
    /// Move what is damaged into the store's folder `quarantine`, so that the next run of
    /// features computes just its rows anew.
    #[arg(long)]
    quarantine: bool,
}

/// Flags of `extractor store compact`.
#[derive(Debug, clap::Args)]
pub struct CompactArgs {
    /// The store, or the folder it lies in if it is the only one there.
    store: PathBuf,
    /// How long a replaced shard stays for those who read it: 45s, 30m, 24h, 7d. 0s only if
    /// nobody else uses the store now.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_time)]
    grace: Duration,
    /// Size of a shard, for tests.
    #[arg(long, hide = true, default_value_t = writer::SHARD_BYTES, value_name = "N")]
    shard_bytes: usize,
}

/// Flags of `extractor store gc`.
#[derive(Debug, clap::Args)]
pub struct GcArgs {
    /// The store, or the folder it lies in if it is the only one there.
    store: PathBuf,
    /// Every index whose rows are kept; all others go.
    #[arg(long, value_name = "INDEX", required = true, num_args = 1..)]
    keep: Vec<PathBuf>,
    /// Do it. Without, nothing is changed.
    #[arg(long)]
    yes: bool,
    /// How long a shard stays from when it was written or replaced: 45s, 30m, 24h, 7d. 0s only
    /// if nobody else uses the store now.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_time)]
    grace: Duration,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time such as 45s, 30m, 24h or 7d");
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let unit_secs = match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let secs = number.checked_mul(unit_secs).ok_or_else(wrong)?;
    Ok(Duration::from_secs(secs))
}

/// The store at `path`, or the only one in it.
fn only_store(path: &Path) -> anyhow::Result<PathBuf> {
    let mut stores = store::find(path)?;
    if stores.len() > 1 {
        let list: Vec<_> = stores.iter().map(|s| escape_path(s)).collect();
        bail!(
            "{} holds {} stores (hint: name one of them: {})",
            escape_path(path),
            list.len(),
            list.join(", ")
        );
    }
    Ok(stores.remove(0))
}

/// A number of bytes as people read it.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let power = (bytes.ilog2() / 10).min(UNITS.len() as u32);
    let number = bytes as f64 / 1024_f64.powi(power as i32);
    format!("{number:.1} {}", UNITS[power as usize - 1])
}

impl Verb {
    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        match self {
            Verb::Inspect(args) => args.run(output),
            Verb::Verify(args) => args.run(output),
            Verb::Compact(args) => args.run(output),
            Verb::Gc(args) => args.run(output),
        }
    }
}

impl VerifyArgs {
    fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let folder = only_store(&self.store)?;
        let progress = Progress::files("verifying", output.quiet);
        let verified = verify::verify(&folder, &|_| progress.add(1))?;
        progress.finish();
        for damage in &verified.damaged {
            eprintln!("{}: {}", escape_path(&damage.path), damage.reason);
        }
        let moved = match self.quarantine {
            true => verify::quarantine(&folder, &verified.damaged)?,
            false => Vec::new(),
        };
        let damaged = verified.damaged.len();
        let mut text = format!(
            "store     {}\nsound     {} shards, {} rows, {}\ndamaged   {damaged} files\n",
            escape_path(&folder),
            grouped(verified.shards as u64),
            grouped(verified.rows as u64),
            size(verified.bytes),
        );
        if !moved.is_empty() {
            text += &format!(
                "set aside {} files in {} (run make features to compute their rows anew)\n",
                moved.len(),
                escape_path(&folder.join(verify::QUARANTINE))
            );
        } else if damaged > 0 {
            text += "hint      --quarantine sets damaged files aside\n";
        }
        let list = verified.damaged.iter().map(|d| {
            json!({
                "path": escape_path(&d.path),
                "reason": d.reason,
            })
        });
        output.print(
            &json!({
                "store": escape_path(&folder),
                "shards": verified.shards,
                "rows": verified.rows,
                "bytes": verified.bytes,
                "damaged": list.collect::<Vec<_>>(),
                "quarantined": paths(&moved),
            }),
            &text,
        )?;
        Ok(match damaged {
            0 => Outcome::Done,
            _ => Outcome::Damaged,
        })
    }
}

impl CompactArgs {
    fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let folder = only_store(&self.store)?;
        let options = compact::Options {
            shard_bytes: self.shard_bytes,
            grace: self.grace,
        };
        let compacted = compact::compact(&folder, &options)?;
        let text = format!(
            "store     {}\nrewritten {} shards into {}\nduplicate {} rows\n{}",
            escape_path(&folder),
            grouped(compacted.replaced as u64),
            grouped(compacted.written.len() as u64),
            grouped(compacted.duplicates as u64),
            removed_text(&compacted.removed, "removed"),
        );
        output.print(
            &json!({
                "store": escape_path(&folder),
                "replaced_shards": compacted.replaced,
                "written": paths(&compacted.written),
                "duplicate_rows": compacted.duplicates,
                "removed": compacted.removed,
            }),
            &text,
        )?;
        Ok(Outcome::Done)
    }
}

impl GcArgs {
    fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let folder = only_store(&self.store)?;
        let mut keep = HashSet::new();
        for path in &self.keep {
            keep.extend(Index::read(path)?.iter().map(|e| e.id));
        }
        for path in unnamed(&self.keep) {
            tracing::warn!(
                "the index {} is not kept; rows that only it needs go",
                escape_path(&path)
            );
        }
        let options = gc::Options {
            grace: self.grace,
            yes: self.yes,
        };
        let collected = gc::collect(&folder, &keep, &options)?;
        let verb = if self.yes { "dropped" } else { "to drop" };
        let mut text = format!(
            "store     {}\nkept      {} images\n{verb}   {} images: {} shards not needed, {} partly\n",
            escape_path(&folder),
            grouped(collected.kept_images as u64),
            grouped(collected.dropped_images as u64),
            grouped(collected.unneeded.len() as u64),
            grouped(collected.partly_needed.len() as u64),
        );
        let partly = collected.partly_needed.iter().map(|p| (p, "partly needed"));
        let unneeded = collected.unneeded.iter().map(|p| (p, "not needed"));
        for (path, what) in unneeded.chain(partly) {
            let name = path.file_name().unwrap_or_default();
            text += &format!("shard     {} {what}\n", escape_path(Path::new(name)));
        }
        let what = if self.yes { "removed" } else { "to remove" };
        text += &removed_text(&collected.removed, what);
        if !self.yes {
            text += "hint      nothing was changed; --yes does it\n";
        }
        output.print(
            &json!({
                "store": escape_path(&folder),
                "done": self.yes,
                "kept_images": collected.kept_images,
                "dropped_images": collected.dropped_images,
                "unneeded": paths(&collected.unneeded),
                "partly_needed": paths(&collected.partly_needed),
                "written": paths(&collected.written),
                "removed": collected.removed,
            }),
            &text,
        )?;
        Ok(Outcome::Done)
    }
}

fn paths(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|p| escape_path(p)).collect()
}

fn removed_text(removed: &store::Removed, what: &str) -> String {
    let mut text = format!(
        "{what:<9} {} shards and {} temporary files, {}\n",
        grouped(removed.shards as u64),
        grouped(removed.temporary as u64),
        size(removed.bytes)
    );
    if removed.waiting > 0 {
        text += &format!(
            "waiting   {} shards, {}, until they have been replaced or unneeded for the grace \
             period (run the same command again then)\n",
            grouped(removed.waiting as u64),
            size(removed.waiting_bytes)
        );
    }
    text
}

/// Indexes beside the named ones that are not named.
fn unnamed(named: &[PathBuf]) -> Vec<PathBuf> {
    let named: HashSet<PathBuf> = named.iter().flat_map(|p| p.canonicalize()).collect();
    let folders: HashSet<&Path> = named.iter().flat_map(|p| p.parent()).collect();
    let mut others: Vec<PathBuf> = folders
        .into_iter()
        .flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "arrow") && !named.contains(path))
        .filter(|path| Index::read(path).is_ok())
        .collect();
    others.sort();
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, secs) in [
            ("0s", 0),
            ("45s", 45),
            ("30m", 1800),
            ("24h", 86_400),
            ("7d", 604_800),
        ] {
            assert_eq!(parse_time(text), Ok(Duration::from_secs(secs)));
        }
        for text in [
            "",
            "h",
            "1",
            "-1h",
            "1.5h",
            "1 h",
            "1é",
            "99999999999999999999d",
        ] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1_572_864, "1.5 MiB"),
            (5 << 50, "5120.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
