//! `extractor store`: look into feature stores and keep them in order.

mod gc;
mod inspect;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use super::common::{Outcome, OutputArgs};
use super::place::only_copied;
use crate::files::{escape_path, grouped, printable};
use crate::progress::Progress;
use crate::remote::Location;
use crate::store::{self, StoreError, compact, verify, writer};

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
    /// what replaces it is as old as the grace period, so a later run removes it; until then both
    /// take space.
    Compact(CompactArgs),
    /// Say which rows no index needs; with --yes drop them. Shards without a needed row and
    /// temporary files of killed runs go at once, unless they are younger than the grace period.
    Gc(gc::Args),
}

/// Flags of `extractor store verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// The store, or the folder it lies in if it is the only one there; either may be a URL: what the
    /// local copy lacks is brought in, and that is read.
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
    /// How old a replaced shard and what replaces it must be before it goes, for those who read it:
    /// 45s, 30m, 24h, 7d. 0s only if nobody else uses the store now.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_time)]
    grace: Duration,
    /// Size of a shard, for tests.
    #[arg(long, hide = true, default_value_t = writer::SHARD_BYTES, value_name = "N")]
    shard_bytes: usize,
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
    let path = match Location::parse(path)? {
        Location::Local(path) => path,
        Location::Remote(url) => bail!(
            "{url} lies in an object store, whose shards are not rewritten in place (hint: copy the \
             store to a disk, do it there, and copy it to a new URL)"
        ),
    };
    let mut stores = store::find(&path)?;
    if stores.len() > 1 {
        let list: Vec<_> = stores.iter().map(|s| escape_path(s)).collect();
        bail!(
            "{} holds {} stores (hint: name one of them: {})",
            escape_path(&path),
            list.len(),
            list.join(", ")
        );
    }
    Ok(stores.remove(0))
}

/// The same, for verbs that need its `store.json`.
fn only_whole_store(path: &Path) -> anyhow::Result<PathBuf> {
    let folder = only_store(path)?;
    match store::key::read(&folder) {
        Err(StoreError::None(folder)) => Err(StoreError::Headless(folder).into()),
        _ => Ok(folder),
    }
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
        let copied = only_copied(&self.store, true, output)?;
        let folder = match &copied {
            Some(copied) => copied.folder.clone(),
            None => only_store(&self.store)?,
        };
        let total = verify::bytes_to_read(&folder)?;
        let progress = Progress::new("verifying", "bytes", total, output.quiet);
        let verified = verify::verify(&folder, &|bytes| progress.add(bytes))?;
        progress.finish();
        for damage in &verified.damaged {
            let reason = printable(&damage.reason);
            eprintln!("{}: {reason}", escape_path(&damage.path));
        }
        let other_version = |(path, found): &(PathBuf, u64)| StoreError::ShardVersion {
            path: path.clone(),
            found: *found,
        };
        for shard in &verified.other_version {
            eprintln!("{}", other_version(shard));
        }
        let at_server = copied.iter().flat_map(|copied| &copied.damaged);
        for (url, reason) in at_server.clone() {
            eprintln!("{url}: {}", printable(reason));
        }
        let shown = match &copied {
            Some(copied) => copied.url.to_string(),
            None => escape_path(&folder),
        };
        let moved = match self.quarantine {
            true => verify::quarantine(&folder, &verified.damaged)?,
            false => Vec::new(),
        };
        let damaged = verified.damaged.len() + at_server.clone().count();
        let mut text = format!(
            "store     {shown}\nsound     {} shards, {} rows, {}\ndamaged   {damaged} files\n",
            grouped(verified.shards as u64),
            grouped(verified.rows as u64),
            size(verified.bytes),
        );
        if !verified.other_version.is_empty() {
            text += &format!(
                "version   {} shards are of another format, left as they are\n",
                verified.other_version.len()
            );
        }
        if verified.vanished > 0 {
            text += &format!(
                "replaced  {} files since they were listed\n",
                verified.vanished
            );
        }
        if self.quarantine && damaged > 0 {
            text += &format!(
                "set aside {} files in {} (run make features to compute their rows anew)\n",
                moved.len(),
                escape_path(&folder.join(verify::QUARANTINE))
            );
        } else if copied.is_some() && damaged > 0 {
            text += "hint      remove damaged objects; make features computes their rows anew\n";
        } else if damaged > 0 {
            text += "hint      --quarantine sets damaged files aside\n";
        }
        let list = verified.damaged.iter().map(|d| {
            json!({
                "path": escape_path(&d.path),
                "reason": d.reason,
            })
        });
        let list = list.chain(at_server.map(|(url, reason)| {
            json!({
                "path": url.to_string(),
                "reason": reason,
            })
        }));
        let others = verified.other_version.iter().map(|(path, found)| {
            json!({
                "path": escape_path(path),
                "format": found,
            })
        });
        output.print(
            &json!({
                "store": shown,
                "shards": verified.shards,
                "rows": verified.rows,
                "bytes": verified.bytes,
                "damaged": list.collect::<Vec<_>>(),
                "other_version": others.collect::<Vec<_>>(),
                "replaced": verified.vanished,
                "quarantined": paths(&moved),
            }),
            &text,
        )?;
        match (damaged, verified.other_version.first()) {
            (0, None) => Ok(Outcome::Done),
            (0, Some(shard)) => Err(other_version(shard).into()),
            _ => Ok(Outcome::Damaged),
        }
    }
}

impl CompactArgs {
    fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let folder = only_whole_store(&self.store)?;
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
            "waiting   {} shards, {}, younger than the grace period or replaced by one that is (run \
             the same command again later)\n",
            grouped(removed.waiting as u64),
            size(removed.waiting_bytes)
        );
    }
    text
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
