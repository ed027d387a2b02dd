//! What is in a store, without reading a feature.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::census::temporary_files;
use super::verify::QUARANTINE;
use super::{Provenance, Rejected, Store, StoreError};
use crate::files::FileError;

/// Number, size and rows of some shards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Amount {
    /// Shards.
    pub shards: usize,
    /// Rows in them, duplicates included.
    pub rows: usize,
    /// Their size.
    pub bytes: u64,
}

/// What is in a store.
#[derive(Debug)]
pub struct Inspection {
    /// All shards.
    pub total: Amount,
    /// Rows that another shard holds, too.
    pub duplicates: usize,
    /// The shards of every provenance.
    pub provenances: BTreeMap<Provenance, Amount>,
    /// Images with a row.
    pub images: usize,
    /// Different rows of every view.
    pub views: Vec<(String, usize)>,
    /// Images, and views of images, without a row and why, by id.
    pub rejected: Vec<Rejected>,
    /// Files under way, or left behind by runs that were killed.
    pub temporary: Vec<PathBuf>,
    /// Files that were set aside because they are damaged.
    pub quarantined: Vec<PathBuf>,
}

/// Looks into an open store.
///
/// # Errors
/// When its folder cannot be read.
pub fn inspect(store: &Store) -> Result<Inspection, StoreError> {
    let mut total = Amount::default();
    let mut provenances: BTreeMap<Provenance, Amount> = BTreeMap::new();
    for shard in store.shards() {
        let of_origin = provenances.entry(shard.provenance().clone()).or_default();
        for amount in [of_origin, &mut total] {
            amount.shards += 1;
            amount.rows += shard.rows();
            amount.bytes += shard.len_bytes();
        }
    }
    let rejected = store.rejected.iter().map(|((id, view), reason)| Rejected {
        id: *id,
        view: view.clone(),
        reason: reason.text.clone(),
        retry: reason.retry,
    });
    let has_row = |r: &Rejected| {
        let view = r.view.as_deref().unwrap_or(super::IDENTITY);
        store.locate(&r.id, view).is_some()
    };
    let mut rejected: Vec<_> = rejected.filter(|r| !has_row(r)).collect();
    rejected.sort();
    Ok(Inspection {
        total,
        images: store.images(),
        views: store.views(),
        duplicates: total.rows - store.len(),
        provenances,
        rejected,
        temporary: temporary_files(store.folder())?,
        quarantined: quarantined(store.folder())?,
    })
}

fn quarantined(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    match super::files(&folder.join(QUARANTINE), "", "") {
        Err(StoreError::File(FileError { source, .. }))
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(Vec::new())
        }
        listed => listed,
    }
}
