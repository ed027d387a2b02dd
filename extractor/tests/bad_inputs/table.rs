//! The table: every file of `bad.tar` and what must become of it, and the checks on its pixels.

use extractor::decode::RgbImage;

/// What must become of one file.
pub enum Expected {
    /// An image of `width` x `height` whose pixels pass the check, given the base image too.
    Decoded(usize, usize, Check),
    /// In the index, but refused by the decoder for a reason that contains this.
    Rejected(&'static str),
    /// Not in the index, and reported for a reason that contains this.
    Skipped(&'static str),
    /// Neither an image nor claiming to be one: passed over and counted.
    Ignored,
    /// A folder: walked, never opened as a file.
    Folder,
    /// As its owner may read it: the base image, else skipped.
    BaseIfReadable,
}
use Expected::*;

/// Says what is wrong with a decoded image.
pub type Check = fn(&RgbImage, &RgbImage) -> Result<(), String>;

/// Every file of the archive, by path below its root. Most pictures are the base image
/// (`names/x.jpeg`, 180x180) in other clothes.
pub fn table() -> Vec<(Vec<u8>, Expected)> {
    let table = [
        // Broken files.
        ("zero_byte.jpg", Skipped("empty file")),
        ("text.jpg", Skipped("not an image, whatever its name says")),
        ("garbage.jpg", Skipped("not an image")),
        ("leading_garbage.jpg", Skipped("not an image")),
        ("truncated_header.jpg", Rejected("broken JPEG: ")),
        // Half an image must not be trained on as grey.
        ("truncated_half.jpg", Rejected("broken JPEG: Exhausted")),
        // All the pixels are there: a missing end marker is no reason to lose an image.
        ("truncated_noeoi.jpg", Decoded(180, 180, the_base)),
        ("trailing_garbage.jpg", Decoded(180, 180, the_base)),
        ("corrupt_huffman_table.jpg", Rejected("Huffman table")),
        // A damaged scan gives wrong colours from somewhere on: refused.
        ("corrupt_scan.jpg", Rejected("Unknown marker in bit stream")),
        ("sof_height_0.jpg", Rejected("height is set to zero")),
        ("no_quant_table.jpg", Rejected("No quantization table")),
        ("png_truncated.png", Rejected("unexpected end of file")),
        ("png_bad_crc.png", Rejected("broken image: ")),
        // Refused from the header.
        ("bomb_sof_65500x65500.jpg", Rejected("65500x65500 pixels")),
        (
            "bomb_header_60000x60000.png",
            Rejected("60000x60000 pixels"),
        ),
        (
            "bomb_real_30000x30000_1bit.png",
            Rejected("30000x30000 pixels"),
        ),
        // Unusual JPEGs.
        ("gray.jpg", Decoded(180, 180, grey)),
        ("cmyk_adobe.jpg", Decoded(180, 180, recompressed)),
        ("rgb_adobe_transform0.jpg", Decoded(180, 180, recompressed)),
        ("progressive.jpg", Decoded(180, 180, recompressed)),
        ("restart_markers.jpg", Decoded(180, 180, recompressed)),
        ("s422.jpg", Decoded(180, 180, recompressed)),
        ("s444.jpg", Decoded(180, 180, recompressed)),
        ("non_jfif.jpg", Decoded(180, 180, the_base)),
        ("exif_orientation6.jpg", Decoded(180, 180, on_its_side)),
        ("exif_orientation99.jpg", Decoded(180, 180, recompressed)),
        ("exif_corrupt.jpg", Decoded(180, 180, the_base)),
        // The content counts, not the name.
        ("png_named.jpg", Decoded(180, 180, lossless)),
        ("webp_named.jpg", Decoded(180, 180, lossless)),
        ("bmp_named.jpg", Decoded(180, 180, lossless)),
        ("jpeg_named.png", Decoded(180, 180, the_base)),
        // First frames.
        ("gif_animated_named.jpg", Decoded(180, 180, paletted)),
        ("animated.gif", Decoded(180, 180, paletted)),
        // Other kinds of pixels.
        ("gray16.png", Decoded(180, 180, grey)),
        ("rgb16.png", Decoded(180, 180, lossless)),
        ("rgba.png", Decoded(180, 180, lossless)), // alpha dropped, not blended
        ("palette_trns.png", Decoded(180, 180, paletted)),
        ("gray_1bit.png", Decoded(180, 180, black_and_white)),
        // Unusual shapes.
        ("1x1.jpg", Decoded(1, 1, one_pixel)),
        ("1x1.png", Decoded(1, 1, one_pixel)),
        ("strip_12000x20.jpg", Decoded(12000, 20, stretched)),
        ("strip_20x12000.jpg", Decoded(20, 12000, stretched)),
        // Unusual names.
        ("names", Folder),
        ("names/with space.jpg", Decoded(180, 180, the_base)),
        ("names/  lead_trail .jpg", Decoded(180, 180, the_base)),
        (
            "names/na\u{ef}ve_\u{fc}n\u{ef}_\u{732b}_\u{1f63a}.jpg",
            Decoded(180, 180, the_base),
        ),
        ("names/nfd_u\u{308}.jpg", Decoded(180, 180, the_base)),
        ("names/new\nline.jpg", Decoded(180, 180, the_base)),
        ("names/tab\there.jpg", Decoded(180, 180, the_base)),
        ("names/quote'\"$(x);&.jpg", Decoded(180, 180, the_base)),
        ("names/-dash.jpg", Decoded(180, 180, the_base)),
        ("names/comma,quote\".jpg", Decoded(180, 180, the_base)),
        ("names/UPPER.JPG", Decoded(180, 180, the_base)),
        ("names/x.jpeg", Decoded(180, 180, the_base)),
        ("names/no_extension", Decoded(180, 180, the_base)),
        // What lies about in folders of images.
        ("README.md", Ignored),
        ("clutter", Folder),
        ("clutter/.hidden.jpg", Ignored),
        ("clutter/._0.jpg", Ignored),
        ("clutter/Thumbs.db", Ignored),
        ("clutter/.DS_Store", Ignored),
        ("clutter/mode000.jpg", BaseIfReadable),
        ("clutter/dir.jpg", Folder),
        ("clutter/fifo.jpg", Ignored),
        ("empty_class", Folder),
        // Links are followed, and end.
        ("links", Folder),
        ("links/self.jpg", Skipped("symbolic link loop")),
        ("links/dangling.jpg", Skipped("dangling link")),
        ("links/ok.jpg", Decoded(180, 180, grey)),
        ("links/loop", Ignored),
        ("links/a", Skipped("symbolic link loop")),
        ("links/b", Skipped("symbolic link loop")),
    ];
    let mut table: Vec<_> = table
        .into_iter()
        .map(|(path, expected)| (path.as_bytes().to_vec(), expected))
        .collect();
    let base = || Decoded(180, 180, the_base);
    table.push((b"names/latin1_\xe9.jpg".to_vec(), base()));
    let longest = format!("names/{}.jpg", "a".repeat(240));
    table.push((longest.into_bytes(), base()));
    table
}

/// `Err` with what is wrong, unless it is `right`.
pub fn ensure(right: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if right { Ok(()) } else { Err(what()) }
}

/// Mean and largest difference of samples.
fn difference(a: &[u8], b: &[u8]) -> (f64, u8) {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = differences.clone().map(u64::from).sum();
    (sum as f64 / a.len() as f64, differences.max().unwrap_or(0))
}

/// Whether samples differ by no more than this, on average and at most.
pub fn within(a: &[u8], b: &[u8], mean: f64, max: u8) -> Result<(), String> {
    let found = difference(a, b);
    ensure(found.0 <= mean && found.1 <= max, || {
        let (found_mean, found_max) = found;
        format!("differs by {found_mean:.3} (at most {found_max}), not by {mean} ({max})")
    })
}

/// The very pixels.
pub fn the_base(image: &RgbImage, base: &RgbImage) -> Result<(), String> {
    within(&image.pixels, &base.pixels, 0.0, 0)
}

/// The base image as another decoder saw it, stored without loss.
fn lossless(image: &RgbImage, base: &RgbImage) -> Result<(), String> {
    within(&image.pixels, &base.pixels, 0.4, 5)
}

/// The base image after another round of JPEG compression.
fn recompressed(image: &RgbImage, base: &RgbImage) -> Result<(), String> {
    within(&image.pixels, &base.pixels, 1.4, 12)
}

/// The base image in 256 colours at most.
fn paletted(image: &RgbImage, base: &RgbImage) -> Result<(), String> {
    within(&image.pixels, &base.pixels, 6.0, 60)
}

/// Stored turned by a quarter to the left, and taken as it is stored.
fn on_its_side(image: &RgbImage, base: &RgbImage) -> Result<(), String> {
    let at = |x: usize, y: usize| &base.pixels[(y * base.width + x) * 3..][..3];
    let stored: Vec<u8> = (0..base.width)
        .flat_map(|row| (0..base.height).map(move |column| (row, column)))
        .flat_map(|(row, column)| at(base.width - 1 - row, column))
        .copied()
        .collect();
    within(&image.pixels, &stored, 1.6, 20)
}

fn luma(image: &RgbImage) -> Vec<u8> {
    let weigh = |p: &[u8]| {
        let [r, g, b] = [p[0], p[1], p[2]].map(f64::from);
        (0.299 * r + 0.587 * g + 0.114 * b).round() as u8
    };
    image.pixels.chunks_exact(3).map(weigh).collect()
}

fn one_channel(image: &RgbImage) -> Result<Vec<u8>, String> {
    let mut pixels = image.pixels.chunks_exact(3);
    let all_equal = pixels.clone().all(|p| p[0] == p[1] && p[1] == p[2]);
    ensure(all_equal, || "is not grey".to_owned())?;
    Ok(pixels.by_ref().map(|p| p[0]).collect())
}

fn grey(image: &RgbImage, base: &RgbImage) -> Result<(), String> {
    within(&one_channel(image)?, &luma(base), 1.0, 8)
}

/// Dithered: nothing but black and white, as bright on the whole as the base.
fn black_and_white(image: &RgbImage, base: &RgbImage) -> Result<(), String> {
    let values = one_channel(image)?;
    let pure = values.iter().all(|v| [0, 255].contains(v));
    ensure(pure, || "is not black and white".to_owned())?;
    let mean = |v: &[u8]| v.iter().map(|v| f64::from(*v)).sum::<f64>() / v.len() as f64;
    let (found, expected) = (mean(&values), mean(&luma(base)));
    ensure((found - expected).abs() < 1.0, || {
        format!("is {found} bright, not {expected}")
    })
}

fn one_pixel(image: &RgbImage, _: &RgbImage) -> Result<(), String> {
    within(&image.pixels, &[200, 100, 50], 0.0, 0)
}

/// The base image in another shape: means over a grid of 10 by 10 cells agree roughly (the strips
/// were scaled with few pixels across).
fn stretched(image: &RgbImage, base: &RgbImage) -> Result<(), String> {
    let cells = |image: &RgbImage| -> Vec<u8> {
        let mut sums = vec![(0_u64, 0_u64); 300];
        for (i, value) in image.pixels.iter().enumerate() {
            let (x, y, c) = (i / 3 % image.width, i / 3 / image.width, i % 3);
            let cell = (y * 10 / image.height) * 10 + x * 10 / image.width;
            let (sum, count) = &mut sums[cell * 3 + c];
            *sum += u64::from(*value);
            *count += 1;
        }
        sums.iter()
            .map(|(sum, count)| (sum / count) as u8)
            .collect()
    };
    within(&cells(image), &cells(base), 3.5, 20)
}
