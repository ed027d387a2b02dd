use image::ImageEncoder;
use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};

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
    let lock = include_str!("../../../Cargo.lock");
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
fn a_header_tells_the_dimensions_without_the_pixels() {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    for format in [Jpeg, Png, Gif, Bmp, WebP] {
        let whole = encode(gradient().into(), format);
        assert_eq!(dimensions(&whole).unwrap(), [40, 30], "{format:?}");
        assert!(dimensions(&whole[..12]).is_err(), "{format:?}");
    }
    let whole = encode(gradient().into(), Jpeg);
    let cut = &whole[..whole.len() - 30]; // within its pixels
    assert_eq!(dimensions(cut).unwrap(), [40, 30]);
    assert!(decode_rgb8(cut).is_err());
    let mut huge = encode(gradient().into(), Bmp);
    huge[18..26].copy_from_slice(&[0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0]); // 65,535 both
    let error = dimensions(&huge).unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge { .. }), "{error}");
    assert!(matches!(dimensions(b"text"), Err(DecodeError::NotAnImage)));
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

/// A JPEG of 8x8 equal pixels with these samples in its components, written by hand: no encoder at
/// hand writes four components. `adobe` is the colour transform of its Adobe segment, if it has one.
fn even_jpeg(samples: &[u8], adobe: Option<u8>) -> Vec<u8> {
    let n = samples.len() as u8;
    let mut jpeg = vec![0xff, 0xd8];
    let mut segment = |marker: u8, content: &[u8]| {
        jpeg.extend([0xff, marker, 0, content.len() as u8 + 2]);
        jpeg.extend(content);
    };
    if let Some(transform) = adobe {
        segment(0xee, &[b"Adobe\0\x64\0\0\0\0", &[transform][..]].concat());
    }
    segment(0xdb, &[&[0][..], &[1; 64]].concat()); // quantised by 1
    let components: Vec<u8> = (1..=n).flat_map(|id| [id, 0x11, 0]).collect();
    segment(0xc0, &[&[8, 0, 8, 0, 8, n][..], &components].concat());
    // Constant terms: 12 categories with codes of four bits. Others: the end, one bit.
    let mut constant = vec![0; 17];
    constant[4] = 12;
    constant.extend(0..12);
    segment(0xc4, &constant);
    let mut other = vec![0; 18];
    (other[0], other[1]) = (0x10, 1);
    segment(0xc4, &other);
    let tables: Vec<u8> = (1..=n).flat_map(|id| [id, 0]).collect();
    segment(0xda, &[&[n][..], &tables, &[0, 63, 0]].concat());
    let mut bits = String::new();
    for sample in samples {
        let constant = (i32::from(*sample) - 128) * 8;
        let category = (i32::BITS - constant.unsigned_abs().leading_zeros()) as usize;
        let value = if constant < 0 {
            constant + (1 << category) - 1
        } else {
            constant
        };
        bits += &format!("{category:04b}");
        if category > 0 {
            bits += &format!("{value:0category$b}");
        }
        bits.push('0');
    }
    while !bits.len().is_multiple_of(8) {
        bits.push('1');
    }
    for byte in bits.as_bytes().chunks(8) {
        let byte = byte.iter().fold(0, |byte, bit| byte << 1 | (bit - b'0'));
        jpeg.push(byte);
        if byte == 0xff {
            jpeg.push(0);
        }
    }
    jpeg.extend([0xff, 0xd9]);
    jpeg
}

#[test]
fn cmyk_has_the_right_polarity() {
    let cases = [
        // Inverted: C * K / 255.
        (even_jpeg(&[10, 200, 90, 30], Some(0)), [1, 24, 11]),
        // As it is: (255 - C) * (255 - K) / 255.
        (even_jpeg(&[10, 200, 90, 30], None), [216, 49, 146]),
        // No ink and full ink.
        (even_jpeg(&[0, 0, 0, 0], None), [255, 255, 255]),
        (even_jpeg(&[0, 0, 0, 255], None), [0, 0, 0]),
        // YCCK: the grey 100 is inverted ink of 155.
        (even_jpeg(&[100, 128, 128, 200], Some(2)), [122, 122, 122]),
        // Three components are YCbCr, or RGB where Adobe says so; one is grey.
        (even_jpeg(&[100, 128, 128], None), [100, 100, 100]),
        (even_jpeg(&[10, 200, 90], Some(0)), [10, 200, 90]),
        (even_jpeg(&[77], None), [77, 77, 77]),
    ];
    for (i, (jpeg, expected)) in cases.iter().enumerate() {
        let image = decode_rgb8(jpeg).unwrap_or_else(|e| panic!("case {i}: {e}"));
        assert_eq!((image.width, image.height), (8, 8));
        for pixel in image.pixels.chunks_exact(3) {
            let near = pixel.iter().zip(expected).all(|(a, b)| a.abs_diff(*b) <= 1);
            assert!(near, "case {i}: {pixel:?}, not {expected:?}");
        }
    }
}

#[test]
fn a_cut_or_damaged_image_of_another_format_is_refused() {
    for format in [
        ImageFormat::Png,
        ImageFormat::Gif,
        ImageFormat::Bmp,
        ImageFormat::WebP,
    ] {
        let whole = encode(gradient().into(), format);
        for part in [2, 3, 4] {
            let cut = whole.len() - whole.len() / part;
            assert!(decode_rgb8(&whole[..cut]).is_err(), "{format:?} to {cut}");
        }
    }
    let png = encode(gradient().into(), ImageFormat::Png);
    let data = png.windows(4).position(|w| w == b"IDAT").unwrap() + 4;
    for at in data..png.len() - 12 {
        let mut damaged = png.clone();
        damaged[at] ^= 0x10;
        assert!(decode_rgb8(&damaged).is_err(), "PNG damaged at {at}");
    }
}

