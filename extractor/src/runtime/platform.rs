//! The platforms and flavours that ONNX Runtime is fetched for.
//!
//! It does not know versions or hashes; those are in the table.

use std::fmt;

use super::error::RuntimeError;

/// A platform that a wheel is pinned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Platform {
    /// Linux with the GNU C library on x86-64.
    LinuxX86_64,
    /// Linux with the GNU C library on arm64.
    LinuxAarch64,
    /// macOS on Intel processors.
    MacosX86_64,
    /// macOS on Apple's processors.
    MacosArm64,
}

impl Platform {
    /// Every supported platform.
    pub const ALL: [Platform; 4] = [
        Platform::LinuxX86_64,
        Platform::LinuxAarch64,
        Platform::MacosX86_64,
        Platform::MacosArm64,
    ];

    /// The platform that this program was built for.
    ///
    /// # Errors
    /// [`RuntimeError::UnsupportedPlatform`] when no wheel is pinned for it.
    pub fn current() -> Result<Platform, RuntimeError> {
        let glibc = cfg!(not(target_env = "musl"));
        Platform::of(std::env::consts::OS, std::env::consts::ARCH, glibc)
    }

    /// The platform by the names that Rust gives to systems and processors. The wheels' Linux
    /// libraries need the GNU C library, so `glibc` decides there.
    pub(super) fn of(os: &str, arch: &str, glibc: bool) -> Result<Platform, RuntimeError> {
        match (os, arch) {
            ("linux", "x86_64") if glibc => Ok(Platform::LinuxX86_64),
            ("linux", "aarch64") if glibc => Ok(Platform::LinuxAarch64),
            ("macos", "x86_64") => Ok(Platform::MacosX86_64),
            ("macos", "aarch64") => Ok(Platform::MacosArm64),
            _ => Err(RuntimeError::UnsupportedPlatform {
                os: os.to_owned(),
                arch: match (os, glibc) {
                    ("linux", false) => format!("{arch} with musl"),
                    _ => arch.to_owned(),
                },
            }),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Platform::LinuxX86_64 => "linux-x86_64",
            Platform::LinuxAarch64 => "linux-aarch64",
            Platform::MacosX86_64 => "macos-x86_64",
            Platform::MacosArm64 => "macos-arm64",
        })
    }
}

/// Which build of ONNX Runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, clap::ValueEnum)]
pub enum Flavour {
    /// The processor alone.
    #[default]
    Cpu,
    /// With the CUDA execution provider; CUDA's own libraries and cuDNN are not part of it.
    Cuda,
    /// With the OpenVINO execution provider and OpenVINO itself, for the processor alone.
    Openvino,
}

impl Flavour {
    /// Every flavour.
    pub const ALL: [Flavour; 3] = [Flavour::Cpu, Flavour::Cuda, Flavour::Openvino];

    /// The name of what it has over the CPU flavour.
    pub(super) fn title(self) -> &'static str {
        match self {
            Flavour::Cpu => "the CPU",
            Flavour::Cuda => "CUDA",
            Flavour::Openvino => "OpenVINO",
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flavour::Cpu => "cpu",
            Flavour::Cuda => "cuda",
            Flavour::Openvino => "openvino",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supported_platforms_are_recognised() {
        assert_eq!(
            Platform::of("linux", "aarch64", true).unwrap(),
            Platform::LinuxAarch64
        );
        assert_eq!(
            Platform::of("macos", "aarch64", true).unwrap(),
            Platform::MacosArm64
        );
    }

    #[test]
    fn any_other_platform_gets_one_line_with_the_way_out() {
        for (os, arch, glibc) in [
            ("windows", "x86_64", true),
            ("linux", "riscv64", true),
            ("linux", "x86_64", false),
        ] {
            let message = Platform::of(os, arch, glibc).unwrap_err().to_string();
            assert!(message.contains(os) && message.contains(arch), "{message}");
            assert!(message.contains("macos-arm64"), "{message}");
            assert!(message.contains("ORT_DYLIB_PATH"), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }
}
