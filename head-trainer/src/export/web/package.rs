//! ONNX Runtime's WebAssembly build: the npm package `onnxruntime-web`, fetched once, checked, and the
//! two of its files that run models on one thread taken out.
//!
//! Must not know of pages or models.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

use extractor::digest::Digest;
use extractor::fetch::{Conditions, Event, Remote, download, known};
use extractor::files::FileError;
use flate2::bufread::GzDecoder;
use url::Url;

use super::WebError;

/// The package.
pub const NAME: &str = "onnxruntime-web";
/// Its version.
pub const VERSION: &str = "1.30.0";
const URL: &str = "https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz";
const SIZE_BYTES: u64 = 33_106_585;
const SHA256: &str = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71";

/// The script's place in a page's folder: `.js`, which every server knows to be a script.
pub const SCRIPT: &str = "onnxruntime-web/ort.wasm.bundle.min.js";
/// The engine's place.
pub const WASM: &str = "onnxruntime-web/ort-wasm-simd-threaded.wasm";
/// The licence's place; the package has none in a file of its own.
pub const LICENSE: &str = "onnxruntime-web/LICENSE.txt";

const SCRIPT_MEMBER: &str = "package/dist/ort.wasm.bundle.min.mjs";
const WASM_MEMBER: &str = "package/dist/ort-wasm-simd-threaded.wasm";

/// The files that run a model.
#[derive(Clone, PartialEq, Eq)]
pub struct Engine {
    /// An ECMAScript module, which loads `wasm`.
    pub script: Vec<u8>,
    /// The engine.
    pub wasm: Vec<u8>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// Where the archive lies once it was fetched.
pub fn place(data_dir: &Path) -> PathBuf {
    data_dir.join("web").join(format!("{NAME}-{VERSION}.tgz"))
}

/// Fetches the archive, unless it is there, and takes the files out.
///
/// # Errors
/// [`WebError::Fetch`] and [`WebError::Package`].
pub fn fetch(
    data_dir: &Path,
    conditions: &Conditions,
    report: &mut dyn FnMut(Event),
) -> Result<Engine, WebError> {
    let url = Url::parse(URL).expect("an address");
    let sha256: Digest = SHA256.parse().expect("a digest");
    let remote: Remote = known::remote(&url, SIZE_BYTES, sha256, &conditions.environment)?;
    let archive = place(data_dir);
    download(&remote, &archive, conditions, report)?;
    let file = File::open(&archive).map_err(FileError::new("read", &archive))?;
    unpack(BufReader::new(file))
}

/// Takes the files out of a gzipped tar archive.
fn unpack(archive: impl std::io::BufRead) -> Result<Engine, WebError> {
    let mut found: [Option<Vec<u8>>; 2] = [None, None];
    let names = [SCRIPT_MEMBER, WASM_MEMBER];
    let read = || -> std::io::Result<()> {
        for entry in tar::Archive::new(GzDecoder::new(archive)).entries()? {
            let mut entry = entry?;
            let path = entry.path_bytes();
            let Some(n) = names.iter().position(|name| name.as_bytes() == &path[..]) else {
                continue;
            };
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            found[n] = Some(bytes);
            if found.iter().all(Option::is_some) {
                break;
            }
        }
        Ok(())
    };
    let mut broken = read().err();
    let mut take = |n: usize| {
        found[n].take().ok_or_else(|| WebError::Package {
            file: names[n],
            source: broken.take(),
        })
    };
    Ok(Engine {
        script: take(0)?,
        wasm: take(1)?,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        let mut packed = builder.into_inner().unwrap();
        packed.flush().unwrap();
        packed.finish().unwrap()
    }

    #[test]
    fn the_two_files_are_found_wherever_they_are() {
        let other = ("package/dist/ort.all.mjs", &b"other"[..]);
        let files = [(WASM_MEMBER, &b"wasm"[..]), other, (SCRIPT_MEMBER, b"js")];
        let engine = unpack(&archive(&files)[..]).unwrap();
        assert_eq!(
            (&engine.script[..], &engine.wasm[..]),
            (&b"js"[..], &b"wasm"[..])
        );
        assert_eq!(
            known_url().path().rsplit('/').next(),
            place(Path::new("d")).file_name().unwrap().to_str()
        );
    }

    fn known_url() -> Url {
        Url::parse(URL).unwrap()
    }

    #[test]
    fn an_archive_without_them_or_cut_short_is_refused() {
        let lacks = unpack(&archive(&[(SCRIPT_MEMBER, b"js")])[..]).unwrap_err();
        assert!(lacks.to_string().contains(WASM_MEMBER), "{lacks}");
        assert!(std::error::Error::source(&lacks).is_none());
        let whole = archive(&[(SCRIPT_MEMBER, b"js"), (WASM_MEMBER, &[7; 5000])]);
        let cut = unpack(&whole[..whole.len() / 2]).unwrap_err();
        assert!(std::error::Error::source(&cut).is_some(), "{cut}");
    }
}
