//! Decodes one image file's bytes to 8-bit RGB, strictly and within limits.
//!
//! - JPEG by `zune-jpeg` in strict mode: a cut or corrupt scan is an error (`decode/jpeg.rs`).
//! - PNG, GIF (first frame), BMP and WebP by the `image` crate.
//! - 16-bit samples are scaled to 8 bits (0 to 65,535 becomes 0 to 255); grey is replicated;
//!   palettes are expanded; alpha is dropped, as TensorFlow and Pillow do.
//!   CMYK is converted without a colour profile, as they do.
//! - The EXIF orientation is ignored, as TensorFlow does, unless asked for ([`Exif`]).
//! - The pixel count is checked from the header, before anything is allocated.
//!
//! Must not know about paths, sizes wanted or colour presets.

mod jpeg;

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
/// Name and version of the decoder: part of a store's key, since it changes pixels.
pub const DECODER: &str = "zune-jpeg 0.5.15 strict, image 0.25.10";

/// More pixels than this are refused: 100 million, 300 MB as RGB.
pub const MAX_PIXELS: u64 = 100_000_000;

/// What to do with the orientation that a camera noted in an image's EXIF block.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Exif {
    /// Turn and mirror the image as noted (JPEG, PNG and WebP); nonsense counts as upright.
    Apply,
    /// Take the pixels as they are stored: as TensorFlow does.
    #[default]
    Ignore,
}

impl std::fmt::Display for Exif {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Exif::Apply => "apply",
            Exif::Ignore => "ignore",
        })
    }
}

/// A decoded image: `pixels[(y * width + x) * 3 + c]`, RGB, 8 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` samples, rows top to bottom.
    pub pixels: Vec<u8>, // [H, W, 3]
}

