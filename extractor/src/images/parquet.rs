//! Parquet manifests: rows with an image's bytes, or with its path.
//!
//! Hugging Face's form is included: `image: struct<bytes, path>`, with the class names in the schema's
//! metadata. Rows with bytes are read in place; rows with paths are files, as in a CSV manifest.
//! Several files are one data set, in the order of their names. A row's path in the index is the
//! name that its image has, if every row has a safe one and no two rows share one, and else the
//! row's number (after the file's name where there are several files). Must not know how rows are
//! read in place.

mod labels;
mod pages;
mod rows;
mod schema;

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use ::parquet::arrow::arrow_reader::ArrowReaderMetadata;
use ::parquet::basic::Compression;
use rayon::prelude::*;

use self::rows::{Rows, Shard};
use self::schema::Chosen;
use super::archive::{At, combined};
use super::columns::Columns;
use super::listing::{Members, UNLABELLED};
use super::{Archive, Folder, InputError, Listing, Source, csv, names};
use crate::paths::Paths;
use crate::walk::Skipped;

/// More rows are refused before any is read.
const MAX_ROWS: u64 = u32::MAX as u64;

/// Opens the files and lists their rows. `path` is what was named.
pub(super) fn open(
    path: &Path,
    files: Vec<PathBuf>,
    columns: &Columns,
) -> Result<Source, InputError> {
    let (mut shards, mut stamps, mut all) = (Vec::new(), Vec::new(), Vec::new());
    let mut total = 0;
    for file in &files {
        let (at, stamp) = At::open(file)?;
        let opened = quietly(|| look(&at, columns));
        let (shard, chosen) = opened.map_err(|trouble| trouble.of(file))?;
        total += shard.rows() as u64;
        if total > MAX_ROWS {
            let reason = format!("has more than {MAX_ROWS} rows, or claims so");
            return Err(InputError::refused(file, reason));
        }
        all.push((at, chosen));
        shards.push(shard);
        stamps.push((file.as_path(), stamp));
    }
    if total == 0 {
        return Err(InputError::refused(path, "has no rows"));
    }
    let of_bytes = all[0].1.of_bytes();
    if let Some(other) = all.iter().position(|(_, c)| c.of_bytes() != of_bytes) {
        return Err(InputError::refused(
            &files[other],
            "has other columns than the files before it (hint: name the files that belong together)",
        ));
    }
    let root = crate::files::folder_of(&files[0]);
    let mut found = match of_bytes {
        true => Found::Rows(Named::default()),
        false => Found::files(root),
    };
    for ((file, shard), (at, chosen)) in files.iter().zip(&shards).zip(&all) {
        let listed = quietly(|| list(at, shard, chosen, &mut found));
        listed.map_err(|trouble| trouble.of(file))?;
    }
    match found {
        Found::Files {
            members, skipped, ..
        } => Ok(Source::Files(
            Folder::new(root),
            members.listing(skipped, 0),
        )),
        Found::Rows(named) => {
            let rows: Vec<usize> = shards.iter().map(Shard::rows).collect();
            let listing = named.listing(&files, &rows);
            let leaves: Vec<_> = all.iter().map(|(_, chosen)| chosen.bytes).collect();
            let stamp = combined(&stamps, &listing, &format!("parquet {leaves:?}"));
            let archive = Archive::new(listing, Rows::new(shards));
            Ok(Source::Archive(archive, stamp))
        }
    }
}

fn quietly<T>(work: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    crate::quietly::catch(AssertUnwindSafe(work))
        .unwrap_or_else(|| Err(Trouble::Damaged("its structure is damaged".into())))
}

/// Why a file cannot be listed.
enum Trouble {
    Refused(String),
    Damaged(Box<dyn std::error::Error + Send + Sync>),
}

