//! Every file of `bad.tar`, a collection of broken and unusual inputs, with what must become of
//! it: in the library, and in a run of the built binary.

mod common;
#[path = "bad_inputs/table.rs"]
mod table;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use extractor::decode::{Exif, RgbImage, decode_oriented, decode_rgb8};
use extractor::files::escape;
use extractor::index::{DigestCache, Index, Indexed};

use table::Expected::{self, *};
use table::{ensure, table, the_base, within};

/// Unpacks the archive into `folder` and returns its root.
fn unpack(data: &Path, folder: &Path) -> PathBuf {
    let status = Command::new("tar")
        .args(["--extract", "--file"])
        .arg(data.join("bad.tar"))
        .arg("--directory")
        .arg(folder)
        .status()
        .expect("GNU tar");
    assert!(status.success(), "tar failed");
    folder.join("bad")
}

/// Everything below `folder`, links not followed, as paths relative to `root`.
fn everything(root: &Path, folder: &Path, found: &mut Vec<Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let relative = path.strip_prefix(root).unwrap();
        found.push(relative.as_os_str().as_bytes().to_vec());
        if path.symlink_metadata().unwrap().is_dir() {
            everything(root, &path, found);
        }
    }
}

/// What is wrong with what became of one file; an empty text if nothing.
fn judge(
    path: &[u8],
    expected: &Expected,
    root: &Path,
    indexed: &Indexed,
    base: &RgbImage,
) -> Result<(), String> {
    let file = root.join(OsStr::from_bytes(path));
    let in_index = indexed.index.iter().any(|e| e.path == path);
    let skipped = indexed.skipped.iter().find(|s| s.path == path);
    let decode = || {
        ensure(in_index, || format!("is not in the index: {skipped:?}"))?;
        let bytes = fs::read(&file).map_err(|e| e.to_string())?;
        let (first, again) = (decode_rgb8(&bytes), decode_rgb8(&bytes));
        let texts = [&first, &again].map(|r| r.as_ref().map_err(ToString::to_string));
        ensure(texts[0] == texts[1], || "decodes in two ways".to_owned())?;
        Ok::<_, String>(first)
    };
    match expected {
        Decoded(width, height, check) => {
            let image = decode()?.map_err(|e| format!("is refused: {e}"))?;
            let size = (image.width, image.height);
            ensure(size == (*width, *height), || format!("is {size:?}"))?;
            check(&image, base)
        }
        Rejected(reason) => match decode()? {
            Ok(_) => Err("is decoded".to_owned()),
            Err(e) => ensure(e.to_string().contains(reason), || format!("refused: {e}")),
        },
        Skipped(reason) => {
            let found = skipped.map(|s| s.reason.as_str());
            ensure(found.is_some_and(|f| f.contains(reason)), || {
                format!("skipped: {found:?}")
            })?;
            ensure(!in_index, || "is in the index too".to_owned())
        }
        Ignored | Folder => ensure(!in_index && skipped.is_none(), || {
            format!("is not passed over: in the index {in_index}, skipped {skipped:?}")
        }),
        BaseIfReadable => {
            let as_expected = match fs::File::open(&file) {
                Ok(_) => Decoded(180, 180, the_base),
                Err(_) => Skipped("permission denied"),
            };
            judge(path, &as_expected, root, indexed, base)
        }
    }
}

