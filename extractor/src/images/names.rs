//! Names inside archives: which are safe, which are hidden, and which class folder they lie in.
//!
//! Nothing is ever unpacked, so a bad name cannot write anywhere; it is refused all the same,
//! because an index's paths are used with folders, too. Must not know the formats.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::listing::{Listing, Members, UNLABELLED, compare_paths};
use crate::decode::has_image_extension;
use crate::paths::Paths;
use crate::walk::Skipped;

/// The names in an archive, collected in its order.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Safe paths.
    pub paths: Paths,
    /// The container's number for each.
    pub places: Vec<u64>,
    folders: Paths,
    pub skipped: Vec<Skipped>,
    pub ignored: usize,
    /// Leading folders that are taken away, each within the one before; each ends in `/`.
    prefixes: Vec<Vec<u8>>,
}

impl Names {
    /// A regular member.
    pub fn file(&mut self, raw: &[u8], at: u64) {
        match clean(raw) {
            Ok(Some(path)) => {
                self.paths.push(&path);
                self.places.push(at);
            }
            Ok(None) => self.ignored += 1,
            Err(reason) => self.skip(raw, reason),
        }
    }

    /// A member that is a folder.
    pub fn folder(&mut self, raw: &[u8]) {
        if let Ok(Some(path)) = clean(raw) {
            self.folders.push(&path);
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

    /// Number of safe paths.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Once all names are there: of several members of one path the last one counts.
    pub fn settle(&mut self) {
        self.paths.shrink_to_fit();
        self.places.shrink_to_fit();
        let (paths, places) = (&self.paths, &self.places);
        let order = sorted(self.len(), |i| paths.get(i));
        let mut replaced: Vec<u32> = Vec::new();
        for same in order.chunk_by(|a, b| paths.get(*a as usize) == paths.get(*b as usize)) {
            let last = same.iter().max_by_key(|i| places[**i as usize]);
            replaced.extend(same.iter().filter(|i| Some(*i) != last).copied());
        }
        drop(order);
        if replaced.is_empty() {
            return;
        }
        replaced.sort_unstable();
        self.ignored += replaced.len();
        let stays = || {
            let mut replaced = replaced.iter().peekable();
            move |position: usize| replaced.next_if_eq(&&(position as u32)).is_none()
        };
        self.paths.retain(stays());
        let (mut stays, mut positions) = (stays(), 0..);
        self.places
            .retain(|_| positions.next().is_some_and(&mut stays));
    }

    /// Takes leading folders away that all images share, as long as other folders are below them:
    /// `PetImages/Cat/0.jpg` becomes `Cat/0.jpg`. No two members ever get one path by it.
    pub fn strip_common_folders(&mut self) {
        while let Some(prefix) = self.common_folder() {
            self.prefixes.push(prefix);
        }
        while !self.prefixes.is_empty() && self.meet() {
            self.prefixes.pop();
        }
    }

    /// Whether two members have the same path.
    fn meet(&self) -> bool {
        let order = sorted(self.len(), |i| self.path(i));
        let path = |i: u32| self.path(i as usize);
        order.windows(2).any(|two| path(two[0]) == path(two[1]))
    }

    /// A path without what is taken away.
    fn path(&self, position: usize) -> &[u8] {
        self.below(self.paths.get(position))
    }

    fn below<'a>(&self, path: &'a [u8]) -> &'a [u8] {
        let prefixes = self.prefixes.iter().rev();
        let mut below = prefixes.filter_map(|prefix| path.strip_prefix(&prefix[..]));
        below.next().unwrap_or(path)
    }

    /// `NAME/`, if every image lies in a folder in the folder NAME; with what is taken away before
    /// it.
    fn common_folder(&self) -> Option<Vec<u8>> {
        let count = self.len();
        let claims = |i: &usize| has_image_extension(self.paths.get(*i));
        let any = (0..count).any(|i| claims(&i));
        let mut images = (0..count).filter(|i| !any || claims(i));
        let taken = self.prefixes.last().map_or(&b""[..], |prefix| prefix);
        let first = self.paths.get(images.next()?);
        let end = first.strip_prefix(taken)?.iter().position(|&b| b == b'/')? + 1;
        let prefix = &first[..taken.len() + end];
        let fits = |path: &[u8]| {
            let below = path.strip_prefix(prefix);
            below.is_some_and(|below| below.contains(&b'/'))
        };
        let all = fits(first) && images.all(|i| fits(self.paths.get(i)));
        all.then(|| prefix.to_vec())
    }

    /// Number of folders directly below the root that hold images.
    pub fn image_folders(&self) -> usize {
        let paths = (0..self.len()).map(|i| self.path(i));
        let images = paths.filter(|path| has_image_extension(path));
        let folders: BTreeSet<&[u8]> = images.filter_map(folder_of).collect();
        folders.len()
    }

    /// The listing in which folders directly below the root are the classes.
    ///
    /// # Errors
    /// When a class folder's name is not UTF-8.
    pub fn by_folder(mut self) -> Result<Listing, String> {
        let text = |name: &[u8]| {
            String::from_utf8(name.to_vec()).map_err(|_| {
                format!(
                    "has a class folder `{}` whose name is not UTF-8 (hint: pack it again)",
                    crate::files::escape(name)
                )
            })
        };
        let mut members = Members::with_capacity(self.len(), self.paths.size_bytes());
        let taken = self.prefixes.last().map_or(&b""[..], |prefix| prefix);
        for path in self.folders.iter().filter_map(|f| f.strip_prefix(taken)) {
            members.class(&text(folder_of(path).unwrap_or(path))?);
        }
        let mut last: Option<(&[u8], i32)> = None;
        for i in sorted(self.len(), |i| self.path(i)) {
            let path = self.path(i as usize);
            let class = match (folder_of(path), last) {
                (None, _) => UNLABELLED,
                (Some(folder), Some((same, class))) if folder == same => class,
                (Some(folder), _) => {
                    let class = members.class(&text(folder)?);
                    last = Some((folder, class));
                    class
                }
            };
            members.member(path, class, self.places[i as usize]);
        }
        let skipped = std::mem::take(&mut self.skipped);
        Ok(members.listing(skipped, self.ignored))
    }
}

/// Positions in the order of what `path` says of them.
fn sorted<'a>(count: usize, path: impl Fn(usize) -> &'a [u8] + Sync) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count as u32).collect();
    order.par_sort_unstable_by(|&a, &b| compare_paths(path(a as usize), path(b as usize)));
    order
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
        all.settle();
        all.strip_common_folders();
        all.by_folder().unwrap()
    }

    fn paths(listing: &Listing) -> Vec<String> {
        listing.paths.iter().map(crate::files::escape).collect()
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
        assert_eq!(found.member(0).at, 2);
        assert_eq!(found.ignored, 1);
    }

    #[test]
    fn no_two_members_meet_when_folders_are_taken_away() {
        let found = listing(&[
            "Pets/Cat/1.jpg",
            "Pets/Dog/1.jpg",
            "Pets/Cat/notes",
            "Cat/notes",
        ]);
        let expected = [
            "Cat/notes",
            "Pets/Cat/1.jpg",
            "Pets/Cat/notes",
            "Pets/Dog/1.jpg",
        ];
        assert_eq!(paths(&found), expected);
        let found = listing(&["a/b/Cat/1.jpg", "a/b/Dog/1.jpg", "a/b/x", "a/x"]);
        assert_eq!(paths(&found), ["b/Cat/1.jpg", "b/Dog/1.jpg", "b/x", "x"]);
    }
}
