//! Stage two of Headstart: pooled features of a frozen backbone -> a linear head, its metrics and
//! the folder that records the run.

mod atomic;
pub mod head;
pub mod matrix;
pub mod metrics;
pub mod protocol;
pub mod rng;
pub mod solver;
pub mod split;
pub mod standardize;
