//! Object stores: stores, indexes and images at `s3://`, `gs://` and `az://`.
//!
//! Everything else of this project works on folders and files, so what lies in an object store is
//! worked on through local ones below `DATA_DIR/cache`, one folder a URL:
//!
//! - [`Remote::outline`]: `outlines/STORE`, shards as long as the real ones in which only what says
//!   which rows there are was filled in;
//! - [`Outbox`]: `outbox/STORE`, shards on their way to the object store;
//! - [`Remote::bring_in`]: `stores/STORE`, whole shards, checked;
//! - [`objects`]: single files.
//!
//! [`client`] alone speaks to servers. Must not know what features are for.

mod answer;
pub mod client;
mod copies;
mod error;
mod limits;
mod location;
pub mod objects;
pub mod outbox;
mod patience;
mod stores;

pub use client::Client;
pub use error::RemoteError;
pub use limits::Limits;
pub use location::{Location, Scheme, Url};
pub use outbox::Outbox;
pub use stores::{Remote, RemoteStore};

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::files::TEMPORARY_PREFIX;

/// How old a temporary file is that nobody writes any more.
const LEFT_BEHIND: Duration = Duration::from_secs(24 * 60 * 60);

/// An object, unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key behind that of the folder it was listed in.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, nanoseconds since 1970.
    pub modified_nanos: i64,
    /// What the server tells its content by; empty if it says nothing.
    pub etag: String,
}

/// The folder of all that belongs to `url`.
pub fn cache_folder(data_dir: &Path, url: &Url) -> PathBuf {
    data_dir.join("cache").join(url.digest().short())
}

/// Removes from `folder` what runs that were killed long ago had begun. What cannot be removed takes
/// space.
fn remove_left_behind(folder: &Path) {
    let now = SystemTime::now();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let modified = entry.metadata().and_then(|found| found.modified());
        let age = modified.ok().and_then(|then| now.duration_since(then).ok());
        if name.to_string_lossy().starts_with(TEMPORARY_PREFIX) && age > Some(LEFT_BEHIND) {
            let _ = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_old_and_temporary_goes() {
        let folder = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - 2 * LEFT_BEHIND;
        for (name, is_old) in [
            (".tmp-old", true),
            (".tmp-new", false),
            ("shard-1.arrow", true),
        ] {
            let file = fs::File::create(folder.path().join(name)).unwrap();
            if is_old {
                file.set_modified(old).unwrap();
            }
        }
        remove_left_behind(folder.path());
        let there = |name: &str| folder.path().join(name).exists();
        assert!(!there(".tmp-old"));
        assert!(there(".tmp-new") && there("shard-1.arrow"));
    }
}
