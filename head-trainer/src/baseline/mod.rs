//! The baseline: a small convolutional network, trained from scratch on the same images.

mod config;
mod conv;
mod dense;
mod network;
mod norm_pool;
mod pass;
mod product;
mod shape;
mod trainer;
mod unfold;

pub use self::config::BaselineConfig;
pub use self::network::Network;
pub use self::shape::{FILTERS, LEAST_SIDE, Shape};
pub use self::trainer::Trainer;
pub use self::unfold::Placement;

/// Images of one size, row by row.
pub trait Images: Sync {
    /// Height and width, in pixels.
    fn size(&self) -> [usize; 2];
    /// Number of images.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The pixels of an image, `[H, W, 3]`: rows of red, green and blue.
    fn pixels(&self, row: u32) -> &[u8];
}
