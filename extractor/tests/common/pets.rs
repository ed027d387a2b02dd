//! A small archive of the structure of Microsoft's cats vs dogs, and the photos in it.

use std::io::{Cursor, Write as _};
use std::time::Duration;

use extractor::digest::Digest;
use extractor::fetch::{Conditions, Remote};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use url::Url;
use zip::write::SimpleFileOptions;

/// A photo: a JPEG that begins with its JFIF mark.
pub fn photo(shade: u8) -> Vec<u8> {
    let image = RgbImage::from_fn(40, 30, |x, y| Rgb([shade, (x * 6) as u8, (y * 8) as u8]));
    let mut bytes = Cursor::new(Vec::new());
    let image = DynamicImage::ImageRgb8(image);
    image.write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
    let bytes = bytes.into_inner();
    assert_eq!(&bytes[6..10], b"JFIF");
    bytes
}

/// The same without the mark.
pub fn unmarked(shade: u8) -> Vec<u8> {
    let photo = photo(shade);
    let length = usize::from(photo[4]) << 8 | usize::from(photo[5]);
    [&photo[..2], &photo[4 + length..]].concat()
}

/// The same with a comment of so many bytes before the mark.
pub fn marked_behind(shade: u8, comment: &[u8]) -> Vec<u8> {
    let photo = photo(shade);
    let length = (comment.len() as u16 + 2).to_be_bytes();
    [&photo[..2], &[0xff, 0xfe], &length, comment, &photo[2..]].concat()
}

/// 8 files that claim to be images: `jfif` keeps 4, of which one is cut.
pub fn members() -> Vec<(&'static str, Vec<u8>)> {
    let cut = photo(6);
    vec![
        ("PetImages/Cat/0.jpg", photo(1)),
        ("PetImages/Cat/1.jpg", unmarked(2)),
        ("PetImages/Cat/2.jpg", marked_behind(3, &[b'x'; 490])),
        ("PetImages/Cat/3.jpg", marked_behind(3, &[b'x'; 505])),
        ("PetImages/Cat/666.jpg", Vec::new()),
        ("PetImages/Cat/Thumbs.db", b"no image".to_vec()),
        ("PetImages/Dog/0.jpg", photo(5)),
        ("PetImages/Dog/1.jpg", cut[..cut.len() / 2].to_vec()),
        ("PetImages/Dog/2.jpg", unmarked(7)),
        ("PetImages/Dog/Thumbs.db", b"no image".to_vec()),
        ("CDLA-Permissive-2.0.pdf", b"%PDF JFIF".to_vec()),
        ("readme[1].txt", b"JFIF".to_vec()),
    ]
}

/// All of them in a zip archive, some packed.
pub fn archive() -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (i, (name, bytes)) in members().into_iter().enumerate() {
        let method = match i % 2 {
            0 => zip::CompressionMethod::Stored,
            _ => zip::CompressionMethod::Deflated,
        };
        zip.start_file(
            name,
            SimpleFileOptions::default().compression_method(method),
        )
        .unwrap();
        zip.write_all(&bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Where a server has it.
pub const PATH: &str = "/pets/archive.zip";
/// Its name.
pub const NAME: &str = "archive.zip";

/// Short times, no configuration of pip's.
pub fn conditions() -> Conditions {
    Conditions {
        environment: [("PIP_CONFIG_FILE", "/dev/null")].into_iter().collect(),
        connect_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_millis(300),
        retries: 2,
        pause: Duration::from_millis(1),
    }
}

/// The archive at a server, size and digest known.
pub fn remote(server: &str) -> Remote {
    Remote {
        url: Url::parse(&format!("{server}{PATH}")).unwrap(),
        size_bytes: Some(archive().len() as u64),
        sha256: Some(Digest::of(&archive())),
    }
}
