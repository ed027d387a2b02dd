//! Data sets that are hostile, cut or damaged.

use proptest::prelude::*;

use super::*;

#[test]
fn hostile_members_are_named_and_skipped() {
    let members = [
        ("Cat/../../../etc/1.png", png(1)),
        ("/etc/2.png", png(2)),
        ("C:\\3.png", png(3)),
        ("Cat/4.png", png(4)),
        ("Cat/5.png", b"<html>".to_vec()),
    ];
    for (bytes, name) in [(zip_of(&members), "x.zip"), (tar_of(&members), "x.tar")] {
        let found = listed(&bytes, name);
        assert_eq!(found.len(), 5, "{name}: {found:#?}");
        assert_eq!(found[0], "Cat/4.png Cat");
    }

    let mut builder = ::tar::Builder::new(Vec::new());
    for kind in [
        ::tar::EntryType::Symlink,
        ::tar::EntryType::Link,
        ::tar::EntryType::Fifo,
    ] {
        let mut header = header("Cat/link.jpg", kind);
        header.set_link_name("/etc/passwd").unwrap();
        header.set_cksum();
        builder.append(&header, std::io::empty()).unwrap();
    }
    let mut bytes = builder.into_inner().unwrap();
    bytes.truncate(3 * 512); // its end marker away
    bytes.extend(tar_of(&members[3..4]));
    let found = listed(&bytes, "x.tar");
    assert_eq!(found[0], "Cat/4.png Cat");
    assert!(found[1].contains("link"), "{found:#?}");
}

/// The offsets of a zip's central directory headers.
fn directory(zip: &[u8]) -> Vec<usize> {
    let signature = b"PK\x01\x02";
    (0..zip.len() - 4)
        .filter(|&i| &zip[i..i + 4] == signature)
        .collect()
}

#[test]
fn zip_members_that_cannot_be_read_and_bombs() {
    let whole = zip_of(&three());
    let headers = directory(&whole);
    let patched = |at: usize, bytes: &[u8]| {
        let mut zip = whole.clone();
        zip[headers[0] + at..][..bytes.len()].copy_from_slice(bytes);
        zip
    };
    let encrypted = listed(&patched(8, &[1, 0]), "x.zip");
    assert!(
        encrypted[1].starts_with("Cat/1.png: encrypted"),
        "{encrypted:#?}"
    );
    let method = listed(&patched(10, &[98, 0]), "x.zip");
    assert!(method[1].contains("unpack the archive"), "{method:#?}");
    let checksum = listed(&patched(16, &[1, 2, 3, 4]), "x.zip");
    assert!(checksum[1].starts_with("Cat/1.png: "), "{checksum:#?}");

    // The first member again under the second's name.
    let mut shared = whole.clone();
    let first = shared[headers[0] + 42..][..4].to_vec();
    shared[headers[1] + 42..][..4].copy_from_slice(&first);
    let here = Here::new();
    let error = index(&here.put("x.zip", &shared)).map(|_| ()).unwrap_err();
    assert!(
        error.contains("share bytes") && error.contains("x.zip"),
        "{error}"
    );
}

#[test]
fn a_member_is_bounded_by_what_comes_out() {
    let mut bytes = png(1);
    bytes.resize(MAX_MEMBER_BYTES as usize + 1, 0);
    let mut zip = zip_of(&[("Cat/1.png", bytes), ("Cat/2.png", png(2))]);
    let found = listed(&zip, "x.zip");
    assert!(found[1].starts_with("Cat/1.png: larger than"), "{found:#?}");
    // However small it says it is.
    let header = directory(&zip)[0];
    zip[header + 24..][..4].copy_from_slice(&10_u32.to_le_bytes());
    let found = listed(&zip, "x.zip");
    assert!(found[1].starts_with("Cat/1.png: "), "{found:#?}");
}

#[test]
fn what_is_cut_is_an_error_that_names_the_file() {
    let here = Here::new();
    let rows = [(None, Some(png(1)), 0)];
    for (bytes, name) in [
        (zip_of(&three()), "x.zip"),
        (tar_of(&three()), "x.tar"),
        (parquet_of(&rows), "x.parquet"),
    ] {
        let cut = bytes.len() - if name == "x.tar" { 1024 + 511 } else { 20 };
        let error = index(&here.put(name, &bytes[..cut]))
            .map(|_| ())
            .unwrap_err();
        assert!(
            error.contains(name) && error.contains("fetch it again"),
            "{error}"
        );
    }
}

fn damage(whole: &[u8], cut: usize, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = whole[..cut % (whole.len() + 1)].to_vec();
    if !cut.is_multiple_of(3) {
        bytes = whole.to_vec(); // changed and not cut
    }
    for (at, value) in changes {
        if !bytes.is_empty() {
            let at = at % bytes.len();
            bytes[at] = *value;
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Damaged or hostile: an error or an index, never a panic, and no bytes but those digested.
    #[test]
    fn damaged_bytes_never_panic(
        form in 0..3_usize,
        cut in any::<usize>(),
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4),
    ) {
        let rows = [(Some("a.png"), Some(png(1)), 1), (None, Some(png(2)), 0)];
        let (whole, name) = match form {
            0 => (zip_of(&three()), "x.zip"),
            1 => (tar_of(&three()), "x.tar"),
            _ => (parquet_of(&rows), "x.parquet"),
        };
        let here = Here::new();
        let _ = index(&here.put(name, &damage(&whole, cut, &changes)));
    }

    #[test]
    fn noise_never_panics(form in 0..5_usize, noise in proptest::collection::vec(any::<u8>(), 0..600)) {
        let (magic, name) = [
            (&b"PK\x03\x04"[..], "x.zip"),
            (b"", "x.tar"),
            (b"PAR1", "x.parquet"),
            (b"", "x.csv"),
            (b"path,label\n", "y.csv"),
        ][form];
        let here = Here::new();
        let tail = if form == 2 { &b"PAR1"[..] } else { b"" };
        let _ = index(&here.put(name, &[magic, &noise, tail].concat()));
    }
}
