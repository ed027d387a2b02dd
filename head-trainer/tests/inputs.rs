//! Training on a data set that is no folder: its index is found by its path, and every image is on
//! the side that it has as a file in a folder.

mod common;

use std::fs;
use std::path::Path;

use common::{Made, MadeUp};
use extractor::cli::common::default_index_path;
use extractor::images::{Columns, DataSet};
use extractor::index::{DigestCache, Index};
use extractor::store::Dtype;

/// Indexes a data set where `extractor features` would.
fn index(data: &Path, set: &Path) -> Index {
    let path = default_index_path(data, set).unwrap();
    let opened = DataSet::open(set, &Columns::default()).unwrap();
    let index = Index::of(&opened, &DigestCache::default(), || ()).unwrap();
    index.index.write(&path, set).unwrap();
    index.index
}

/// Trains and returns the split: `id,side` lines, sorted.
fn sides(data: &Path, set: &Path) -> Vec<String> {
    let mut command = common::head_trainer(data);
    command.arg("train").arg(set).assert().code(0);
    let split = default_index_path(data, set)
        .unwrap()
        .with_extension("split.csv");
    let text = fs::read_to_string(split).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let mut lines: Vec<String> = lines.map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn an_image_keeps_its_side_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let (data, root) = (folder.path().join("data"), folder.path().join("pets"));
    let mut manifest = String::new();
    for (label, class) in ["Cat", "Dog"].iter().enumerate() {
        fs::create_dir_all(root.join(class)).unwrap();
        for n in 0..40_u8 {
            // Enough of an image for an index, which goes by the first bytes.
            let bytes = [b"\x89PNG\r\n\x1a\n", &[label as u8, n][..]].concat();
            fs::write(root.join(class).join(format!("{n}.png")), bytes).unwrap();
            manifest = format!("pets/{class}/{n}.png,{class}\n{manifest}");
        }
    }
    let csv = folder.path().join("pets.csv");
    fs::write(&csv, format!("path,label\n{manifest}")).unwrap();
    let mut made_up = MadeUp::new(&["Cat", "Dog"], 0);
    made_up.entries = index(&data, &root)
        .iter()
        .map(|entry| Made {
            id: entry.id,
            path: entry.path.to_vec(),
            label: entry.label,
        })
        .collect();
    let all: Vec<usize> = (0..made_up.entries.len()).collect();
    made_up.write_rows(&data, &all, Dtype::F32);
    let listed = index(&data, &csv);
    assert_eq!(
        (listed.len(), listed.entry(0).path),
        (80, &b"pets/Cat/0.png"[..])
    );

    let by_folder = sides(&data, &root);
    assert!(by_folder.len() > 80, "{by_folder:?}");
    assert_eq!(sides(&data, &csv), by_folder);
}
