//! Files as this project writes and names them: to a temporary sibling, synced, then renamed, so
//! that no reader ever sees a half-written file; and paths shown so that no name can break a line.
//!
//! Must not know what is in the files.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Something went wrong with a file of our own; carries the path and what was being done.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}{}", escape_path(path), hint(source))]
pub struct FileError {
    /// What was being done: `write`, `create folder`, `read`.
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The operating system's answer.
    #[source]
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (hint: the disk is full; free some space and run the same command again, finished work is kept)"
        }
        io::ErrorKind::PermissionDenied => {
            " (hint: no permission; check the owner and mode of the folder)"
        }
        io::ErrorKind::ReadOnlyFilesystem => " (hint: choose a place that can be written)",
        _ => "",
    }
}

/// Whether a file is not there any more. A network file system says `ESTALE` of one that another
/// machine removed.
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESTALE)
}

impl FileError {
    /// For use with `map_err`: `File::open(p).map_err(FileError::new("open", p))`.
    pub fn new(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        let path = path.to_owned();
        move |source| FileError {
            action,
            path,
            source,
        }
    }
}

/// Prefix of every temporary file this project writes beside its final name.
pub const TEMPORARY_PREFIX: &str = ".tmp-";

/// A file under way: written under a temporary name in the final folder. Dropped without
/// [`Pending::publish`], it disappears.
pub struct Pending {
    file: tempfile::NamedTempFile,
    target: PathBuf,
}

impl Pending {
    /// Starts a file that will be `target`; creates the folder it lies in.
    ///
    /// # Errors
    /// When the folder or the temporary file cannot be created.
    pub fn new(target: &Path) -> Result<Pending, FileError> {
        let folder = folder_of(target);
        create_folder(folder)?;
        let file = tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .tempfile_in(folder)
            .map_err(FileError::new("create a temporary file in", folder))?;
        Ok(Pending {
            file,
            target: target.to_owned(),
        })
    }

    /// The open temporary file.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Appends `bytes` to the temporary file.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let written = self.file.as_file_mut().write_all(bytes);
        written.map_err(FileError::new("write", &self.target))
    }

    /// Gives the file another final name than the one it was started with (in the same folder).
    pub fn retarget(&mut self, target: PathBuf) {
        self.target = target;
    }

    /// Syncs the file, renames it to its final name and syncs the folder.
    ///
    /// # Errors
    /// When one of these fails; the temporary file is then removed.
    pub fn publish(self) -> Result<PathBuf, FileError> {
        self.sync()?;
        let target = self.publish_unsynced()?;
        sync_folder(folder_of(&target))?;
        Ok(target)
    }

    /// [`Pending::publish`], unless there is something under the final name: that stays as it is,
    /// and this file is still under way.
    ///
    /// # Errors
    /// When it cannot be synced or renamed; the temporary file is then removed.
    pub fn publish_new(self) -> Result<Published, FileError> {
        self.sync()?;
        let Pending { file, target } = self;
        let refused = match file.persist_noclobber(&target) {
            Ok(_) => {
                sync_folder(folder_of(&target))?;
                return Ok(Published::Here(target));
            }
            Err(refused) => refused,
        };
        let (error, file) = (refused.error, refused.file);
        let pending = Pending { file, target };
        match (pending.target.symlink_metadata(), error.raw_os_error()) {
            (Ok(_), _) => Ok(Published::Taken(pending)),
            // A file system that can neither rename without replacing nor link.
            (Err(_), Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)) => {
                Ok(Published::Here(pending.publish()?))
            }
            // It was there and is gone again.
            (Err(_), Some(libc::EEXIST)) => Ok(Published::Taken(pending)),
            _ => Err(FileError::new("write", &pending.target)(error)),
        }
    }

    fn sync(&self) -> Result<(), FileError> {
        let synced = self.file.as_file().sync_all();
        synced.map_err(FileError::new("write", &self.target))
    }

    /// The final name.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// [`Pending::publish`], unless a file of that name is there by now: then that one stays, and
    /// whoever has it mapped keeps it on every file system.
    ///
    /// # Errors
    /// When the file cannot be synced or renamed; the temporary file is then removed.
    pub fn publish_unless_there(self) -> Result<PathBuf, FileError> {
        match self.publish_new()? {
            Published::Here(path) => Ok(path),
            Published::Taken(pending) => Ok(pending.target),
        }
    }

    /// Renames the file to its final name without syncing anything: for what is quickly made again,
    /// if a power failure takes it.
    ///
    /// # Errors
    /// When it cannot be renamed; the temporary file is then removed.
    pub fn publish_unsynced(self) -> Result<PathBuf, FileError> {
        let Pending { file, target } = self;
        file.persist(&target)
            .map_err(|e| FileError::new("write", &target)(e.error))?;
        Ok(target)
    }
}

/// What became of a file that was to take a free name.
pub enum Published {
    /// It has its final name.
    Here(PathBuf),
    /// Something else has that name.
    Taken(Pending),
}

