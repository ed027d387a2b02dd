//! A class-activation map as a picture: its colours over the image, or alone.
//!
//! The backbone saw the whole image, squeezed into its input without cropping, so the map covers
//! the whole image, whatever its shape: position (y, x) of `[h, w]` is centred at ((y + 0.5) / h,
//! (x + 0.5) / w) of its height and width. Between the centres the map is bilinear, as the images
//! are when they are resized ([`extractor::resize`]). What a backbone sees at a position reaches
//! farther than the position's own cell, so the map says about where, never exactly where. Must not
//! know where images come from.

use std::borrow::Cow;
use std::io::Cursor;

use extractor::decode::RgbImage;
use extractor::resize::{Tap, taps};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::imageops::{self, FilterType};
use image::{ExtendedColorType, ImageEncoder, ImageResult};

use super::cam::ClassMap;
use super::colour::Scale;

/// What is under a map that is drawn without its image: light grey.
const PLAIN: u8 = 245;

/// Quality of a thumbnail's JPEG, 1 to 100.
const JPEG_QUALITY: u8 = 85;

/// What lies under a map.
#[derive(Clone, Copy, Debug)]
pub enum Ground<'a> {
    /// The image.
    Picture(&'a RgbImage),
    /// Nothing, in the shape of the backbone's input: height and width.
    Plain([usize; 2]),
}

/// The image in its own size, or smaller so that no side is longer than `longest`, with the colours
/// of `map` over it, if there is one. Without the image, the longer side is `longest`.
///
/// # Panics
/// When `longest` or a side of the ground is zero.
pub fn draw(ground: Ground<'_>, map: Option<&ClassMap>, longest: usize) -> RgbImage {
    let mut drawn = match ground {
        Ground::Picture(image) => at_most(image, longest).into_owned(),
        Ground::Plain([height, width]) => {
            let (width, height) = scaled(width, height, longest);
            RgbImage {
                width,
                height,
                pixels: vec![PLAIN; width * height * 3],
            }
        }
    };
    let Some(map) = map else {
        return drawn;
    };
    let scale = Scale::of(map);
    let (rows, columns) = (taps(map.height, drawn.height), taps(map.width, drawn.width));
    let logits_hw = map.logits_hw();
    let places = rows
        .iter()
        .flat_map(|row| columns.iter().map(move |column| (row, column)));
    let (pixels, _) = drawn.pixels.as_chunks_mut::<3>();
    for (pixel, (row, column)) in pixels.iter_mut().zip(places) {
        let tint = scale.tint(between(&logits_hw, map.width, row, column));
        let share = match ground {
            Ground::Picture(_) => tint.over_picture,
            Ground::Plain(_) => tint.over_plain,
        };
        for (value, colour) in pixel.iter_mut().zip(tint.rgb) {
            let under = f32::from(*value);
            *value = (under + (colour - under) * share).round() as u8;
        }
    }
    drawn
}

/// The value of `values_hw` between four positions.
fn between(values_hw: &[f32], width: usize, row: &Tap, column: &Tap) -> f32 {
    let [top, bottom] = [row.low, row.high].map(|y| {
        let at = |x: usize| values_hw[y * width + x];
        column.between(at(column.low), at(column.high))
    });
    row.between(top, bottom)
}

/// Width and height scaled so that the longer one is `longest`.
fn scaled(width: usize, height: usize, longest: usize) -> (usize, usize) {
    let longer = width.max(height);
    let side = |side: usize| ((side * longest + longer / 2) / longer).max(1);
    (side(width), side(height))
}

/// The image, smaller if a side is longer than `longest`; every pixel of it counts, so that fine
/// patterns become grey and not other patterns.
fn at_most(image: &RgbImage, longest: usize) -> Cow<'_, RgbImage> {
    if image.width.max(image.height) <= longest {
        return Cow::Borrowed(image);
    }
    let (width, height) = scaled(image.width, image.height, longest);
    // An image has at most 100 million pixels, so its sides fit 32 bits.
    let whole = image::ImageBuffer::<image::Rgb<u8>, _>::from_raw(
        image.width as u32,
        image.height as u32,
        &image.pixels[..],
    )
    .expect("width * height * 3 samples");
    let small = imageops::resize(&whole, width as u32, height as u32, FilterType::Triangle);
    Cow::Owned(RgbImage {
        width,
        height,
        pixels: small.into_raw(),
    })
}

/// The bytes of a PNG file.
///
/// # Errors
/// When it cannot be encoded.
pub fn png(image: &RgbImage) -> ImageResult<Vec<u8>> {
    let mut bytes = Vec::new();
    encode(image, PngEncoder::new(&mut bytes))?;
    Ok(bytes)
}

