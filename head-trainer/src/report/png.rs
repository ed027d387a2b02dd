//! A figure as PNG, with a font that this program carries, so that it looks the same on a machine
//! without any.

use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use super::figure::Figure;

/// Pixels for each unit of a figure.
const SCALE: f32 = 2.0;

/// Why there is no PNG.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PngError {
    /// The figure is no SVG that the renderer knows.
    #[error("cannot draw figure {name}")]
    Svg {
        /// The figure.
        name: String,
        /// Why.
        source: resvg::usvg::Error,
    },
    /// It has no pixels, or more than there can be.
    #[error("cannot draw figure {name} at {width} x {height} pixels")]
    Size {
        /// The figure.
        name: String,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The pixels were not encoded.
    #[error("cannot encode figure {name}: {reason}")]
    Encode {
        /// The figure.
        name: String,
        /// Why.
        reason: String,
    },
}

/// Draws figures.
pub struct Painter {
    options: Options<'static>,
}

impl Painter {
    /// With the font ready.
    pub fn new() -> Painter {
        let mut fonts = fontdb::Database::new();
        fonts.load_font_data(dejavu::sans::regular().to_vec());
        fonts.load_font_data(dejavu::sans::bold().to_vec());
        Painter {
            options: Options {
                font_family: "DejaVu Sans".to_owned(),
                fontdb: Arc::new(fonts),
                ..Options::default()
            },
        }
    }

    /// `figure` as PNG, light, at two pixels a unit.
    ///
    /// # Errors
    /// [`PngError`].
    pub fn png(&self, figure: &Figure) -> Result<Vec<u8>, PngError> {
        let name = || figure.name.clone();
        let tree =
            Tree::from_str(&figure.print(), &self.options).map_err(|source| PngError::Svg {
                name: name(),
                source,
            })?;
        let size = tree.size();
        let [width, height] =
            [size.width(), size.height()].map(|side| (side * SCALE).ceil() as u32);
        let mut pixels = Pixmap::new(width, height).ok_or_else(|| PngError::Size {
            name: name(),
            width,
            height,
        })?;
        resvg::render(
            &tree,
            Transform::from_scale(SCALE, SCALE),
            &mut pixels.as_mut(),
        );
        pixels.encode_png().map_err(|reason| PngError::Encode {
            name: name(),
            reason: reason.to_string(),
        })
    }
}

impl Default for Painter {
    fn default() -> Painter {
        Painter::new()
    }
}
