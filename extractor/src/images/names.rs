//! Names inside archives: which are safe, which are hidden, and which class folder they lie in.
//!
//! Nothing is ever unpacked, so a bad name cannot write anywhere; it is refused all the same,
//! because an index's paths are used with folders, too. Must not know the formats.

use std::collections::{BTreeSet, HashMap};

use super::listing::Listing;
use crate::decode::has_image_extension;
use crate::walk::Skipped;

/// The names in an archive, collected in its order.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    /// Safe paths with the container's number; a later one of the same path replaces an earlier.
    pub files: Vec<(Vec<u8>, u64)>,
    folders: Vec<Vec<u8>>,
    seen: HashMap<Vec<u8>, usize>,
    pub skipped: Vec<Skipped>,
    pub ignored: usize,
}

impl Names {
    /// A regular member.
    pub fn file(&mut self, raw: &[u8], at: u64) {
        match clean(raw) {
            Ok(Some(path)) => match self.seen.get(&path) {
                Some(&earlier) => {
                    self.files[earlier].1 = at;
                    self.ignored += 1;
                }
                None => {
                    self.seen.insert(path.clone(), self.files.len());
                    self.files.push((path, at));
                }
            },
            Ok(None) => self.ignored += 1,
            Err(reason) => self.skip(raw, reason),
        }
    }

    /// A member that is a folder.
    pub fn folder(&mut self, raw: &[u8]) {
        if let Ok(Some(path)) = clean(raw) {
            self.folders.push(path);
        }
    }

    /// A link, a device and the like; `what` says which. Of no interest, unless it claims to be an
    /// image.
    pub fn special(&mut self, raw: &[u8], what: &str) {
        match has_image_extension(raw) {
            true => self.skip(
                raw,
                format!("is {what}, which is not followed in an archive"),
            ),
            false => self.ignored += 1,
        }
    }

    /// A member that is refused.
    pub fn skip(&mut self, raw: &[u8], reason: impl Into<String>) {
        self.skipped.push(Skipped {
            path: raw.to_vec(),
            reason: reason.into(),
        });
    }

    /// Takes leading folders away that all images share, as long as other folders are below them:
    /// `PetImages/Cat/0.jpg` becomes `Cat/0.jpg`.
    pub fn strip_common_folders(&mut self) {
        while let Some(prefix) = self.common_folder() {
            let below = |path: &[u8]| Some(path.strip_prefix(&prefix[..])?.to_vec());
            let files = std::mem::take(&mut self.files).into_iter();
            self.files = files
                .map(|(path, at)| (below(&path).unwrap_or(path), at))
                .collect();
            let folders = self.folders.iter();
            self.folders = folders.filter_map(|path| below(path)).collect();
        }
    }

    /// `NAME/`, if every image lies in a folder in the folder NAME.
    fn common_folder(&self) -> Option<Vec<u8>> {
        let claims = |path: &&[u8]| has_image_extension(path);
        let paths = || self.files.iter().map(|(path, _)| &path[..]);
        let images: Vec<&[u8]> = match paths().any(|path| claims(&path)) {
            true => paths().filter(claims).collect(),
            false => paths().collect(),
        };
        let first = images.first()?;
        let end = first.iter().position(|&b| b == b'/')? + 1;
        let prefix = &first[..end];
        let fits = |path: &&[u8]| path.starts_with(prefix) && path[end..].contains(&b'/');
        images.iter().all(fits).then(|| prefix.to_vec())
    }

    /// Number of folders directly below the root that hold images.
    pub fn image_folders(&self) -> usize {
        let images = self.files.iter().filter(|(p, _)| has_image_extension(p));
        let folders: BTreeSet<&[u8]> = images.filter_map(|(path, _)| folder_of(path)).collect();
        folders.len()
    }

    /// The listing in which folders directly below the root are the classes.
    ///
    /// # Errors
    /// When a class folder's name is not UTF-8.
    pub fn by_folder(self) -> Result<Listing, String> {
        let text = |name: &[u8]| {
            String::from_utf8(name.to_vec()).map_err(|_| {
                format!(
                    "has a class folder `{}` whose name is not UTF-8 (hint: pack it again)",
                    crate::files::escape(name)
                )
            })
        };
        let mut found = Vec::with_capacity(self.files.len());
        for (path, at) in self.files {
            let class = folder_of(&path).map(text).transpose()?;
            found.push((path, class, at));
        }
        let folders = self.folders.iter();
        let top = folders.map(|path| folder_of(path).unwrap_or(path));
        let more = top.map(text).collect::<Result<BTreeSet<_>, _>>()?;
        Ok(Listing::new(found, more, self.skipped, self.ignored))
    }
}

