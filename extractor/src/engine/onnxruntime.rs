//! The only file that names `ort`: loads ONNX Runtime's shared library, opens a session with the
//! wanted execution provider, runs batches.
//!
//! Must not know about images, presets or stores.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use ort::environment::Environment;
use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider as _, ExecutionProvider};
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{IoBinding, Session};
use ort::value::{Tensor, TensorRef};

use super::optimized::WEIGHTS;
use super::precision::has_bf16;
use super::words::{concise, version_in};
use super::{
    Cause, Engine, EngineError, EngineInfo, EngineOptions, Optimized, Precision, Provider, Unfit,
    openvino,
};

/// Reads the bytes of an ONNX file.
pub type ReadModel<'a> = &'a dyn Fn() -> Result<Cow<'a, [u8]>, Cause>;

fn model_error(source: impl Into<ort::Error>) -> EngineError {
    EngineError::Model(source.into().into())
}

fn run_error(source: ort::Error) -> EngineError {
    EngineError::Run(source.into())
}

/// ONNX Runtime with an open model.
pub struct OnnxRuntime {
    bound: Option<Bound>, // ends before the session
    session: Session,
    info: EngineInfo,
    /// Where batches are bound, until that turns out not to work; nowhere where a device uses them as they
    /// lie.
    bind_in: Option<AllocationDevice<'static>>,
}

/// A batch's input and output in memory that the device reads and writes by itself: page-locked ("pinned")
/// for a GPU, whose driver would else copy every batch in pieces to such memory of its own, and back. Both
/// are reused from batch to batch.
struct Bound {
    input: Tensor<f32>,
    binding: IoBinding, // holds the session: ends after what was taken from its memory
    names: [String; 2], // of input and output
    shape: [usize; 4],
}

fn bits(values: &[f32]) -> impl Iterator<Item = u32> {
    values.iter().map(|v| v.to_bits())
}

impl Bound {
    fn new(
        session: &Session,
        device: &AllocationDevice<'static>,
        [input, output]: [&str; 2],
        shape: [usize; 4],
    ) -> ort::Result<Bound> {
        let memory = |kind| MemoryInfo::new(device.clone(), 0, AllocatorType::Device, kind);
        let allocator = Allocator::new(session, memory(MemoryType::CPUInput)?)?;
        let mut binding = session.create_binding()?;
        binding.bind_output_to_device(output, &memory(MemoryType::CPUOutput)?)?;
        Ok(Bound {
            binding,
            input: Tensor::new(&allocator, shape)?,
            names: [input.to_owned(), output.to_owned()],
            shape,
        })
    }

    fn run(
        &mut self,
        session: &mut Session,
        data: &[f32],
        out: &mut Vec<f32>,
    ) -> ort::Result<Vec<usize>> {
        let [input, output] = &self.names;
        let (_, place) = self.input.try_extract_tensor_mut::<f32>()?;
        place.copy_from_slice(data);
        // Binding is what copies it to the device; that is over before the place is filled again.
        self.binding.bind_input(input, &self.input)?;
        self.binding.synchronize_inputs()?;
        let outputs = session.run_binding(&self.binding)?;
        self.binding.synchronize_outputs()?;
        let (shape, values) = outputs[output.as_str()].try_extract_tensor::<f32>()?;
        out.clear();
        out.extend_from_slice(values);
        Ok(shape.iter().map(|&d| d as usize).collect())
    }
}

/// The process's one ONNX Runtime environment.
static ENVIRONMENT: OnceLock<(Environment, PathBuf)> = OnceLock::new();

fn environment(library: &Path) -> Result<&'static Environment, EngineError> {
    // One thread at a time: the library knows one environment only, so a second one that lost a
    // race would take the log callback of both with it when it is dropped.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    // An absolute path: the loader would look for a relative one beside the binary.
    let path = std::path::absolute(library).unwrap_or_else(|_| library.to_owned());
    if let Some((environment, loaded)) = ENVIRONMENT.get() {
        // What runs would be called by the wrong name.
        if *loaded != path && loaded.canonicalize().ok() != path.canonicalize().ok() {
            let loaded = format!(
                "this process has loaded {}, and loads one only",
                loaded.display()
            );
            return Err(EngineError::Library {
                path: library.to_owned(),
                source: loaded.into(),
            });
        }
        return Ok(environment);
    }
    let builder = ort::init_from(&path).map_err(|source| EngineError::Library {
        path: library.to_owned(),
        source: source.into(),
    })?;
    let environment = builder
        .with_name("headstart")
        .with_telemetry(false)
        .with_logger(std::sync::Arc::new(log))
        .build()
        .map_err(model_error)?;
    let (environment, _) = ENVIRONMENT.get_or_init(|| (environment, path));
    Ok(environment)
}

