//! Stage two of Headstart: pooled features of a frozen backbone -> a linear head, its metrics and
//! the folder that records the run.
//!
//! Data flows one way: [`split`] gives every image its side, a [`solver::Problem`] joins features
//! and labels, [`solver::fit`] finds a [`head`], [`metrics`] judge it and [`run`] writes it all
//! down. [`explain`] reads images, to draw on them, and [`predict`], to say what they show; [`serve`] does
//! so over HTTP.

pub mod audit;
pub mod baseline;
pub mod cli;
pub mod dataset;
pub mod decide;
pub mod explain;
pub mod export;
pub mod head;
pub mod judge;
pub mod kernels;
pub mod matrix;
pub mod metrics;
pub mod pooled;
pub mod predict;
pub mod protocol;
pub mod report;
pub mod rng;
pub mod run;
pub mod sampling;
pub mod serve;
mod shell;
pub mod solver;
pub mod split;
pub mod standardize;
pub mod sweep;
mod tensors;
mod utc;
