//! Finds the files of a folder of images: which files there are, in which class, in an order
//! that is the same on every machine.
//!
//! Rules: folders directly below the root are the classes; everything below a class folder, at
//! any depth, belongs to it; files directly in the root have no class. Names beginning with a dot
//! are ignored. Symbolic links are followed, except to folders that are in the tree anyway, and no
//! folder is entered twice. Sockets, pipes and
//! devices are ignored without opening them. Must not know what an image is.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
    /// Regular files, by path relative to the root, in ascending order of the paths' bytes
    /// (compared component by component).
    pub files: Vec<FoundFile>,
    /// Names of all class folders, sorted, those without files included.
    pub classes: Vec<String>,
    /// Broken links, unreadable files and folders.
    pub skipped: Vec<Skipped>,
    /// Hidden files, pipes, sockets, devices and folders seen before.
    pub ignored: usize,
}

/// A regular file (or a link to one).
#[derive(Debug, PartialEq, Eq)]
pub struct FoundFile {
    /// Path relative to the root.
    pub path: Vec<u8>,
    /// Number of its class in [`Walk::classes`]; none for a file directly in the root.
    pub class: Option<u32>,
    /// The file's metadata as far as they tell whether it changes.
    pub stamp: Stamp,
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
    let entries = sorted_entries(root).map_err(root_error)?;
    for (name, path) in entries {
        match walker.look(&path, &name) {
            Seen::Folder => {
                let class = String::from_utf8(name.clone())
                    .map_err(|_| WalkError::ClassName(crate::files::escape(&name)))?;
                walker.walk.classes.push(class);
                let number = walker.walk.classes.len() as u32 - 1;
                walker.enter(&path, &name, number);
            }
            Seen::File(stamp) => walker.walk.files.push(FoundFile {
                path: name,
                class: None,
                stamp,
            }),
            Seen::Nothing => {}
        }
    }
    Ok(walker.walk)
}

enum Seen {
    Folder,
    File(Stamp),
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
    fn look(&mut self, path: &Path, relative: &[u8]) -> Seen {
        let name = relative.rsplit(|&b| b == b'/').next().unwrap_or_default();
        if name.starts_with(b".") {
            self.walk.ignored += 1;
            return Seen::Nothing;
        }
        match fs::metadata(path) {
            Ok(m) if m.is_dir() => {
                let folder = (m.dev(), m.ino());
                let is_real = self.real.contains(&folder);
                let is_link = fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink());
                if if is_real {
                    !is_link
                } else {
                    self.entered.insert(folder)
                } {
                    Seen::Folder
                } else {
                    self.walk.ignored += 1;
                    Seen::Nothing
                }
            }
            Ok(m) if m.is_file() => Seen::File(Stamp::of(&m)),
            Ok(_) => {
                self.walk.ignored += 1;
                Seen::Nothing
            }
            Err(e) => {
                self.skip(relative, describe(&e));
                Seen::Nothing
            }
        }
    }

    fn enter(&mut self, folder: &Path, relative: &[u8], class: u32) {
        let entries = match sorted_entries(folder) {
            Ok(entries) => entries,
            Err(e) => return self.skip(relative, format!("unreadable folder: {}", describe(&e))),
        };
        for (name, path) in entries {
            let relative = [relative, b"/", &name].concat();
            match self.look(&path, &relative) {
                Seen::Folder => self.enter(&path, &relative, class),
                Seen::File(stamp) => self.walk.files.push(FoundFile {
                    path: relative,
                    class: Some(class),
                    stamp,
                }),
                Seen::Nothing => {}
            }
        }
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

fn sorted_entries(folder: &Path) -> io::Result<Vec<(Vec<u8>, PathBuf)>> {
    let mut entries = fs::read_dir(folder)?
        .map(|entry| entry.map(|e| (e.file_name().as_bytes().to_vec(), e.path())))
        .collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn paths(walk: &Walk) -> Vec<String> {
        walk.files
            .iter()
            .map(|f| crate::files::escape(&f.path))
            .collect()
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
        let classes: Vec<_> = found.files.iter().map(|f| f.class).collect();
        assert_eq!(classes, [Some(0), Some(1), Some(1), None]);
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
