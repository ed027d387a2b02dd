//! The data sets that are known by name (`known.toml`), and the server to ask instead of theirs.

use url::Url;

use super::FetchError;
use super::download::Remote;
use crate::digest::Digest;
use crate::images::Keep;
use crate::net::Environment;

/// Names a server to ask instead of the one in a registry: `http://mirror.example/some/folder`, under
/// which the files have the paths that they have on their own server.
pub const MIRROR: &str = "HEADSTART_MIRROR";

/// A data set that is known by name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownSet {
    /// Its name.
    pub name: String,
    /// What it is, for people.
    pub what: String,
    /// Where its archive is.
    #[serde(deserialize_with = "crate::net::url_of_text")]
    pub url: Url,
    /// The archive's size.
    pub size_bytes: u64,
    /// The archive's digest.
    pub sha256: Digest,
    /// What of it is kept, unless somebody wants all.
    pub keep: Keep,
    /// How many images that is documented to leave.
    pub kept: u64,
}

#[derive(serde::Deserialize)]
struct Registry {
    data_set: Vec<KnownSet>,
}

/// The data sets that are known.
///
/// # Panics
/// Never: a test reads the registry.
pub fn data_sets() -> Vec<KnownSet> {
    let registry: Registry = toml::from_str(include_str!("known.toml")).expect("a valid registry");
    registry.data_set
}

/// A registry's file, at the mirror if the environment names one.
///
/// # Errors
/// When the mirror's address is none.
pub fn remote(
    url: &Url,
    size_bytes: u64,
    sha256: Digest,
    environment: &Environment,
) -> Result<Remote, FetchError> {
    Ok(Remote {
        url: match environment.get(MIRROR) {
            Some(mirror) => mirrored(url, mirror)?,
            None => url.clone(),
        },
        size_bytes: Some(size_bytes),
        sha256: Some(sha256),
    })
}

fn mirrored(url: &Url, mirror: &str) -> Result<Url, FetchError> {
    let base = Url::parse(mirror).ok();
    let base = base.filter(|base| ["http", "https", "file"].contains(&base.scheme()));
    let Some(mut base) = base else {
        return Err(FetchError::Mirror {
            // What follows an `@` holds no password.
            value: mirror.rsplit('@').next().unwrap_or(mirror).to_owned(),
        });
    };
    let path = format!("{}{}", base.path().trim_end_matches('/'), url.path());
    base.set_path(&path);
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_whole() {
        let sets = data_sets();
        let set = &sets[0];
        assert_eq!((set.name.as_str(), set.keep), ("cats-vs-dogs", Keep::Jfif));
        assert_eq!((set.size_bytes, set.kept), (824_887_076, 23_262));
        assert!(sets.iter().all(|set| set.url.scheme() == "https"));
    }

    #[test]
    fn a_mirror_has_the_same_paths() {
        let url = &data_sets()[0].url;
        let at = |mirror: &str| mirrored(url, mirror).map(String::from);
        let path = url.path();
        for (mirror, start) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("https://u:p@m.example/a/", "https://u:p@m.example/a"),
            ("file:///mnt/mirror", "file:///mnt/mirror"),
        ] {
            assert_eq!(at(mirror).unwrap(), format!("{start}{path}"));
        }
        for wrong in ["mirror.example", "ftp://u:secret@mirror.example", "/mnt"] {
            let error = at(wrong).unwrap_err().to_string();
            assert!(error.contains("HEADSTART_MIRROR"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