#[test]
fn every_file_ends_as_documented() {
    let Some(data) = common::test_data() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let root = unpack(&data, folder.path());
    let table: BTreeMap<Vec<u8>, Expected> = table().into_iter().collect();
    let mut found = Vec::new();
    everything(&root, &root, &mut found);
    found.sort();
    let names = |paths: &[Vec<u8>]| paths.iter().map(|p| escape(p)).collect::<Vec<_>>();
    let in_table: Vec<_> = table.keys().cloned().collect();
    assert_eq!(names(&found), names(&in_table), "archive and table differ");

    let indexed = Index::of_folder(&root, &DigestCache::default(), || ()).unwrap();
    let base = decode_rgb8(&fs::read(root.join("names/x.jpeg")).unwrap()).unwrap();
    let wrong: Vec<_> = table
        .iter()
        .filter_map(|(path, expected)| {
            let judged = judge(path, expected, &root, &indexed, &base);
            judged.err().map(|e| format!("{}: {e}", escape(path)))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let ignored = table.values().filter(|e| matches!(e, Ignored)).count();
    assert_eq!(indexed.ignored, ignored);
    assert_eq!(indexed.index.classes, ["clutter", "links", "names"]);
    assert_eq!(indexed.empty_classes, ["empty_class"]);
    let files = table.len() - ignored - table.values().filter(|e| matches!(e, Folder)).count();
    let dealt_with = indexed.index.len() + indexed.skipped.len();
    assert_eq!(dealt_with, files, "no file is counted twice");
}

#[test]
fn sixteen_bits_are_scaled_not_cut() {
    let Some(data) = common::test_data() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let root = unpack(&data, folder.path());
    let path = root.join("gray16.png");
    let image::DynamicImage::ImageLuma16(deep) = image::open(&path).unwrap() else {
        panic!("not 16 bits")
    };
    let expected = deep
        .iter()
        .flat_map(|v| [(f64::from(*v) * 255.0 / 65535.0).round() as u8; 3]);
    let found = decode_rgb8(&fs::read(&path).unwrap()).unwrap().pixels;
    assert!(found.iter().copied().eq(expected));
}

#[test]
fn exif_orientation_is_applied_when_asked_for() {
    let Some(data) = common::test_data() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let root = unpack(&data, folder.path());
    let read = |name: &str| fs::read(root.join(name)).unwrap();
    let base = decode_rgb8(&read("names/x.jpeg")).unwrap();
    let turned = decode_oriented(&read("exif_orientation6.jpg"), Exif::Apply).unwrap();
    within(&turned.pixels, &base.pixels, 1.6, 20).unwrap();
    for name in ["exif_orientation99.jpg", "exif_corrupt.jpg", "gray.jpg"] {
        let applied = decode_oriented(&read(name), Exif::Apply).unwrap();
        assert_eq!(applied, decode_rgb8(&read(name)).unwrap(), "{name}");
    }
}

/// The binary on the whole tree and on broken files with awkward names: exit 3, one line for each
/// file that is left out, whatever its name, and no more memory than ordinary images take.
#[test]
fn the_binary_names_each_on_one_line_and_stays_small() {
    let Some(data) = common::test_data() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let root = unpack(&data, folder.path());
    let mut expected: Vec<(Vec<u8>, &str)> = Vec::new();
    for (path, expectation) in table() {
        match expectation {
            Rejected(reason) | Skipped(reason) => expected.push((path, reason)),
            BaseIfReadable if fs::File::open(root.join(OsStr::from_bytes(&path))).is_err() => {
                expected.push((path, "permission denied"));
            }
            _ => (),
        }
    }
    let whole = fs::read(root.join("names/x.jpeg")).unwrap();
    let odd = [
        &b"new\nline"[..],
        b"tab\there",
        b"return\rhere",
        b"latin1_\xe9",
        b"\x1b[31mred",
        b"back\\slash",
        "猫".as_bytes(),
    ];
    fs::create_dir(root.join("broken\nclass")).unwrap();
    for (i, name) in odd.into_iter().enumerate() {
        let path = [b"broken\nclass/cut_", name, b".jpg"].concat();
        // Each is cut elsewhere: as twins they would be one image.
        fs::write(root.join(OsStr::from_bytes(&path)), &whole[..4000 + i]).unwrap();
        expected.push((path, "broken JPEG: Exhausted data"));
        let path = [b"broken\nclass/page_", name, b".jpg"].concat();
        fs::write(root.join(OsStr::from_bytes(&path)), b"<html>").unwrap();
        expected.push((path, "not an image"));
    }

    // Decoded, the smallest of the bombs would take 2.7 GB.
    let limit_kib = 2_500_000;
    let shell = format!(
        "ulimit -v {limit_kib}; exec '{}' features --quiet --ep cpu --threads 2 --batch-size 8 \
         --backbone '{}' '{}'",
        env!("CARGO_BIN_EXE_extractor"),
        common::small_backbone().display(),
        root.display()
    );
    for _ in 0..2 {
        let assert = assert_cmd::Command::new("sh")
            .args(["-c", &shell])
            .env("ORT_DYLIB_PATH", common::library())
            .env("HEADSTART_DATA_DIR", folder.path().join("data"))
            .env_remove("HEADSTART_LOG")
            .timeout(std::time::Duration::from_secs(300)) // the pipe must not be opened
            .assert()
            .code(3);
        let stderr = String::from_utf8(assert.get_output().stderr.clone()).expect("UTF-8");
        let (log, mut lines): (Vec<_>, Vec<_>) =
            stderr.lines().partition(|line| line.starts_with(" WARN"));
        let summary = format!("{} images skipped, each named above", expected.len());
        for warning in ["class folder empty_class has no image", &summary] {
            let said = log.iter().any(|line| line.contains(warning));
            assert!(said, "{warning} is not in\n{stderr}");
        }
        for (path, reason) in &expected {
            let start = format!("{}: ", escape(path));
            let at = lines
                .iter()
                .position(|line| line.starts_with(&start) && line.contains(reason));
            match at {
                Some(at) => drop(lines.remove(at)),
                None => panic!("{start}{reason} is not in\n{stderr}"),
            }
        }
        assert!(lines.is_empty(), "more lines: {lines:?}");
    }
}
