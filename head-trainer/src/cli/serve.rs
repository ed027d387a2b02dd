//! `head-trainer serve`.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use extractor::cli::common::{Outcome, OutputArgs};
use extractor::cli::signals::Signals;
use extractor::decode::MAX_PIXELS;
use extractor::engine::Provider;
use serde_json::{Value, json};

use super::predict::open::{Opened, OpenedModel, RunArgs};
use crate::predict::Predictor;
use crate::serve::batcher::{Batcher, Plan, Said};
use crate::serve::http::{Site, serve};
use crate::serve::limits::Limits;
use crate::serve::metrics::Metrics;

/// For `--help`.
const EXAMPLES: &str = "Examples:\n  head-trainer serve RUN\n  \
     curl -H 'Content-Type: image/jpeg' --data-binary @cat.jpg http://127.0.0.1:8080/predict\n  \
     curl -F file=@cat.jpg -F file=@dog.jpg 'http://127.0.0.1:8080/predict?top=2'";

/// Flags of `head-trainer serve`, as typed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Address and port; port 0 is any free one, which is printed.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Bytes of a request at most.
    #[arg(long, value_name = "N", default_value_t = 32 << 20, value_parser = clap::value_parser!(u32).range(1..))]
    max_request_bytes: u32,
    /// Bytes of all requests that are in memory together; more are answered with 503.
    #[arg(long, value_name = "N", default_value_t = 256 << 20, value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    max_buffered_bytes: u64,
    /// Pixels of an image at most, by its header; each takes some bytes of memory a thread.
    #[arg(long, value_name = "N", default_value_t = 50_000_000, value_parser = clap::value_parser!(u64).range(1..=MAX_PIXELS))]
    max_image_pixels: u64,
    /// Images of a request at most.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    max_images: u16,
    /// Connections that are served together; more wait to be accepted.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    max_connections: u16,
    /// Images that may wait for the model; those of a request beyond it are answered with 429.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    queue: u32,
    /// Seconds from a request's header to its answer: 408 if the body is late, 503 if we are.
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3600))]
    timeout: u16,
    /// Seconds that a connection may take for the header of its next request, or lie idle.
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3600))]
    header_timeout: u16,
    /// Images a run of the model at most.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch_size: u16,
    /// Milliseconds that a batch waits to be filled; 0 takes what is there.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    batch_wait: u16,
    /// Let pages of this origin read answers (CORS), may be given several times; `*` is every one
    /// [default: none].
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Execution provider.
    #[arg(long, value_enum, default_value = "auto")]
    ep: Provider,
}

impl Args {
    /// Runs the verb.
    pub fn run(self, output: &OutputArgs) -> anyhow::Result<Outcome> {
        let signals = Signals::install()?;
        let limits = self.limits()?;
        let listener = TcpListener::bind(self.listen)
            .with_context(|| format!("cannot listen on {}", self.listen))?;
        let opener = self.run.opener(self.ep, self.batch_size.into(), output)?;
        let threads = opener.threads;
        let opened = opener.open()?;
        let mut about = about(&opened);
        let mut predictor = opened.predictor()?;
        let loader = predictor.loader();
        let size = [loader.preprocessor.height, loader.preprocessor.width];
        about["input_size"] = json!(size);
        // What is wrong shows before anybody asks, and the first who asks does not wait for it.
        let batch_size = predictor.batch_size(self.batch_size.into());
        predictor.predict(vec![0.0; loader.preprocessor.len()])?;
        let metrics = Arc::new(Metrics::default());
        let plan = Plan {
            loader,
            batch_size,
            batch_wait: Duration::from_millis(self.batch_wait.into()),
            queue: limits.queue,
            pixels: limits.image_pixels,
        };
        let batcher = Batcher::new(plan, metrics.clone());
        let named = |key: &str| about[key].as_str().unwrap_or_default().to_owned();
        let site = Site {
            batcher: batcher.clone(),
            metrics,
            limits,
            classes: predictor.classes().to_vec(),
            info: vec![("version", named("version")), ("run", named("run"))],
            about,
            origins: self.allow_origin.clone(),
            threads: threads.min(4),
        };
        signals.gently("what is asked already is answered", |stop| {
            // Whoever reads the address may send a signal at once.
            self.announce(&listener, output)?;
            thread::scope(|scope| {
                let served = scope.spawn(|| {
                    let _end = Close(&batcher);
                    serve(site, listener, stop)
                });
                batcher.run(|input| said(&mut predictor, input));
                served.join().map_err(|_| anyhow!("the server panicked"))
            })
        })??;
        Ok(Outcome::Done)
    }

    fn limits(&self) -> anyhow::Result<Limits> {
        let limits = Limits {
            request_bytes: self.max_request_bytes as usize,
            buffered_bytes: usize::try_from(self.max_buffered_bytes).unwrap_or(usize::MAX),
            image_pixels: self.max_image_pixels,
            images: self.max_images.into(),
            queue: self.queue as usize,
            connections: self.max_connections.into(),
            timeout: Duration::from_secs(self.timeout.into()),
            header_timeout: Duration::from_secs(self.header_timeout.into()),
        };
        Ok(limits.checked()?)
    }

    /// Says where the server is to be found.
    fn announce(&self, listener: &TcpListener, output: &OutputArgs) -> anyhow::Result<()> {
        let address = listener.local_addr().context("cannot listen")?;
        if !address.ip().is_loopback() {
            tracing::warn!(
                "{address} is open to other machines, without encryption or passwords (hint: leave \
                 --listen out, or put a proxy in front)"
            );
        }
        let url = format!("http://{address}");
        output.print(
            &json!({"url": url, "address": address.ip(), "port": address.port()}),
            &url,
        )
    }
}

/// What the model says of a batch.
fn said(predictor: &mut Predictor, input: Vec<f32>) -> Said {
    let said = predictor.predict(input);
    said.map_err(|error| format!("{:#}", anyhow::Error::from(error)))
}

/// What the first page says of a run.
fn about(opened: &Opened<'_>) -> Value {
    let backbone = match &opened.trained {
        OpenedModel::Head(head) => {
            let spec = &head.1.spec;
            json!({"name": spec.name, "sha256": spec.digest})
        }
        OpenedModel::Baseline(..) => Value::Null,
    };
    json!({
        "model": if backbone.is_null() { "baseline" } else { "head" },
        "run": opened.record.digest,
        "run_created_utc": opened.record.created_utc,
        "version": env!("CARGO_PKG_VERSION"),
        "classes": opened.record.classes,
        "backbone": backbone,
        "temperature": opened.record.decision.temperature,
        "threshold": opened.record.decision.threshold,
    })
}

/// Closes the queue, also when the server panics.
struct Close<'a>(&'a Batcher);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
