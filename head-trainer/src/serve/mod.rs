//! A trained model behind HTTP, for programs on this machine or behind a proxy.
//!
//! A request's images wait in a bounded queue, are decoded on the worker threads and go through the
//! model in batches of whatever is there ([`batcher`]); [`limits`] bound what a request may cost,
//! [`problem`] is how a refusal reads, [`metrics`] count. [`http`] alone knows the web framework, the
//! protocol's implementation and the runtime that they need. Nothing is ever opened by a name that a
//! request gives. Must not know of command lines or of runs.

pub mod batcher;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod problem;
