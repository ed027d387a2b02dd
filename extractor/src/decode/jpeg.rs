//! Decodes a JPEG, strictly.
//!
//! - A cut or corrupt scan is an error, never a half-grey image that would be trained on. A missing
//!   end marker and trailing bytes are accepted. (The `image` crate decodes JPEGs with the same
//!   library, but leniently.)
//! - CMYK is converted without a colour profile, as TensorFlow and Pillow do: `C * K / 255` for the
//!   inverted values that a JPEG with an Adobe marker holds, `(255 - C) * (255 - K) / 255` without.
//!
//! Must not know of other formats.

use image::metadata::Orientation;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{DecodeError, Exif, RgbImage, check_size};

type Opened<'a> = (JpegDecoder<ZCursor<&'a [u8]>>, [usize; 2]);

fn options() -> DecoderOptions {
    DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB)
}

/// The decoder of an image whose header is read and within limits, and its width and height.
pub(super) fn open(bytes: &[u8]) -> Result<Opened<'_>, DecodeError> {
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options());
    decoder.decode_headers()?;
    let (width, height) = decoder.dimensions().ok_or(DecodeError::NotAnImage)?;
    check_size(width as u64, height as u64)?;
    Ok((decoder, [width, height]))
}

/// The image as it is stored, and how it is to be turned.
pub(super) fn decode(bytes: &[u8], exif: Exif) -> Result<(RgbImage, Orientation), DecodeError> {
    let (mut decoder, [width, height]) = open(bytes)?;
    let orientation = match exif {
        Exif::Apply => decoder
            .exif()
            .and_then(|block| Orientation::from_exif_chunk(block)),
        Exif::Ignore => None,
    };
    // The decoder takes every CMYK for the inverted one of Adobe's programs.
    let plain_cmyk =
        decoder.info().is_some_and(|info| info.components == 4) && !has_adobe_marker(bytes);
    let pixels = if plain_cmyk {
        decoder.set_options(options().jpeg_set_out_colorspace(ColorSpace::CMYK));
        rgb_of_cmyk(&decoder.decode()?)
    } else {
        decoder.decode()?
    };
    if width == 0 || height == 0 || pixels.len() != width * height * 3 {
        return Err(DecodeError::NotAnImage);
    }
    let image = RgbImage {
        width,
        height,
        pixels,
    };
    Ok((image, orientation.unwrap_or(Orientation::NoTransforms)))
}

/// Whether an Adobe segment (APP14) comes before a JPEG's first scan.
fn has_adobe_marker(bytes: &[u8]) -> bool {
    const SCAN: u8 = 0xda;
    const APP14: u8 = 0xee;
    let mut rest = bytes.get(2..).unwrap_or_default(); // behind the start marker
    while let [0xff, marker, after @ ..] = rest {
        rest = match (*marker, after) {
            (0xff, _) => &rest[1..], // a fill byte
            (SCAN, _) => return false,
            (APP14, [_, _, b'A', b'd', b'o', b'b', b'e', ..]) => return true,
            (_, [high, low, ..]) => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                after.get(length..).unwrap_or_default()
            }
            _ => return false,
        };
    }
    false
}

/// RGB of CMYK that is not inverted (255 is full ink).
fn rgb_of_cmyk(cmyk: &[u8]) -> Vec<u8> {
    let light = |ink: u8, black: u8| {
        let product = u32::from(255 - ink) * u32::from(255 - black);
        ((product + 127) / 255) as u8
    };
    cmyk.chunks_exact(4)
        .flat_map(|pixel| [0, 1, 2].map(|c| light(pixel[c], pixel[3])))
        .collect()
}
