//! The sample set as a folder: its bytes, and what it refuses to touch.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::*;
use crate::digest::Digest;

/// SHA-256 over the pictures of [`small`], in the order of their paths. A change here calls for a
/// new [`GENERATOR`].
const GOLDEN: &str = "9a7e2cae18e56d31c47b435a7ca1acdc938d24c630a1f358156629e386e4d9a1";

/// A set of ten pictures per class in a new folder.
fn small(folder: &tempfile::TempDir) -> SampleOptions {
    SampleOptions {
        out: folder.path().join("set"),
        per_class: 10,
        seed: 0,
    }
}

fn pictures(options: &SampleOptions) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Class::ALL
        .iter()
        .flat_map(|class| std::fs::read_dir(options.out.join(class.name())).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
}

#[test]
fn bytes_are_the_same_on_every_machine() {
    let folder = tempfile::tempdir().unwrap();
    let options = small(&folder);
    let seen = Mutex::new(BTreeSet::new());
    let summary = write(&options, &|done| {
        seen.lock().unwrap().insert(done);
    })
    .unwrap();
    assert_eq!((summary.images, summary.written), (20, 20));
    assert_eq!(seen.into_inner().unwrap(), (1..=20).collect());

    let paths = pictures(&options);
    assert_eq!(paths.len(), 20);
    assert!(paths[0].ends_with("rings/0000.jpg") && paths[19].ends_with("stripes/0009.jpg"));
    let bytes: Vec<u8> = paths
        .iter()
        .flat_map(|path| std::fs::read(path).unwrap())
        .collect();
    assert_eq!(summary.size_bytes, bytes.len() as u64);
    assert_eq!(Digest::of(&bytes).to_string(), GOLDEN);
}

#[test]
fn all_pictures_decode_and_differ() {
    let folder = tempfile::tempdir().unwrap();
    let options = small(&folder);
    write(&options, &|_| ()).unwrap();
    let mut sizes = BTreeSet::new();
    let mut digests = BTreeSet::new();
    for path in pictures(&options) {
        let picture = image::open(&path).unwrap();
        assert_eq!(picture.color(), image::ColorType::Rgb8);
        sizes.insert((picture.width(), picture.height()));
        digests.insert(Digest::of_file(&path).unwrap());
    }
    assert!(sizes.len() > 15, "{sizes:?}");
    assert_eq!(digests.len(), 20);
}

#[test]
fn a_second_run_completes_and_leaves_the_rest_alone() {
    let folder = tempfile::tempdir().unwrap();
    let options = small(&folder);
    write(&options, &|_| ()).unwrap();
    let first = options.out.join("rings/0000.jpg");
    let digest = Digest::of_file(&first).unwrap();
    let own = options.out.join("rings/my-own.jpg");
    std::fs::write(&own, b"mine").unwrap();
    assert_eq!(write(&options, &|_| ()).unwrap().written, 0);

    std::fs::remove_file(&first).unwrap();
    assert_eq!(write(&options, &|_| ()).unwrap().written, 1);
    assert_eq!(Digest::of_file(&first).unwrap(), digest);
    assert_eq!(std::fs::read(&own).unwrap(), b"mine");
    assert_eq!(
        pictures(&options).len(),
        21,
        "no temporary files stay behind"
    );
}

#[test]
fn a_larger_set_contains_the_smaller_one() {
    let encode = |index, seed| Digest::of(&encode(Class::Stripes, index, seed).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let options = SampleOptions {
        per_class: 3,
        seed: 9,
        ..small(&folder)
    };
    write(&options, &|_| ()).unwrap();
    let path = options.out.join("stripes/0002.jpg");
    assert_eq!(Digest::of_file(&path).unwrap(), encode(2, 9));
    assert_ne!(encode(2, 9), encode(2, 8));
}

#[test]
fn refuses_a_folder_with_something_else_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let options = SampleOptions {
        out: folder.path().to_owned(),
        ..small(&folder)
    };
    std::fs::write(folder.path().join("letter.txt"), b"dear").unwrap();
    let error = write(&options, &|_| ()).unwrap_err();
    assert!(matches!(error, SampleError::Foreign(_)), "{error}");
    assert!(
        error.to_string().ends_with("(hint: name a new folder)"),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn refuses_a_set_made_with_other_options() {
    let folder = tempfile::tempdir().unwrap();
    let options = SampleOptions {
        per_class: 1,
        ..small(&folder)
    };
    write(&options, &|_| ()).unwrap();
    let error = write(
        &SampleOptions {
            seed: 5,
            ..options.clone()
        },
        &|_| (),
    )
    .unwrap_err();
    let expected = "holds another sample set: generator 1, seed 0, 1 images per class; \
                    asked for generator 1, seed 5, 1 images per class";
    assert!(error.to_string().contains(expected), "{error}");

    std::fs::write(options.out.join(MARKER), "seed = what").unwrap();
    assert!(matches!(
        write(&options, &|_| ()),
        Err(SampleError::Marker { .. })
    ));
}

#[test]
fn refuses_options_out_of_range() {
    let folder = tempfile::tempdir().unwrap();
    for per_class in [0, 10_001] {
        let options = SampleOptions {
            per_class,
            ..small(&folder)
        };
        assert!(matches!(
            write(&options, &|_| ()),
            Err(SampleError::PerClass(_))
        ));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn every_seed_can_be_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let options = SampleOptions {
        seed: u64::MAX,
        per_class: 1,
        ..small(&folder)
    };
    assert_eq!(write(&options, &|_| ()).unwrap().written, 2);
    assert_eq!(write(&options, &|_| ()).unwrap().written, 0);
}
