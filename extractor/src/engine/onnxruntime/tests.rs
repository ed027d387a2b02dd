//! Of what ONNX Runtime says, and that OpenVINO does what it is told.

use super::*;
use crate::runtime::{Flavour, Platform, locate};

/// What OpenVINO's provider is told, and what is done to it.
type Told = Vec<(&'static str, String)>;
type Change<'a> = &'a dyn Fn(&mut Told);

/// A wrong option would have the CPU provider run, or another precision, under OpenVINO's name.
#[test]
#[ignore = "needs OpenVINO's library; make test-all runs it"]
fn no_wrong_option_of_openvino_passes_silently() {
    let data_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data");
    let library = match locate(&data_dir, Flavour::Openvino) {
        Ok(located) => located.path,
        Err(_) if Platform::current().ok() != Some(Platform::LinuxX86_64) => {
            eprintln!("skipped: there is no OpenVINO for this platform");
            return;
        }
        Err(e) => panic!("{e}"),
    };
    let options = |precision| EngineOptions {
        library: library.clone(),
        provider: Provider::Openvino,
        precision,
        threads: 1,
        optimized: None,
    };
    let environment = environment(&library).unwrap();
    let open = |precision, change: Change<'_>| {
        let options = options(precision);
        let mut told = openvino::options(precision, options.threads);
        change(&mut told);
        with_openvino(environment, &openvino::probe(), &options, &told).map(|_| ())
    };
    open(Precision::Fp32, &|_| ()).unwrap();
    let config = |text: &'static str| {
        move |told: &mut Told| {
            told.retain(|(name, _)| *name != "load_config");
            told.push(("load_config", text.to_owned()));
        }
    };
    let wrong: [(&str, Change<'_>); 5] = [
        ("no JSON", &config("{")),
        ("a key", &config(r#"{"CPU":{"INFERENCE_PRECISION":"f32"}}"#)),
        (
            "a threads' number",
            &config(r#"{"CPU":{"INFERENCE_NUM_THREADS":"two"}}"#),
        ),
        ("an option", &|told| {
            told.push(("loadconfig", "{}".to_owned()))
        }),
        ("a device", &|told| told[0].1 = "XPU".to_owned()),
    ];
    for (what, change) in wrong {
        let said = open(Precision::Fp32, change).unwrap_err().to_string();
        eprintln!("{what}: {said}");
        assert!(
            said.starts_with("the OpenVINO execution provider cannot"),
            "{what}: {said}"
        );
    }
    if !has_bf16() {
        let said = open(Precision::Bf16, &|_| ()).unwrap_err().to_string();
        assert!(said.contains("AVX512_BF16"), "{said}");
        eprintln!("skipped: this processor has no bfloat16 instructions");
        return;
    }
    open(Precision::Bf16, &|_| ()).unwrap();
    // OpenVINO takes all of these without a word.
    let wrong = [
        (
            Precision::Bf16,
            r#"{"CPU":{"INFERENCE_PRECISION_HINT":"f32"}}"#,
        ),
        (
            Precision::Bf16,
            r#"{"CPU":{"INFERENCE_PRECISION_HINT":"b16"}}"#,
        ),
        (
            Precision::Bf16,
            r#"{"GPU":{"INFERENCE_PRECISION_HINT":"bf16"}}"#,
        ),
        (
            Precision::Fp32,
            r#"{"CPU":{"INFERENCE_PRECISION_HINT":"bf16"}}"#,
        ),
    ];
    for (precision, text) in wrong {
        let said = open(precision, &config(text)).unwrap_err().to_string();
        let wanted = format!("where {precision} was asked for");
        assert!(said.contains(&wanted), "{text}: {said}");
    }
}

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
