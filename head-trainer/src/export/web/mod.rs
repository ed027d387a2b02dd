//! A folder with a page that classifies images in the browser: the fused model, ONNX Runtime's
//! WebAssembly build and three files that bring them together. Any server of static files serves it.
//!
//! # Format
//!
//! The folder holds `index.html`, `style.css` and `classify.js`, which are the same for every model;
//! `model.onnx`, see [`crate::export`]; `model.json`, a [`Description`]; and `onnxruntime-web/` with
//! the engine and its licence. A folder with other files is not replaced.
//!
//! - [`package`]: the engine's files, from npm's registry.
//! - [`folder`]: the folder as a whole, or nothing.
//!
//! Must not know of runs or command lines.

pub mod folder;
pub mod package;

use std::collections::BTreeMap;

use extractor::decode::{Exif, MAX_PIXELS};
use extractor::digest::Digest;
use extractor::fetch::FetchError;
use extractor::files::FileError;

use self::package::Engine;
use crate::head::Head;

/// `format` of [`Description`].
const FORMAT: &str = "headstart web classifier";
/// `version` of [`Description`].
const VERSION: u32 = 1;
/// Name of the description's file.
const DESCRIPTION: &str = "model.json";
/// What lies in the folder beside the engine's.
const NAMES: [&str; 5] = [
    "index.html",
    "style.css",
    "classify.js",
    "model.onnx",
    DESCRIPTION,
];

/// No page can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebError {
    /// ONNX Runtime's files cannot be had.
    #[error("cannot get {} {}", package::NAME, package::VERSION)]
    Fetch(#[from] FetchError),
    /// What was fetched does not hold them.
    #[error("{file} is not in {} {}", package::NAME, package::VERSION)]
    Package {
        /// What was looked for.
        file: &'static str,
        /// Why the archive was not read to its end, if so.
        source: Option<std::io::Error>,
    },
    /// A file or the folder cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder is somebody else's.
    #[error(
        "{folder} holds {found}, which no export wrote, and is left alone (hint: name a new or empty \
         folder)"
    )]
    Occupied {
        /// The folder.
        folder: String,
        /// One of its entries.
        found: String,
    },
}

/// `model.json`: what the page must know of the model, and what it says of it.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Description {
    format: String,
    version: u32,
    /// Name for people.
    name: String,
    /// Names of the classes, in the order of the probabilities.
    labels: Vec<String>,
    /// For two classes: the probability of the second above which an image is taken for it.
    threshold: Option<f64>,
    /// What the orientation of a camera is for.
    exif: Exif,
    /// Images that the model takes at once.
    images: usize,
    /// More pixels are refused.
    max_pixels: u64,
    /// SHA-256 of `model.onnx`.
    model_sha256: Digest,
    /// Its size.
    model_bytes: u64,
    /// Where the model comes from, by name.
    provenance: BTreeMap<String, String>,
}

/// What a page is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Name for people.
    pub name: &'a str,
    /// The head, for its classes and threshold.
    pub head: &'a Head,
    /// The fused model.
    pub model: &'a [u8],
    /// Images that it takes at once.
    pub images: usize,
    /// What the orientation of a camera is for.
    pub exif: Exif,
    /// Where the model comes from, by name.
    pub provenance: &'a BTreeMap<String, String>,
    /// ONNX Runtime.
    pub engine: &'a Engine,
}

/// The folder's files by their names in it.
pub fn files(parts: &Parts<'_>) -> Vec<(&'static str, Vec<u8>)> {
    let description = Description {
        format: FORMAT.to_owned(),
        version: VERSION,
        name: parts.name.to_owned(),
        labels: parts.head.classes.clone(),
        threshold: (parts.head.classes.len() == 2).then_some(parts.head.decision.threshold),
        exif: parts.exif,
        images: parts.images,
        max_pixels: MAX_PIXELS,
        model_sha256: Digest::of(parts.model),
        model_bytes: parts.model.len() as u64,
        provenance: parts.provenance.clone(),
    };
    let mut json = serde_json::to_vec_pretty(&description).expect("a description is plain data");
    json.push(b'\n');
    let text = |text: &str| text.as_bytes().to_vec();
    let own = [
        text(include_str!("page/index.html")),
        text(include_str!("page/style.css")),
        text(include_str!("page/classify.js")),
        parts.model.to_vec(),
        json,
    ];
    let engine = [
        (package::SCRIPT, parts.engine.script.clone()),
        (package::WASM, parts.engine.wasm.clone()),
        (package::LICENSE, text(include_str!("page/LICENSE.txt"))),
    ];
    NAMES.into_iter().zip(own).chain(engine).collect()
}
