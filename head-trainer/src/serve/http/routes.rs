//! What is answered to which request.
//!
//! Must not know how bodies are read or images predicted.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::Serving;
use super::body::{self, Buffered, Sent};
use super::origins;
use crate::predict::line::Line;
use crate::serve::batcher::{Batcher, Outcome};
use crate::serve::problem::Problem;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The route of predictions.
const PREDICT: &str = "/predict";

type Methods = fn() -> MethodRouter<Arc<Serving>>;

/// Every route; `openapi.json` describes them.
pub(super) const ROUTES: [(&str, Methods); 6] = [
    ("/", || get(about)),
    (PREDICT, || post(predict)),
    ("/healthz", || get(health)),
    ("/readyz", || get(ready)),
    ("/metrics", || get(metrics)),
    ("/openapi.json", || get(openapi)),
];

/// When a request must be answered.
#[derive(Clone, Copy, Debug)]
struct Deadline(Instant);

/// The routes.
pub(super) fn router(serving: Arc<Serving>) -> Router {
    let mut router = Router::new();
    for (path, methods) in ROUTES {
        router = router.route(path, methods());
    }
    router
        .fallback(async |uri: Uri| {
            let path = uri.path().escape_debug();
            Problem::new(404, format!("there is no {path} (hint: GET /openapi.json)"))
        })
        .method_not_allowed_fallback(async || {
            Problem::new(405, "not by this method (hint: GET /openapi.json)")
        })
        .with_state(serving)
}

/// Answers a request and counts it.
pub(super) async fn answer(
    serving: Arc<Serving>,
    router: Router,
    request: Request<Incoming>,
) -> Result<Response, Infallible> {
    let start = Instant::now();
    let site = &serving.site;
    let _flight = site.metrics.in_flight.during();
    let mut request = request.map(Body::new);
    let end = Deadline(start + site.limits.timeout);
    request.extensions_mut().insert(end);
    let path = request.uri().path();
    let route = ROUTES.iter().find(|(route, _)| *route == path);
    let route = route.map_or("other", |(route, _)| *route);
    let allowed = origins::allowed(&site.origins, request.headers());
    let mut response = match origins::preflight(&allowed, &request) {
        Some(response) => response,
        None if route == PREDICT && serving.draining.load(Ordering::SeqCst) => {
            draining().into_response()
        }
        None => TowerToHyperService::new(router).call(request).await?,
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    origins::allow(allowed, headers);
    let status = response.status().as_u16();
    site.metrics.answered(route, status, start.elapsed());
    Ok(response)
}

fn draining() -> Problem {
    Problem::new(503, "this server is about to end")
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = json(self.status, &self);
        response.headers_mut().insert(CONTENT_TYPE, PROBLEM);
        if let Some(secs) = self.retry_after_secs() {
            response.headers_mut().insert(RETRY_AFTER, secs.into());
        }
        response
    }
}

fn json(status: u16, value: &impl Serialize) -> Response {
    let text = serde_json::to_string(value).expect("only strings as keys");
    typed(status, JSON, text + "\n")
}

fn typed(status: u16, kind: HeaderValue, text: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers: [(HeaderName, HeaderValue); 1] = [(CONTENT_TYPE, kind)];
    (status, headers, text).into_response()
}

async fn about(State(serving): State<Arc<Serving>>) -> Response {
    json(200, &serving.site.about)
}

async fn health() -> Response {
    json(200, &serde_json::json!({"status": "ok"}))
}

async fn ready(State(serving): State<Arc<Serving>>) -> Response {
    match serving.draining.load(Ordering::SeqCst) {
        true => draining().into_response(),
        false => json(200, &serde_json::json!({"status": "ready"})),
    }
}

async fn metrics(State(serving): State<Arc<Serving>>) -> Response {
    let site = &serving.site;
    let info: Vec<_> = site.info.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let text = site.metrics.text(site.batcher.waiting(), &info);
    typed(200, METRICS, text)
}

