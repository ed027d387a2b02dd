//! Object stores: stores, indexes and images at `s3://`, `gs://` and `az://`.
//!
//! Everything else of this project works on folders and files, so what lies in an object store is
//! worked on through local ones below `DATA_DIR/cache`, one folder a URL:
//!
//! - [`Remote::outline`]: `outlines/STORE`, shards as long as the real ones in which only what says
//!   which rows there are was filled in;
//! - [`Outbox`]: `outbox/STORE`, shards on their way to the object store;
//! - [`Remote::bring_in`]: `stores/STORE`, whole shards, checked;
//! - [`objects`]: single files.
//!
//! [`client`] alone speaks to servers. Must not know what features are for.

pub mod client;
mod error;
mod limits;
mod location;
pub mod objects;
pub mod outbox;
mod stores;

pub use client::Client;
pub use error::RemoteError;
pub use limits::Limits;
pub use location::{Location, Scheme, Url};
pub use outbox::Outbox;
pub use stores::{Remote, RemoteStore};

use std::path::{Path, PathBuf};

/// An object, unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key behind that of the folder it was listed in.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, nanoseconds since 1970.
    pub modified_nanos: i64,
    /// What the server tells its content by; empty if it says nothing.
    pub etag: String,
}

/// The folder of all that belongs to `url`.
pub fn cache_folder(data_dir: &Path, url: &Url) -> PathBuf {
    data_dir.join("cache").join(url.digest().short())
}
