//! Writes a page's folder whole or not at all, and never over files of somebody else.
//!
//! Must not know what the files are for.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use extractor::files::{
    FileError, TEMPORARY_PREFIX, create_folder, escape_path, folder_of, sync_folder,
};
use tempfile::TempDir;

use super::{DESCRIPTION, Description, FORMAT, NAMES, WebError};

/// A folder under way. Dropped without [`Staged::publish`], it disappears.
#[derive(Debug)]
pub struct Staged {
    folder: TempDir,
    target: PathBuf,
}

impl Staged {
    /// Begins a folder that will be `target`: to be called before the costly work.
    ///
    /// # Errors
    /// When `target` is somebody else's, or nothing can be written beside it.
    pub fn new(target: &Path) -> Result<Staged, WebError> {
        let target = match fs::canonicalize(target) {
            Ok(there) => there,
            Err(_) => target.to_owned(), // it is not there
        };
        check_ours(&target)?;
        let parent = folder_of(&target);
        create_folder(parent)?;
        Ok(Staged {
            folder: beside(&target)?,
            target,
        })
    }

    /// Writes `files` by their names in the folder, and puts it in its place: a folder that an
    /// earlier call wrote is replaced.
    ///
    /// # Errors
    /// When something cannot be written; `target` is then as it was.
    pub fn publish(self, files: &[(&str, Vec<u8>)]) -> Result<PathBuf, WebError> {
        for (name, bytes) in files {
            let path = self.folder.path().join(name);
            create_folder(folder_of(&path))?;
            let write = || {
                let mut file = File::create_new(&path)?;
                file.write_all(bytes)?;
                file.sync_all()
            };
            write().map_err(FileError::new("write", &self.target.join(name)))?;
        }
        sync_folder(self.folder.path())?;
        check_ours(&self.target)?;
        let write = |source: io::Error| FileError::new("write", &self.target)(source);
        // An empty folder, or none, is replaced at once; another goes aside first, and comes back if
        // this one does not get its name.
        if fs::rename(self.folder.path(), &self.target).is_err() {
            let aside = beside(&self.target)?;
            let earlier = aside.path().join("earlier");
            fs::rename(&self.target, &earlier).map_err(write)?;
            if let Err(error) = fs::rename(self.folder.path(), &self.target) {
                // Where even that fails, the earlier one stays aside.
                if fs::rename(&earlier, &self.target).is_err() {
                    let _ = aside.keep();
                }
                return Err(write(error).into());
            }
        }
        let Staged { folder, target } = self;
        let _ = folder.keep(); // it has moved: there is nothing to remove
        sync_folder(folder_of(&target))?;
        Ok(target)
    }
}

/// A temporary folder beside `target`, to be read by whom the umask lets.
fn beside(target: &Path) -> Result<TempDir, FileError> {
    let parent = folder_of(target);
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(fs::Permissions::from_mode(0o777));
    }
    let made = builder.prefix(TEMPORARY_PREFIX).tempdir_in(parent);
    made.map_err(FileError::new("create a temporary folder in", parent))
}

/// Whether `target` may be replaced: it is not there, is empty, or holds what an export wrote and
/// nothing else.
fn check_ours(target: &Path) -> Result<(), WebError> {
    let occupied = |found: &Path| WebError::Occupied {
        folder: escape_path(target),
        found: escape_path(found),
    };
    let entries = match fs::read_dir(target) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(FileError::new("read", target)(e).into()),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(FileError::new("read", target))?;
        names.push(PathBuf::from(entry.file_name()));
    }
    names.sort();
    let Some(first) = names.first() else {
        return Ok(());
    };
    let description = fs::read(target.join(DESCRIPTION)).ok();
    let ours = description.and_then(|json| serde_json::from_slice::<Description>(&json).ok());
    if ours.is_none_or(|description| description.format != FORMAT) {
        return Err(occupied(first));
    }
    let engine = Path::new(super::package::SCRIPT).parent();
    let known = |name: &PathBuf| {
        NAMES.iter().any(|file| Path::new(file) == name) || Some(name.as_path()) == engine
    };
    match names.iter().find(|name| !known(name)) {
        Some(other) => Err(occupied(other)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(format: &str) -> Vec<u8> {
        let json = serde_json::json!({
            "format": format, "version": 1, "name": "n", "labels": ["a", "b"], "threshold": 0.5,
            "exif": "ignore", "images": 1, "max_pixels": 1, "model_bytes": 0,
            "model_sha256": extractor::digest::Digest::of(b""), "provenance": {},
        });
        json.to_string().into_bytes()
    }

    fn publish(target: &Path, model: &[u8]) -> Result<PathBuf, WebError> {
        let files = [
            ("model.onnx", model.to_vec()),
            (DESCRIPTION, description(FORMAT)),
            (super::super::package::WASM, b"wasm".to_vec()),
        ];
        Staged::new(target)?.publish(&files)
    }

    fn entries(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_appears_whole_and_replaces_its_own_kind() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("new").join("page");
        publish(&target, b"one").unwrap();
        publish(&target, b"two").unwrap();
        assert_eq!(fs::read(target.join("model.onnx")).unwrap(), b"two");
        assert_eq!(
            entries(&target),
            ["model.json", "model.onnx", "onnxruntime-web"]
        );
        assert_eq!(entries(target.parent().unwrap()), ["page"]);
        drop(Staged::new(&target).unwrap());
        assert_eq!(entries(target.parent().unwrap()), ["page"]);
        let empty = root.path().join("empty");
        fs::create_dir(&empty).unwrap();
        publish(&empty, b"one").unwrap();
        assert_eq!(entries(root.path()), ["empty", "new"]);
    }

    #[test]
    fn a_folder_of_somebody_else_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("page");
        fs::create_dir(&target).unwrap();
        let refused = |name: &str| {
            let error = publish(&target, b"x").unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("hint"), "{error}");
        };
        fs::write(target.join("thesis.tex"), "x").unwrap();
        refused("thesis.tex");
        fs::remove_file(target.join("thesis.tex")).unwrap();
        fs::write(target.join(DESCRIPTION), description("another's")).unwrap();
        refused(DESCRIPTION);
        fs::write(target.join(DESCRIPTION), description(FORMAT)).unwrap();
        fs::write(target.join("notes.txt"), "x").unwrap();
        refused("notes.txt");
        assert_eq!(entries(&target), [DESCRIPTION, "notes.txt"]);
        assert_eq!(entries(root.path()), ["page"]);
        let file = root.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(publish(&file, b"x").is_err());
        assert_eq!(fs::read(&file).unwrap(), b"x");
    }
}
