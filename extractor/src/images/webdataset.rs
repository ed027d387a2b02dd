//! WebDataset's form of a tar: `KEY.jpg` with its label in `KEY.cls`, `KEY.json` or `KEY.txt`.
//!
//! The key is a member's path up to the first dot of its last component, as WebDataset has it. A
//! tar is taken for one if an image has a `.cls`; or if class folders do not tell its images apart
//! and there are labels in `.json` or `.txt` (which elsewhere holds captions); or if a key in the
//! `.json` members is asked for, which then alone is looked at. Otherwise its folders are the
//! classes. Must not know of tar.

use std::io::Read;

use rayon::prelude::*;

use super::archive::{Container, read_within};
use super::listing::{Members, UNLABELLED, compare_paths};
use super::names::Names;
use super::{Columns, Listing};
use crate::decode::{self, has_image_extension};
use crate::walk::Skipped;

/// A label is at most this long; a longer text is no label.
const MAX_LABEL_BYTES: u64 = 100;
const MAX_JSON_BYTES: u64 = 1 << 20;

/// The members that may label one key's images, by the container's numbers.
#[derive(Default, Clone, Copy)]
struct Sidecars {
    cls: Option<u64>,
    json: Option<u64>,
    txt: Option<u64>,
}

/// The listing by sidecars, if the names are those of a WebDataset. Otherwise the names have lost
/// their common folders, as [`Names::by_folder`] wants them.
///
/// # Errors
/// When no member has the label that is asked for.
pub(super) fn list(
    names: &mut Names,
    container: &dyn Container,
    columns: &Columns,
) -> Result<Option<Listing>, String> {
    let asked = columns.label_column.as_deref();
    let listed = list_keys(names, container, columns);
    match (&listed, asked) {
        (None, Some(column)) => Err(format!(
            "has no label `{column}` in .json members (hint: --label-column is the name of a label \
             in KEY.json beside KEY.jpg; without it, .cls members or folders give the classes)"
        )),
        _ => Ok(listed),
    }
}

fn list_keys(names: &mut Names, container: &dyn Container, columns: &Columns) -> Option<Listing> {
    let asked = columns.label_column.is_some();
    let sidecars = names.paths.iter().any(|path| is_sidecar(key(path).1));
    let order = if sidecars { by_key(names) } else { Vec::new() };
    let by_cls = !asked && {
        let mut keys = order.chunk_by(|a, b| key_at(names, *a) == key_at(names, *b));
        let is_image = |i: &u32| is_image(names, container, *i);
        keys.any(|of| Sidecars::of(names, of).cls.is_some() && of.iter().any(is_image))
    };
    names.strip_common_folders();
    let told_apart = names.image_folders() > 1;
    if !sidecars || !(by_cls || asked || !told_apart) {
        return None;
    }
    let keys = order.chunk_by(|a, b| key_at(names, *a) == key_at(names, *b));
    let mut members = Members::default();
    let mut skipped = Vec::new();
    let mut labelled = false;
    for of in keys {
        let sidecars = Sidecars::of(names, of);
        let mut label = None; // once it is needed
        for &i in of {
            let (path, at) = (names.paths.get(i as usize), names.places[i as usize]);
            if is_sidecar(key(path).1) {
                continue;
            }
            let label = label.get_or_insert_with(|| sidecars.label(container, columns));
            let class = match label {
                Ok(Some(label)) => {
                    labelled = labelled || is_image(names, container, i);
                    members.class(label)
                }
                Ok(None) => UNLABELLED,
                Err(reason) if is_image(names, container, i) => {
                    skipped.push(Skipped {
                        path: path.to_vec(),
                        reason: reason.clone(),
                    });
                    continue;
                }
                Err(_) => UNLABELLED,
            };
            members.member(path, class, at);
        }
    }
    if !labelled && !by_cls {
        return None;
    }
    skipped.append(&mut names.skipped);
    Some(members.listing(skipped, names.ignored))
}