/// An EXIF block with one entry, in either byte order.
fn exif_block(little: bool, tag: u16, kind: u16, value: u16) -> Vec<u8> {
    let order = |bytes: &[u8]| -> Vec<u8> {
        let bytes = bytes.iter().copied();
        if little {
            bytes.rev().collect()
        } else {
            bytes.collect()
        }
    };
    let (u16, u32) = (
        |v: u16| order(&v.to_be_bytes()),
        |v: u32| order(&v.to_be_bytes()),
    );
    let magic = if little { b"II" } else { b"MM" };
    [
        magic.to_vec(),
        u16(42),
        u32(8),
        u16(1),
        u16(tag),
        u16(kind),
        u32(1),
        u16(value),
        u16(0),
        u32(0),
    ]
    .concat()
}

const ORIENTATION: u16 = 0x112;

/// Three by two squares of 8x8 pixels,
/// ```text
/// a b c
/// d e f
/// ```
/// with an EXIF block, as a JPEG, a PNG and a WebP.
fn squares(exif: &[u8]) -> [Vec<u8>; 3] {
    let image = image::RgbImage::from_fn(24, 16, |x, y| {
        square(b"abcdef"[(y / 8 * 3 + x / 8) as usize])
    });
    fn with<E: ImageEncoder>(mut encoder: E, exif: &[u8], image: &image::RgbImage) {
        encoder.set_exif_metadata(exif.to_vec()).unwrap();
        encoder
            .write_image(image.as_raw(), 24, 16, image::ExtendedColorType::Rgb8)
            .unwrap();
    }
    let mut files = [Vec::new(), Vec::new(), Vec::new()];
    with(
        JpegEncoder::new_with_quality(&mut files[0], 100),
        exif,
        &image,
    );
    with(PngEncoder::new(&mut files[1]), exif, &image);
    with(WebPEncoder::new_lossless(&mut files[2]), exif, &image);
    files
}

fn square(letter: u8) -> image::Rgb<u8> {
    let i = letter - b'a';
    image::Rgb([40 * i, 255 - 40 * i, 128])
}

/// The letters of the squares, rows separated by `/`.
fn letters(image: &RgbImage) -> String {
    let rows = (0..image.height).step_by(8).map(|y| {
        let letter = |x: usize| {
            let at = ((y + 3) * image.width + x + 3) * 3;
            let pixel = &image.pixels[at..at + 3];
            let near = |l: &u8| {
                square(*l)
                    .0
                    .iter()
                    .zip(pixel)
                    .all(|(a, b)| a.abs_diff(*b) < 6)
            };
            char::from((b'a'..=b'f').find(near).unwrap_or(b'?'))
        };
        (0..image.width).step_by(8).map(letter).collect::<String>()
    });
    rows.collect::<Vec<_>>().join("/")
}

#[test]
fn the_eight_orientations_by_hand() {
    let expected = [
        "abc/def",  // upright
        "cba/fed",  // mirrored left to right
        "fed/cba",  // upside down
        "def/abc",  // mirrored top to bottom
        "ad/be/cf", // rows for columns
        "da/eb/fc", // a quarter to the right
        "fc/eb/da", // rows for columns along the other diagonal
        "cf/be/ad", // a quarter to the left
    ];
    for (i, expected) in expected.into_iter().enumerate() {
        for little in [true, false] {
            let block = exif_block(little, ORIENTATION, 3, i as u16 + 1);
            for (file, format) in squares(&block).iter().zip(["JPEG", "PNG", "WebP"]) {
                let applied = decode_oriented(file, Exif::Apply).unwrap();
                assert_eq!(
                    letters(&applied),
                    expected,
                    "{format}, orientation {}",
                    i + 1
                );
                let ignored = decode_oriented(file, Exif::Ignore).unwrap();
                assert_eq!(letters(&ignored), "abc/def", "{format}");
                assert_eq!(ignored, decode_rgb8(file).unwrap());
            }
        }
    }
}

#[test]
fn a_nonsense_orientation_is_upright() {
    let nonsense = [
        exif_block(true, ORIENTATION, 3, 0),
        exif_block(true, ORIENTATION, 3, 9),
        exif_block(false, ORIENTATION, 3, 99),
        exif_block(false, ORIENTATION, 3, 0x0306), // 6 in its low byte only
        exif_block(true, ORIENTATION, 2, 6),       // a text
        exif_block(true, ORIENTATION + 1, 3, 6),   // another tag
        exif_block(true, ORIENTATION, 3, 6)[..12].to_vec(),
        b"II*\0\xff\xff\xff\xff".to_vec(),
        vec![0xff; 40],
        b"x".to_vec(),
    ];
    for block in nonsense {
        for file in squares(&block) {
            let image = decode_oriented(&file, Exif::Apply).unwrap();
            assert_eq!(letters(&image), "abc/def", "{block:?}");
        }
    }
}

#[test]
fn exif_modes_are_written_as_in_store_keys() {
    for (exif, text) in [(Exif::Apply, "apply"), (Exif::Ignore, "ignore")] {
        assert_eq!(exif.to_string(), text);
        assert_eq!(serde_json::to_string(&exif).unwrap(), format!("\"{text}\""));
    }
    assert_eq!(Exif::default(), Exif::Ignore);
}

proptest::proptest! {
    #[test]
    fn damaged_images_never_panic(cut in 0_usize..700, at in 0_usize..700, value: u8) {
        use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
        for format in [Jpeg, Png, Gif, Bmp, WebP] {
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
