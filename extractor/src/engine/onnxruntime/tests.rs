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

/// The CPU provider with the probe, whose batches are bound in memory of `bind_in`.
fn on_the_cpu(bind_in: Option<AllocationDevice<'static>>) -> OnnxRuntime {
    let data_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data");
    let library = locate(&data_dir, Flavour::Cpu);
    let options = EngineOptions {
        library: library
            .expect("ONNX Runtime is not there: run `make runtime` first")
            .path,
        provider: Provider::Cpu,
        precision: Precision::Fp32,
        threads: 1,
        optimized: None,
    };
    let runtime = OnnxRuntime::open(&openvino::probe(), &options).unwrap();
    OnnxRuntime { bind_in, ..runtime }
}

fn batch(images: usize, seed: f32) -> ([usize; 4], Vec<f32>) {
    let [_, c, h, w] = openvino::SHAPE;
    let data = (0..images * c * h * w).map(|i| (i as f32 * seed).sin());
    ([images, c, h, w], data.collect())
}

/// What holds for a GPU's page-locked memory is tried with memory of the processor.
#[test]
fn bound_batches_come_out_as_others_do() {
    let mut plain = on_the_cpu(None);
    let mut bound = on_the_cpu(Some(AllocationDevice::CPU));
    let [mut expected, mut found] = [Vec::new(), vec![1.0; 7]];
    let names = [openvino::INPUT, openvino::OUTPUT];
    let run =
        |runtime: &mut OnnxRuntime, (shape, data): ([usize; 4], &[f32]), out: &mut Vec<f32>| {
            runtime.run(names[0], shape, data, names[1], out)
        };
    for n in 0..4 {
        let (shape, data) = batch(1, 0.1 + n as f32);
        let maps = run(&mut plain, (shape, &data), &mut expected).unwrap();
        let bound_maps = run(&mut bound, (shape, &data), &mut found).unwrap();
        assert_eq!((bound_maps, &found), (maps, &expected));
        assert!(bound.bound.is_some());
    }
    let (shape, data) = batch(2, 0.1);
    let refused = run(&mut bound, (shape, &data), &mut found);
    assert!(
        matches!(refused, Err(EngineError::Run(_))),
        "the probe takes one image"
    );
    assert!(plain.bound.is_none());
    assert_ne!(found, vec![0.0; found.len()]);
}

#[test]
fn batches_are_not_bound_where_that_fails_or_changes_a_bit() {
    let mut none = on_the_cpu(Some(AllocationDevice::CUDA_PINNED));
    let (shape, data) = batch(1, 0.3);
    let mut out = Vec::new();
    none.run(openvino::INPUT, shape, &data, openvino::OUTPUT, &mut out)
        .unwrap();
    assert!(
        none.bound.is_none() && none.bind_in.is_none(),
        "there is no GPU"
    );

    let mut other = on_the_cpu(Some(AllocationDevice::CPU));
    out[0] = f32::from_bits(out[0].to_bits() ^ 1);
    other.bind([openvino::INPUT, openvino::OUTPUT], shape, &data, &out);
    assert!(other.bound.is_none() && other.bind_in.is_none());
}
