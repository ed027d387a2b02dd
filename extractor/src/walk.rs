//! Finds the files of a folder of images: which files there are, in which class, in an order
//! that is the same on every machine.
//!
//! Rules: folders directly below the root are the classes; everything below a class folder, at
//! any depth, belongs to it; files directly in the root have no class. Names beginning with a dot
//! are ignored. Symbolic links are followed, except to folders that are in the tree anyway, and no
//! folder is entered twice. Sockets, pipes and devices are ignored without opening them. A regular
//! file is listed and not looked at. Must not know what an image is.
//!
//! Takes a path's bytes and 8 bytes more a file, and as long as a folder is walked a name's bytes
//! and 9 bytes more for each of its entries.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::paths::Paths;

/// A file that could not be used, and why. Shown as `path: reason`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Path relative to the root, as the file system has it.
    pub path: Vec<u8>,
    /// Why, as a lowercase fragment.
    pub reason: String,
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Walk {
    /// Regular files (or links to one), by path relative to the root, in ascending order of the
    /// paths' bytes (compared component by component).
    pub files: Paths,
    /// For each file the number of its class in [`Walk::classes`]; -1 for a file directly in the
    /// root.
    pub labels: Vec<i32>,
    /// Names of all class folders, sorted, those without files included.
    pub classes: Vec<String>,
    /// Broken links, unreadable folders.
    pub skipped: Vec<Skipped>,
    /// Hidden files, pipes, sockets, devices and folders seen before.
    pub ignored: usize,
}

/// What tells that a file is still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Time of the last modification, nanoseconds since 1970.
    pub modified_nanos: i64,
    /// Time of the last change of content or metadata, nanoseconds since 1970.
    pub changed_nanos: i64,
}

impl Stamp {
    /// The stamp in a file's metadata.
    pub fn of(metadata: &std::fs::Metadata) -> Stamp {
        let nanos =
            |secs: i64, nanos: i64| secs.saturating_mul(1_000_000_000).saturating_add(nanos);
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            modified_nanos: nanos(metadata.mtime(), metadata.mtime_nsec()),
            changed_nanos: nanos(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The folder given cannot be walked at all.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// It is not there, no folder, or may not be read.
    #[error("cannot read the folder of images {}", path.display())]
    Root {
        /// The folder.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// A class name must be text.
    #[error("class folder `{0}` has a name that is not UTF-8 (hint: rename it)")]
    ClassName(String),
}

/// Walks `root`.
///
/// # Errors
/// When `root` is no readable folder or a class folder's name is not UTF-8. What goes wrong below
/// is listed in [`Walk::skipped`].
pub fn walk(root: &Path) -> Result<Walk, WalkError> {
    let root_error = |source| WalkError::Root {
        path: root.to_owned(),
        source,
    };
    let mut walker = Walker {
        walk: Walk::default(),
        real: HashSet::new(),
        entered: HashSet::new(),
    };
    let metadata = fs::metadata(root).map_err(root_error)?;
    walker.real.insert((metadata.dev(), metadata.ino()));
    walker.mark_real_folders(root);
    let listing = Listing::of(root).map_err(root_error)?;
    for (name, kind) in listing.iter() {
        let path = root.join(OsStr::from_bytes(name));
        match walker.look(&path, name, kind) {
            Seen::Folder => {
                let class = String::from_utf8(name.to_vec())
                    .map_err(|_| WalkError::ClassName(crate::files::escape(name)))?;
                walker.walk.classes.push(class);
                let number = walker.walk.classes.len() as i32 - 1;
                walker.enter(&path, name, number);
            }
            Seen::File => walker.found(name, -1),
            Seen::Nothing => {}
        }
    }
    let mut walk = walker.walk;
    walk.files.shrink_to_fit();
    walk.labels.shrink_to_fit();
    Ok(walk)
}

enum Seen {
    Folder,
    File,
    Nothing,
}

struct Walker {
    walk: Walk,
    /// Folders that are in the tree without any link: a link to one of them is not followed, so
    /// that no link can take a class's images to another class.
    real: HashSet<(u64, u64)>,
    /// Folders entered through links.
    entered: HashSet<(u64, u64)>,
}

impl Walker {
    /// Fills `real` with the folders below `folder`. What cannot be read is left to the walk.
    fn mark_real_folders(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let hidden = entry.file_name().as_bytes().starts_with(b".");
            if hidden || !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            if let Ok(m) = entry.metadata()
                && self.real.insert((m.dev(), m.ino()))
            {
                self.mark_real_folders(&entry.path());
            }
        }
    }

    /// What `path` is, links followed; a folder reached by a link is marked as entered.
    fn look(&mut self, path: &Path, relative: &[u8], kind: Kind) -> Seen {
        let name = relative.rsplit(|&b| b == b'/').next().unwrap_or_default();
        let seen = match kind {
            _ if name.starts_with(b".") => Seen::Nothing,
            Kind::File => Seen::File,
            Kind::Other => Seen::Nothing,
            Kind::Folder | Kind::Link => match fs::metadata(path) {
                Ok(m) if m.is_dir() => {
                    let folder = (m.dev(), m.ino());
                    let enter = match self.real.contains(&folder) {
                        true => kind == Kind::Folder,
                        false => self.entered.insert(folder),
                    };
                    if enter { Seen::Folder } else { Seen::Nothing }
                }
                Ok(m) if m.is_file() => Seen::File,
                Ok(_) => Seen::Nothing,
                Err(e) => {
                    self.skip(relative, describe(&e));
                    return Seen::Nothing;
                }
            },
        };
        if matches!(seen, Seen::Nothing) {
            self.walk.ignored += 1;
        }
        seen
    }

    fn enter(&mut self, folder: &Path, relative: &[u8], class: i32) {
        let listing = match Listing::of(folder) {
            Ok(listing) => listing,
            Err(e) => return self.skip(relative, format!("unreadable folder: {}", describe(&e))),
        };
        for (name, kind) in listing.iter() {
            let path = folder.join(OsStr::from_bytes(name));
            let relative = [relative, b"/", name].concat();
            match self.look(&path, &relative, kind) {
                Seen::Folder => self.enter(&path, &relative, class),
                Seen::File => self.found(&relative, class),
                Seen::Nothing => {}
            }
        }
    }

    fn found(&mut self, relative: &[u8], class: i32) {
        self.walk.files.push(relative);
        self.walk.labels.push(class);
    }

    fn skip(&mut self, relative: &[u8], reason: String) {
        self.walk.skipped.push(Skipped {
            path: relative.to_vec(),
            reason,
        });
    }
}

/// An input/output error without the `(os error N)` tail, in words that fit a link as well.
pub(crate) fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "dangling link or vanished file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ if error.raw_os_error() == Some(libc::ELOOP) => "symbolic link loop".to_owned(),
        _ => error.to_string(),
    }
}

