//! What a person names: a path here, or an object store's URL.
//!
//! A URL arrives wherever a path does, so it is told from one by its beginning. `file:///folder/x` is
//! the path `/folder/x`. The key of an object is what stands behind the bucket, as it is written:
//! nothing in it is decoded. Must not know how an object store is spoken to.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::RemoteError;
use crate::digest::Digest;
use crate::files::escape_path;

/// Where something lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In a file system.
    Local(PathBuf),
    /// In an object store.
    Remote(Url),
}

/// Whose protocol is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Amazon S3, and whatever speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
}

/// The URL of an object, or of all objects whose keys begin with it and a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Whose protocol.
    pub scheme: Scheme,
    /// The bucket; at Azure the container.
    pub bucket: String,
    /// The key, without a slash at either end; empty for the whole bucket.
    pub key: String,
}

impl Location {
    /// What `path` names.
    ///
    /// # Errors
    /// [`RemoteError::Scheme`] for a URL of another kind, [`RemoteError::Url`] for one that names no
    /// object.
    pub fn parse(path: impl AsRef<Path>) -> Result<Location, RemoteError> {
        let path = path.as_ref();
        let bytes = path.as_os_str().as_bytes();
        let Some((scheme, rest)) = split_scheme(bytes) else {
            return Ok(Location::Local(path.to_owned()));
        };
        let wrong = |reason| RemoteError::Url {
            url: escape_path(path),
            reason,
        };
        let scheme = match scheme {
            b"s3" => Scheme::S3,
            b"gs" => Scheme::Gs,
            b"az" => Scheme::Az,
            b"file" if rest.starts_with(b"/") => {
                let path: Vec<u8> = percent_encoding::percent_decode(rest).collect();
                return Ok(Location::Local(std::ffi::OsString::from_vec(path).into()));
            }
            b"file" => return Err(wrong("a file:// URL has no host, as in file:///folder/x")),
            _ => return Err(RemoteError::Scheme(escape_path(path))),
        };
        let text = std::str::from_utf8(rest).map_err(|_| wrong("it is not UTF-8"))?;
        let (bucket, key) = text.split_once('/').unwrap_or((text, ""));
        let key = key.trim_end_matches('/');
        if bucket.is_empty() {
            return Err(wrong("it names no bucket"));
        }
        let odd = |part: &str| part.is_empty() || part == "." || part == "..";
        if !key.is_empty() && key.split('/').any(odd) {
            return Err(wrong(
                "a part between two slashes of its key is empty, `.` or `..`",
            ));
        }
        Ok(Location::Remote(Url {
            scheme,
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        }))
    }

    /// The local path that is meant, for what cannot lie in an object store.
    ///
    /// # Errors
    /// Those of [`Location::parse`], and [`RemoteError::NotHere`], saying that `what` has to be local.
    pub fn local(path: &Path, what: &'static str) -> Result<PathBuf, RemoteError> {
        match Location::parse(path)? {
            Location::Local(path) => Ok(path),
            Location::Remote(url) => Err(RemoteError::NotHere { url, what }),
        }
    }
}

/// What stands before `://`, if that is how a URL begins, and what stands behind it.
fn split_scheme(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.windows(3).position(|three| three == b"://")?;
    let (scheme, rest) = (&bytes[..at], &bytes[at + 3..]);
    let (first, others) = scheme.split_first()?;
    let fits = first.is_ascii_lowercase()
        && others
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(b));
    fits.then_some((scheme, rest))
}

impl Url {
    /// What lies below, by its name there.
    pub fn join(&self, name: &str) -> Url {
        let key = match self.key.is_empty() {
            true => name.to_owned(),
            false => format!("{}/{name}", self.key),
        };
        Url {
            key,
            ..self.clone()
        }
    }

    /// What it lies in, and its name there; none for a bucket.
    pub fn split_name(&self) -> Option<(Url, &str)> {
        if self.key.is_empty() {
            return None;
        }
        let (folder, name) = self.key.rsplit_once('/').unwrap_or(("", &self.key));
        let folder = Url {
            key: folder.to_owned(),
            ..self.clone()
        };
        Some((folder, name))
    }

    /// What people call it: the last part of the key, or the bucket.
    pub fn name(&self) -> &str {
        self.split_name().map_or(&self.bucket, |(_, name)| name)
    }

    /// The URL as a path, for what keeps places as paths.
    pub fn to_path(&self) -> PathBuf {
        PathBuf::from(OsStr::new(&self.to_string()))
    }

    /// Digest of the URL, which its cache is named by.
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_string().as_bytes())
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::S3 => "s3",
            Scheme::Gs => "gs",
            Scheme::Az => "az",
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Url {
            scheme,
            bucket,
            key,
        } = self;
        write!(f, "{scheme}://{bucket}")?;
        match key.is_empty() {
            true => Ok(()),
            false => write!(f, "/{}", crate::files::printable(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(text: &str) -> Url {
        match Location::parse(text) {
            Ok(Location::Remote(url)) => url,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_path_is_a_path() {
        for path in [
            "data/features",
            "/abs",
            "s3",
            "s3:/x",
            "a:b//c",
            "://x",
            "A://x",
            "./s3://b",
        ] {
            let parsed = Location::parse(path).unwrap();
            assert_eq!(parsed, Location::Local(path.into()));
        }
        let strange = OsStr::from_bytes(b"caf\xe9/x");
        assert_eq!(
            Location::parse(strange).unwrap(),
            Location::Local(strange.into())
        );
    }

    #[test]
    fn a_file_url_is_its_path() {
        for (url, path) in [("file:///a/b", "/a/b"), ("file:///a%20b", "/a b")] {
            assert_eq!(Location::parse(url).unwrap(), Location::Local(path.into()));
        }
        let error = Location::parse("file://host/x").unwrap_err().to_string();
        assert!(error.contains("file:///"), "{error}");
    }

    #[test]
    fn urls_have_a_bucket_and_a_key() {
        for (text, scheme, bucket, key) in [
            ("s3://b/x/y", Scheme::S3, "b", "x/y"),
            ("gs://b", Scheme::Gs, "b", ""),
            ("az://b/", Scheme::Az, "b", ""),
            ("s3://b/a b%20c/", Scheme::S3, "b", "a b%20c"),
        ] {
            let url = remote(text);
            assert_eq!(
                (url.scheme, &url.bucket[..], &url.key[..]),
                (scheme, bucket, key)
            );
            assert_eq!(remote(&url.to_string()), url);
        }
    }

    #[test]
    fn parts_are_joined_and_split() {
        let root = remote("s3://b");
        assert_eq!(root.split_name(), None);
        assert_eq!(root.name(), "b");
        let below = root.join("x").join("y.arrow");
        assert_eq!(below.to_string(), "s3://b/x/y.arrow");
        assert_eq!(below.split_name(), Some((root.join("x"), "y.arrow")));
        assert_eq!(below.name(), "y.arrow");
        assert_eq!(root.join("x").split_name(), Some((root, "x")));
    }

    #[test]
    fn what_names_no_object_is_refused() {
        for (text, word) in [
            ("s3://", "bucket"),
            ("s3:///x", "bucket"),
            ("s3://b/x//y", "between two slashes"),
            ("s3://b/../y", "between two slashes"),
            ("s3a://b/x", "s3://"),
            ("https://example.org/x", "s3://"),
        ] {
            let error = Location::parse(text).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert!(!error.is_transient());
        }
        let error = Location::local(Path::new("s3://b/x"), "a backbone").unwrap_err();
        assert!(error.to_string().contains("a backbone"), "{error}");
    }
}
