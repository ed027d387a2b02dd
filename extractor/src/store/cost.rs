//! What computing a store's rows cost: one small file for each extraction, for people and reports.
//!
//! `cost-<digest>.json` in the store's folder, a [`Cost`] as JSON. Nothing depends on it: a store
//! without any is as good, and what cannot be read is passed over.

use std::path::Path;

use super::{StoreError, key};
use crate::digest::Digest;
use crate::files::write_atomically;

pub(crate) const PREFIX: &str = "cost-";
pub(crate) const SUFFIX: &str = ".json";

/// One extraction.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Cost {
    /// When it ended, in seconds since 1970, UTC.
    pub ended_unix_secs: u64,
    /// Rows that it added.
    pub rows: u64,
    /// Wall-clock time from the first image to the last shard, in seconds.
    pub secs: f64,
    /// Execution provider.
    pub provider: String,
    /// Processor.
    pub processor: String,
    /// Threads.
    pub threads: u64,
}

impl Cost {
    /// Adds it to the store in `folder`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), StoreError> {
        key::must_be_there(folder)?;
        let text = serde_json::to_string(self).expect("numbers and texts");
        let name = format!("{PREFIX}{}{SUFFIX}", Digest::of(text.as_bytes()).short());
        Ok(write_atomically(&folder.join(name), text.as_bytes())?)
    }
}

/// All extractions that the store in `folder` tells of, oldest first.
pub fn costs(folder: &Path) -> Vec<Cost> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut costs: Vec<Cost> = entries
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(PREFIX) && name.ends_with(SUFFIX)
        })
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok())
        .collect();
    costs.sort_by_key(|cost| cost.ended_unix_secs);
    costs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_add_up() {
        let folder = tempfile::tempdir().unwrap();
        assert!(costs(&folder.path().join("none")).is_empty());
        std::fs::write(folder.path().join(key::STORE_JSON), "{}").unwrap();
        let cost = |ended_unix_secs| Cost {
            ended_unix_secs,
            rows: 10,
            secs: 1.5,
            provider: "CPU".to_owned(),
            processor: "a processor".to_owned(),
            threads: 2,
        };
        for ended in [7, 5] {
            cost(ended).write(folder.path()).unwrap();
        }
        std::fs::write(folder.path().join("cost-0.json"), "nonsense").unwrap();
        assert_eq!(costs(folder.path()), [cost(5), cost(7)]);
    }
}
