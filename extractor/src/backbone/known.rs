//! Published models that are known by their digest, for when no description lies beside the file.

use super::registry;
use super::spec::Description;
use crate::digest::Digest;
use crate::preprocess::Preset;

/// Digest of the file, name, preset.
const KNOWN: [(&str, &str, Preset); 2] = [
    // Xilinx ResNet50-PYNQ, 1-bit weights, 2-bit activations, at 100x100, channels last.
    (
        "1be4f848e19a708431734f928afc6faa2eb950874a3074881b2351c13dc03140",
        "resnet50_w1a2",
        Preset::Unit,
    ),
    // The ONNX model zoo's MobileNetV2 without its classifier, at 100x100.
    (
        "7e00cd68c755d10daf75546e15830ec887a3f7bc5decd67329437c98f3db02e5",
        "mobilenetv2_100",
        Preset::Imagenet,
    ),
];

/// The description of a known model.
pub fn description(digest: &Digest) -> Option<Description> {
    let text = digest.to_string();
    let known = KNOWN.iter().find(|(known, _, _)| *known == text);
    let known = known.map(|(_, name, preset)| ((*name).to_owned(), *preset));
    let (name, preset) =
        known.or_else(|| registry::of_digest(digest).map(|entry| (entry.name, entry.preset)))?;
    Some(Description {
        name: Some(name),
        preset: Some(preset),
        trained: Some(true),
        ..Description::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_digests() {
        for (digest, name, preset) in KNOWN {
            let description = description(&digest.parse().unwrap()).unwrap();
            assert_eq!(description.name.as_deref(), Some(name));
            assert_eq!(description.preset, Some(preset));
        }
        assert_eq!(description(&Digest::of(b"")), None);
    }
}
