//! Models as the engine optimised them, kept on disk: opening one again takes milliseconds, and all
//! sessions and processes share one copy of the weights, which stay in their file, mapped.
//!
//! What is kept fits one model, one version of the engine and one set of processor features, so all
//! three name its folder. A folder is written whole, renamed into place and checked byte for byte before
//! it is used; without it, or if it cannot be written, the model itself is opened. It may be deleted at
//! any time. Must not know how the engine is called.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use xxhash_rust::xxh3::Xxh3Default;

use super::Cause;
use crate::digest::Digest;

/// The optimised graph.
const MODEL: &str = "model.onnx";
/// Its weights.
pub(super) const WEIGHTS: &str = "weights.bin";
/// Written last: what the files must be.
const RECORD: &str = "record.json";

/// Where the optimised form of one model is kept.
#[derive(Debug, Clone)]
pub struct Optimized {
    /// Folders to look in, and to write to the first that lets us.
    roots: Vec<PathBuf>,
    model: Digest,
}

#[derive(PartialEq, serde::Serialize, serde::Deserialize)]
struct Record {
    engine: String,
    processor: String,
    model_sha256: Digest,
    files: Vec<Recorded>,
}

#[derive(PartialEq, serde::Serialize, serde::Deserialize)]
struct Recorded {
    name: String,
    size_bytes: u64,
    xxh3: String,
}

impl Optimized {
    /// Of the model at `path`, whose file has this digest: beside it, in a folder `NAME.optimized`, else
    /// below `other`.
    pub fn beside(path: &Path, model: Digest, other: PathBuf) -> Optimized {
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        let folder = folder.unwrap_or(Path::new("."));
        // Whoever may do everything heeds the bits, too.
        let read_only = fs::metadata(folder).is_ok_and(|m| m.permissions().readonly());
        let beside = (!read_only).then(|| path.with_extension("optimized"));
        Optimized {
            roots: beside.into_iter().chain([other]).collect(),
            model,
        }
    }

    /// The optimised model for this version of the engine and this processor: the one that is kept, else
    /// the one that `write` makes now at the path it is given, with the weights beside it as
    /// [`WEIGHTS`].
    ///
    /// # Errors
    /// When it is not there and cannot be made.
    pub(super) fn get(
        &self,
        engine: &str,
        mut write: impl FnMut(&Path) -> Result<(), Cause>,
    ) -> Result<PathBuf, Cause> {
        let record = |files| Record {
            engine: engine.to_owned(),
            processor: processor_features(),
            model_sha256: self.model,
            files,
        };
        let name = Digest::of(&serde_json::to_vec(&record(Vec::new()))?).short();
        let folders = || self.roots.iter().map(|root| root.join(&name));
        if let Some(folder) = folders().find(|folder| is_whole(folder, record)) {
            return Ok(folder.join(MODEL));
        }
        let mut failed = None;
        for (root, folder) in self.roots.iter().zip(folders()) {
            let staging =
                fs::create_dir_all(root).and_then(|()| TempDir::with_prefix_in(".partial-", root));
            match staging {
                Ok(staging) => {
                    write(&staging.path().join(MODEL))?;
                    publish(staging, &folder, record)?;
                    self.remove_old(root, engine);
                    return Ok(folder.join(MODEL));
                }
                Err(e) => failed = Some(e),
            }
        }
        Err(failed
            .unwrap_or_else(|| io::ErrorKind::NotFound.into())
            .into())
    }

