//! The pinned wheels: for each platform and flavour one file on PyPI, with its size and hash.
//!
//! A pinned hash makes every mirror as good as PyPI: what a mirror says about its own files is
//! never believed. The shared library is the same in the wheels of all Python versions; the
//! table names those of CPython 3.11 and no Python is needed to use them. To move to a newer
//! ONNX Runtime, change the entries here; size and hash are on the index's page, the members in
//! the output of `unzip -l`.

use super::error::RuntimeError;
use super::platform::{Flavour, Platform};
use crate::digest::Digest;

/// One wheel, and what to take out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// Version of ONNX Runtime.
    pub version: &'static str,
    /// The project's name on the index, in the index's spelling.
    pub project: &'static str,
    /// The wheel's file name.
    pub wheel: &'static str,
    /// The wheel's SHA-256.
    pub sha256: Digest,
    /// The wheel's size.
    pub size_bytes: u64,
    /// Paths inside the wheel; the first is the library to load, the rest have to lie beside it.
    pub members: &'static [&'static str],
    /// Size of the members once unpacked.
    pub unpacked_bytes: u64,
    /// The folder that the members are unpacked into.
    pub folder: &'static str,
}

impl Pinned {
    /// The wheel for a platform and flavour.
    ///
    /// # Errors
    /// [`RuntimeError::NoFlavour`] when that platform has no such flavour.
    pub fn find(platform: Platform, flavour: Flavour) -> Result<&'static Pinned, RuntimeError> {
        match (platform, flavour) {
            (Platform::LinuxX86_64, Flavour::Cpu) => Ok(&LINUX_X86_64),
            (Platform::LinuxAarch64, Flavour::Cpu) => Ok(&LINUX_AARCH64),
            (Platform::MacosX86_64, Flavour::Cpu) => Ok(&MACOS_X86_64),
            (Platform::MacosArm64, Flavour::Cpu) => Ok(&MACOS_ARM64),
            (Platform::LinuxX86_64, Flavour::Cuda) => Ok(&LINUX_X86_64_CUDA),
            (Platform::LinuxX86_64, Flavour::Openvino) => Ok(&LINUX_X86_64_OPENVINO),
            (platform, flavour) => Err(RuntimeError::NoFlavour { flavour, platform }),
        }
    }

    /// File name of the library to load.
    pub fn library(&self) -> &'static str {
        file_name(self.members[0])
    }
}

