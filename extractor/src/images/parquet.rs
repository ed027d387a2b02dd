//! Parquet manifests: rows with an image's bytes, or with its path.
//!
//! Hugging Face's form is included: `image: struct<bytes, path>`, with the class names in the schema's
//! metadata. Rows with bytes are read in place; rows with paths are files, as in a CSV manifest.
//! Several files are one data set, in the order of their names. A row's path in the index is the
//! name that its image has, if every row has a safe one and no two rows share one, and else the
//! row's number (after the file's name where there are several files). Must not know how rows are
//! read in place.

mod labels;
mod rows;
mod schema;

use std::collections::HashSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use self::rows::{Rows, Shard};
use self::schema::Chosen;
use super::archive::{At, combined};
use super::columns::Columns;
use super::{Archive, Folder, InputError, Listing, Source, csv, names};
use crate::walk::Skipped;

/// What a row says besides its image's bytes.
struct Row {
    name: Option<Vec<u8>>,
    label: Option<String>,
}

/// Opens the files and lists their rows. `path` is what was named.
pub(super) fn open(
    path: &Path,
    files: Vec<PathBuf>,
    columns: &Columns,
) -> Result<Source, InputError> {
    let (mut shards, mut stamps, mut all) = (Vec::new(), Vec::new(), Vec::new());
    let mut of_bytes = false;
    for file in &files {
        let (at, stamp) = At::open(file)?;
        let opened = crate::quietly::catch(AssertUnwindSafe(|| list(&at, columns)))
            .unwrap_or_else(|| Err(Trouble::Damaged("its structure is damaged".into())));
        let (shard, chosen, rows) = opened.map_err(|trouble| trouble.of(file))?;
        if !shards.is_empty() && of_bytes != chosen.of_bytes() {
            return Err(InputError::refused(
                file,
                "has other columns than the files before it (hint: name the files that belong together)",
            ));
        }
        of_bytes = chosen.of_bytes();
        shards.push(shard);
        stamps.push((file.as_path(), stamp));
        all.push(rows);
    }
    let total: usize = all.iter().map(Vec::len).sum();
    if total == 0 {
        return Err(InputError::refused(path, "has no rows"));
    }
    if !of_bytes {
        let root = files[0].parent().unwrap_or(Path::new(""));
        return Ok(Source::Files(Folder::new(root), by_path(root, all)));
    }
    let listing = by_row(&files, all);
    let options = format!(
        "parquet {:?} {:?}",
        columns.path_column, columns.image_column
    );
    let stamp = combined(&stamps, &options);
    Ok(Source::Archive(
        Archive::new(listing, Rows::new(shards)),
        stamp,
    ))
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

type Listed = (Shard, Chosen, Vec<Row>);

fn list(at: &At, columns: &Columns) -> Result<Listed, Trouble> {
    let metadata = rows::metadata(at)?;
    let count = metadata.metadata().file_metadata().num_rows();
    // Before anything is read: a row takes a byte at least, whatever the footer says.
    let count = usize::try_from(count).ok().filter(|&n| n as u64 <= at.len);
    let count = count.ok_or_else(|| io::Error::other("it claims more rows than it has bytes"))?;
    let shard_rows = metadata.metadata().row_groups().iter();
    if shard_rows.fold(0_i64, |sum, g| sum.saturating_add(g.num_rows())) != count as i64 {
        return Err(io::Error::other("its row groups have not as many rows as it says").into());
    }
    let chosen = schema::choose(&metadata, columns).map_err(Trouble::Refused)?;
    let names = match chosen.name {
        Some(leaf) => labels::texts(at, &metadata, leaf)?,
        None => Vec::new(),
    };
    let labels = match chosen.label {
        Some(leaf) => labels::labels(at, &metadata, leaf)?,
        None => Vec::new(),
    };
    let short = |rows: usize, chosen: bool| chosen && rows != count;
    if short(names.len(), chosen.name.is_some()) || short(labels.len(), chosen.label.is_some()) {
        return Err(io::Error::other("a column has not as many values as there are rows").into());
    }
    let shard = Shard::new(at.clone(), metadata, chosen.bytes)?;
    let (mut names, mut labels) = (names.into_iter(), labels.into_iter());
    let row = |_| Row {
        name: names.next().flatten(),
        label: labels.next().flatten(),
    };
    let rows = (0..count).map(row).collect();
    Ok((shard, chosen, rows))
}

/// Rows that are files, relative to `root`.
fn by_path(root: &Path, all: Vec<Vec<Row>>) -> Listing {
    let absolute_root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    let root = absolute_root.as_os_str().as_bytes();
    let (mut found, mut skipped) = (Vec::new(), Vec::new());
    for (number, row) in all.into_iter().flatten().enumerate() {
        match row.name.and_then(|name| csv::tidy(&name, root)) {
            Some(file) => found.push((file, row.label, number as u64)),
            None => skipped.push(Skipped {
                path: format!("row {number}").into_bytes(),
                reason: "its path is empty".to_owned(),
            }),
        }
    }
    Listing::new(found, [], skipped, 0)
}

/// Rows that hold their images.
fn by_row(files: &[PathBuf], all: Vec<Vec<Row>>) -> Listing {
    let rows = || all.iter().flatten();
    let named: Option<Vec<Vec<u8>>> = rows()
        .map(|row| names::clean(row.name.as_ref()?).ok().flatten())
        .collect();
    let different =
        |names: &Vec<Vec<u8>>| names.iter().collect::<HashSet<_>>().len() == names.len();
    let paths = named.filter(different).unwrap_or_else(|| {
        let numbered = files.iter().zip(&all).flat_map(|(file, rows)| {
            let shard = file.file_name().unwrap_or_default().as_bytes();
            (0..rows.len()).map(move |i| match files.len() {
                1 => format!("{i:08}").into_bytes(),
                _ => [shard, format!("/{i:08}").as_bytes()].concat(),
            })
        });
        numbered.collect()
    });
    let labels = all.into_iter().flatten().map(|row| row.label);
    let found = paths.into_iter().zip(labels).enumerate();
    let found = found.map(|(at, (path, label))| (path, label, at as u64));
    Listing::new(found.collect(), [], Vec::new(), 0)
}