/// A path's key and what follows its first dot.
fn key(path: &[u8]) -> (&[u8], &[u8]) {
    let base = path.iter().rposition(|&b| b == b'/').map_or(0, |i| i + 1);
    match path[base..].iter().position(|&b| b == b'.') {
        Some(dot) => (&path[..base + dot], &path[base + dot + 1..]),
        None => (path, b""),
    }
}

fn key_at(names: &Names, position: u32) -> &[u8] {
    key(names.paths.get(position as usize)).0
}

/// The members' positions, those of one key side by side.
fn by_key(names: &Names) -> Vec<u32> {
    let mut order: Vec<u32> = (0..names.len() as u32).collect();
    order.par_sort_unstable_by(|&a, &b| {
        compare_paths(key_at(names, a), key_at(names, b)).then(a.cmp(&b))
    });
    order
}

fn is_sidecar(extension: &[u8]) -> bool {
    [&b"cls"[..], b"json", b"txt"]
        .iter()
        .any(|e| extension.eq_ignore_ascii_case(e))
}

/// Whether a member is an image by its name or, if it is no sidecar, by its content.
fn is_image(names: &Names, container: &dyn Container, position: u32) -> bool {
    let path = names.paths.get(position as usize);
    if has_image_extension(path) || is_sidecar(key(path).1) {
        return has_image_extension(path);
    }
    let at = names.places[position as usize];
    let head = read_within(container, at, u64::MAX, &mut |reader| {
        let mut head = Vec::with_capacity(64);
        reader.take(64).read_to_end(&mut head)?;
        Ok(head)
    });
    head.is_ok_and(|head| matches!(decode::recognise(&head), decode::Kind::Supported(_)))
}

impl Sidecars {
    /// The sidecars among the members of one key.
    fn of(names: &Names, members: &[u32]) -> Sidecars {
        let mut of = Sidecars::default();
        for &i in members {
            let extension = key(names.paths.get(i as usize)).1;
            let at = Some(names.places[i as usize]);
            match extension.to_ascii_lowercase().as_slice() {
                b"cls" => of.cls = at,
                b"json" => of.json = at,
                b"txt" => of.txt = at,
                _ => {}
            }
        }
        of
    }

    /// The label that they give.
    fn label(self, container: &dyn Container, columns: &Columns) -> Result<Option<String>, String> {
        let read = |at: u64, limit: u64| {
            read_within(container, at, limit, &mut |reader| {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes)?;
                Ok(bytes)
            })
        };
        let asked = columns.label_column.is_some();
        if let (Some(at), false) = (self.cls, asked) {
            let text = read(at, MAX_LABEL_BYTES).ok().and_then(as_label);
            let reason = "its .cls member is no short text";
            return text.map(Some).ok_or_else(|| reason.to_owned());
        }
        if let Some(at) = self.json {
            let bytes = read(at, MAX_JSON_BYTES).map_err(|e| format!("its .json member: {e}"))?;
            let value: serde_json::Value = serde_json::from_slice(&bytes)
                .map_err(|e| format!("its .json member is no JSON: {e}"))?;
            if let Some(label) = columns.label_in(&value) {
                return Ok(Some(label));
            }
        }
        let text = self.txt.filter(|_| !asked);
        let text = text.and_then(|at| read(at, MAX_LABEL_BYTES).ok());
        Ok(text.and_then(as_label))
    }
}

