//! (to be written)
pub mod seed;
