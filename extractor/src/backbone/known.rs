//! Published models that are known by their digest, for when no description lies beside the file.

use super::spec::Description;
use crate::digest::Digest;
use crate::preprocess::Preset;

/// Digest of the file, name, preset.
const KNOWN: [(&str, &str, Preset); 3] = [
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
    // The ONNX model zoo's resnet50-v1-12, classifier included.
    (
        "3f03fdef724b22947eed826f1eef1dc5c34151bb4c37d634f1db89dfa2dd1526",
        "resnet50-v1-12",
        Preset::Imagenet,
    ),
];

/// The description of a known model.
pub fn description(digest: &Digest) -> Option<Description> {
    let digest = digest.to_string();
    let (_, name, preset) = KNOWN.iter().find(|(known, _, _)| *known == digest)?;
    Some(Description {
        name: Some((*name).to_owned()),
        preset: Some(*preset),
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