/// One line of text.
fn as_label(bytes: Vec<u8>) -> Option<String> {
    let text = String::from_utf8(bytes).ok()?;
    let text = text.trim();
    (!text.is_empty() && !text.contains(['\n', '\r', '\0'])).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn keys() {
        assert_eq!(key(b"a.b/c.left.jpg"), (&b"a.b/c"[..], &b"left.jpg"[..]));
        assert_eq!(key(b"a.b/c"), (&b"a.b/c"[..], &b""[..]));
    }

    struct Texts(Vec<&'static str>);

    impl Container for Texts {
        fn with(
            &self,
            at: u64,
            use_it: &mut dyn FnMut(&mut dyn Read) -> io::Result<()>,
        ) -> io::Result<()> {
            use_it(&mut self.0[at as usize].as_bytes())
        }
    }

    fn listed(
        members: &[(&str, &'static str)],
        column: Option<&str>,
    ) -> Result<Option<Vec<String>>, String> {
        let mut names = Names::default();
        for (i, (path, _)) in members.iter().enumerate() {
            names.file(path.as_bytes(), i as u64);
        }
        let texts = Texts(members.iter().map(|(_, text)| *text).collect());
        let columns = Columns {
            label_column: column.map(str::to_owned),
            ..Columns::default()
        };
        names.settle();
        let Some(listing) = list(&mut names, &texts, &columns)? else {
            return Ok(None);
        };
        let line = |(path, label): (&[u8], &i32)| {
            let class = usize::try_from(*label).map_or("-", |c| &listing.classes[c]);
            format!("{} {class}", crate::files::escape(path))
        };
        let skipped = listing.skipped.iter();
        let skipped = skipped.map(|s| format!("{}: {}", crate::files::escape(&s.path), s.reason));
        let members = listing.paths.iter().zip(listing.labels.iter()).map(line);
        Ok(Some(members.chain(skipped).collect()))
    }

    #[test]
    fn labels_of_sidecars() {
        let cls = [("s/1.jpg", ""), ("s/1.cls", "cat\n"), ("s/2.jpg", "")];
        assert_eq!(
            listed(&cls, None).unwrap().unwrap(),
            ["s/1.jpg cat", "s/2.jpg -"]
        );
        let txt = [
            ("1.jpg", ""),
            ("1.txt", "dog"),
            ("2.jpg", ""),
            ("2.txt", "a\ncaption"),
        ];
        assert_eq!(
            listed(&txt, None).unwrap().unwrap(),
            ["1.jpg dog", "2.jpg -"]
        );
        let json = [
            ("1.jpg", ""),
            ("1.json", r#"{"label": 3, "kind": "x"}"#),
            ("2.jpg", ""),
            ("2.json", "{"),
        ];
        let listing = listed(&json, None).unwrap().unwrap();
        assert_eq!(listing[0], "1.jpg 3");
        assert!(listing[1].contains("no JSON"), "{}", listing[1]);
        assert_eq!(listed(&json, Some("kind")).unwrap().unwrap()[0], "1.jpg x");
    }

    #[test]
    fn captions_beside_class_folders_are_no_labels() {
        let captions = [("Cat/1.jpg", ""), ("Cat/1.txt", "a cat"), ("Dog/1.jpg", "")];
        assert_eq!(listed(&captions, None), Ok(None));
        assert_eq!(
            listed(&[("Cat/1.jpg", ""), ("readme.txt", "x")], None),
            Ok(None)
        );
    }

    #[test]
    fn a_column_that_is_asked_for_counts_alone() {
        let members = [
            ("1.jpg", ""),
            ("1.cls", "7"),
            ("1.txt", "a caption"),
            ("1.json", r#"{"kind": "x"}"#),
            ("2.jpg", ""),
            ("2.cls", "8"),
            ("2.txt", "another"),
        ];
        let found = listed(&members, Some("kind")).unwrap().unwrap();
        assert_eq!(found, ["1.jpg x", "2.jpg -"]);
        let error = listed(&members, Some("knid")).unwrap_err();
        assert!(error.contains("`knid`"), "{error}");
    }

    #[test]
    fn labels_go_by_key_whatever_the_extension() {
        let jpeg = "GIF89a";
        let members = [
            ("1.bin", jpeg),
            ("1.cls", "cat"),
            ("2", jpeg),
            ("2-more.bin", jpeg),
            ("2-more.cls", "dog"),
            ("2.cls", "cow"),
            ("3.npy", "clutter"),
            ("3.cls", "a\nb"),
            ("4.dat", jpeg),
            ("4.cls", "a\nb"),
        ];
        let found = listed(&members, None).unwrap().unwrap();
        let expected = [
            "1.bin cat",
            "2 cow",
            "2-more.bin dog",
            "3.npy -",
            "4.dat: its .cls member is no short text",
        ];
        assert_eq!(found, expected);
        // A LaTeX class beside its text.
        let latex = [("a/x.cls", "text"), ("a/x.tex", ""), ("Cat/1.jpg", "")];
        assert_eq!(listed(&latex, None), Ok(None));
    }
}