async fn openapi() -> Response {
    let text = include_str!("openapi.json");
    typed(
        200,
        JSON,
        text.replace("$VERSION", env!("CARGO_PKG_VERSION")),
    )
}

/// What is said of a form.
#[derive(Serialize)]
struct Answers<'a> {
    answers: Vec<Answer<'a>>,
}

/// What is said of a part of a form.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer<'a> {
    Prediction(Line<'a>),
    Error {
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<&'a str>,
        error: &'a Problem,
    },
}

/// Bytes of an image, counted until it is decoded.
struct Held(
    Bytes,
    #[expect(dead_code, reason = "dropped with the bytes")] Arc<Buffered>,
);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

async fn predict(
    State(serving): State<Arc<Serving>>,
    request: Request,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let site = &serving.site;
    let end = head.extensions.get::<Deadline>().map(|deadline| deadline.0);
    let end = end.unwrap_or_else(|| Instant::now() + site.limits.timeout);
    let top = top(head.uri.query())?;
    let secs = site.limits.timeout.as_secs();
    let mut buffered = Buffered::new(serving.clone());
    let sent = timeout_at(end, body::read(&head.headers, body, &mut buffered));
    let sent = sent
        .await
        .map_err(|_| Problem::new(408, format!("the body was not there within {secs} s")))??;
    let buffered = Arc::new(buffered);
    let (names, images, is_form) = match sent {
        Sent::One(image) => (vec![None], vec![image], false),
        Sent::Form(parts) => {
            let (names, images): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
            (names, images, true)
        }
    };
    let places = site.batcher.reserve(images.len())?;
    let queued = places
        .into_iter()
        .zip(images)
        .map(|(place, image)| Batcher::submit(place, Held(image, buffered.clone())));
    let queued: Vec<_> = queued.collect();
    drop(buffered);
    let all = async {
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(queued.len());
        for outcome in queued {
            let lost = |_| Err(Problem::new(500, "the answer was lost"));
            outcomes.push(outcome.await.unwrap_or_else(lost));
        }
        outcomes
    };
    let outcomes = timeout_at(end, all)
        .await
        .map_err(|_| Problem::new(503, format!("there was no time for it within {secs} s")))?;
    if !is_form && let [outcome] = &outcomes[..] {
        let (id, prediction) = outcome.as_ref().map_err(Problem::clone)?;
        return Ok(json(
            200,
            &Line::new(None, *id, prediction, &site.classes, top),
        ));
    }
    let answers: Vec<Answer<'_>> = names
        .iter()
        .zip(&outcomes)
        .map(|(name, outcome): (&Option<String>, _)| {
            let path = name.as_deref();
            match outcome {
                Ok((id, prediction)) => {
                    let path = path.map(str::as_bytes);
                    Answer::Prediction(Line::new(path, *id, prediction, &site.classes, top))
                }
                Err(error) => Answer::Error { path, error },
            }
        })
        .collect();
    let worst = outcomes
        .iter()
        .flat_map(|o| o.as_ref().err())
        .map(|p| p.status)
        .max();
    let status = match outcomes.iter().any(Result::is_ok) {
        true => 200,
        false => worst.unwrap_or(500),
    };
    Ok(json(status, &Answers { answers }))
}

/// How many classes a query asks for.
fn top(query: Option<&str>) -> Result<usize, Problem> {
    let mut top = 0;
    let pairs = query.unwrap_or_default().split('&');
    for pair in pairs.filter(|pair| !pair.is_empty()) {
        let value = pair.strip_prefix("top=").ok_or_else(|| {
            let detail = format!(
                "there is no parameter {} (hint: top=N)",
                pair.escape_debug()
            );
            Problem::new(400, detail)
        })?;
        top = value.parse().ok().filter(|top| *top > 0).ok_or_else(|| {
            let value = value.escape_debug();
            Problem::new(400, format!("top is {value}, expected a number from 1 on"))
        })?;
    }
    Ok(top)
}

#[cfg(test)]
mod tests;
