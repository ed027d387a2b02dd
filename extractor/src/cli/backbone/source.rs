//! Where a backbone is made from, and where it goes: a file at hand or a download, and the place of the
//! result.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::cli::common::OutputArgs;
use crate::cli::download::Shown;
use crate::digest::Digest;
use crate::engine::{Engine, EngineError, EngineOptions, OnnxRuntime, Precision, Provider};
use crate::fetch::set::{address, file_name};
use crate::fetch::{Conditions, FetchError, Remote, download};
use crate::files::escape_path;
use crate::given;
use crate::net::shown;

/// A file at hand.
pub(super) struct Source {
    pub path: PathBuf,
    pub sha256: Digest,
    /// Address that it came from, without passwords.
    pub address: Option<String>,
}

impl Source {
    /// What `from` names: a file, or an address that is downloaded.
    pub fn of(from: &str, sha256: Option<Digest>, output: &OutputArgs) -> anyhow::Result<Source> {
        let local = Path::new(from);
        match (local.is_file(), address(from)) {
            (true, _) => Source::there(local, sha256),
            (false, Some(url)) => {
                let name = file_name(&url)?;
                let remote = Remote {
                    url,
                    size_bytes: None,
                    sha256,
                };
                Source::get(&remote, &name, output)
            }
            (false, None) => bail!(
                "{from} is neither a file nor an http or https address (hint: extractor backbone list names \
                 what fetch knows)"
            ),
        }
    }

    fn there(path: &Path, expected: Option<Digest>) -> anyhow::Result<Source> {
        let sha256 =
            Digest::of_file(path).with_context(|| format!("cannot read {}", escape_path(path)))?;
        if let Some(expected) = expected.filter(|expected| *expected != sha256) {
            return Err(FetchError::Occupied {
                path: path.to_owned(),
                got: sha256,
                expected,
            }
            .into());
        }
        Ok(Source {
            path: path.to_owned(),
            sha256,
            address: None,
        })
    }

    /// Downloads a file to `DATA_DIR/backbones/originals/NAME`, where the next import finds it if its
    /// digest is known.
    pub fn get(remote: &Remote, name: &str, output: &OutputArgs) -> anyhow::Result<Source> {
        let path = output
            .data_dir
            .join("backbones")
            .join("originals")
            .join(name);
        if remote.sha256.is_none() && path.exists() {
            bail!(
                "{} is there, and nothing says that it is the same (hint: give --sha256, or name the file)",
                escape_path(&path)
            );
        }
        let mut bar = Shown::new(output.quiet);
        let sha256 = download(remote, &path, &Conditions::default(), &mut |event| {
            bar.hear(event);
        });
        bar.finish();
        Ok(Source {
            path,
            sha256: sha256?,
            address: Some(shown(&remote.url)),
        })
    }

    /// Where the backbone `name` goes: `out`, else `DATA_DIR/backbones/NAME.onnx`, but never onto what it
    /// is made of.
    pub fn place(
        &self,
        out: Option<PathBuf>,
        name: &str,
        output: &OutputArgs,
    ) -> anyhow::Result<PathBuf> {
        let usual = || {
            output
                .data_dir
                .join("backbones")
                .join(format!("{name}.onnx"))
        };
        let out = out.unwrap_or_else(usual);
        let real = |path: &Path| path.canonicalize().ok();
        if real(&out).is_some() && real(&out) == real(&self.path) {
            bail!(
                "{} is what the backbone is made of (hint: give --out FILE or --name NAME)",
                escape_path(&out)
            );
        }
        Ok(out)
    }
}

/// Opens models with ONNX Runtime on the processor.
pub(super) fn opener(
    library: &Path,
) -> impl FnMut(&[u8]) -> Result<Box<dyn Engine + Send>, EngineError> + use<> {
    let options = EngineOptions {
        library: library.to_owned(),
        provider: Provider::Cpu,
        precision: Precision::Fp32,
        threads: given::threads(),
        optimized: None,
    };
    move |model| {
        let engine = OnnxRuntime::open(model, &options)?;
        Ok(Box::new(engine) as Box<dyn Engine + Send>)
    }
}
