//! WebDataset's form of a tar: `KEY.jpg` with its label in `KEY.cls`, `KEY.json` or `KEY.txt`.
//!
//! The key is a member's path up to the first dot of its last component, as WebDataset has it. A
//! tar is taken for one if an image has a `.cls`; or if class folders do not tell its images apart
//! and there are labels in `.json` or `.txt` (which elsewhere holds captions). Otherwise its folders
//! are the classes. Must not know of tar.

use std::collections::HashMap;

use super::archive::{Container, read_within};
use super::names::Names;
use super::{Columns, Listing};
use crate::decode::has_image_extension;
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

/// The listing by sidecars, if the names are those of a WebDataset; else `names` is as
/// [`Names::by_folder`] wants it.
pub(super) fn list(
    names: &mut Names,
    container: &dyn Container,
    columns: &Columns,
) -> Option<Listing> {
    let sidecars = sidecars(names);
    let images = || names.files.iter().filter(|(p, _)| has_image_extension(p));
    let of = |path: &[u8]| sidecars.get(key(path).0).copied().unwrap_or_default();
    let by_cls = images().any(|(path, _)| of(path).cls.is_some());
    let mut by_folder = names.clone();
    by_folder.strip_common_folders();
    let asked = columns.label_column.is_some();
    let told_apart = by_folder.image_folders() > 1;
    if !by_cls && (sidecars.is_empty() || (told_apart && !asked)) {
        *names = by_folder;
        return None;
    }
    let (mut found, mut skipped) = (Vec::new(), names.skipped.clone());
    let mut labelled = false;
    for (path, at) in &names.files {
        let (key, extension) = key(path);
        if sidecars.contains_key(key) && !has_image_extension(path) && is_sidecar(extension) {
            continue;
        }
        let label = match has_image_extension(path) {
            true => label(of(path), container, columns),
            false => Ok(None),
        };
        match label {
            Ok(label) => {
                labelled |= label.is_some();
                found.push((path.clone(), label, *at));
            }
            Err(reason) => skipped.push(Skipped {
                path: path.clone(),
                reason,
            }),
        }
    }
    if !labelled && !by_cls {
        *names = by_folder;
        return None;
    }
    Some(Listing::new(found, [], skipped, names.ignored))
}

/// A path's key and what follows its first dot.
fn key(path: &[u8]) -> (&[u8], &[u8]) {
    let base = path.iter().rposition(|&b| b == b'/').map_or(0, |i| i + 1);
    match path[base..].iter().position(|&b| b == b'.') {
        Some(dot) => (&path[..base + dot], &path[base + dot + 1..]),
        None => (path, b""),
    }
}

fn is_sidecar(extension: &[u8]) -> bool {
    [&b"cls"[..], b"json", b"txt"]
        .iter()
        .any(|e| extension.eq_ignore_ascii_case(e))
}

fn sidecars(names: &Names) -> HashMap<Vec<u8>, Sidecars> {
    let mut all: HashMap<Vec<u8>, Sidecars> = HashMap::new();
    for (path, at) in &names.files {
        let (key, extension) = key(path);
        if is_sidecar(extension) {
            let of = all.entry(key.to_vec()).or_default();
            match extension.to_ascii_lowercase().as_slice() {
                b"cls" => of.cls = Some(*at),
                b"json" => of.json = Some(*at),
                _ => of.txt = Some(*at),
            }
        }
    }
    all
}

/// The label that a key's sidecars give.
fn label(
    of: Sidecars,
    container: &dyn Container,
    columns: &Columns,
) -> Result<Option<String>, String> {
    let read = |at: u64, limit: u64| {
        read_within(container, at, limit, &mut |reader| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes)?;
            Ok(bytes)
        })
    };
    if let (Some(at), None) = (of.cls, &columns.label_column) {
        let text = read(at, MAX_LABEL_BYTES).ok().and_then(as_label);
        let reason = "its .cls member is no short text";
        return text.map(Some).ok_or_else(|| reason.to_owned());
    }
    if let Some(at) = of.json {
        let bytes = read(at, MAX_JSON_BYTES).map_err(|e| format!("its .json member: {e}"))?;
        let value: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|e| format!("its .json member is no JSON: {e}"))?;
        if let Some(label) = columns.label_in(&value) {
            return Ok(Some(label));
        }
    }
    let text = of.txt.and_then(|at| read(at, MAX_LABEL_BYTES).ok());
    Ok(text.and_then(as_label))
}

/// One line of text.
fn as_label(bytes: Vec<u8>) -> Option<String> {
    let text = String::from_utf8(bytes).ok()?;
    let text = text.trim();
    (!text.is_empty() && !text.contains('\n')).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Read};

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

    fn listed(members: &[(&str, &'static str)], column: Option<&str>) -> Option<Vec<String>> {
        let mut names = Names::default();
        for (i, (path, _)) in members.iter().enumerate() {
            names.file(path.as_bytes(), i as u64);
        }
        let texts = Texts(members.iter().map(|(_, text)| *text).collect());
        let columns = Columns {
            label_column: column.map(str::to_owned),
            ..Columns::default()
        };
        let listing = list(&mut names, &texts, &columns)?;
        let line = |m: &super::super::Member| {
            let class = m.class.map(|c| listing.classes[c as usize].clone());
            format!(
                "{} {}",
                crate::files::escape(&m.path),
                class.unwrap_or("-".to_owned())
            )
        };
        let skipped = listing.skipped.iter();
        let skipped = skipped.map(|s| format!("{}: {}", crate::files::escape(&s.path), s.reason));
        Some(listing.members.iter().map(line).chain(skipped).collect())
    }

    #[test]
    fn labels_of_sidecars() {
        let cls = [("s/1.jpg", ""), ("s/1.cls", "cat\n"), ("s/2.jpg", "")];
        assert_eq!(listed(&cls, None).unwrap(), ["s/1.jpg cat", "s/2.jpg -"]);
        let txt = [
            ("1.jpg", ""),
            ("1.txt", "dog"),
            ("2.jpg", ""),
            ("2.txt", "a\ncaption"),
        ];
        assert_eq!(listed(&txt, None).unwrap(), ["1.jpg dog", "2.jpg -"]);
        let json = [
            ("1.jpg", ""),
            ("1.json", r#"{"label": 3, "kind": "x"}"#),
            ("2.jpg", ""),
            ("2.json", "{"),
        ];
        let listing = listed(&json, None).unwrap();
        assert_eq!(listing[0], "1.jpg 3");
        assert!(listing[1].contains("no JSON"), "{}", listing[1]);
        assert_eq!(listed(&json, Some("kind")).unwrap()[0], "1.jpg x");
    }

    #[test]
    fn captions_beside_class_folders_are_no_labels() {
        let captions = [("Cat/1.jpg", ""), ("Cat/1.txt", "a cat"), ("Dog/1.jpg", "")];
        assert_eq!(listed(&captions, None), None);
        assert_eq!(
            listed(&[("Cat/1.jpg", ""), ("readme.txt", "x")], None),
            None
        );
    }
}
