//! The test side of a split file: images that nothing is tried out on.
//!
//! Reads the forms that `head-trainer train --split` takes: columns `id,split`, `path,split` or `class,file,split`,
//! where the last is any whose name begins with `split`. Images that the file does not name are not left out:
//! whether a split is complete is for a training to say. Must not know what a split is for.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use csv::ByteRecord;

use crate::digest::ImageId;
use crate::files::escape_path;
use crate::index::Entry;

/// What names the images.
enum Key {
    Id(usize),
    Path(usize),
    ClassAndFile(usize, usize),
}

/// The images of a split's test side.
#[derive(Debug, Default)]
pub struct LeftOut {
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
}

impl LeftOut {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read or is no split.
    pub fn read(path: &Path) -> Result<LeftOut, SplitError> {
        LeftOut::parse(path).map_err(|source| SplitError {
            path: path.to_owned(),
            source,
        })
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
        let mut left_out = LeftOut::default();
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

    /// Whether the image is one of them.
    pub fn has(&self, entry: &Entry) -> bool {
        self.ids.contains(&entry.id) || self.paths.contains(entry.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn read(text: &str) -> Result<LeftOut, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        LeftOut::read(file.path()).map_err(|e| e.source.to_string())
    }

    fn has(left_out: &LeftOut, path: &str) -> bool {
        left_out.has(&Entry {
            id: Digest::of(path.as_bytes()),
            path: path.as_bytes(),
            label: None,
        })
    }

    #[test]
    fn every_form_names_the_test_side() {
        let id = Digest::of(b"Cat/1.jpg");
        let other = Digest::of(b"Cat/2.jpg");
        for text in [
            format!("# headstart split v1\n# mode: rank\nid,split\n{id},test\n{other},train\n"),
            "path,Split\n./Cat/1.jpg,Test\nCat/2.jpg,train\n".to_owned(),
            "class,file,splitA\nCat,1.jpg,test\nCat,2.jpg,val\n".to_owned(),
        ] {
            let left_out = read(&text).unwrap();
            assert!(has(&left_out, "Cat/1.jpg"), "{text}");
            assert!(!has(&left_out, "Cat/2.jpg"), "{text}");
        }
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
