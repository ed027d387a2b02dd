//! The baseline: a small convolutional network, trained from scratch on the same images.

mod config;

pub use self::config::BaselineConfig;
