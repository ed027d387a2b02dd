//! Manifests as text: a path and perhaps a label a line.
//!
//! Paths are relative to the manifest's folder. Absolute paths and `..` are allowed, unlike in
//! archives: a manifest is a list that somebody made of files that lie here, and an image is only
//! ever read. An absolute path below the manifest's folder is made relative, so that moving the data
//! set changes no path in the index; others stay absolute. Must not look at the files listed.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path};

use super::columns::list as list_columns;
use super::listing::{Members, UNLABELLED};
use super::{Columns, InputError, Listing};
use crate::decode::has_image_extension;
use crate::walk::Skipped;

/// Lists what the manifest at `path` says.
pub(super) fn list(path: &Path, tabs: bool, columns: &Columns) -> Result<Listing, InputError> {
    let file = File::open(path).map_err(InputError::io(path))?;
    let mut lines = BufReader::new(file);
    let mut first = Vec::new();
    let head = (&mut lines).take(1 << 20).read_until(b'\n', &mut first);
    head.map_err(InputError::io(path))?;
    let count = |b: u8| first.iter().filter(|&&x| x == b).count();
    let delimiter = match tabs {
        true => b'\t',
        false => [b',', b';', b'\t']
            .into_iter()
            .rev()
            .max_by_key(|&b| count(b))
            .expect("there are three"),
    };
    let quotes = Cell::new(0);
    let mut reader = ::csv::ReaderBuilder::new()
        .has_headers(false)
        .delimiter(delimiter)
        .from_reader(Counted {
            inner: Cursor::new(first).chain(lines),
            quotes: &quotes,
        });
    let damaged = |e: ::csv::Error| InputError::Damaged {
        path: path.to_owned(),
        format: "CSV",
        hint: "every line needs as many fields as the first; put quotes around a field with commas",
        source: e.into(),
    };
    let refused = |reason: String| InputError::refused(path, reason);

    let mut record = ::csv::ByteRecord::new();
    if !reader.read_byte_record(&mut record).map_err(damaged)? {
        return Err(refused("lists no file: it is empty".to_owned()));
    }
    let names: Vec<String> = record
        .iter()
        .map(|name| String::from_utf8_lossy(name).trim().to_owned())
        .collect();
    let (path_at, label_at, mut more) = match columns.path(&names).map_err(refused)? {
        Some(path_at) => {
            let label_at = columns.label(&names).map_err(refused)?;
            (
                path_at,
                label_at.filter(|&at| at != path_at),
                reader.read_byte_record(&mut record).map_err(damaged)?,
            )
        }
        // No header: the first line is a row already.
        None if columns.given_but(&[]).is_none()
            && names.len() <= 2
            && has_image_extension(&record[0]) =>
        {
            (0, (names.len() == 2).then_some(1), true)
        }
        None => {
            return Err(refused(format!(
                "has no column of paths by a usual name; it has {} (hint: --path-column NAME, \
                 --label-column NAME)",
                list_columns(&names)
            )));
        }
    };

    let root = &whole(crate::files::folder_of(path));
    let (mut members, mut skipped) = (Members::default(), Vec::new());
    let (mut last_line, mut last_is_broken) = (0, false);
    while more {
        let line = record.position().map_or(0, |p| p.line());
        let label = label_at.map_or(&b""[..], |at| &record[at]);
        let listed = record[path_at].trim_ascii();
        for (what, field) in [("path", listed), ("label", label.trim_ascii())] {
            if let Some(reason) = breaks(field, what) {
                return Err(refused(format!("line {line} has {reason}")));
            }
        }
        let label = std::str::from_utf8(label)
            .map_err(|_| refused(format!("line {line} has a label that is not UTF-8")))?;
        match tidy(listed, root) {
            Some(file) => {
                let class = match label.trim() {
                    "" => UNLABELLED,
                    label => members.class(label),
                };
                members.file(&file, class);
            }
            None => skipped.push(Skipped {
                path: format!("line {line}").into_bytes(),
                reason: "its path is empty".to_owned(),
            }),
        }
        last_is_broken = record.iter().any(|field| field.contains(&b'\n'));
        last_line = line;
        more = reader.read_byte_record(&mut record).map_err(damaged)?;
    }
    if last_is_broken && quotes.get() % 2 == 1 {
        return Err(refused(format!(
            "has a quote on line {last_line} or before that is never closed, so that lines behind \
             it would be lost (hint: close it, or double a quote that is part of a field)"
        )));
    }
    if members.len() == 0 {
        return Err(refused("lists no file".to_owned()));
    }
    Ok(members.listing(skipped, 0))
}

/// Why a field cannot be a path or a label.
fn breaks(field: &[u8], what: &str) -> Option<String> {
    match field.iter().find(|b| matches!(b, b'\n' | b'\r' | 0))? {
        0 => Some(format!("a {what} with a zero byte")),
        _ => Some(format!(
            "a {what} of several lines (hint: is there a quote that is never closed?)"
        )),
    }
}

/// Counts the quotes that it reads.
struct Counted<'a, R> {
    inner: R,
    quotes: &'a Cell<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let quotes = buffer[..n].iter().filter(|&&b| b == b'"').count();
        self.quotes.set(self.quotes.get() + quotes as u64);
        Ok(n)
    }
}

