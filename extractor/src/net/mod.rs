//! Getting files over HTTP: proxies, certificates, passwords, redirects, time limits, and what goes
//! wrong with them.
//!
//! The library of ONNX Runtime, data sets and backbones are all fetched through here. Must not know
//! what is fetched, nor what a person may do about trouble: those who ask add their hints.

mod access;
mod client;
mod environment;
mod error;
mod forward;
mod proxy;

pub(crate) use access::url_of_text;
pub use access::{Access, shown};
pub use client::{Client, Reply};
pub use environment::Environment;
pub use error::{Hinted, NetError};
