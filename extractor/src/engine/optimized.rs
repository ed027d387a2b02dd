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
    /// The folder above all of them.
    pub root: PathBuf,
    /// Digest of the model's file.
    pub model: Digest,
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
    /// The optimised model for this version of the engine and this processor: the one that is kept, else
    /// the one that `write` makes now at the path it is given, with the weights beside it as
    /// [`WEIGHTS`].
    ///
    /// # Errors
    /// When it is not there and cannot be made.
    pub(super) fn get(
        &self,
        engine: &str,
        write: impl FnOnce(&Path) -> Result<(), Cause>,
    ) -> Result<PathBuf, Cause> {
        let record = |files| Record {
            engine: engine.to_owned(),
            processor: processor_features(),
            model_sha256: self.model,
            files,
        };
        let what = serde_json::to_vec(&record(Vec::new()))?;
        let folder = self.root.join(Digest::of(&what).short());
        if is_whole(&folder, &record) {
            return Ok(folder.join(MODEL));
        }
        fs::create_dir_all(&self.root)?;
        let staging = TempDir::with_prefix_in(".partial-", &self.root)?;
        let model = staging.path().join(MODEL);
        write(&model)?;
        let files = [MODEL, WEIGHTS].map(|name| recorded(staging.path(), name, true));
        let files = files.into_iter().collect::<io::Result<Vec<_>>>()?;
        let path = staging.path().join(RECORD);
        fs::write(&path, serde_json::to_vec_pretty(&record(files))?)?;
        File::open(path)?.sync_all()?;
        if fs::rename(staging.path(), &folder).is_err() && !is_whole(&folder, &record) {
            // Something broken has the name: out of the way with it, into what is removed.
            let aside = TempDir::with_prefix_in(".partial-", &self.root)?;
            fs::rename(&folder, aside.path().join("broken"))?;
            fs::rename(staging.path(), &folder)?;
        }
        Ok(folder.join(MODEL))
    }
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
fn processor_features() -> String {
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

    #[test]
    fn made_once_for_each_engine_and_model_and_again_when_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let mut place = Optimized {
            root: folder.path().join("optimized"),
            model: Digest::of(b"a"),
        };
        let (path, made) = make(&place, "engine 1", "a1").unwrap();
        assert!(made);
        assert_eq!(
            make(&place, "engine 1", "a1").unwrap(),
            (path.clone(), false)
        );
        let (other, made) = make(&place, "engine 2", "a2").unwrap();
        assert!(made && other != path);
        place.model = Digest::of(b"b");
        assert!(make(&place, "engine 1", "b1").unwrap().1);
        place.model = Digest::of(b"a");

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
        let left: Vec<_> = fs::read_dir(&place.root).unwrap().collect();
        assert_eq!(left.len(), 3, "no temporary folder stays: {left:?}");
    }

    #[test]
    fn what_cannot_be_made_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let place = Optimized {
            root: folder.path().to_owned(),
            model: Digest::of(b"a"),
        };
        let failed = place.get("engine", |_| Err("no".into()));
        assert_eq!(failed.unwrap_err().to_string(), "no");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
