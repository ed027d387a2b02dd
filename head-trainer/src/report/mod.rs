//! What runs came to, side by side: one page, its figures and a table.
//!
//! Data flows one way: [`load`] reads a run's folder into a [`RunData`], `figures` and `summary`
//! make figures and words of several, `html` and `text` write them out. Nothing here trains, and
//! nothing here fetches anything: the page holds all it shows.

pub mod escape;
pub mod figure;