/// The folder a path lies in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Creates `folder` and those above it as needed, so that they survive a power failure.
///
/// # Errors
/// When one cannot be created or synced.
pub fn create_folder(folder: &Path) -> Result<(), FileError> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder_of(folder);
    create_folder(parent)?;
    match fs::create_dir(folder) {
        Ok(()) => {}
        // Another process was faster.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
        Err(e) => return Err(FileError::new("create folder", folder)(e)),
    }
    match sync_folder(parent) {
        // A folder may be writable and not readable; then it cannot be synced either.
        Err(e) if e.source.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// Makes a rename in `folder` survive a power failure.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(FileError::new("sync", folder))
}

/// Writes `bytes` to `path` so that a reader sees the old file or the whole new one.
///
/// # Errors
/// When the folder or file cannot be written; `path` is then as it was.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut pending = Pending::new(path)?;
    pending.write_all(bytes)?;
    pending.publish()?;
    Ok(())
}

/// A path's bytes as one line of text: control characters, backslashes and what is not UTF-8 are
/// escaped (`\n`, `\t`, `\\`, `\xE9`), everything else is as it is.
pub fn escape(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => text.extend(c.escape_unicode()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02X}"));
        }
    }
    text
}

/// The bytes that [`escape`] made `text` of; none if it made no such text.
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let escaped = &rest[at + 1..];
        let kind = escaped.chars().next()?;
        rest = &escaped[kind.len_utf8()..];
        match kind {
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            'r' => bytes.push(b'\r'),
            '\\' => bytes.push(b'\\'),
            'x' => {
                bytes.push(u8::from_str_radix(rest.get(..2)?, 16).ok()?);
                rest = &rest[2..];
            }
            'u' => {
                let (digits, after) = rest.strip_prefix('{')?.split_once('}')?;
                let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after;
            }
            _ => return None,
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

/// [`unescape`] for a path.
pub fn unescape_path(text: &str) -> Option<PathBuf> {
    unescape(text).map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
}

/// [`escape`] for a path.
pub fn escape_path(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// Text of others as one line that a terminal only shows: control characters are escaped, the rest
/// is as it is.
pub fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line
}

/// `1 image`, `2,000 images`.
pub fn counted(n: usize, one: &str) -> String {
    counted_as(n, one, &format!("{one}s"))
}

/// [`counted`] for a word with another plural.
pub fn counted_as(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", grouped(n as u64), if n == 1 { one } else { many })
}

/// `12345678` as `12,345,678`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_a_line() {
        assert_eq!(escape(b"a b.jpg"), "a b.jpg");
        assert_eq!(escape("猫.jpg".as_bytes()), "猫.jpg");
        assert_eq!(escape(b"new\nline\t\\"), "new\\nline\\t\\\\");
        assert_eq!(escape(b"latin1_\xe9.jpg"), "latin1_\\xE9.jpg");
        assert_eq!(escape(b"\x1b[31m"), "\\u{1b}[31m");
    }

    #[test]
    fn what_is_no_escaped_text_is_no_path() {
        for text in ["\\", "\\q", "\\x4", "\\xg0", "\\u{110000}", "\\u{1b"] {
            assert_eq!(unescape(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn an_escaped_name_is_read_back(
            text in "(\\PC|[\n\t\r\u{1b}\u{85}\\\\])*", bytes: Vec<u8>
        ) {
            for name in [text.into_bytes(), bytes] {
                proptest::prop_assert_eq!(unescape(&escape(&name)), Some(name));
            }
        }
    }

    #[test]
    fn text_cannot_steer_a_terminal() {
        assert_eq!(printable("a \\ 猫\"\n"), "a \\ 猫\"\\n");
        assert_eq!(printable("\x1b[31mred\u{9b}"), "\\u{1b}[31mred\\u{9b}");
        let error = FileError::new("read", Path::new("\x1b.txt"))(io::ErrorKind::NotFound.into());
        assert_eq!(error.to_string(), "cannot read \\u{1b}.txt");
    }

    #[test]
    fn a_taken_name_keeps_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x.bin");
        let pending = |bytes: &[u8]| {
            let mut pending = Pending::new(&target).unwrap();
            pending.write_all(bytes).unwrap();
            pending.publish_new().unwrap()
        };
        assert!(matches!(pending(b"first"), Published::Here(path) if path == target));
        let Published::Taken(second) = pending(b"second") else {
            panic!("the name was free");
        };
        assert_eq!(fs::read(&target).unwrap(), b"first");
        fs::remove_file(&target).unwrap();
        assert!(matches!(second.publish_new().unwrap(), Published::Here(_)));
        assert_eq!(fs::read(&target).unwrap(), b"second");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unpublished_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("sub/x.bin");
        write_atomically(&target, b"old").unwrap();
        let mut pending = Pending::new(&target).unwrap();
        pending.file().write_all(b"new").unwrap();
        drop(pending);
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
        write_atomically(&target, b"new").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"new");
    }

    #[test]
    fn digits_are_grouped() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (23587712, "23,587,712"),
        ] {
            assert_eq!(grouped(n), text);
        }
    }
}
