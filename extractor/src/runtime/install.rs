//! The library's folder on disk: whether it is complete, and how a new one gets there.
//!
//! Everything is written into a hidden sibling folder that is renamed when it is complete, so
//! that a reader sees all of it or nothing and two writers do not mix. A small file inside,
//! written last, says which wheel the folder came from and how large its files are. It does not
//! know where the wheel comes from.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use zip::ZipArchive;
use zip::result::ZipError;

use super::error::RuntimeError;
use super::table::{Pinned, file_name};
use crate::digest::Digest;
use crate::lock::Lock;

/// The file that is written last.
const RECORD: &str = "installed.json";

/// What [`RECORD`] holds.
#[derive(Serialize, Deserialize)]
struct Record {
    version: String,
    wheel: String,
    wheel_sha256: Digest,
    files: Vec<RecordedFile>,
}

#[derive(Serialize, Deserialize)]
struct RecordedFile {
    name: String,
    size_bytes: u64,
}

/// The folder above all runtimes.
pub(super) fn runtime_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("runtime")
}

/// The folder of one pinned runtime.
pub(super) fn folder(data_dir: &Path, pinned: &Pinned) -> PathBuf {
    runtime_folder(data_dir).join(pinned.folder)
}

/// The library to load, if the pinned runtime is in place and whole.
pub(super) fn installed(data_dir: &Path, pinned: &Pinned) -> Option<PathBuf> {
    let folder = folder(data_dir, pinned);
    let record = fs::read(folder.join(RECORD)).ok()?;
    let record: Record = serde_json::from_slice(&record).ok()?;
    let whole = record.wheel_sha256 == pinned.sha256
        && pinned.members.iter().all(|member| {
            let name = file_name(member);
            let recorded = record.files.iter().find(|file| file.name == name);
            let on_disk = fs::metadata(folder.join(name));
            matches!((recorded, on_disk), (Some(recorded), Ok(on_disk))
                if on_disk.is_file() && on_disk.len() == recorded.size_bytes)
        });
    whole.then(|| folder.join(pinned.library()))
}

/// A new runtime under construction; removed again unless it is published.
pub(super) struct Staging {
    folder: TempDir,
}

impl Staging {
    /// An empty folder beside the final one. Removes what an interrupted attempt left, which
    /// only the holder of the lock can tell from an attempt that is still going on.
    pub(super) fn new(data_dir: &Path, pinned: &Pinned, lock: &Lock) -> io::Result<Staging> {
        let parent = runtime_folder(data_dir);
        let prefix = format!(".partial-{}-", pinned.folder);
        if lock.is_held() {
            for entry in fs::read_dir(&parent)?.flatten() {
                if entry.file_name().to_string_lossy().starts_with(&prefix) {
                    // What cannot be removed is in nobody's way.
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix);
        #[cfg(unix)]
        {
            // Others may use the library too, as far as the user's umask lets them.
            use std::os::unix::fs::PermissionsExt as _;
            builder.permissions(fs::Permissions::from_mode(0o777));
        }
        let folder = builder.tempdir_in(&parent)?;
        Ok(Staging { folder })
    }

    /// Where to download the wheel to.
    pub(super) fn wheel(&self) -> PathBuf {
        self.folder.path().join("wheel")
    }

    /// Unpacks the members out of the checked wheel and removes it.
    pub(super) fn unpack(&self, pinned: &Pinned) -> Result<(), RuntimeError> {
        let wheel = self.wheel();
        let broken = |e: ZipError| RuntimeError::Unpack {
            wheel: pinned.wheel.to_owned(),
            source: Box::new(e),
        };
        let file = File::open(&wheel).map_err(destination(&wheel))?;
        let mut archive = ZipArchive::new(io::BufReader::new(file)).map_err(broken)?;
        let mut files = Vec::new();
        for member in pinned.members {
            let mut packed = match archive.by_name(member) {
                Ok(packed) => packed,
                Err(ZipError::FileNotFound) => {
                    return Err(RuntimeError::MissingMember {
                        wheel: pinned.wheel.to_owned(),
                        member: (*member).to_owned(),
                    });
                }
                Err(e) => return Err(broken(e)),
            };
            let path = self.folder.path().join(file_name(member));
            let mut unpacked = File::create(&path).map_err(destination(&path))?;
            let size_bytes = io::copy(&mut packed, &mut unpacked).map_err(|e| match e.kind() {
                io::ErrorKind::InvalidData
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::UnexpectedEof => broken(ZipError::Io(e)),
                _ => destination(&path)(e),
            })?;
            unpacked.sync_all().map_err(destination(&path))?;
            files.push(RecordedFile {
                name: file_name(member).to_owned(),
                size_bytes,
            });
        }
        fs::remove_file(&wheel).map_err(destination(&wheel))?;
        self.record(&Record {
            version: pinned.version.to_owned(),
            wheel: pinned.wheel.to_owned(),
            wheel_sha256: pinned.sha256,
            files,
        })
    }

    fn record(&self, record: &Record) -> Result<(), RuntimeError> {
        let path = self.folder.path().join(RECORD);
        let write = || {
            let mut file = File::create(&path)?;
            serde_json::to_writer_pretty(&mut file, record)?;
            file.write_all(b"\n")?;
            file.sync_all()
        };
        write().map_err(destination(&path))
    }

    /// Renames the folder to its final name and returns the library's path. Whole folders are
    /// left alone, broken ones replaced.
    pub(super) fn publish(self, data_dir: &Path, pinned: &Pinned) -> Result<PathBuf, RuntimeError> {
        let target = folder(data_dir, pinned);
        // Not every file system can sync a folder; the rename keeps readers safe without.
        let _ = sync_folder(self.folder.path());
        let swap = || -> io::Result<()> {
            if fs::rename(self.folder.path(), &target).is_ok() {
                return Ok(());
            }
            if installed(data_dir, pinned).is_some() {
                return Ok(());
            }
            // Something broken has the name: move it in here, to be removed with the rest.
            let aside = TempDir::with_prefix_in(
                format!(".partial-{}-", pinned.folder),
                runtime_folder(data_dir),
            )?;
            fs::rename(&target, aside.path().join("broken"))?;
            fs::rename(self.folder.path(), &target)
        };
        swap().map_err(destination(&target))?;
        let _ = sync_folder(&runtime_folder(data_dir));
        installed(data_dir, pinned).ok_or_else(|| RuntimeError::Destination {
            path: target,
            source: io::Error::other("another process changed it meanwhile"),
        })
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Turns an error about `path` into ours.
pub(super) fn destination(path: &Path) -> impl Fn(io::Error) -> RuntimeError {
    let path = path.to_owned();
    move |e| RuntimeError::Destination {
        path: path.clone(),
        source: e,
    }
}
