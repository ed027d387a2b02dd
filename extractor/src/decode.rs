//! Decodes one image file's bytes to 8-bit RGB, strictly and within limits.
//!
//! - JPEG by `zune-jpeg` in strict mode: a cut or corrupt scan is an error, never a half-grey image
//!   that would be trained on. A missing end marker and trailing bytes are accepted. (The `image`
//!   crate decodes JPEGs with the same library, but leniently.)
//! - PNG, GIF (first frame), BMP and WebP by the `image` crate.
//! - 16-bit samples are scaled to 8 bits; grey is replicated; palettes are expanded; alpha is
//!   dropped, as TensorFlow and Pillow do; EXIF orientation is ignored, as TensorFlow does.
//! - The pixel count is checked from the header, before anything is allocated.
//!
//! Must not know about paths, sizes wanted or colour presets.

use std::io::Cursor;

use image::{ImageDecoder, ImageFormat, ImageReader};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Name and version of the decoder: part of a store's key, since it changes pixels.
pub const DECODER: &str = "zune-jpeg 0.5.15 strict, image 0.25.10";

/// More pixels than this are refused: 100 million, 300 MB as RGB.
pub const MAX_PIXELS: u64 = 100_000_000;

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
    /// The header claims more than [`MAX_PIXELS`].
    #[error("{width}x{height} pixels are more than the limit of {MAX_PIXELS}")]
    TooLarge {
        /// Columns claimed.
        width: u64,
        /// Rows claimed.
        height: u64,
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

/// Decodes an image of any supported format, recognised by its content.
///
/// # Errors
/// [`DecodeError`] when the bytes are no image, a broken image or a too large one. Never panics.
pub fn decode_rgb8(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    let Kind::Supported(format) = recognise(bytes) else {
        return Err(DecodeError::NotAnImage);
    };
    // Decoders are fed hostile bytes; an overflow check that fires in one of them must cost one
    // image, not the job.
    std::panic::catch_unwind(|| match format {
        ImageFormat::Jpeg => decode_jpeg(bytes),
        format => decode_other(bytes, format),
    })
    .unwrap_or(Err(DecodeError::Panic))
}

fn check_size(width: u64, height: u64) -> Result<(), DecodeError> {
    if width.saturating_mul(height) > MAX_PIXELS {
        return Err(DecodeError::TooLarge { width, height });
    }
    Ok(())
}

fn decode_jpeg(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers()?;
    let (width, height) = decoder.dimensions().ok_or(DecodeError::NotAnImage)?;
    check_size(width as u64, height as u64)?;
    let pixels = decoder.decode()?;
    if width == 0 || height == 0 || pixels.len() != width * height * 3 {
        return Err(DecodeError::NotAnImage);
    }
    Ok(RgbImage {
        width,
        height,
        pixels,
    })
}

fn decode_other(bytes: &[u8], format: ImageFormat) -> Result<RgbImage, DecodeError> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(MAX_PIXELS * 8);
    reader.limits(limits);
    let decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    check_size(width.into(), height.into())?;
    let image = image::DynamicImage::from_decoder(decoder)?;
    let pixels = image.into_rgb8().into_raw();
    Ok(RgbImage {
        width: width as usize,
        height: height as usize,
        pixels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(image: image::DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn gradient() -> image::RgbImage {
        image::RgbImage::from_fn(40, 30, |x, y| {
            image::Rgb([(x * 6) as u8, (y * 8) as u8, 77])
        })
    }

    #[test]
    fn the_key_names_the_versions_that_are_built_in() {
        let lock = include_str!("../../Cargo.lock");
        for (name, version) in [("zune-jpeg", "0.5.15"), ("image", "0.25.10")] {
            let entry = format!("name = \"{name}\"\nversion = \"{version}\"");
            assert!(lock.contains(&entry), "Cargo.lock has another {name}");
            assert!(DECODER.contains(&format!("{name} {version}")));
        }
    }

    #[test]
    fn lossless_formats_come_back_as_they_were() {
        let image = gradient();
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
            let decoded = decode_rgb8(&encode(image.clone().into(), format)).unwrap();
            assert_eq!((decoded.width, decoded.height), (40, 30));
            assert_eq!(decoded.pixels, image.as_raw().as_slice(), "{format:?}");
        }
    }

    #[test]
    fn grey_alpha_and_sixteen_bits() {
        let grey = image::GrayImage::from_pixel(2, 2, image::Luma([9]));
        let decoded = decode_rgb8(&encode(grey.clone().into(), ImageFormat::Png)).unwrap();
        assert_eq!(decoded.pixels, [9; 12]);
        let decoded = decode_rgb8(&encode(grey.into(), ImageFormat::Jpeg)).unwrap();
        assert!(decoded.pixels.iter().all(|&v| v.abs_diff(9) <= 1));
        let alpha = image::RgbaImage::from_pixel(1, 1, image::Rgba([1, 2, 3, 0]));
        assert_eq!(
            decode_rgb8(&encode(alpha.into(), ImageFormat::Png))
                .unwrap()
                .pixels,
            [1, 2, 3]
        );
        let deep = image::ImageBuffer::from_pixel(1, 1, image::Rgb([65535_u16, 32768, 0]));
        let decoded = decode_rgb8(&encode(deep.into(), ImageFormat::Png)).unwrap();
        assert_eq!(decoded.pixels, [255, 128, 0]);
    }

    #[test]
    fn a_cut_jpeg_is_refused_but_a_missing_end_marker_is_not() {
        let whole = encode(gradient().into(), ImageFormat::Jpeg);
        let pixels = decode_rgb8(&whole).unwrap().pixels;
        assert!(decode_rgb8(&whole[..whole.len() / 2]).is_err());
        assert_eq!(
            decode_rgb8(&whole[..whole.len() - 2]).unwrap().pixels,
            pixels
        );
        let trailing = [&whole[..], b"\0\0trailing"].concat();
        assert_eq!(decode_rgb8(&trailing).unwrap().pixels, pixels);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for bytes in [
            &b""[..],
            b"\xff\xd8",
            b"<html>",
            b"\xff\xd8\xff\xe0",
            b"GIF89a",
            b"BM",
        ] {
            assert!(decode_rgb8(bytes).is_err(), "{bytes:?}");
        }
        assert!(has_image_extension(b"a/b.JPeG") && !has_image_extension(b"Thumbs.db"));
    }

    proptest::proptest! {
        #[test]
        fn damaged_images_never_panic(cut in 0_usize..700, at in 0_usize..700, value: u8) {
            for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::Gif, ImageFormat::WebP] {
                let mut bytes = encode(gradient().into(), format);
                let at = at % bytes.len();
                bytes[at] = value;
                bytes.truncate(bytes.len() - cut.min(bytes.len()));
                if let Err(DecodeError::Panic) = decode_rgb8(&bytes) {
                    panic!("a decoder panicked");
                }
            }
        }
    }
}
