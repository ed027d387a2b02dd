//! ONNX Runtime's shared library: where it is, and how to get it when it is nowhere.
//!
//! The engine loads ONNX Runtime when the program runs, so the build needs neither a C++
//! toolchain nor a download. The library comes out of the wheel that the ONNX Runtime project
//! publishes on PyPI, because a machine that may install Python packages may have that file
//! too: same index, same mirror, same proxy.
//!
//! - [`table`]: which wheel, by platform, with its size and hash.
//! - [`pip_config`]: which indexes and folders to ask, as pip would.
//! - [`fetch()`]: download, check, unpack, rename into place, once.
//! - [`locate()`]: the library to load: `ORT_DYLIB_PATH`, else the fetched one.
//! - [`info()`]: all of that in words.
//!
//! Nothing here loads the library or knows the engine; the engine finds out whether a library
//! is too old.

mod error;
mod event;
pub mod fetch;
pub mod info;
mod install;
pub mod locate;
pub mod pip_config;
mod pip_files;
mod platform;
mod simple_index;
pub mod table;

pub use crate::net::Environment;
pub use error::RuntimeError;
pub use event::Event;
pub use fetch::{FetchOptions, fetch};
pub use info::{RuntimeInfo, info};
pub use locate::{Located, Source, locate};
pub use platform::{Flavour, Platform};
pub use table::Pinned;

/// The environment variable that names a library to load instead of the fetched one.
pub const ORT_DYLIB_PATH: &str = "ORT_DYLIB_PATH";
