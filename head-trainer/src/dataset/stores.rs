//! Which of several feature stores in one folder is meant.

use std::path::{Path, PathBuf};

use extractor::digest::Digest;
use extractor::preprocess::Preset;
use extractor::store::{self, Dtype, StoreKey};

use super::DatasetError;

/// Which store is meant, when several lie in one folder.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StoreFilter {
    /// Digest of the backbone's file.
    pub backbone: Option<Digest>,
    /// Preprocessing.
    pub preset: Option<Preset>,
    /// Element type.
    pub dtype: Option<Dtype>,
    /// If several stores fit still: the preprocessing that the backbone was trained with.
    pub usual_preset: Option<Preset>,
}

impl std::fmt::Display for StoreFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            self.backbone
                .map(|d| format!("of the backbone {}", d.short())),
            self.preset.map(|p| format!("with preset {p}")),
            self.dtype.map(|d| format!("of {d}")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(if parts.is_empty() { "usable" } else { "" })?;
        f.write_str(&parts.join(" "))
    }
}

/// Finds the one store below `root` (or `root` itself) that `filter` fits. Stores without a row do
/// not count. Where several fit, the backbone's usual preset wins, then f32, as these are what
/// `extractor features` takes when nothing else is said.
///
/// # Errors
/// When none or several fit.
pub fn find_store(root: &Path, filter: &StoreFilter) -> Result<PathBuf, DatasetError> {
    let mut fitting = fitting(root, filter)?;
    let usual: [&dyn Fn(&StoreKey) -> bool; 2] =
        [&|key| filter.usual_preset == Some(key.preset), &|key| {
            key.dtype == Dtype::F32
        }];
    for is_usual in usual {
        if fitting.iter().any(|(_, key, _)| is_usual(key)) {
            fitting.retain(|(_, key, _)| is_usual(key));
        }
    }
    match fitting.len() {
        1 => Ok(fitting.remove(0).0),
        _ => Err(DatasetError::SeveralStores(
            fitting.into_iter().map(|(.., name)| name).collect(),
        )),
    }
}

/// Finds every store below `root` (or `root` itself) that `filter` fits, in the order of their
/// names. Stores without a row do not count.
///
/// # Errors
/// When none fits.
pub fn find_stores(root: &Path, filter: &StoreFilter) -> Result<Vec<PathBuf>, DatasetError> {
    let fitting = fitting(root, filter)?;
    Ok(fitting.into_iter().map(|(folder, ..)| folder).collect())
}

/// Folder, key and name of each store that fits, at least one.
fn fitting(
    root: &Path,
    filter: &StoreFilter,
) -> Result<Vec<(PathBuf, StoreKey, String)>, DatasetError> {
    let (mut fitting, mut there) = (Vec::new(), Vec::new());
    for folder in store::find(root)? {
        let json = match store::key::read(&folder) {
            Ok(json) => json,
            // One bad store must not keep the others from being used.
            Err(e) if folder != root => {
                tracing::warn!("passed over: {e}");
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        let key = &json.key;
        let fits = filter.backbone.is_none_or(|d| d == key.backbone)
            && filter.preset.is_none_or(|p| p == key.preset)
            && filter.dtype.is_none_or(|d| d == key.dtype);
        let name = format!("{} ({})", folder.display(), json.backbone_name);
        if fits && store::has_rows(&folder)? {
            fitting.push((folder, key.clone(), name.clone()));
        }
        there.push(name);
    }
    if fitting.is_empty() {
        return Err(DatasetError::NoStore {
            root: root.to_owned(),
            wanted: filter.to_string(),
            there,
        });
    }
    Ok(fitting)
}
