//! Which of several feature stores in one folder is meant.

use std::path::{Path, PathBuf};

use extractor::digest::Digest;
use extractor::engine::Precision;
use extractor::preprocess::Preset;
use extractor::store::{self, Dtype, StoreError, StoreKey};

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
    /// Arithmetic of the backbone.
    pub precision: Option<Precision>,
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
            self.precision.map(|p| format!("computed in {p}")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(if parts.is_empty() { "usable" } else { "" })?;
        f.write_str(&parts.join(" "))
    }
}

/// Finds the one store below `root` (or `root` itself) that `filter` fits. Stores without a row do
/// not count. Where several fit, the backbone's usual preset wins, then fp32, then f32, as these are
/// what `extractor features` takes when nothing else is said.
///
/// # Errors
/// When none or several fit.
pub fn find_store(root: &Path, filter: &StoreFilter) -> Result<PathBuf, DatasetError> {
    let candidates = candidates(root)?;
    choose(root, candidates, filter).map(|one| one.folder)
}

/// The one of the `candidates` in `root` that [`find_store`] would find.
///
/// # Errors
/// When none or several fit.
pub fn choose(
    root: &Path,
    candidates: Vec<Candidate>,
    filter: &StoreFilter,
) -> Result<Candidate, DatasetError> {
    let mut fitting = fitting(root, candidates, filter)?;
    let usual: [&dyn Fn(&StoreKey) -> bool; 3] = [
        &|key| filter.usual_preset == Some(key.preset),
        &|key| key.precision == Precision::Fp32,
        &|key| key.dtype == Dtype::F32,
    ];
    for is_usual in usual {
        if fitting.iter().any(|one| is_usual(&one.key)) {
            fitting.retain(|one| is_usual(&one.key));
        }
    }
    match fitting.len() {
        1 => Ok(fitting.remove(0)),
        _ => Err(DatasetError::SeveralStores(
            fitting.into_iter().map(|one| one.name).collect(),
        )),
    }
}

/// Finds every store below `root` (or `root` itself) that `filter` fits, in the order of their
/// names. Stores without a row do not count.
///
/// # Errors
/// When none fits.
pub fn find_stores(root: &Path, filter: &StoreFilter) -> Result<Vec<PathBuf>, DatasetError> {
    let fitting = fitting(root, candidates(root)?, filter)?;
    Ok(fitting.into_iter().map(|one| one.folder).collect())
}

/// A store that may be meant.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its folder.
    pub folder: PathBuf,
    /// What people call it.
    pub name: String,
    key: StoreKey,
    has_rows: bool,
}

impl Candidate {
    /// The store in `folder`, called `place`.
    ///
    /// # Errors
    /// When its `store.json` cannot be read.
    pub fn read(folder: PathBuf, place: &str, has_rows: bool) -> Result<Candidate, StoreError> {
        let json = store::key::read(&folder)?;
        Ok(Candidate {
            folder,
            name: format!("{place} ({})", json.backbone_name),
            key: json.key,
            has_rows,
        })
    }

    /// Everything that changes a feature in it.
    pub fn key(&self) -> &StoreKey {
        &self.key
    }
}

fn candidates(root: &Path) -> Result<Vec<Candidate>, DatasetError> {
    let mut candidates = Vec::new();
    for folder in store::find(root)? {
        let has_rows = store::has_rows(&folder)?;
        let place = folder.display().to_string();
        match Candidate::read(folder.clone(), &place, has_rows) {
            Ok(candidate) => candidates.push(candidate),
            // One bad store must not keep the others from being used.
            Err(e) if folder != root => tracing::warn!("passed over: {e}"),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(candidates)
}

/// The candidates that fit, at least one.
///
/// # Errors
/// When none fits.
pub fn fitting(
    root: &Path,
    candidates: Vec<Candidate>,
    filter: &StoreFilter,
) -> Result<Vec<Candidate>, DatasetError> {
    let there = candidates.iter().map(|one| one.name.clone()).collect();
    let fits = |one: &Candidate| {
        filter.backbone.is_none_or(|d| d == one.key.backbone)
            && filter.preset.is_none_or(|p| p == one.key.preset)
            && filter.dtype.is_none_or(|d| d == one.key.dtype)
            && filter.precision.is_none_or(|p| p == one.key.precision)
    };
    let mut fitting = candidates;
    fitting.retain(|one| one.has_rows && fits(one));
    match fitting.is_empty() {
        false => Ok(fitting),
        true => Err(DatasetError::NoStore {
            root: root.to_owned(),
            wanted: filter.to_string(),
            there,
        }),
    }
}

#[cfg(test)]
mod tests {
    use extractor::decode::Exif;
    use extractor::preprocess::Layout;

    use super::*;

    fn candidate(precision: Precision) -> Candidate {
        Candidate {
            folder: PathBuf::from(precision.to_string()),
            name: precision.to_string(),
            key: StoreKey {
                format: 1,
                backbone: Digest::of(b"a backbone"),
                feature_tensor: "features".to_owned(),
                input_layout: Layout::Nhwc,
                feature_layout: None,
                precision,
                decoder: "none".to_owned(),
                exif: Exif::Ignore,
                resize: "none".to_owned(),
                input_size: [8, 8],
                preset: Preset::Unit,
                dtype: Dtype::F32,
            },
            has_rows: true,
        }
    }

    #[test]
    fn fp32_is_the_usual_precision_and_another_one_is_named() {
        let both = || vec![candidate(Precision::Bf16), candidate(Precision::Fp32)];
        let chosen = |candidates, precision| {
            let filter = StoreFilter {
                precision,
                ..StoreFilter::default()
            };
            choose(Path::new("features"), candidates, &filter).map(|one| one.name)
        };
        assert_eq!(chosen(both(), None).unwrap(), "fp32");
        assert_eq!(chosen(both(), Some(Precision::Bf16)).unwrap(), "bf16");
        // Before f32, too.
        let mut halves = candidate(Precision::Fp32);
        halves.key.dtype = Dtype::F16;
        let mixed = vec![candidate(Precision::Bf16), halves];
        assert_eq!(chosen(mixed, None).unwrap(), "fp32");
        let only = vec![candidate(Precision::Bf16)];
        assert_eq!(chosen(only, None).unwrap(), "bf16");
        let none = chosen(both(), Some(Precision::Tf32)).unwrap_err();
        assert!(none.to_string().contains("computed in tf32"), "{none}");
    }
}
