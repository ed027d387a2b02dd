//! Fetches data sets and backbones: files of known digest from servers, and for a data set the record
//! of which images in it count.
//!
//! - [`known`]: data sets by name, and mirrors.
//! - [`download()`]: one file, resumed, checked, renamed into place.
//! - [`set`]: a data set: its archive in place, its selection beside it.
//!
//! Must not know of indexes, stores or engines.

mod download;
mod error;
pub mod known;
mod partial;
pub mod set;
mod space;

pub use download::{Conditions, Event, Remote, download};
pub use error::FetchError;
