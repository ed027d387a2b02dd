//! Tells from a path what kind of data set it names, by name and content.
//!
//! Must not read more than the first block of a file.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::InputError;
use crate::decode::{self, has_image_extension};

/// Kinds of data set.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One sub-folder a class.
    Folder,
    /// A manifest as text; separated by tabs if the name says so.
    Csv {
        /// The name ends in `.tsv`.
        tabs: bool,
    },
    /// A zip archive.
    Zip,
    /// A tar archive, with class folders or WebDataset members.
    Tar,
    /// Parquet files, in order.
    Parquet(Vec<PathBuf>),
}

const KINDS: &str = "a folder with one sub-folder a class, a manifest (.csv, .tsv, .parquet) or an \
                     archive (.zip, .tar)";

impl Kind {
    /// What `path` names.
    pub(super) fn of(path: &Path) -> Result<Kind, InputError> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound && is_pattern(path) => {
                return matches(path).map(Kind::Parquet);
            }
            Err(e) => return Err(InputError::io(path)(e)),
        };
        if metadata.is_dir() {
            return Ok(match shards_in(path) {
                Some(shards) => Kind::Parquet(shards),
                None => Kind::Folder,
            });
        }
        if !metadata.is_file() {
            return Err(InputError::refused(
                path,
                format!("is no data set (hint: name {KINDS})"),
            ));
        }
        let mut head = Vec::with_capacity(512);
        File::open(path)
            .and_then(|file| file.take(512).read_to_end(&mut head))
            .map_err(InputError::io(path))?;
        by_content(path, &head)
    }
}

fn by_content(path: &Path, head: &[u8]) -> Result<Kind, InputError> {
    let refused = |reason: String| Err(InputError::refused(path, reason));
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    let compressed = [
        (&b"\x1f\x8b"[..], "gzip", "gunzip"),
        (b"\xfd7zXZ\0", "xz", "unxz"),
        (b"BZh", "bzip2", "bunzip2"),
        (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    ];
    let unpacked = [(&b"7z\xbc\xaf\x27\x1c"[..], "7z"), (b"Rar!\x1a\x07", "rar")];
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        return Ok(Kind::Zip);
    }
    if head.starts_with(b"PAR1") {
        return Ok(Kind::Parquet(vec![path.to_owned()]));
    }
    if head.get(257..262) == Some(b"ustar") {
        return Ok(Kind::Tar);
    }
    if let Some((_, name, tool)) = compressed
        .iter()
        .find(|(magic, ..)| head.starts_with(magic))
    {
        return refused(format!(
            "is compressed with {name} and cannot be read in place (hint: {tool} -k {} leaves the \
             uncompressed file beside it; name that)",
            crate::files::escape_path(path)
        ));
    }
    if let Some((_, name)) = unpacked.iter().find(|(magic, _)| head.starts_with(magic)) {
        return refused(format!(
            "is a {name} archive, which is not read (hint: unpack it and name the folder)"
        ));
    }
    if decode::recognise(head) != decode::Kind::Other {
        return refused(
            "is an image, not a data set (hint: name its data set's folder)".to_owned(),
        );
    }
    match extension.as_bytes() {
        b"csv" => Ok(Kind::Csv { tabs: false }),
        b"tsv" => Ok(Kind::Csv { tabs: true }),
        // Old tar files and zip files behind a program have no magic; their readers will tell.
        b"tar" => Ok(Kind::Tar),
        b"zip" => Ok(Kind::Zip),
        b"parquet" => refused(
            "is called .parquet and its content is no Parquet (hint: is the download complete, or \
             only a Git LFS pointer?)"
                .to_owned(),
        ),
        _ => refused(format!("is no data set (hint: name {KINDS})")),
    }
}

fn is_parquet(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("parquet"))
}

/// The Parquet files of a folder that holds such and neither sub-folders nor images.
fn shards_in(folder: &Path) -> Option<Vec<PathBuf>> {
    let mut shards = Vec::new();
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        if name.as_bytes().starts_with(b".") {
            continue;
        }
        if has_image_extension(name.as_bytes()) || path.is_dir() {
            return None;
        }
        if is_parquet(&path) {
            shards.push(path);
        }
    }
    shards.sort();
    (!shards.is_empty()).then_some(shards)
}

/// Whether the last component is a pattern such as `train-*.parquet`.
fn is_pattern(path: &Path) -> bool {
    is_parquet(path)
        && path
            .file_name()
            .is_some_and(|name| name.as_bytes().contains(&b'*'))
}

/// The files that a pattern means, sorted by name.
fn matches(pattern: &Path) -> Result<Vec<PathBuf>, InputError> {
    let wanted = pattern.file_name().unwrap_or_default().as_bytes();
    let folder = match pattern.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let entries = fs::read_dir(folder).map_err(InputError::io(folder))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| fits(wanted, entry.file_name().as_bytes()))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    match found.is_empty() {
        false => Ok(found),
        true => Err(InputError::refused(pattern, "matches no file")),
    }
}

/// Whether `name` fits `pattern`, in which `*` stands for any bytes.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let mut parts = pattern.split(|&b| b == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let at = match part.is_empty() {
            true => Some(0),
            false => rest.windows(part.len()).position(|w| w == part),
        };
        let Some(at) = at else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    true
}

/// The one name of the data set at `path`, wherever the program runs.
///
/// # Errors
/// When it is not there.
pub fn canonical(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(e) if e.kind() == io::ErrorKind::NotFound && is_pattern(path) => {
            let folder = match path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder,
                _ => Path::new("."),
            };
            Ok(folder
                .canonicalize()?
                .join(path.file_name().unwrap_or_default()))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("a.parquet", "a.parquet", true),
            ("train-*.parquet", "train-00000-of-00002.parquet", true),
            ("train-*.parquet", "test-00000-of-00002.parquet", false),
            ("*-of-*.parquet", "x-1-of-2.parquet", true),
            ("*-of-*.parquet", "x-1.parquet", false),
            ("**", "", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(
                fits(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn content_comes_before_the_name() {
        let of = |name: &str, head: &[u8]| by_content(Path::new(name), head);
        assert_eq!(of("x.bin", b"PK\x03\x04").unwrap(), Kind::Zip);
        let tar = [&[b'x'; 257][..], b"ustar\0"].concat();
        assert_eq!(of("x.csv", &tar).unwrap(), Kind::Tar);
        assert_eq!(of("X.CSV", b"a,b").unwrap(), Kind::Csv { tabs: false });
        for (name, head, word) in [
            ("x.tar.gz", &b"\x1f\x8b\x08"[..], "gunzip -k x.tar.gz"),
            ("x.jpg", b"\xff\xd8\xff\xe0", "is an image"),
            ("x.parquet", b"version https://git-lfs", "LFS"),
            ("x.txt", b"hello", "name a folder"),
            ("x.7z", b"7z\xbc\xaf\x27\x1c", "unpack it"),
        ] {
            let error = of(name, head).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