/// The absolute path of a manifest's folder, as absolute paths in the manifest may begin.
pub(super) fn whole(folder: &Path) -> Vec<u8> {
    let mut absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    if absolute.components().any(|c| c == Component::ParentDir) {
        absolute = absolute.canonicalize().unwrap_or(absolute);
    }
    absolute.into_os_string().into_vec()
}

/// A listed path as an index has it: without `./` and doubled slashes, relative if it can be.
pub(super) fn tidy(listed: &[u8], root: &[u8]) -> Option<Vec<u8>> {
    let mut path = listed.trim_ascii();
    if let Some(below) = path.strip_prefix(root).and_then(|p| p.strip_prefix(b"/"))
        && !root.is_empty()
    {
        path = below;
    }
    let parts: Vec<&[u8]> = path
        .split(|&b| b == b'/')
        .filter(|c| !c.is_empty() && *c != b".")
        .collect();
    let tidy = parts.join(&b'/');
    match (tidy.is_empty(), path.starts_with(b"/")) {
        (true, _) => None,
        (false, true) => Some([b"/", &tidy[..]].concat()),
        (false, false) => Some(tidy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn listed(text: &[u8], columns: &Columns) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.csv");
        let here = folder.path().as_os_str().as_bytes();
        let text: Vec<u8> = match text.strip_prefix(b"HERE") {
            Some(rest) => [b"path\n", here, rest].concat(),
            None => text.to_vec(),
        };
        std::fs::write(&path, text).unwrap();
        let listing = list(&path, false, columns).map_err(|error| {
            let mut text = error.to_string();
            if let Some(source) = std::error::Error::source(&error) {
                text += &format!(": {source}");
            }
            text
        })?;
        let members = listing
            .paths
            .iter()
            .zip(listing.labels.iter())
            .map(|(path, label)| {
                let class = usize::try_from(*label).map_or("-", |c| &listing.classes[c]);
                format!("{} {class}", crate::files::escape(path))
            });
        let skipped = listing
            .skipped
            .iter()
            .map(|s| crate::files::escape(&s.path));
        Ok(members.chain(skipped).collect())
    }

    #[test]
    fn paths_and_labels() {
        let usual = Columns::default();
        let cases: [(&[u8], &[&str]); 8] = [
            (
                b"path,note\n\"a.jpg\",\"two\nlines, and \"\"\"\n",
                &["a.jpg -"],
            ),
            (
                b"path,label\nb/1.jpg,Dog\na.jpg,\n./b//1.jpg,Dog\n",
                &["a.jpg -", "b/1.jpg Dog"],
            ),
            (
                b"\xef\xbb\xbflabel;file_name\r\n cat ; 1.jpg\r\n",
                &["1.jpg cat"],
            ),
            (b"id\tFilename\n3\t1.jpg\n", &["1.jpg -"]),
            (b"1.jpg,cat\n2.jpg,dog\n", &["1.jpg cat", "2.jpg dog"]),
            (
                b"path\n\"a,b.jpg\"\n/abs/1.jpg\n../up.jpg\n",
                &["/abs/1.jpg -", "../up.jpg -", "a,b.jpg -"],
            ),
            (b"HERE/in/1.jpg\n", &["in/1.jpg -"]),
            (
                b"path,label\n,cat\n\xff.jpg,cat\n",
                &["\\xFF.jpg cat", "line 2"],
            ),
        ];
        for (text, expected) in cases {
            let found = listed(text, &usual).unwrap();
            assert_eq!(found, expected, "{}", crate::files::escape(text));
        }
        let named = Columns {
            path_column: Some("a".to_owned()),
            label_column: Some("b".to_owned()),
            ..Columns::default()
        };
        assert_eq!(
            listed(b"a,path,b\n1.jpg,2.jpg,x\n", &named).unwrap(),
            ["1.jpg x"]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let usual = Columns::default();
        let cases: [(&[u8], &str); 10] = [
            (b"", "empty"),
            (
                b"path,label\na.jpg,\"cat\nb.jpg,dog\n",
                "line 2 has a label of several",
            ),
            (
                b"path,label\na.jpg,cat\n\"b.jpg,dog\nc.jpg,dog\n",
                "line: 3",
            ),
            (b"path\n\"b.jpg\nc.jpg\n", "line 2 has a path of several"),
            (b"path,label\na.jpg,c\0at\n", "zero byte"),
            (
                b"path,label,note\na.jpg,cat,\"x\"\nb.jpg,dog,\"y\nc.jpg,dog,z\n",
                "line 3 or before that is never closed",
            ),
            (b"path,label\n", "lists no file"),
            (b"path,label\na.jpg,cat\nb.jpg\n", "line: 3"),
            (b"one,two\n1,2\n", "one, two"),
            (b"path,label\na.jpg,\xff\n", "line 2"),
        ];
        for (text, word) in cases {
            let error = listed(text, &usual).unwrap_err();
            assert!(
                error.contains(word) && error.contains("list.csv"),
                "{error}"
            );
        }
    }
}