    /// Removes what nobody needs any more: in a folder beside a model what was kept of earlier models of
    /// its name, or for this processor by other engines; everywhere what was begun and never completed.
    fn remove_old(&self, root: &Path, engine: &str) {
        let beside = root.extension().is_some_and(|e| e == "optimized");
        let processor = processor_features();
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let record = fs::read(entry.path().join(RECORD));
            let record = record.map(|bytes| serde_json::from_slice::<Record>(&bytes));
            let old = match record {
                Ok(Ok(record)) => {
                    let replaced = record.processor == processor && record.engine != engine;
                    beside && (record.model_sha256 != self.model || replaced)
                }
                _ => is_abandoned(&entry),
            };
            if old {
                // What cannot be removed is in nobody's way.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Whether this is a staging folder of a process that must have ended.
fn is_abandoned(entry: &fs::DirEntry) -> bool {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let is_staging = entry.file_name().to_string_lossy().starts_with(".partial-");
    let modified = entry.metadata().and_then(|m| m.modified());
    let age = modified.map(|modified| modified.elapsed().unwrap_or_default());
    is_staging && age.is_ok_and(|age| age > DAY)
}

/// Completes what was written and gives it its name.
fn publish(
    staging: TempDir,
    folder: &Path,
    record: impl Fn(Vec<Recorded>) -> Record,
) -> Result<(), Cause> {
    let files = [MODEL, WEIGHTS].map(|name| recorded(staging.path(), name, true));
    let files = files.into_iter().collect::<io::Result<Vec<_>>>()?;
    let path = staging.path().join(RECORD);
    fs::write(&path, serde_json::to_vec_pretty(&record(files))?)?;
    File::open(path)?.sync_all()?;
    if fs::rename(staging.path(), folder).is_err() && !is_whole(folder, &record) {
        // Something broken has the name: out of the way with it, into what is removed.
        let root = folder.parent().unwrap_or(folder);
        let aside = TempDir::with_prefix_in(".partial-", root)?;
        fs::rename(folder, aside.path().join("broken"))?;
        fs::rename(staging.path(), folder)?;
    }
    Ok(())
}

/// Whether the folder holds what its record says, and the record what it should.
fn is_whole(folder: &Path, record: impl FnOnce(Vec<Recorded>) -> Record) -> bool {
    let found = || -> Result<bool, Cause> {
        let found: Record = serde_json::from_slice(&fs::read(folder.join(RECORD))?)?;
        let files = [MODEL, WEIGHTS].map(|name| recorded(folder, name, false));
        let files = files.into_iter().collect::<io::Result<Vec<_>>>()?;
        Ok(found == record(files))
    };
    found().unwrap_or(false)
}

/// What a file is; on the disk by then, if wanted.
fn recorded(folder: &Path, name: &str, sync: bool) -> io::Result<Recorded> {
    let mut file = File::open(folder.join(name))?;
    if sync {
        file.sync_all()?;
    }
    let mut hasher = Xxh3Default::new();
    let mut buffer = vec![0_u8; 1 << 20];
    let mut size_bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => {
                hasher.update(&buffer[..n]);
                size_bytes += n as u64;
            }
        }
    }
    Ok(Recorded {
        name: name.to_owned(),
        size_bytes,
        xxh3: format!("{:032x}", hasher.digest128()),
    })
}

/// The processor features by which an engine chooses its kernels and layouts.
pub(crate) fn processor_features() -> String {
    let mut found = vec![std::env::consts::ARCH];
    macro_rules! look {
        ($detected:ident: $($feature:tt),*) => {
            $(if std::arch::$detected!($feature) {
                found.push($feature);
            })*
        };
    }
    #[cfg(target_arch = "x86_64")]
    look!(is_x86_feature_detected: "sse4.1", "avx", "f16c", "fma", "avx2", "avxvnni", "avx512f", "avx512bw",
        "avx512dq", "avx512vl", "avx512vnni", "avx512bf16", "avx512fp16");
    #[cfg(target_arch = "aarch64")]
    look!(is_aarch64_feature_detected: "neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2");
    found.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(place: &Optimized, engine: &str, text: &str) -> Result<(PathBuf, bool), Cause> {
        let mut made = false;
        let path = place.get(engine, |model| {
            made = true;
            fs::write(model, text)?;
            fs::write(model.with_file_name(WEIGHTS), "weights")?;
            Ok(())
        })?;
        assert_eq!(fs::read_to_string(&path)?, text);
        Ok((path, made))
    }

    fn count(folder: &Path) -> usize {
        fs::read_dir(folder).map_or(0, Iterator::count)
    }

    #[test]
    fn made_once_for_each_engine_and_again_when_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("m.onnx");
        let other = folder.path().join("other");
        let place = Optimized::beside(&model, Digest::of(b"a"), other.clone());
        let (path, made) = make(&place, "engine 1", "a1").unwrap();
        assert!(made && path.starts_with(folder.path().join("m.optimized")));
        assert_eq!(
            make(&place, "engine 1", "a1").unwrap(),
            (path.clone(), false)
        );
        let (second, made) = make(&place, "engine 2", "a2").unwrap();
        assert!(
            made && second != path && !path.exists(),
            "the old engine's goes"
        );
        assert!(make(&place, "engine 1", "a1").unwrap().1);

        let weights = path.with_file_name(WEIGHTS);
        let damages: [&dyn Fn(); 3] = [
            &|| fs::write(&weights, "Weights").unwrap(),
            &|| fs::remove_file(&weights).unwrap(),
            &|| fs::write(path.with_file_name(RECORD), "{").unwrap(),
        ];
        for damage in damages {
            damage();
            assert!(make(&place, "engine 1", "a1").unwrap().1, "made again");
            assert!(!make(&place, "engine 1", "a1").unwrap().1);
        }
        assert_eq!(
            count(&folder.path().join("m.optimized")),
            1,
            "and nothing else"
        );

        // Another model of the same name takes their place.
        let place = Optimized::beside(&model, Digest::of(b"b"), other.clone());
        assert!(make(&place, "engine 1", "b1").unwrap().1);
        assert_eq!(count(&folder.path().join("m.optimized")), 1);
        assert!(!other.exists());
    }

    #[test]
    fn beside_a_model_that_lies_read_only_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let models = folder.path().join("models");
        fs::create_dir(&models).unwrap();
        let mut permissions = fs::metadata(&models).unwrap().permissions();
        let writable = permissions.clone();
        permissions.set_readonly(true);
        fs::set_permissions(&models, permissions).unwrap();
        let other = folder.path().join("other");
        let a = Optimized::beside(&models.join("m.onnx"), Digest::of(b"a"), other.clone());
        let b = Optimized::beside(&models.join("m.onnx"), Digest::of(b"b"), other.clone());
        for place in [&a, &b] {
            assert!(make(place, "engine", "x").unwrap().0.starts_with(&other));
        }
        assert!(!make(&a, "engine", "x").unwrap().1, "both are kept there");
        assert_eq!(count(&models), 0);
        fs::set_permissions(&models, writable).unwrap();
    }

    #[test]
    fn what_cannot_be_made_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("m.onnx");
        let place = Optimized::beside(&model, Digest::of(b"a"), folder.path().join("other"));
        let failed = place.get("engine", |_| Err("no".into()));
        assert_eq!(failed.unwrap_err().to_string(), "no");
        assert_eq!(count(&folder.path().join("m.optimized")), 0);
    }
}
