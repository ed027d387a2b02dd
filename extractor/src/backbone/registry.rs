//! Classifiers that are known by name (`registry.toml`), each with the address, size and digest of its
//! file.
//!
//! Must not download anything.

use url::Url;

use crate::digest::Digest;
use crate::preprocess::Preset;

/// A classifier that a backbone can be cut out of.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name, which is the backbone's, too.
    pub name: String,
    /// What it is, for people.
    pub what: String,
    /// Where its file is.
    #[serde(deserialize_with = "crate::net::url_of_text")]
    pub url: Url,
    /// The file's size.
    pub size_bytes: u64,
    /// The file's digest.
    pub sha256: Digest,
    /// Preprocessing that it was trained with.
    pub preset: Preset,
    /// Licence of the weights.
    pub licence: String,
}

#[derive(serde::Deserialize)]
struct Registry {
    backbone: Vec<Entry>,
}

/// All that are known.
///
/// # Panics
/// Never: a test reads the registry.
pub fn entries() -> Vec<Entry> {
    let registry: Registry =
        toml::from_str(include_str!("registry.toml")).expect("a valid registry");
    registry.backbone
}

/// The one with this digest.
pub fn of_digest(sha256: &Digest) -> Option<Entry> {
    entries().into_iter().find(|entry| entry.sha256 == *sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_whole() {
        let all = entries();
        let names: std::collections::HashSet<_> = all.iter().map(|entry| &entry.name).collect();
        assert_eq!(names.len(), all.len());
        for entry in &all {
            assert_eq!(entry.url.scheme(), "https");
            assert!(entry.url.path().ends_with(&format!("/{}.onnx", entry.name)));
            assert_eq!(of_digest(&entry.sha256).as_ref(), Some(entry));
        }
        let published = "3f03fdef724b22947eed826f1eef1dc5c34151bb4c37d634f1db89dfa2dd1526";
        let resnet50 = of_digest(&published.parse().unwrap()).unwrap();
        assert_eq!(
            (resnet50.size_bytes, resnet50.preset),
            (102_576_593, Preset::Imagenet)
        );
    }
}
