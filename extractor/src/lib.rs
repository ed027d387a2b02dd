//! Stage one of Headstart: a folder of images goes through a frozen backbone once, and its
//! feature maps land in a memory-mapped Arrow feature store.
//!
//! Data flows one way: [`walk`] -> [`index`] -> [`decode`] -> [`view`] -> [`preprocess`] -> [`engine`] ->
//! [`store`]. Nothing in this crate knows of heads, splits or metrics, but for what [`quantize`] has
//! scikit-learn say of them.

mod arrow_file;
pub mod backbone;
mod causes;
pub mod cli;
pub mod decode;
pub mod digest;
pub mod engine;
pub mod features;
pub mod fetch;
pub mod files;
pub mod given;
pub mod images;
pub mod index;
mod lock;
pub mod net;
mod numbers;
pub mod onnx_tensor;
pub mod part;
pub mod paths;
pub mod pixels;
pub mod preprocess;
pub mod progress;
pub mod quantize;
mod quietly;
pub mod remote;
pub mod resize;
pub mod runtime;
pub mod sample;
pub mod store;
pub mod timings;
pub mod transient;
pub mod view;
pub mod walk;
