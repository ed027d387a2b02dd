//! The server: connections, their limits and their end.
//!
//! This folder alone names the web framework (axum), HTTP (hyper), multipart bodies (multer) and, but
//! for the channel of an answer, the runtime (tokio). Must not know how images are predicted.

mod body;
mod origins;
mod patient;
mod routes;

use std::io;
use std::net::TcpListener as Listener;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use self::patient::Patient;
use super::batcher::Batcher;
use super::limits::Limits;
use super::metrics::Metrics;

/// How often is looked whether to stop.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long nothing is accepted after the system refused to.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// A client that takes nothing of its answer for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's header at most.
const HEADER_BYTES: usize = 32 << 10;
/// Fields of a request's header at most.
const HEADER_FIELDS: usize = 64;

/// What is served, and how.
#[derive(Debug)]
pub struct Site {
    /// Where images go.
    pub batcher: Arc<Batcher>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What a request may cost.
    pub limits: Limits,
    /// Names of the classes, `[K]`.
    pub classes: Vec<String>,
    /// What the first page says.
    pub about: serde_json::Value,
    /// Name and value of what the metrics say of the server itself.
    pub info: Vec<(&'static str, String)>,
    /// Origins whose pages may read answers; `*` is every one.
    pub origins: Vec<String>,
    /// Threads that read and write.
    pub threads: usize,
}

/// A site and how it stands.
#[derive(Debug)]
struct Serving {
    site: Site,
    draining: AtomicBool,
    buffered_bytes: AtomicUsize,
}

/// Serves `site` until `stop` is set; then accepts nothing more, answers the requests that are under
/// way and returns.
///
/// # Errors
/// When the system refuses the runtime or the listener.
pub fn serve(site: Site, listener: Listener, stop: &AtomicBool) -> io::Result<()> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(site.threads.max(1))
        .thread_name("http")
        .enable_all()
        .build()?;
    listener.set_nonblocking(true)?;
    let serving = Arc::new(Serving {
        site,
        draining: AtomicBool::new(false),
        buffered_bytes: AtomicUsize::new(0),
    });
    let served = runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        converse(serving, listener, stop).await;
        Ok(())
    });
    runtime.shutdown_background();
    served
}

async fn converse(serving: Arc<Serving>, listener: TcpListener, stop: &AtomicBool) {
    let limits = &serving.site.limits;
    let slots = Arc::new(Semaphore::new(limits.connections));
    let router = routes::router(serving.clone());
    let (drain, draining) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stopped(stop) => break,
            accepted = accept(&listener, &slots) => match accepted {
                Ok((stream, slot)) => {
                    let (serving, router) = (serving.clone(), router.clone());
                    let talk = connection(serving, router, stream, draining.clone());
                    connections.spawn(async move {
                        talk.await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    // Too many open files, say; connections that end bring better times.
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    serving.draining.store(true, Ordering::SeqCst);
    drop(drain);
    // No request takes longer; what is left then takes nothing of its answer.
    let longest = limits.header_timeout + limits.timeout + WRITE_TIMEOUT;
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(longest, all).await.is_err() {
        tracing::warn!("connections were cut that did not end in {longest:?}");
    }
}

async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await;
    let slot = slot.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

/// One connection from its beginning to its end.
async fn connection(
    serving: Arc<Serving>,
    router: Router,
    stream: TcpStream,
    mut draining: watch::Receiver<()>,
) {
    let metrics = serving.site.metrics.clone();
    let _open = metrics.connections.during();
    // Answers are small and whole.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| routes::answer(serving.clone(), router.clone(), request));
    let io = TokioIo::new(Patient::new(stream, WRITE_TIMEOUT));
    let talk = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(serving.site.limits.header_timeout)
        .max_headers(HEADER_FIELDS)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(io, service);
    let mut talk = pin!(talk);
    let result = tokio::select! {
        biased; // what came before is read first
        result = talk.as_mut() => result,
        // The sender is gone: an error.
        _ = draining.changed() => {
            talk.as_mut().graceful_shutdown();
            talk.await
        }
    };
    if let Err(error) = result {
        metrics.connection_errors.add();
        tracing::debug!("a connection ended: {error}");
    }
}