/// The first component of a path that has several.
fn folder_of(path: &[u8]) -> Option<&[u8]> {
    let end = path.iter().position(|&b| b == b'/')?;
    Some(&path[..end])
}

/// A member's path without `./` and doubled slashes; none if it is hidden.
pub(super) fn clean(raw: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    let components = || raw.split(|&b| b == b'/');
    if raw.starts_with(b"/") {
        return Err("has an absolute path, which is refused in an archive");
    }
    if components().any(|c| c == b"..") {
        return Err("has a path with `..`, which is refused in an archive");
    }
    if matches!(raw, [letter, b':', ..] if letter.is_ascii_alphabetic()) {
        return Err("has a path with a drive letter, which is refused in an archive");
    }
    if raw.contains(&b'\\') {
        return Err("has a path with backslashes (hint: pack it again with a tool that writes /)");
    }
    if raw.contains(&0) {
        return Err("has a path with a zero byte");
    }
    let parts: Vec<&[u8]> = components()
        .filter(|c| !c.is_empty() && *c != b".")
        .collect();
    let hidden = |c: &[u8]| c.starts_with(b".") || c == b"__MACOSX";
    if parts.is_empty() || parts.iter().any(|c| hidden(c)) {
        return Ok(None);
    }
    Ok(Some(parts.join(&b'/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str]) -> Listing {
        let mut all = Names::default();
        for (i, name) in names.iter().enumerate() {
            match name.ends_with('/') {
                true => all.folder(name.as_bytes()),
                false => all.file(name.as_bytes(), i as u64),
            }
        }
        all.strip_common_folders();
        all.by_folder().unwrap()
    }

    fn paths(listing: &Listing) -> Vec<String> {
        let members = listing.members.iter();
        members.map(|m| crate::files::escape(&m.path)).collect()
    }

    #[test]
    fn the_microsoft_archive() {
        let found = listing(&[
            "PetImages/Dog/0.jpg",
            "PetImages/Dog/Thumbs.db",
            "PetImages/Cat/0.jpg",
            "PetImages/Cat/.hidden.jpg",
            "__MACOSX/PetImages/Cat/._0.jpg",
            "readme[1].txt",
            "CDLA-Permissive-2.0.pdf",
            "PetImages/Bird/",
        ]);
        let expected = [
            "CDLA-Permissive-2.0.pdf",
            "Cat/0.jpg",
            "Dog/0.jpg",
            "Dog/Thumbs.db",
            "readme[1].txt",
        ];
        assert_eq!(paths(&found), expected);
        assert_eq!(found.classes, ["Bird", "Cat", "Dog"]);
        assert_eq!(found.ignored, 2);
    }

    #[test]
    fn class_folders_are_kept() {
        assert_eq!(
            paths(&listing(&["./Cat/1.jpg", "Cat//2.jpg"])),
            ["Cat/1.jpg", "Cat/2.jpg"]
        );
        assert_eq!(
            paths(&listing(&["a/b/Cat/1.jpg", "a/b/Dog/1.jpg"])),
            ["Cat/1.jpg", "Dog/1.jpg"]
        );
        assert_eq!(
            paths(&listing(&["a/Cat/1.jpg", "loose.jpg"])),
            ["a/Cat/1.jpg", "loose.jpg"]
        );
    }

    #[test]
    fn unsafe_names_are_refused_and_named() {
        let found = listing(&[
            "../../etc/1.jpg",
            "Cat/../../1.jpg",
            "/etc/1.jpg",
            "C:/1.jpg",
            "C:\\1.jpg",
            "Cat\\1.jpg",
            "Cat/1.jpg\0.txt",
            "Cat/fine..jpg",
        ]);
        assert_eq!(paths(&found), ["Cat/fine..jpg"]);
        assert_eq!(found.skipped.len(), 7);
    }

    #[test]
    fn the_last_of_a_name_counts() {
        let found = listing(&["Cat/1.jpg", "Dog/1.jpg", "./Cat/1.jpg"]);
        assert_eq!(found.members[0].at, 2);
        assert_eq!(found.ignored, 1);
    }
}
