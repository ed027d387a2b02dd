//! Which run a person means: a folder, a name, or the beginning of a name or digest.

use std::path::{Path, PathBuf};

use extractor::files::escape_path;

use super::{RECORD_FILE, RunError, RunRecord, list};

/// No run is meant, or several are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// The folder of runs was not read.
    #[error(transparent)]
    List(#[from] RunError),
    /// Nothing fits.
    #[error("no run is {wanted}, in {} or by its folder (hint: head-trainer runs list --runs DIR)", root.display())]
    None {
        /// What was asked for.
        wanted: String,
        /// The folder of runs.
        root: PathBuf,
    },
    /// More than one fits.
    #[error("several runs are {wanted}: {} (hint: give a whole name)", .names.join(", "))]
    Several {
        /// What was asked for.
        wanted: String,
        /// The names of those that fit.
        names: Vec<String>,
    },
}

/// The newest head and the newest baseline under `root`, of those on the index and the split of the
/// newest run: what there is to compare. A run whose record cannot be read is passed over.
///
/// # Errors
/// When the folder of runs cannot be read.
pub fn newest(root: &Path) -> Result<Vec<PathBuf>, RunError> {
    let mut runs: Vec<(PathBuf, RunRecord)> = list(root)?
        .into_iter()
        .filter_map(|folder| RunRecord::read(&folder).ok().map(|record| (folder, record)))
        .collect();
    // Stable: of one second's the one with the later name.
    runs.sort_by(|(_, a), (_, b)| a.created_utc.cmp(&b.created_utc));
    let Some((_, last)) = runs.last() else {
        return Ok(Vec::new());
    };
    let data = (last.key.index, last.key.split);
    let of = |noun: &str| {
        let fits = |(_, record): &&(PathBuf, RunRecord)| {
            (record.key.index, record.key.split) == data && record.key.config.noun() == noun
        };
        runs.iter()
            .rev()
            .find(fits)
            .map(|(folder, _)| folder.clone())
    };
    Ok(["head", "baseline"].into_iter().filter_map(of).collect())
}

/// The folder of the run that `wanted` means: a run's folder, the name of one under `root`, or
/// the beginning of one name or, if no name begins so, of one digest.
///
/// # Errors
/// When there is none or several.
pub fn find(root: &Path, wanted: &Path) -> Result<PathBuf, FindError> {
    let is_run = |folder: &PathBuf| folder.join(RECORD_FILE).is_file();
    if let Some(folder) = [wanted.to_owned(), root.join(wanted)]
        .into_iter()
        .find(is_run)
    {
        return Ok(folder);
    }
    let folders = list(root)?;
    let text = wanted.to_string_lossy();
    let name = |folder: &Path| match folder.file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => String::new(),
    };
    let by_name = |folder: &&PathBuf| name(folder).starts_with(&*text);
    let by_digest = |folder: &&PathBuf| {
        RunRecord::read(folder).is_ok_and(|record| record.digest.to_string().starts_with(&*text))
    };
    let mut fitting: Vec<&PathBuf> = folders.iter().filter(by_name).collect();
    if fitting.is_empty() {
        fitting = folders.iter().filter(by_digest).collect();
    }
    let wanted = escape_path(wanted);
    match fitting[..] {
        [] => Err(FindError::None {
            wanted,
            root: root.to_owned(),
        }),
        [one] => Ok(one.clone()),
        _ => Err(FindError::Several {
            wanted,
            names: fitting.iter().map(|folder| name(folder)).collect(),
        }),
    }
}