/// ONNX Runtime's own log lines go to ours, one level down: its warnings are about its internals.
fn log(level: ort::logging::LogLevel, _: &str, _: &str, location: &str, message: &str) {
    use ort::logging::LogLevel::{Error, Fatal, Warning};
    match level {
        Fatal | Error => tracing::warn!(target: "onnxruntime", "{message} ({location})"),
        Warning => tracing::debug!(target: "onnxruntime", "{message} ({location})"),
        _ => tracing::trace!(target: "onnxruntime", "{message} ({location})"),
    }
}

/// Name and version of the loaded library, for provenance.
///
/// # Errors
/// When the library cannot be loaded.
pub fn version(library: &Path) -> Result<String, EngineError> {
    environment(library)?;
    let library = library
        .canonicalize()
        .unwrap_or_else(|_| library.to_owned());
    let name = library.file_name().unwrap_or_default().to_string_lossy();
    Ok(match version_in(&name) {
        Some(version) => format!("onnxruntime {version}"),
        None => {
            let commit = ort::info()
                .split("git-commit-id=")
                .nth(1)
                .and_then(|s| s.split(',').next());
            format!("onnxruntime, commit {}", commit.unwrap_or("unknown"))
        }
    })
}

/// Opens a model as it was optimised before; else optimises it and keeps that.
fn open_optimized(
    model: ReadModel,
    optimized: &Optimized,
    engine: &str,
    builder: &dyn Fn() -> Result<SessionBuilder, EngineError>,
) -> Result<Session, Cause> {
    let mut made = None;
    let path = optimized.get(engine, |path| {
        // Weights of less than this stay in the graph.
        const LEAST_BYTES: &str = "1024";
        const FILE: &str = "session.optimized_model_external_initializers_file_name";
        const SIZE: &str = "session.optimized_model_external_initializers_min_size_in_bytes";
        File::create(path.with_file_name(WEIGHTS))?; // for models that have none so large
        let mut builder = builder()?
            .with_optimized_model_path(path)
            .map_err(model_error)?
            .with_config_entry(FILE, WEIGHTS)
            .map_err(model_error)?
            .with_config_entry(SIZE, LEAST_BYTES)
            .map_err(model_error)?;
        made = Some(builder.commit_from_memory(&model()?)?);
        Ok(())
    });
    let path = match (made, path) {
        (Some(session), Ok(_)) => return Ok(session),
        (Some(session), Err(e)) => {
            tracing::debug!("the optimised model is not kept: {e}");
            return Ok(session);
        }
        (None, path) => path?,
    };
    let mut builder = builder()?
        .with_optimization_level(GraphOptimizationLevel::Disable)
        .map_err(model_error)?;
    Ok(builder.commit_from_file(path)?)
}

fn builder(
    environment: &'static Environment,
    threads: usize,
) -> Result<SessionBuilder, EngineError> {
    Session::builder(environment)
        .map_err(model_error)?
        .with_intra_threads(threads.max(1))
        .map_err(model_error)
}