/// What a folder's entry is, links not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Folder,
    Link,
    Other,
}

/// A folder's entries.
struct Listing {
    names: Paths,
    kinds: Vec<Kind>,
    sorted: Vec<u32>,
}

impl Listing {
    fn of(folder: &Path) -> io::Result<Listing> {
        let (mut names, mut kinds) = (Paths::default(), Vec::new());
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            names.push(entry.file_name().as_bytes());
            // One that vanished since is found gone when it is looked at.
            kinds.push(match entry.file_type() {
                Ok(kind) if kind.is_dir() => Kind::Folder,
                Ok(kind) if kind.is_symlink() => Kind::Link,
                Ok(kind) if !kind.is_file() => Kind::Other,
                _ => Kind::File,
            });
        }
        let count = u32::try_from(kinds.len()).map_err(io::Error::other)?;
        let mut sorted: Vec<u32> = (0..count).collect();
        sorted.sort_unstable_by_key(|i| names.get(*i as usize));
        Ok(Listing {
            names,
            kinds,
            sorted,
        })
    }

    /// Names in ascending order, with what they are.
    fn iter(&self) -> impl Iterator<Item = (&[u8], Kind)> {
        let sorted = self.sorted.iter().map(|i| *i as usize);
        sorted.map(|i| (self.names.get(i), self.kinds[i]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn paths(walk: &Walk) -> Vec<String> {
        walk.files.iter().map(crate::files::escape).collect()
    }

    #[test]
    fn classes_and_order() {
        let root = tempfile::tempdir().unwrap();
        for path in [
            "Dog/2.jpg",
            "Dog/10.jpg",
            "Cat/deep/er/1.jpg",
            "loose.jpg",
            "Cat/.hid",
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        fs::create_dir(root.path().join("Empty")).unwrap();
        fs::create_dir(root.path().join(".git")).unwrap();
        let found = walk(root.path()).unwrap();
        assert_eq!(found.classes, ["Cat", "Dog", "Empty"]);
        let expected = ["Cat/deep/er/1.jpg", "Dog/10.jpg", "Dog/2.jpg", "loose.jpg"];
        assert_eq!(paths(&found), expected);
        assert_eq!(found.labels, [0, 1, 1, -1]);
        assert_eq!(found.ignored, 2);
    }

    #[test]
    fn links_end() {
        let root = tempfile::tempdir().unwrap();
        let class = root.path().join("links");
        fs::create_dir(&class).unwrap();
        fs::write(class.join("real.jpg"), b"x").unwrap();
        symlink("real.jpg", class.join("ok.jpg")).unwrap();
        symlink("self.jpg", class.join("self.jpg")).unwrap();
        symlink("nowhere", class.join("dangling.jpg")).unwrap();
        symlink("..", class.join("loop")).unwrap();
        let found = walk(root.path()).unwrap();
        assert_eq!(paths(&found), ["links/ok.jpg", "links/real.jpg"]);
        let reasons: Vec<_> = found
            .skipped
            .iter()
            .map(|s| (crate::files::escape(&s.path), s.reason.as_str()))
            .collect();
        let expected = [
            (
                "links/dangling.jpg".to_owned(),
                "dangling link or vanished file",
            ),
            ("links/self.jpg".to_owned(), "symbolic link loop"),
        ];
        assert_eq!(reasons, expected);
        assert_eq!(found.ignored, 1);
    }

    #[test]
    fn a_link_never_takes_a_class_away() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for path in [root.path().join("Cat/1.jpg"), root.path().join("Dog/2.jpg")] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        fs::create_dir(outside.path().join("sub")).unwrap();
        fs::write(outside.path().join("sub/3.jpg"), b"x").unwrap();
        symlink("../Dog", root.path().join("Cat/more")).unwrap();
        symlink("Dog", root.path().join("Canine")).unwrap();
        symlink(outside.path(), root.path().join("Emu")).unwrap();
        symlink(outside.path(), root.path().join("Fox")).unwrap();
        let found = walk(root.path()).unwrap();
        assert_eq!(found.classes, ["Cat", "Dog", "Emu"]);
        assert_eq!(paths(&found), ["Cat/1.jpg", "Dog/2.jpg", "Emu/sub/3.jpg"]);
        assert_eq!(found.ignored, 3);
    }

    #[test]
    fn a_missing_root_is_named() {
        let error = walk(Path::new("/nonexistent/pets")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/pets"));
    }
}