/// Why an image cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no image of a supported format.
    #[error("not a JPEG, PNG, GIF, BMP or WebP image")]
    NotAnImage,
    /// The header claims more pixels than are decoded: than [`MAX_PIXELS`], or a lower limit.
    #[error("{width}x{height} pixels are more than the limit of {limit}")]
    TooLarge {
        /// Columns claimed.
        width: u64,
        /// Rows claimed.
        height: u64,
        /// Pixels at most.
        limit: u64,
    },
    /// The JPEG decoder refuses it.
    #[error("broken JPEG: {0}")]
    Jpeg(#[from] zune_jpeg::errors::DecodeErrors),
    /// Another decoder refuses it.
    #[error("broken image: {0}")]
    Image(#[from] image::ImageError),
    /// A decoder panicked; that is a bug of the decoder, and the image is refused all the same.
    #[error("the decoder failed on it")]
    Panic,
}

/// What a file's first bytes say it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A format [`decode_rgb8`] reads.
    Supported(ImageFormat),
    /// An image, but of a format that is not read here.
    Unsupported(&'static str),
    /// No image.
    Other,
}

/// Recognises an image by the first bytes of its file (32 are enough).
pub fn recognise(head: &[u8]) -> Kind {
    match image::guess_format(head) {
        Ok(
            format @ (ImageFormat::Jpeg
            | ImageFormat::Png
            | ImageFormat::Gif
            | ImageFormat::Bmp
            | ImageFormat::WebP),
        ) => Kind::Supported(format),
        Ok(ImageFormat::Tiff) => Kind::Unsupported("TIFF"),
        Ok(ImageFormat::Avif) => Kind::Unsupported("AVIF"),
        _ => Kind::Other,
    }
}

/// Whether a name ends as image files do (in any case), so that a broken file of that name is to
/// be reported rather than ignored.
pub fn has_image_extension(name: &[u8]) -> bool {
    const EXTENSIONS: [&str; 13] = [
        "jpg", "jpeg", "jpe", "jfif", "png", "gif", "bmp", "webp", "tif", "tiff", "avif", "heic",
        "heif",
    ];
    let Some(dot) = name.iter().rposition(|&b| b == b'.') else {
        return false;
    };
    let extension = name[dot + 1..].to_ascii_lowercase();
    EXTENSIONS.iter().any(|e| e.as_bytes() == extension)
}

/// Decodes an image of any supported format, recognised by its content, as it is stored.
///
/// # Errors
/// [`DecodeError`] when the bytes are no image, a broken image or a too large one. Never panics.
pub fn decode_rgb8(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    decode_oriented(bytes, Exif::Ignore)
}

/// [`decode_rgb8`], with the EXIF orientation applied if `exif` says so.
///
/// # Errors
/// As [`decode_rgb8`]. A damaged EXIF block is no error.
pub fn decode_oriented(bytes: &[u8], exif: Exif) -> Result<RgbImage, DecodeError> {
    let Kind::Supported(format) = recognise(bytes) else {
        return Err(DecodeError::NotAnImage);
    };
    // Decoders are fed hostile bytes; an overflow check that fires in one of them must cost one
    // image, not the job.
    crate::quietly::catch(|| {
        let (image, orientation) = match format {
            ImageFormat::Jpeg => jpeg::decode(bytes, exif),
            format => decode_other(bytes, format, exif),
        }?;
        Ok(orient(image, orientation))
    })
    .unwrap_or(Err(DecodeError::Panic))
}

/// Width and height that an image's header claims, before the EXIF orientation turns them; no pixel
/// is decoded.
///
/// # Errors
/// When the bytes are no image of a supported format, the header is broken, or it claims more than
/// [`MAX_PIXELS`]. Never panics.
pub fn dimensions(bytes: &[u8]) -> Result<[u64; 2], DecodeError> {
    let Kind::Supported(format) = recognise(bytes) else {
        return Err(DecodeError::NotAnImage);
    };
    crate::quietly::catch(|| match format {
        ImageFormat::Jpeg => {
            let (_, [width, height]) = jpeg::open(bytes)?;
            Ok([width as u64, height as u64])
        }
        format => {
            let (width, height) = open_other(bytes, format)?.dimensions();
            Ok([width.into(), height.into()])
        }
    })
    .unwrap_or(Err(DecodeError::Panic))
}

fn check_size(width: u64, height: u64) -> Result<(), DecodeError> {
    if width.saturating_mul(height) > MAX_PIXELS {
        return Err(DecodeError::TooLarge {
            width,
            height,
            limit: MAX_PIXELS,
        });
    }
    Ok(())
}

/// The decoder of an image whose header is read and within limits.
fn open_other(bytes: &[u8], format: ImageFormat) -> Result<impl ImageDecoder, DecodeError> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(MAX_PIXELS * 8);
    reader.limits(limits);
    let decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    check_size(width.into(), height.into())?;
    Ok(decoder)
}

fn decode_other(
    bytes: &[u8],
    format: ImageFormat,
    exif: Exif,
) -> Result<(RgbImage, Orientation), DecodeError> {
    let mut decoder = open_other(bytes, format)?;
    let (width, height) = decoder.dimensions();
    let orientation = match exif {
        Exif::Apply => decoder.orientation().ok(),
        Exif::Ignore => None,
    };
    let pixels = DynamicImage::from_decoder(decoder)?.into_rgb8().into_raw();
    let image = RgbImage {
        width: width as usize,
        height: height as usize,
        pixels,
    };
    Ok((image, orientation.unwrap_or(Orientation::NoTransforms)))
}

/// Turns and mirrors an image as its EXIF orientation says.
fn orient(image: RgbImage, orientation: Orientation) -> RgbImage {
    if orientation == Orientation::NoTransforms {
        return image;
    }
    let (width, height) = (image.width as u32, image.height as u32); // at most MAX_PIXELS together
    let stored = image::RgbImage::from_raw(width, height, image.pixels);
    let mut turned = DynamicImage::from(stored.expect("width * height * 3 samples"));
    turned.apply_orientation(orientation);
    RgbImage {
        width: turned.width() as usize,
        height: turned.height() as usize,
        pixels: turned.into_rgb8().into_raw(),
    }
}

#[cfg(test)]
mod tests;