/// A session that OpenVINO runs, all of it and in the wanted precision, when it is `told` so; else an
/// error, whatever else would have run it.
fn with_openvino(
    environment: &'static Environment,
    model: &[u8],
    options: &EngineOptions,
    told: &[(&str, String)],
) -> Result<Session, EngineError> {
    if options.precision == Precision::Bf16 && !has_bf16() {
        return Err(Unfit::Processor.into());
    }
    let failed = |reason: String| EngineError::Openvino { reason };
    if !ep::OpenVINO::is_available().unwrap_or(false) {
        let library = version(&options.library)?;
        return Err(failed(format!("{library} was built without it")));
    }
    let open = |model: &[u8]| -> Result<Session, EngineError> {
        let mut provider = ep::OpenVINO::default();
        for (name, value) in told {
            provider = provider.with_arbitrary_config(name, value);
        }
        let provider = provider.build().error_on_failure();
        // A provider that cannot be made, for a wrong option say, is left out without a word, and the
        // CPU's would run what another one leaves.
        builder(environment, options.threads)?
            .with_disable_cpu_fallback()
            .map_err(model_error)?
            .with_execution_providers([provider])
            .map_err(|e| failed(openvino::reason(&e.to_string(), concise)))?
            .commit_from_memory(model)
            .map_err(|e| failed(openvino::reason(&e.to_string(), concise)))
    };
    let session = open(model)?;
    let mut probe = open(&openvino::probe())?;
    let question = (openvino::SHAPE, openvino::question());
    let tensor = TensorRef::from_array_view((question.0, &question.1[..])).map_err(run_error)?;
    let outputs = probe
        .run(ort::inputs![openvino::INPUT => tensor])
        .map_err(run_error)?;
    let (_, answer) = outputs[openvino::OUTPUT]
        .try_extract_tensor::<f32>()
        .map_err(run_error)?;
    match openvino::computed_in(answer) {
        Some(precision) if precision == options.precision => Ok(session),
        other => {
            let other = other.map_or("neither fp32 nor bf16".to_owned(), |p| p.to_string());
            let wanted = options.precision;
            Err(failed(format!(
                "it computes in {other} where {wanted} was asked for"
            )))
        }
    }
}

impl OnnxRuntime {
    /// Opens `model` (the bytes of an ONNX file).
    ///
    /// # Errors
    /// When the library cannot be loaded, the provider or the precision that is wanted cannot be had, or
    /// ONNX Runtime refuses the model. Never falls back silently.
    pub fn open(model: &[u8], options: &EngineOptions) -> Result<OnnxRuntime, EngineError> {
        OnnxRuntime::open_lazily(&|| Ok(Cow::Borrowed(model)), options)
    }

    /// [`OnnxRuntime::open`] for a model that need not be read if its optimised form is kept.
    ///
    /// # Errors
    /// Those of [`OnnxRuntime::open`], and that of `model` as [`EngineError::Model`].
    pub fn open_lazily(
        model: ReadModel,
        options: &EngineOptions,
    ) -> Result<OnnxRuntime, EngineError> {
        let engine = version(&options.library)?;
        let environment = environment(&options.library)?;
        let provider = options.provider.for_precision(options.precision)?;
        let builder = || builder(environment, options.threads);
        let open = |mut builder: SessionBuilder| {
            let model = model().map_err(EngineError::Model)?;
            builder.commit_from_memory(&model).map_err(model_error)
        };
        let cpu = || match options.optimized.as_ref() {
            Some(optimized) => open_optimized(model, optimized, &engine, &builder).or_else(|e| {
                tracing::debug!("no optimised model is kept: {e}");
                open(builder()?)
            }),
            None => open(builder()?),
        };
        let cuda = || -> Result<Session, EngineError> {
            if !ep::CUDA::is_available().unwrap_or(false) {
                let reason = format!("{engine} was built without it");
                return Err(EngineError::Cuda { reason });
            }
            // TF32 would keep 10 bits of mantissa and call it float32. Algorithms are chosen by rule: a
            // search by trial takes seconds for each batch size and may end otherwise the next time.
            let provider = ep::CUDA::default()
                .with_tf32(options.precision == Precision::Tf32)
                .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
                .build()
                .error_on_failure();
            // Some reasons (no device, an old driver) only show when the session is made.
            let failed = |reason: String| EngineError::Cuda {
                reason: concise(&reason),
            };
            builder()?
                .with_execution_providers([provider])
                .map_err(|e| failed(e.to_string()))?
                .commit_from_memory(&model().map_err(EngineError::Model)?)
                .map_err(|e| failed(e.to_string()))
        };
        let (session, provider, note) = match provider {
            Provider::Cpu => (cpu()?, "CPU", None),
            Provider::Cuda => (cuda()?, "CUDA", None),
            Provider::Openvino => {
                let told = openvino::options(options.precision, options.threads);
                let model = model().map_err(EngineError::Model)?;
                let session = with_openvino(environment, &model, options, &told)?;
                (session, "OpenVINO", None)
            }
            Provider::Auto => match cuda() {
                Ok(session) => (session, "CUDA", None),
                Err(EngineError::Cuda { reason }) => {
                    let faster = if has_bf16() { openvino::FASTER } else { "" };
                    let note = format!("no CUDA: {reason}{faster}");
                    (cpu()?, "CPU", Some(note))
                }
                Err(other) => return Err(other),
            },
        };
        let info = EngineInfo {
            engine,
            provider,
            note,
        };
        Ok(OnnxRuntime {
            session,
            bind_in: (provider == "CUDA").then_some(AllocationDevice::CUDA_PINNED),
            bound: None,
            info,
        })
    }