impl Trouble {
    fn of(self, file: &Path) -> InputError {
        match self {
            Trouble::Refused(reason) => InputError::refused(file, reason),
            Trouble::Damaged(source) => InputError::damaged(file, "Parquet", source),
        }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Trouble {
    fn from(error: E) -> Trouble {
        Trouble::Damaged(error.into())
    }
}

/// Reads a file's footer.
fn look(at: &At, columns: &Columns) -> Result<(Shard, Chosen), Trouble> {
    let metadata = rows::metadata(at)?;
    let mut chosen = schema::choose(&metadata, columns).map_err(Trouble::Refused)?;
    if chosen.name_of_image && bytes_are_null(&metadata, chosen.bytes) {
        chosen.bytes = None; // the images are files
    }
    readable(&metadata, &chosen)?;
    let shard = Shard::new(at.clone(), metadata, chosen.bytes)?;
    let claimed = shard.metadata().metadata().file_metadata().num_rows();
    if usize::try_from(claimed).ok() != Some(shard.rows()) {
        return Err(io::Error::other("its row groups have not as many rows as it says").into());
    }
    Ok((shard, chosen))
}

/// Whether no row has an image's bytes, by the statistics.
fn bytes_are_null(metadata: &ArrowReaderMetadata, leaf: Option<usize>) -> bool {
    let Some(leaf) = leaf else {
        return false;
    };
    let groups = metadata.metadata().row_groups();
    let mut full = groups
        .iter()
        .filter(|group| group.num_rows() > 0)
        .peekable();
    full.peek().is_some()
        && full.all(|group| {
            let nulls = group
                .column(leaf)
                .statistics()
                .and_then(|s| s.null_count_opt());
            nulls.and_then(|nulls| i64::try_from(nulls).ok()) == Some(group.num_rows())
        })
}

/// Refuses columns that are compressed by what is not built in.
fn readable(metadata: &ArrowReaderMetadata, chosen: &Chosen) -> Result<(), Trouble> {
    let leaves = [chosen.bytes, chosen.name, chosen.label];
    for group in metadata.metadata().row_groups() {
        for leaf in leaves.into_iter().flatten() {
            let name = match group.column(leaf).compression() {
                Compression::BROTLI(_) => "brotli",
                Compression::LZO => "lzo",
                _ => continue,
            };
            return Err(Trouble::Refused(format!(
                "is compressed with {name}, which is not read (hint: write it again with zstd or \
                 snappy)"
            )));
        }
    }
    Ok(())
}

/// What rows are found to be.
enum Found {
    /// Files, relative to `root`.
    Files {
        root: Vec<u8>,
        members: Members,
        skipped: Vec<Skipped>,
        next: usize,
    },
    /// Rows that hold their images.
    Rows(Named),
}

/// Rows with images: the names that the images have, as long as every one has a safe name, and
/// their classes.
#[derive(Default)]
struct Named {
    paths: Option<Paths>, // none yet, or none any more
    nameless: bool,
    members: Members, // for their classes
    labels: Vec<i32>,
}

fn list(at: &At, shard: &Shard, chosen: &Chosen, found: &mut Found) -> Result<(), Trouble> {
    let rows = shard.rows();
    let metadata = shard.metadata();
    let mut labels = Vec::new();
    {
        let members = match found {
            Found::Files { members, .. } => members,
            Found::Rows(named) => &mut named.members,
        };
        match chosen.label {
            Some(leaf) => labels::labels(at, metadata, leaf, |label| {
                labels.push(label.map_or(UNLABELLED, |label| members.class(label)));
            })?,
            None => labels.resize(rows, UNLABELLED),
        }
    }
    if labels.len() != rows {
        return Err(io::Error::other("a column has not as many values as there are rows").into());
    }
    match found {
        Found::Files {
            root,
            members,
            skipped,
            next,
        } => {
            let leaf = chosen
                .name
                .ok_or_else(|| io::Error::other("it has no paths"))?;
            let mut labels = labels.iter();
            labels::names(at, metadata, leaf, |name| {
                let label = labels.next().copied().unwrap_or(UNLABELLED);
                match name.and_then(|name| csv::tidy(name, root)) {
                    Some(file) => members.file(&file, label),
                    None => skipped.push(Skipped {
                        path: format!("row {next}").into_bytes(),
                        reason: "its path is empty".to_owned(),
                    }),
                }
                *next += 1;
            })?;
        }
        Found::Rows(named) => {
            named.labels.append(&mut labels);
            let leaf = chosen.name.filter(|_| !named.nameless);
            named.nameless = leaf.is_none();
            if let Some(leaf) = leaf {
                let mut paths = named.paths.take().unwrap_or_default();
                let mut nameless = false;
                labels::names(at, metadata, leaf, |name| {
                    match name.and_then(|name| names::clean(name).ok().flatten()) {
                        Some(name) if !nameless => paths.push(&name),
                        _ => nameless = true,
                    }
                })?;
                named.nameless = nameless;
                named.paths = Some(paths).filter(|_| !nameless);
            } else {
                named.paths = None;
            }
        }
    }
    Ok(())
}

impl Found {
    fn files(root: &Path) -> Found {
        Found::Files {
            root: csv::whole(root),
            members: Members::default(),
            skipped: Vec::new(),
            next: 0,
        }
    }
}

impl Named {
    /// The rows by name, or else by number. `rows`: how many each file has.
    fn listing(mut self, files: &[PathBuf], rows: &[usize]) -> Listing {
        if let Some(paths) = &mut self.paths {
            paths.shrink_to_fit();
        }
        self.labels.shrink_to_fit();
        let paths = self.paths.take().filter(different);
        let paths = paths.unwrap_or_else(|| numbered(files, rows));
        self.members.rows(paths, self.labels);
        self.members.listing(Vec::new(), 0)
    }
}

/// The rows' numbers, after their file's name where there are several.
fn numbered(files: &[PathBuf], rows: &[usize]) -> Paths {
    let mut paths = Paths::default();
    for (file, rows) in files.iter().zip(rows) {
        let shard = file.file_name().unwrap_or_default().as_bytes();
        for number in 0..*rows {
            let number = format!("{number:08}").into_bytes();
            match files.len() {
                1 => paths.push(&number),
                _ => paths.push(&[shard, b"/", &number].concat()),
            }
        }
    }
    paths.shrink_to_fit();
    paths
}

/// Whether no two paths are the same.
fn different(paths: &Paths) -> bool {
    let mut order: Vec<u32> = (0..paths.len() as u32).collect();
    let path = |i: u32| paths.get(i as usize);
    order.par_sort_unstable_by(|a, b| path(*a).cmp(path(*b)));
    order.windows(2).all(|two| path(two[0]) != path(two[1]))
}
