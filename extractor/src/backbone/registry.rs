//! Backbones that are known by name (`registry.toml`): classifiers and weights, each with the address, size
//! and digest of its file, and those that another tool exports.
//!
//! Must not download anything.

use url::Url;

use crate::digest::Digest;
use crate::preprocess::Preset;

/// What a published file is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A classifier that a backbone is cut out of.
    #[default]
    Onnx,
    /// The weights of a ResNet50.
    Safetensors,
}

/// A published file that a backbone can be made of.
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
    /// What it is.
    #[serde(default)]
    pub format: Format,
    /// The file's size.
    pub size_bytes: u64,
    /// The file's digest.
    pub sha256: Digest,
    /// Preprocessing that it was trained with.
    pub preset: Preset,
    /// Licence of the weights.
    pub licence: String,
}

impl Entry {
    /// The file's name on this machine; published ones are not always told apart by their own.
    pub fn file_name(&self) -> String {
        let extension = match self.format {
            Format::Onnx => "onnx",
            Format::Safetensors => "safetensors",
        };
        format!("{}.{extension}", self.name)
    }
}

/// A backbone that another tool exports, as its weights are in no format that is read here.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct Exported {
    /// Its name.
    pub name: String,
    /// What it is, for people.
    pub what: String,
    /// How to get it.
    pub how: String,
    /// Preprocessing that it was trained with.
    pub preset: Preset,
    /// Licence of the weights.
    pub licence: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Registry {
    backbone: Vec<Entry>,
    exported: Vec<Exported>,
}

fn registry() -> Registry {
    toml::from_str(include_str!("registry.toml")).expect("a valid registry")
}

/// All files that are known.
///
/// # Panics
/// Never: a test reads the registry.
pub fn entries() -> Vec<Entry> {
    registry().backbone
}

/// All backbones that another tool exports.
///
/// # Panics
/// Never: a test reads the registry.
pub fn exported() -> Vec<Exported> {
    registry().exported
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
        let exported = exported();
        let names = all.iter().map(|entry| &entry.name);
        let names: std::collections::HashSet<_> = names
            .chain(exported.iter().map(|entry| &entry.name))
            .collect();
        assert_eq!(names.len(), all.len() + exported.len());
        for entry in &all {
            assert_eq!(entry.url.scheme(), "https");
            let end = match entry.format {
                Format::Onnx => format!("/{}", entry.file_name()),
                Format::Safetensors => "/model.safetensors".to_owned(),
            };
            assert!(entry.url.path().ends_with(&end));
            // A branch moves on; a commit does not.
            let is_commit =
                |part: &str| part.len() == 40 && part.bytes().all(|b| b.is_ascii_hexdigit());
            if entry.format == Format::Safetensors {
                assert!(entry.url.path().split('/').any(is_commit));
            }
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