    /// Binds batches of `shape`, if that can be had and gives the same bits as the run before, which made
    /// `expected` of `data`; else no batch is bound any more.
    fn bind(&mut self, names: [&str; 2], shape: [usize; 4], data: &[f32], expected: &[f32]) {
        let Some(device) = &self.bind_in else {
            return;
        };
        let mut found = Vec::new();
        let bound = Bound::new(&self.session, device, names, shape).and_then(|mut bound| {
            bound.run(&mut self.session, data, &mut found)?;
            Ok(bound)
        });
        let same = |found: &[f32]| bits(found).eq(bits(expected));
        match bound {
            Ok(bound) if same(&found) => self.bound = Some(bound),
            Ok(_) => {
                tracing::warn!(
                    "batches in page-locked memory come out otherwise: they are copied by the driver, which \
                     is slower"
                );
                self.bind_in = None;
            }
            Err(e) => {
                tracing::debug!("no page-locked memory: {e}");
                self.bind_in = None;
            }
        }
    }
}

impl OnnxRuntime {
    /// Runs an image classifier: `pixels`, bytes of `shape`, through the input `input`. Returns the
    /// numbers of the two outputs, the probabilities and the numbers of the classes.
    ///
    /// # Errors
    /// When the engine fails or the outputs are not float32 and int64.
    pub fn classify(
        &mut self,
        input: &str,
        (shape, pixels): ([usize; 4], &[u8]),
        [probabilities, classes]: [&str; 2],
    ) -> Result<(Vec<f32>, Vec<i64>), EngineError> {
        let tensor = TensorRef::from_array_view((shape, pixels)).map_err(run_error)?;
        let outputs = self
            .session
            .run(ort::inputs![input => tensor])
            .map_err(run_error)?;
        let (_, probabilities) = outputs[probabilities]
            .try_extract_tensor::<f32>()
            .map_err(run_error)?;
        let (_, classes) = outputs[classes]
            .try_extract_tensor::<i64>()
            .map_err(run_error)?;
        Ok((probabilities.to_vec(), classes.to_vec()))
    }
}

impl fmt::Debug for OnnxRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnnxRuntime")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl Engine for OnnxRuntime {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn run(
        &mut self,
        input: &str,
        shape: [usize; 4],
        data: &[f32],
        output: &str,
        out: &mut Vec<f32>,
    ) -> Result<Vec<usize>, EngineError> {
        if let Some(bound) = &mut self.bound
            && (bound.shape, bound.names.each_ref().map(|s| &**s)) == (shape, [input, output])
            && data.len() == shape.iter().product::<usize>()
        {
            return bound.run(&mut self.session, data, out).map_err(run_error);
        }
        let tensor = TensorRef::from_array_view((shape, data)).map_err(run_error)?;
        let outputs = self
            .session
            .run(ort::inputs![input => tensor])
            .map_err(run_error)?;
        let (map, values) = outputs[output]
            .try_extract_tensor::<f32>()
            .map_err(run_error)?;
        out.clear();
        out.extend_from_slice(values);
        let map = map.iter().map(|&d| d as usize).collect();
        drop(outputs);
        if self.bound.is_none() {
            self.bind([input, output], shape, data, out);
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests;
