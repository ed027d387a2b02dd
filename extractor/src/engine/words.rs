//! What is read out of ONNX Runtime's words: why something failed, and its version.
//!
//! Must not know how it is called.

/// The part of ONNX Runtime's multi-line explanations that says what is missing.
pub(super) fn concise(reason: &str) -> String {
    const MISSING: &str = ": cannot open shared object file";
    if let Some(end) = reason.find(MISSING) {
        let from = reason[..end].rfind(|c: char| c.is_whitespace() || "'\"(".contains(c));
        return reason[from.map_or(0, |i| i + 1)..end + MISSING.len()].to_owned();
    }
    // `CUDA failure 100: no CUDA-capable device is detected ; GPU=...`, somewhere in a template's name.
    if let Some(start) = reason.find("CUDA failure ") {
        let text = reason[start..]
            .split([';', '\n'])
            .next()
            .unwrap_or_default();
        return text.trim().to_owned();
    }
    let line = reason.lines().next().unwrap_or_default();
    line.chars().take(300).collect()
}

/// The version in a library's file name: `1.32.0` in `libonnxruntime.so.1.32.0` or
/// `libonnxruntime.1.32.0.dylib`. (ONNX Runtime itself tells only through an unsafe call.)
pub(super) fn version_in(name: &str) -> Option<&str> {
    let from = name.find(|c: char| c.is_ascii_digit())?;
    let version = &name[from..];
    let to = version
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(version.len());
    let version = version[..to].trim_end_matches('.');
    (version.split('.').count() >= 2).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named_without_the_stack() {
        let long = "/onnxruntime/core/session.cc:2200 onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] \
                    : 1 : FAIL : Failed to load library libonnxruntime_providers_cuda.so with error: \
                    libcublasLt.so.13: cannot open shared object file: No such file or directory\n)";
        assert_eq!(
            concise(long),
            "libcublasLt.so.13: cannot open shared object file"
        );
        assert_eq!(concise("no device\nat f\nat g"), "no device");
        let device = "/onnxruntime/cuda_call.cc:129 std::conditional_t<THRW, void, Status> onnxruntime::CudaCall(ERRTYPE, \
                      const char*) [with ERRTYPE = cudaError; bool THRW = true] CUDA failure 100: no CUDA-capable \
                      device is detected ; GPU=-1 ; hostname=n1 ; expr=cudaSetDevice(info_.device_id);\n";
        assert_eq!(
            concise(device),
            "CUDA failure 100: no CUDA-capable device is detected"
        );
    }

    #[test]
    fn versions_are_read_off_library_names() {
        assert_eq!(version_in("libonnxruntime.so.1.32.0"), Some("1.32.0"));
        assert_eq!(version_in("libonnxruntime.1.23.2.dylib"), Some("1.23.2"));
        assert_eq!(version_in("libonnxruntime.so"), None);
        assert_eq!(version_in("libonnxruntime.so.1"), None);
    }
}