/// A small picture for a report, as the bytes of a JPEG file: [`draw`] with `longest` for the longer
/// side, with the colours of `map` or, for None, without.
///
/// # Errors
/// When it cannot be encoded, as no side of a JPEG is longer than 65,535.
///
/// # Panics
/// As [`draw`].
pub fn thumbnail(
    ground: Ground<'_>,
    map: Option<&ClassMap>,
    longest: usize,
) -> ImageResult<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    let encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
    encode(&draw(ground, map, longest), encoder)?;
    Ok(bytes.into_inner())
}

fn encode(image: &RgbImage, encoder: impl ImageEncoder) -> ImageResult<()> {
    let (width, height) = (image.width as u32, image.height as u32);
    encoder.write_image(&image.pixels, width, height, ExtendedColorType::Rgb8)
}

#[cfg(test)]
mod tests {
    use extractor::decode::decode_rgb8;

    use super::super::colour::{FIRST, SECOND};
    use super::*;

    fn map(classes: usize, values_hw: &[f32], height: usize) -> ClassMap {
        ClassMap {
            class: 1,
            classes,
            height,
            width: values_hw.len() / height,
            values_hw: values_hw.to_vec(),
            bias: 0.0,
        }
    }

    fn pixel(image: &RgbImage, y: usize, x: usize) -> [u8; 3] {
        let at = (y * image.width + x) * 3;
        image.pixels[at..at + 3].try_into().unwrap()
    }

    fn grey(width: usize, height: usize) -> RgbImage {
        RgbImage {
            width,
            height,
            pixels: vec![100; width * height * 3],
        }
    }

    #[test]
    fn a_map_alone_by_hand() {
        // 1x2 positions onto 4 pixels: samples at -0.25 (the edge), 0.25, 0.75, 1.25 (the edge).
        let map = map(2, &[-2.0, 2.0], 1);
        let drawn = draw(Ground::Plain([1, 4]), Some(&map), 4);
        assert_eq!((drawn.height, drawn.width), (1, 4));
        assert_eq!(pixel(&drawn, 0, 0), FIRST);
        assert_eq!(pixel(&drawn, 0, 3), SECOND);
        let half = |rgb: [u8; 3]| rgb.map(|v| ((245.0 + f32::from(v)) / 2.0).round() as u8);
        assert_eq!(pixel(&drawn, 0, 1), half(FIRST));
        assert_eq!(pixel(&drawn, 0, 2), half(SECOND));
    }

    #[test]
    fn colours_are_where_the_map_is_strong() {
        // Only the lower left position speaks, in a picture that is wider than high.
        let map = map(2, &[0.0, 0.0, 3.0, 0.0], 2);
        let image = grey(40, 20);
        let drawn = draw(Ground::Picture(&image), Some(&map), 512);
        assert_eq!((drawn.width, drawn.height), (40, 20));
        let strength = |y: usize, x: usize| pixel(&drawn, y, x)[0].abs_diff(100);
        assert_eq!(strength(0, 39), 0);
        assert_eq!(strength(0, 0), 0);
        assert_eq!(strength(19, 39), 0);
        // 100 + (230 - 100) * 0.65 = 184.5, and so on.
        assert_eq!(pixel(&drawn, 19, 0), [185, 98, 36]);
        assert!(strength(19, 15) > strength(19, 25));
        assert_eq!(draw(Ground::Picture(&image), None, 512), image);
    }

    #[test]
    fn sizes_are_bounded_and_shapes_kept() {
        for ((width, height), longest, expected) in [
            ((300, 200), 512, (300, 200)),
            ((300, 200), 150, (150, 100)),
            ((200, 300), 150, (100, 150)),
            ((1000, 1), 10, (10, 1)),
        ] {
            let drawn = draw(Ground::Picture(&grey(width, height)), None, longest);
            assert_eq!((drawn.width, drawn.height), expected);
            assert!(drawn.pixels.iter().all(|value| *value == 100));
        }
        let plain = draw(Ground::Plain([50, 100]), None, 512);
        assert_eq!((plain.width, plain.height), (512, 256));
    }

    #[test]
    fn files_hold_what_was_drawn() {
        let map = map(3, &[0.0, 1.0, 2.0, 3.0], 2);
        let image = grey(64, 48);
        let drawn = draw(Ground::Picture(&image), Some(&map), 512);
        assert_eq!(decode_rgb8(&png(&drawn).unwrap()).unwrap(), drawn);
        let small = thumbnail(Ground::Picture(&image), Some(&map), 32).unwrap();
        let small = decode_rgb8(&small).unwrap();
        assert_eq!((small.width, small.height), (32, 24));
        // From dark violet to yellow over grey, but for what a JPEG loses.
        assert!(pixel(&small, 0, 0)[1] < 70 && pixel(&small, 23, 31)[1] > 140);
        let bare = decode_rgb8(&thumbnail(Ground::Picture(&image), None, 32).unwrap()).unwrap();
        assert!(bare.pixels.iter().all(|value| value.abs_diff(100) < 3));
    }
}
