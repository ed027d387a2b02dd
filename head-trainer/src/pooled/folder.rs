//! Where the sidecars of a store lie, and which of them nobody needs any more.
//!
//! They are the trainer's, so they lie beside the stores and not in them: those of
//! `X/features/NAME` in `X/pooled/NAME`; those of a store in a folder of another name, `X/NAME`, in
//! `X/pooled/NAME`. Must not know what is in the files.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf, absolute};
use std::time::{Duration, SystemTime};

use extractor::files::{TEMPORARY_PREFIX, escape_path};
use extractor::store::Shard;

const SUFFIX: &str = ".pooled";

/// How long a file stays that belongs to no shard: another trainer may be writing it, or know of a
/// newer shard.
const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// The folder of the sidecars of one store. It need not be there.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// That of the store in `store`.
    pub fn of(store: &Path) -> Folder {
        // By the path as it was given: what a link leads to may not be ours to write beside.
        let mut path = absolute(store).unwrap_or_else(|_| store.to_owned());
        if path.file_name().is_none() {
            path = fs::canonicalize(&path).unwrap_or(path);
        }
        let name = path.file_name().unwrap_or(OsStr::new("store"));
        let stores = path.parent().unwrap_or(&path);
        let beside = match stores.parent() {
            Some(data) if stores.file_name() == Some(OsStr::new("features")) => data,
            _ => stores,
        };
        Folder(beside.join("pooled").join(name))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The sidecar of the shard at `shard`: the shard's name with `.pooled` after it.
    pub fn sidecar(&self, shard: &Path) -> PathBuf {
        let mut name = shard.file_name().unwrap_or_default().to_owned();
        name.push(SUFFIX);
        self.0.join(name)
    }

    /// Removes sidecars of shards that are gone and what killed trainings left, if they are old
    /// enough. What cannot be removed stays: it only takes space.
    pub fn tidy(&self, shards: &[Shard]) {
        let Ok(entries) = fs::read_dir(&self.0) else {
            return; // there is none yet
        };
        let names = shards.iter().map(|shard| self.sidecar(shard.path()));
        let needed: HashSet<OsString> = names
            .filter_map(|path| path.file_name().map(OsStr::to_owned))
            .collect();
        let now = SystemTime::now();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let text = name.to_string_lossy();
            let ours = text.ends_with(SUFFIX) || text.starts_with(TEMPORARY_PREFIX);
            let modified = entry.metadata().and_then(|m| m.modified());
            let is_old =
                || modified.is_ok_and(|m| now.duration_since(m).unwrap_or_default() >= GRACE);
            if ours && !needed.contains(&name) && is_old() {
                let path = entry.path();
                match fs::remove_file(&path) {
                    Ok(()) => tracing::debug!("removed {}", escape_path(&path)),
                    Err(e) => tracing::debug!("cannot remove {}: {e}", escape_path(&path)),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecars_lie_beside_the_stores() {
        for (store, folder) in [
            ("/data/features/unit-8x8", "/data/pooled/unit-8x8"),
            ("/data/features/unit-8x8/", "/data/pooled/unit-8x8"),
            ("/share/stores/a", "/share/stores/pooled/a"),
            ("/a", "/pooled/a"),
            ("/features", "/pooled/features"),
        ] {
            assert_eq!(Folder::of(Path::new(store)).path(), Path::new(folder));
        }
        let here = std::env::current_dir().unwrap();
        let relative = Folder::of(Path::new("features/a"));
        assert_eq!(relative.path(), here.join("pooled/a"));
        let sidecar = relative.sidecar(Path::new("features/a/shard-1.arrow"));
        assert_eq!(sidecar, here.join("pooled/a/shard-1.arrow.pooled"));
        let (name, above) = (here.file_name().unwrap(), here.parent().unwrap());
        let expected = above.join("pooled").join(name);
        assert_eq!(Folder::of(Path::new(".")).path(), expected);
    }
}
