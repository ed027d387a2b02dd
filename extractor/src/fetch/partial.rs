//! A file that is being downloaded, and may be so over several runs: `.partial-NAME` beside its final
//! name, with a note `.partial-NAME.json` that says which file it is the beginning of.
//!
//! Must not know how the bytes come.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use url::Url;

use crate::digest::Digest;
use crate::files::{FileError, folder_of, sync_folder, write_atomically};

/// What the beginning of a file is the beginning of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// Digest of the address, which may hold a password.
    address: Digest,
    /// What the server calls this version of the file: a strong `ETag`, else `Last-Modified`.
    validator: Option<String>,
    /// Digest that the whole file is to have.
    sha256: Option<Digest>,
}

/// The file under way.
pub(super) struct Partial {
    target: PathBuf,
    path: PathBuf,
    file: File,
    len: u64,
    note: Note,
    /// Some of it came in an earlier answer.
    pub resumed: bool,
}

impl Partial {
    /// Goes on with what lies beside `target` if it is the beginning of the file of this digest; else
    /// starts anew.
    pub fn open(target: &Path, url: &Url, sha256: Option<Digest>) -> Result<Partial, FileError> {
        let path = beside(target, "");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(FileError::new("write", &path))?;
        let metadata = file.metadata().map_err(FileError::new("write", &path))?;
        let mut partial = Partial {
            target: target.to_owned(),
            note: Note {
                address: Digest::of(url.as_str().as_bytes()),
                validator: None,
                sha256,
            },
            len: metadata.len(),
            path,
            file,
            resumed: false,
        };
        let found = fs::read(beside(target, ".json")).ok();
        let found: Option<Note> = found.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match found.filter(|note| sha256.is_some() && note.sha256 == sha256) {
            Some(found) if found.address == partial.note.address => {
                partial.note.validator = found.validator;
            }
            // From another server: the digest will tell whether the pieces fit.
            Some(_) => {}
            None => partial.clear()?,
        }
        partial.resumed = partial.len > 0;
        Ok(partial)
    }

    /// Bytes that are there.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether more can be put behind what is there: the digest or the server will tell if that does
    /// not fit.
    pub fn can_go_on(&self) -> bool {
        self.len > 0 && (self.note.sha256.is_some() || self.note.validator.is_some())
    }

    /// What the server called the version of which this is the beginning.
    pub fn validator(&self) -> Option<&str> {
        self.note.validator.as_deref()
    }

    /// Notes what the server calls the version of which bytes come next.
    pub fn note(&mut self, validator: Option<&str>) -> Result<(), FileError> {
        self.note.validator = validator.map(str::to_owned);
        let bytes = serde_json::to_vec(&self.note).expect("a note is plain JSON");
        write_atomically(&beside(&self.target, ".json"), &bytes)
    }

    /// Puts bytes behind what is there.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file
            .write_all(bytes)
            .map_err(FileError::new("write", &self.path))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Throws away what is there.
    pub fn clear(&mut self) -> Result<(), FileError> {
        self.file
            .set_len(0)
            .map_err(FileError::new("write", &self.path))?;
        self.len = 0;
        self.resumed = false;
        self.note.validator = None;
        Ok(())
    }

    /// Digest of what is on the disk.
    pub fn digest(&self) -> Result<Digest, FileError> {
        Digest::of_file(&self.path).map_err(FileError::new("read", &self.path))
    }

    /// Removes it.
    pub fn remove(self) -> Result<(), FileError> {
        fs::remove_file(&self.path).map_err(FileError::new("remove", &self.path))?;
        self.remove_note();
        Ok(())
    }

    /// Gives it its final name.
    pub fn publish(self) -> Result<(), FileError> {
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, &self.target))
            .map_err(FileError::new("write", &self.target))?;
        self.remove_note();
        sync_folder(folder_of(&self.target))
    }

    fn remove_note(&self) {
        // Without its file it means nothing.
        let _ = fs::remove_file(beside(&self.target, ".json"));
    }
}

fn beside(target: &Path, suffix: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".partial-");
    name.push(target.file_name().unwrap_or_default());
    name.push(suffix);
    folder_of(target).join(name)
}
