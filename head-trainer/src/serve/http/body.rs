//! A request's body: its images, as they come, within the limits.
//!
//! Must not know what becomes of the images.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use multer::{Multipart, parse_boundary};

use super::Serving;
use crate::serve::problem::Problem;

/// How long the rest of a body that was refused is read, so that its sender reads the answer.
const LINGER: Duration = Duration::from_secs(1);
/// How many times the limit of a body is read of one that was refused.
const LINGER_BODIES: usize = 2;
/// Characters of a file's name that are kept.
const NAME_CHARS: usize = 1024;

/// What a request brought.
#[derive(Debug)]
pub(super) enum Sent {
    /// The body is an image.
    One(Bytes),
    /// A form: each of its parts, with the file name it has.
    Form(Vec<(Option<String>, Bytes)>),
}

/// Bytes of a body that are in memory, given back when dropped.
#[derive(Debug)]
pub(super) struct Buffered {
    serving: Arc<Serving>,
    bytes: usize,
}

impl Drop for Buffered {
    fn drop(&mut self) {
        let all = &self.serving.buffered_bytes;
        all.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

impl Buffered {
    pub fn new(serving: Arc<Serving>) -> Buffered {
        Buffered { serving, bytes: 0 }
    }

    /// Counts that many more bytes.
    fn add(&mut self, more: usize) -> Result<(), Problem> {
        let limits = &self.serving.site.limits;
        if self.bytes + more > limits.request_bytes {
            return Err(too_large(limits.request_bytes));
        }
        let all = &self.serving.buffered_bytes;
        self.bytes += more;
        if all.fetch_add(more, Ordering::SeqCst) + more > limits.buffered_bytes {
            let full = "too many bytes of other requests are in memory";
            return Err(Problem::new(503, full));
        }
        Ok(())
    }
}

fn too_large(limit: usize) -> Problem {
    Problem::new(413, format!("a request may have {limit} bytes at most"))
}

/// What a body is.
enum Kind {
    Image,
    Form(String), // its boundary
}

/// Reads the images of a request.
///
/// # Errors
/// What is wrong with it.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    buffered: &mut Buffered,
) -> Result<Sent, Problem> {
    let limits = &buffered.serving.site.limits;
    let (request_bytes, images) = (limits.request_bytes, limits.images);
    let mut chunks = body.into_data_stream();
    let sent = match (kind(headers), announced_bytes(headers)) {
        (Err(problem), _) => Err(problem),
        (_, Some(bytes)) if bytes > request_bytes as u64 => Err(too_large(request_bytes)),
        (Ok(Kind::Image), _) => one(metered(&mut chunks, buffered)).await,
        (Ok(Kind::Form(boundary)), _) => {
            form(metered(&mut chunks, buffered), boundary, images).await
        }
    };
    // Who waits to be told to go on sends nothing more.
    if sent.is_ok() || !headers.contains_key(EXPECT) {
        let rest = discard(chunks, LINGER_BODIES * request_bytes);
        let _ = tokio::time::timeout(LINGER, rest).await; // then the connection is closed
    }
    sent
}

fn announced_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn kind(headers: &HeaderMap) -> Result<Kind, Problem> {
    let wrong = |detail: String| Err(Problem::new(415, detail));
    if headers.contains_key(CONTENT_ENCODING) {
        return wrong("the body must not have a content encoding".to_owned());
    }
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(Kind::Image);
    };
    let text = value.to_str().unwrap_or_default().trim();
    let essence = text.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    match essence.as_str() {
        "application/octet-stream" => Ok(Kind::Image),
        image if image.starts_with("image/") => Ok(Kind::Image),
        "multipart/form-data" => match parse_boundary(text) {
            Ok(boundary) => Ok(Kind::Form(boundary)),
            Err(error) => Err(Problem::new(400, error.to_string())),
        },
        _ => wrong(format!(
            "the content type {} is none of image/*, application/octet-stream and \
             multipart/form-data (hint: with curl, -H 'Content-Type: image/jpeg' or -F file=@cat.jpg)",
            text.escape_debug()
        )),
    }
}

/// A body's bytes, counted.
fn metered<'a>(
    chunks: &'a mut BodyDataStream,
    buffered: &'a mut Buffered,
) -> impl Stream<Item = Result<Bytes, Problem>> + Send + 'a {
    unfold((chunks, buffered), |(chunks, buffered)| async {
        let chunk = match chunks.next().await? {
            Ok(bytes) => buffered.add(bytes.len()).map(|()| bytes),
            Err(_) => Err(Problem::new(400, "the body broke off")),
        };
        Some((chunk, (chunks, buffered)))
    })
}

async fn one(chunks: impl Stream<Item = Result<Bytes, Problem>>) -> Result<Sent, Problem> {
    // Copied, as a chunk may be one byte and hold on to the buffer that it was read into.
    let append = async |mut image: Vec<u8>, chunk: Bytes| {
        image.extend_from_slice(&chunk);
        Ok(image)
    };
    let image = chunks.try_fold(Vec::new(), append).await?;
    match image.is_empty() {
        true => Err(Problem::new(400, "there is no image: the body is empty")),
        false => Ok(Sent::One(image.into())),
    }
}

async fn form(
    chunks: impl Stream<Item = Result<Bytes, Problem>> + Send,
    boundary: String,
    images: usize,
) -> Result<Sent, Problem> {
    let mut form = Multipart::new(chunks, boundary);
    let mut parts = Vec::new();
    while let Some(part) = form.next_field().await.map_err(malformed)? {
        if parts.len() == images {
            let detail = format!("a request may have {images} images at most");
            return Err(Problem::new(413, detail));
        }
        let name = part.file_name().filter(|name| !name.is_empty());
        let name = name.map(|name| name.chars().take(NAME_CHARS).collect());
        parts.push((name, part.bytes().await.map_err(malformed)?));
    }
    match parts.is_empty() {
        true => Err(Problem::new(400, "there is no image: the form is empty")),
        false => Ok(Sent::Form(parts)),
    }
}

/// What is wrong with a form: that of its stream, if it is that.
fn malformed(error: multer::Error) -> Problem {
    if let multer::Error::StreamReadFailed(source) = &error
        && let Some(problem) = source.downcast_ref::<Problem>()
    {
        return problem.clone();
    }
    Problem::new(400, format!("no whole form: {error}"))
}

/// Reads at most so many bytes and forgets them.
async fn discard(mut chunks: BodyDataStream, most: usize) {
    let mut bytes = 0;
    while let Some(Ok(chunk)) = chunks.next().await {
        bytes += chunk.len();
        if bytes > most {
            return;
        }
    }
}
