//! Any bytes give an image or an error: no crash, no memory error, no picture of a wrong size.
//!
//! A panic inside a third-party decoder is caught by the loader and costs one image; with
//! `HEADSTART_FUZZ_PANICS=1` it is a finding too.

#![no_main]

use std::sync::LazyLock;

use extractor::decode::{DecodeError, Exif, MAX_PIXELS, decode_oriented};
use libfuzzer_sys::fuzz_target;

static PANICS: LazyLock<bool> =
    LazyLock::new(|| std::env::var_os("HEADSTART_FUZZ_PANICS").is_some());

fuzz_target!(
    // The fuzzer's own hook would end the process before the loader can catch a decoder's panic.
    init: {
        if !*PANICS {
            std::panic::set_hook(Box::new(|_| ()));
        }
    },
    |bytes: &[u8]| {
        match decode_oriented(bytes, Exif::Apply) {
            Ok(image) => {
                assert!(image.width > 0 && image.height > 0);
                assert!((image.width * image.height) as u64 <= MAX_PIXELS);
                assert_eq!(image.pixels.len(), image.width * image.height * 3);
            }
            Err(DecodeError::Panic) => assert!(!*PANICS, "a decoder panicked"),
            Err(_) => (),
        }
    }
);