/// What follows the last slash of a member's path.
pub(super) fn file_name(member: &'static str) -> &'static str {
    member.rsplit('/').next().unwrap_or(member)
}

static LINUX_X86_64: Pinned = Pinned {
    version: "1.32.0",
    project: "onnxruntime",
    wheel: "onnxruntime-1.32.0-cp311-cp311-manylinux_2_28_x86_64.whl",
    sha256: digest("5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d"),
    size_bytes: 27_773_237,
    members: &["onnxruntime/capi/libonnxruntime.so.1.32.0"],
    unpacked_bytes: 34_824_680,
    folder: "onnxruntime-1.32.0-linux-x86_64",
};

static LINUX_AARCH64: Pinned = Pinned {
    version: "1.32.0",
    project: "onnxruntime",
    wheel: "onnxruntime-1.32.0-cp311-cp311-manylinux_2_28_aarch64.whl",
    sha256: digest("2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c"),
    size_bytes: 23_195_070,
    members: &["onnxruntime/capi/libonnxruntime.so.1.32.0"],
    unpacked_bytes: 27_165_936,
    folder: "onnxruntime-1.32.0-linux-aarch64",
};

/// The last version with a wheel for Intel Macs.
static MACOS_X86_64: Pinned = Pinned {
    version: "1.23.2",
    project: "onnxruntime",
    wheel: "onnxruntime-1.23.2-cp311-cp311-macosx_13_0_x86_64.whl",
    sha256: digest("87d8b6eaf0fbeb6835a60a4265fde7a3b60157cf1b2764773ac47237b4d48612"),
    size_bytes: 19_153_857,
    members: &["onnxruntime/capi/libonnxruntime.1.23.2.dylib"],
    unpacked_bytes: 30_819_512,
    folder: "onnxruntime-1.23.2-macos-x86_64",
};

static MACOS_ARM64: Pinned = Pinned {
    version: "1.32.0",
    project: "onnxruntime",
    wheel: "onnxruntime-1.32.0-cp311-cp311-macosx_14_0_arm64.whl",
    sha256: digest("366b9e53d07812cc5c92822cecf7563b76a8a0f32ba3bb8dd232a206ac3bcb6c"),
    size_bytes: 22_506_162,
    members: &["onnxruntime/capi/libonnxruntime.1.32.0.dylib"],
    unpacked_bytes: 35_272_344,
    folder: "onnxruntime-1.32.0-macos-arm64",
};

/// The newest `onnxruntime-gpu` on PyPI; its CUDA provider links CUDA 13's libraries.
static LINUX_X86_64_CUDA: Pinned = Pinned {
    version: "1.31.1",
    project: "onnxruntime-gpu",
    wheel: "onnxruntime_gpu-1.31.1-cp311-cp311-manylinux_2_28_x86_64.whl",
    sha256: digest("e26c475fe361b2015f45b4b824bd13f0bb20204e59b62814e6f0acd5f3d491a6"),
    size_bytes: 255_560_985,
    members: &[
        "onnxruntime/capi/libonnxruntime.so.1.31.1",
        "onnxruntime/capi/libonnxruntime_providers_shared.so",
        "onnxruntime/capi/libonnxruntime_providers_cuda.so",
    ],
    unpacked_bytes: 29_421_832 + 14_632 + 284_014_752,
    folder: "onnxruntime-1.31.1-linux-x86_64-cuda",
};

/// The newest `onnxruntime-openvino` on PyPI, with what runs on the processor: the plugins for other
/// devices and the front ends for other formats stay out.
static LINUX_X86_64_OPENVINO: Pinned = Pinned {
    version: "1.24.1",
    project: "onnxruntime-openvino",
    wheel: "onnxruntime_openvino-1.24.1-cp311-cp311-manylinux_2_28_x86_64.whl",
    sha256: digest("3007c803634cc69c6d52af1dea7ce729d9bb62b9a11070fd2f959119199007a8"),
    size_bytes: 84_430_935,
    members: &[
        "onnxruntime/capi/libonnxruntime.so.1.24.1",
        "onnxruntime/capi/libonnxruntime_providers_shared.so",
        "onnxruntime/capi/libonnxruntime_providers_openvino.so",
        "onnxruntime/capi/libopenvino.so.2541",
        "onnxruntime/capi/libopenvino_onnx_frontend.so.2541",
        "onnxruntime/capi/libopenvino_intel_cpu_plugin.so",
        "onnxruntime/capi/libtbb.so.12",
    ],
    unpacked_bytes: 31_260_360 + 15_776 + 2_000_856 + 25_284_089 + 7_006_249 + 67_008_289 + 367_649,
    folder: "onnxruntime-1.24.1-linux-x86_64-openvino",
};

/// A digest from its hexadecimal digits; a mistyped one does not compile.
const fn digest(text: &str) -> Digest {
    const fn nibble(byte: u8) -> u8 {
        match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => panic!("not a lowercase hexadecimal digit"),
        }
    }
    let digits = text.as_bytes();
    assert!(digits.len() == 64, "a SHA-256 has 64 digits");
    let mut bytes = [0; 32];
    let mut i = 0;
    while i < 32 {
        bytes[i] = nibble(digits[2 * i]) << 4 | nibble(digits[2 * i + 1]);
        i += 1;
    }
    Digest(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<&'static Pinned> {
        let pairs = Platform::ALL
            .into_iter()
            .flat_map(|platform| Flavour::ALL.map(|flavour| (platform, flavour)));
        pairs
            .filter_map(|(platform, flavour)| Pinned::find(platform, flavour).ok())
            .collect()
    }

    #[test]
    fn every_platform_has_a_library_and_linux_on_x86_64_those_for_cuda_and_openvino() {
        assert_eq!(all().len(), 6);
        for (flavour, name) in [(Flavour::Cuda, "CUDA"), (Flavour::Openvino, "OpenVINO")] {
            assert!(Pinned::find(Platform::LinuxX86_64, flavour).is_ok());
            let message = Pinned::find(Platform::MacosArm64, flavour).unwrap_err();
            let message = message.to_string();
            assert!(
                message.contains(&format!("with {name} is pinned for macos-arm64")),
                "{message}"
            );
        }
    }

    #[test]
    fn entries_agree_with_themselves() {
        let mut folders = std::collections::HashSet::new();
        for pinned in all() {
            let project = pinned.project.replace('-', "_");
            assert!(
                pinned
                    .wheel
                    .starts_with(&format!("{project}-{}-", pinned.version))
            );
            assert!(pinned.members[0].contains(pinned.version));
            assert!(pinned.library().starts_with("libonnxruntime."));
            assert!(pinned.folder.contains(pinned.version));
            assert!(folders.insert(pinned.folder));
            assert_eq!(
                pinned.sha256.to_string().parse::<Digest>(),
                Ok(pinned.sha256)
            );
        }
    }
}
