//! The arithmetic that a model runs in, and which execution provider has which.
//!
//! Must not know how a provider is told.

use super::Provider;

/// Arithmetic of a model's convolutions and products; what goes in and comes out is float32.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// float32.
    #[default]
    Fp32,
    /// bfloat16, 8 bits of mantissa, summed in float32: OpenVINO, on processors with AVX512_BF16 or
    /// AMX.
    Bf16,
    /// TensorFloat-32, 11 bits of mantissa, summed in float32: CUDA, on GPUs from Ampere on.
    Tf32,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Precision::Fp32 => "fp32",
            Precision::Bf16 => "bf16",
            Precision::Tf32 => "tf32",
        })
    }
}

/// A precision that cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Another provider has it.
    #[error(
        "--ep {} does not compute in {precision} (hint: --ep {} does; fp32 is what every provider has)",
        provider.flag(),
        Provider::with(*precision).flag()
    )]
    Provider {
        /// The provider asked for.
        provider: Provider,
        /// The precision asked for.
        precision: Precision,
    },
    /// This processor would emulate it, or run fp32 in its place.
    #[error(
        "precision bf16 needs a processor with AVX512_BF16 or AMX instructions; this one would be slower \
         than in fp32, or compute in fp32 under its name (hint: --precision fp32)"
    )]
    Processor,
}

impl Provider {
    /// The provider that is meant where `precision` is wanted: `auto` becomes the only one that has it,
    /// and stays where every provider has it.
    ///
    /// # Errors
    /// [`Unfit::Provider`].
    pub fn for_precision(self, precision: Precision) -> Result<Provider, Unfit> {
        match (self, precision) {
            (_, Precision::Fp32) => Ok(self),
            (Provider::Auto, _) => Ok(Provider::with(precision)),
            _ if self == Provider::with(precision) => Ok(self),
            _ => Err(Unfit::Provider {
                provider: self,
                precision,
            }),
        }
    }

    /// The first provider that has `precision`.
    fn with(precision: Precision) -> Provider {
        match precision {
            Precision::Fp32 => Provider::Cpu,
            Precision::Bf16 => Provider::Openvino,
            Precision::Tf32 => Provider::Cuda,
        }
    }

    /// As it is typed.
    fn flag(self) -> &'static str {
        match self {
            Provider::Auto => "auto",
            Provider::Cpu => "cpu",
            Provider::Cuda => "cuda",
            Provider::Openvino => "openvino",
        }
    }
}

/// Whether this processor has instructions for bfloat16 that OpenVINO was seen to use. (Those with AMX
/// have AVX512_BF16, too.)
pub(super) fn has_bf16() -> bool {
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    let has = std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
    let has = false;
    has
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_precision_has_its_provider() {
        use Precision::{Bf16, Fp32, Tf32};
        use Provider::{Auto, Cpu, Cuda, Openvino};
        for provider in [Auto, Cpu, Cuda, Openvino] {
            assert_eq!(provider.for_precision(Fp32), Ok(provider));
        }
        assert_eq!(Auto.for_precision(Bf16), Ok(Openvino));
        assert_eq!(Openvino.for_precision(Bf16), Ok(Openvino));
        assert_eq!(Auto.for_precision(Tf32), Ok(Cuda));
        assert_eq!(Cuda.for_precision(Tf32), Ok(Cuda));
        for (provider, precision, remedy) in [
            (Cpu, Bf16, "--ep openvino does"),
            (Cuda, Bf16, "--ep openvino does"),
            (Cpu, Tf32, "--ep cuda does"),
            (Openvino, Tf32, "--ep cuda does"),
        ] {
            let unfit = provider.for_precision(precision).unwrap_err().to_string();
            assert!(unfit.contains(remedy), "{unfit}");
        }
    }

    #[test]
    fn a_precision_is_written_as_it_is_shown() {
        for precision in [Precision::Fp32, Precision::Bf16, Precision::Tf32] {
            let written = serde_json::to_string(&precision).unwrap();
            assert_eq!(written, format!("\"{precision}\""));
        }
    }
}
