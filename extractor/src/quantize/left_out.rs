//! The test side of a split file: images that nothing is tried out on.
//!
//! Reads the forms that `head-trainer train --split` takes: columns `id,split`, `path,split` or `class,file,split`,
//! where the last is any whose name begins with `split`. Images that the file does not name are not left out:
//! whether a split is complete is for a training to say. Must not know what a split is for.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use csv::ByteRecord;

use crate::digest::ImageId;
use crate::files::{counted, escape_path};
use crate::index::Index;

/// What names the images.
enum Key {
    Id(usize),
    Path(usize),
    ClassAndFile(usize, usize),
}

/// The images of a split's test side.
#[derive(Debug, Default)]
pub struct LeftOut {
    file: PathBuf,
    ids: HashSet<ImageId>,
    paths: HashSet<Vec<u8>>,
}

/// The file is no split.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the split {}", escape_path(path))]
pub struct SplitError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub source: Wrong,
}

/// What is wrong with a split.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// It cannot be read as a table.
    #[error(transparent)]
    Csv(#[from] csv::Error),
    /// Its columns name no image or no side.
    #[error("its header is `{0}` (hint: expected `id,split`, `path,split` or `class,file,split`)")]
    Header(String),
    /// An id that is none.
    #[error("line {0} has no image id")]
    Id(u64),
    /// No row is on the test side.
    #[error("it has no row whose side is test (hint: leave out --split)")]
    NoTest,
    /// What its test side names is not in the data set.
    #[error(
        "none of the {} that its test side names is in the data set (hint: it may be of another data set, or of \
         paths from another folder)",
        counted(*.0, "image")
    )]
    NoneThere(usize),
}

impl LeftOut {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read or is no split.
    pub fn read(path: &Path) -> Result<LeftOut, SplitError> {
        let wrong = |source| SplitError {
            path: path.to_owned(),
            source,
        };
        LeftOut::parse(path).map_err(wrong)
    }

    fn parse(path: &Path) -> Result<LeftOut, Wrong> {
        let mut reader = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .comment(Some(b'#'))
            .from_path(path)?;
        let header = reader.byte_headers()?.clone();
        let named = |name: &str| {
            let same = |field: &[u8]| field.eq_ignore_ascii_case(name.as_bytes());
            header.iter().position(same)
        };
        let begins = |field: &[u8]| field.to_ascii_lowercase().starts_with(b"split");
        let key = match (named("id"), named("path"), named("class"), named("file")) {
            (Some(id), ..) => Some(Key::Id(id)),
            (_, Some(path), ..) => Some(Key::Path(path)),
            (_, _, Some(class), Some(file)) => Some(Key::ClassAndFile(class, file)),
            _ => None,
        };
        let (Some(key), Some(side)) = (key, header.iter().position(begins)) else {
            let fields: Vec<_> = header.iter().map(String::from_utf8_lossy).collect();
            return Err(Wrong::Header(fields.join(",").chars().take(100).collect()));
        };
        let mut left_out = LeftOut {
            file: path.to_owned(),
            ..LeftOut::default()
        };
        let mut record = ByteRecord::new();
        while reader.read_byte_record(&mut record)? {
            if !record[side].eq_ignore_ascii_case(b"test") {
                continue;
            }
            match key {
                Key::Id(id) => {
                    let line = record.position().map_or(0, csv::Position::line);
                    let id = String::from_utf8_lossy(&record[id]).parse();
                    left_out.ids.insert(id.map_err(|_| Wrong::Id(line))?);
                }
                Key::Path(path) => {
                    let path = &record[path];
                    let path = path.strip_prefix(b"./").unwrap_or(path);
                    left_out.paths.insert(path.to_vec());
                }
                Key::ClassAndFile(class, file) => {
                    let path = [&record[class], b"/", &record[file]].concat();
                    left_out.paths.insert(path);
                }
            }
        }
        match left_out.ids.is_empty() && left_out.paths.is_empty() {
            true => Err(Wrong::NoTest),
            false => Ok(left_out),
        }
    }

    /// The images of `index` that are among them, under whatever path each is there once more.
    ///
    /// # Errors
    /// When there is none, as it is not this data set's split then.
    pub fn ids(&self, index: &Index) -> Result<HashSet<ImageId>, SplitError> {
        let named = index
            .iter()
            .filter(|entry| self.ids.contains(&entry.id) || self.paths.contains(entry.path));
        let ids: HashSet<ImageId> = named.map(|entry| entry.id).collect();
        match ids.is_empty() {
            true => Err(SplitError {
                path: self.file.clone(),
                source: Wrong::NoneThere(self.ids.len() + self.paths.len()),
            }),
            false => Ok(ids),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::index::Entry;

    fn read(text: &str) -> Result<LeftOut, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        LeftOut::read(file.path()).map_err(|e| e.source.to_string())
    }

    /// Images by path and what is in them.
    fn index(images: &[(&str, &str)]) -> Index {
        let mut index = Index::new(Vec::new());
        for (path, bytes) in images {
            index.push(Entry {
                id: Digest::of(bytes.as_bytes()),
                path: path.as_bytes(),
                label: None,
            });
        }
        index
    }

    #[test]
    fn every_form_names_the_test_side() {
        let (id, other) = (Digest::of(b"one"), Digest::of(b"two"));
        let index = index(&[("Cat/1.jpg", "one"), ("Cat/2.jpg", "two")]);
        for text in [
            format!("# headstart split v1\n# mode: rank\nid,split\n{id},test\n{other},train\n"),
            "path,Split\n./Cat/1.jpg,Test\nCat/2.jpg,train\n".to_owned(),
            "class,file,splitA\nCat,1.jpg,test\nCat,2.jpg,val\n".to_owned(),
        ] {
            let ids = read(&text).unwrap().ids(&index).unwrap();
            assert_eq!(ids, HashSet::from([id]), "{text}");
        }
    }

    #[test]
    fn a_later_copy_names_its_image() {
        let index = index(&[("a", "same"), ("b", "other"), ("c", "same")]);
        let left_out = read("path,split\nc,test\nb,train\n").unwrap();
        let ids = left_out.ids(&index).unwrap();
        assert_eq!(ids, HashSet::from([Digest::of(b"same")]));
    }

    #[test]
    fn a_split_of_another_data_set_is_refused() {
        let left_out = read("path,split\nb,test\nc,test\na,train\n").unwrap();
        let error = left_out.ids(&index(&[("a", "one")])).unwrap_err();
        let expected = "none of the 2 images that its test side names is in the data set (hint: ";
        let reason = error.source.to_string();
        assert!(reason.starts_with(expected), "{reason}");
        assert_eq!(error.path, left_out.file);
    }

    #[test]
    fn what_is_no_split_is_refused() {
        for (text, expected) in [
            ("class,split\nCat,test\n", "its header is `class,split`"),
            ("id,side\nx,test\n", "its header is `id,side`"),
            ("id,split\nx,test\n", "line 2 has no image id"),
            ("path,split\na,train\n", "no row whose side is test"),
            ("path,split\na\n", "found record with 1 fields"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
