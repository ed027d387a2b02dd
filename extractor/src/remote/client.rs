//! Objects read, written and listed: the one file that names the crate `object_store`.
//!
//! Every call waits for its result, and tries again what may pass, with growing pauses. Must not know
//! what is in an object.

use std::fs::File;
use std::future::Future;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::HttpError;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path as Key;
use object_store::{
    BackoffConfig, ClientConfigKey, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutOptions, PutPayload, RetryConfig, coalesce_ranges,
};
use tokio::runtime::{Builder, Runtime};

use super::answer::{Cause, chain, status};
use super::limits::Limits;
use super::location::{Scheme, Url};
use super::patience::{FIRST_PAUSE, LONGEST_PAUSE, Patience};
use super::{Object, RemoteError};
use crate::files::FileError;

/// Requests under way at once for many small objects.
const AT_ONCE: usize = 32;

/// Ranges of an object with no more than this between them are read at once: a request takes about as
/// long.
const NEAR_BYTES: u64 = 128 << 10;

/// The address that a cloud's machines ask for credentials.
const METADATA_SERVER: &str = "169.254.";

/// What became of an object that was to be new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is there now.
    Created,
    /// There is one of that name.
    Taken,
}

/// A connection to a bucket.
#[derive(Debug)]
pub struct Client {
    bucket: Url,
    limits: Limits,
    reads: Arc<dyn ObjectStore>,
    writes: Arc<dyn ObjectStore>,
    runtime: Runtime,
}

impl Client {
    /// A client for the bucket that `url` lies in, with settings and credentials as the environment
    /// says. Nothing is sent yet.
    ///
    /// # Errors
    /// When settings are wrong or credentials incomplete.
    pub fn open(url: &Url) -> Result<Client, RemoteError> {
        let limits = Limits::from_env()?;
        let bucket = Url {
            key: String::new(),
            ..url.clone()
        };
        // Somebody else may have named a provider by now; any will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let build = |read_timeout: Option<Duration>| {
            store(&bucket, &limits, read_timeout).map_err(|e| RemoteError::Credentials {
                url: bucket.clone(),
                scheme: bucket.scheme,
                source: Box::new(e),
            })
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|source| RemoteError::Request {
                action: "start threads to read",
                url: bucket.clone(),
                transient: false,
                source: Box::new(source),
            })?;
        Ok(Client {
            // An upload gets no answer before it is complete, so there silence says nothing.
            reads: build(Some(limits.timeout))?,
            writes: build(None)?,
            bucket,
            limits,
            runtime,
        })
    }

    /// The URL of an object of this bucket.
    pub fn url(&self, key: &str) -> Url {
        Url {
            key: key.to_owned(),
            ..self.bucket.clone()
        }
    }

    /// All objects whose keys begin with that of `folder` and a slash, in no order.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn list(&self, folder: &Url) -> Result<Vec<Object>, RemoteError> {
        self.list_first(folder, usize::MAX)
    }

    fn list_first(&self, folder: &Url, count: usize) -> Result<Vec<Object>, RemoteError> {
        let prefix = self.key(&folder.key)?;
        let skip = match folder.key.is_empty() {
            true => 0,
            false => folder.key.len() + 1,
        };
        self.retrying("list", &folder.key, || async {
            let prefix = Some(&prefix).filter(|prefix| !prefix.as_ref().is_empty());
            let objects = self.reads.list(prefix).take(count);
            let objects = objects.map_ok(|meta| object(&meta, skip));
            objects.try_collect::<Vec<Object>>().await
        })
    }

    /// The first `count` objects that [`Client::list`] would list, and whether these are all.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn list_some(
        &self,
        folder: &Url,
        count: usize,
    ) -> Result<(Vec<Object>, bool), RemoteError> {
        let mut objects = self.list_first(folder, count + 1)?;
        let all = objects.len() <= count;
        objects.truncate(count);
        Ok((objects, all))
    }

    /// The object at `url`, unread.
    ///
    /// # Errors
    /// When there is none, or the server fails.
    pub fn head(&self, url: &Url) -> Result<Object, RemoteError> {
        let key = self.key(&url.key)?;
        self.retrying("find", &url.key, || async {
            let meta = self.reads.head(&key).await?;
            Ok(object(&meta, url.key.len() - url.name().len()))
        })
    }

    /// All bytes of the object at `url`.
    ///
    /// # Errors
    /// When there is none, or the server fails.
    pub fn get(&self, url: &Url) -> Result<Bytes, RemoteError> {
        self.block_on(self.get_part(&url.key, None))
    }

    /// Some ranges of an object; those that lie close together are read at once.
    ///
    /// # Errors
    /// When the server fails, or a range lies outside of the object.
    pub fn get_ranges(&self, url: &Url, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, RemoteError> {
        let key = self.key(&url.key)?;
        self.retrying("read", &url.key, || {
            let read = |range| async { self.reads.get_range(&key, range).await };
            coalesce_ranges(ranges, read, NEAR_BYTES)
        })
    }

    /// Reads many objects, or their beginnings where there is a length, some at once, and gives each
    /// to `take` with its number, in order.
    pub fn get_many<T>(
        &self,
        keys: impl IntoIterator<Item = (usize, String, Option<u64>)>,
        take: impl Fn(usize, Result<Bytes, RemoteError>) -> T,
    ) -> Vec<T> {
        let take = &take;
        let read = keys.into_iter().map(|(number, key, head)| async move {
            take(number, self.get_part(&key, head).await)
        });
        let read = futures_util::stream::iter(read).buffered(AT_ONCE);
        self.block_on(read.collect())
    }

    /// Reads an object into `file`, and goes on where it was when the connection breaks. `on_bytes`
    /// is told of every piece.
    ///
    /// # Errors
    /// When it is gone or another one by now, the server fails or the disk.
    pub fn download(
        &self,
        url: &Url,
        object: &Object,
        file: &File,
        on_bytes: &dyn Fn(u64),
    ) -> Result<(), RemoteError> {
        let key = self.key(&url.key)?;
        let mut at = 0;
        let mut patience = Patience::new(self.limits);
        loop {
            let before = at;
            let read = self.block_on(self.download_from(&key, object, file, &mut at, on_bytes));
            let error = match read {
                Ok(()) if at == object.size => return Ok(()),
                Ok(()) => self.error("read", &url.key, cut_off(at, object.size)),
                Err(Interrupted::Disk(e)) => return Err(e.into()),
                Err(Interrupted::Server(e)) => self.error("read", &url.key, e),
            };
            if at > before {
                patience = Patience::new(self.limits);
            }
            std::thread::sleep(patience.pause(error)?);
        }
    }

    async fn download_from(
        &self,
        key: &Key,
        object: &Object,
        file: &File,
        at: &mut u64,
        on_bytes: &dyn Fn(u64),
    ) -> Result<(), Interrupted> {
        let options = GetOptions {
            range: (*at > 0).then_some(GetRange::Offset(*at)),
            if_match: (!object.etag.is_empty()).then(|| object.etag.clone()),
            ..GetOptions::default()
        };
        let got = self.reads.get_opts(key, options).await?;
        let mut pieces = got.into_stream();
        while let Some(piece) = pieces.try_next().await? {
            let written = file.write_all_at(&piece, *at);
            written.map_err(FileError::new("write", std::path::Path::new(&object.name)))?;
            *at += piece.len() as u64;
            on_bytes(piece.len() as u64);
        }
        Ok(())
    }

    /// Uploads a new object; one of that name stays.
    ///
    /// # Errors
    /// When the server fails.
    pub fn put_new(&self, url: &Url, bytes: Bytes) -> Result<Put, RemoteError> {
        self.upload(url, bytes, PutMode::Create)
    }

    /// Uploads an object in place of what has its name.
    ///
    /// # Errors
    /// When the server fails.
    pub fn put(&self, url: &Url, bytes: Bytes) -> Result<(), RemoteError> {
        self.upload(url, bytes, PutMode::Overwrite).map(drop)
    }

    fn upload(&self, url: &Url, bytes: Bytes, mode: PutMode) -> Result<Put, RemoteError> {
        let key = self.key(&url.key)?;
        let time = self.limits.upload(bytes.len());
        self.retrying("write", &url.key, || async {
            let options = PutOptions::from(mode.clone());
            let payload = PutPayload::from_bytes(bytes.clone());
            let put = self.writes.put_opts(&key, payload, options);
            match tokio::time::timeout(time, put).await {
                Ok(Ok(_)) => Ok(Put::Created),
                Ok(Err(object_store::Error::AlreadyExists { .. })) => Ok(Put::Taken),
                Ok(Err(e)) => Err(e),
                Err(elapsed) => Err(passing(elapsed)),
            }
        })
    }

    async fn get_part(&self, key: &str, head: Option<u64>) -> Result<Bytes, RemoteError> {
        let parsed = self.key(key)?;
        let options = GetOptions {
            range: head.map(|bytes| GetRange::Bounded(0..bytes)),
            ..GetOptions::default()
        };
        self.retrying_async("read", key, || async {
            let got = self.reads.get_opts(&parsed, options.clone()).await?;
            got.bytes().await
        })
        .await
    }

    fn key(&self, key: &str) -> Result<Key, RemoteError> {
        Key::parse(key).map_err(|_| RemoteError::Url {
            url: self.url(key).to_string(),
            reason: "its key is none that can be asked for",
        })
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    fn retrying<T, F: Future<Output = object_store::Result<T>>>(
        &self,
        action: &'static str,
        key: &str,
        once: impl FnMut() -> F,
    ) -> Result<T, RemoteError> {
        self.block_on(self.retrying_async(action, key, once))
    }

    async fn retrying_async<T, F: Future<Output = object_store::Result<T>>>(
        &self,
        action: &'static str,
        key: &str,
        mut once: impl FnMut() -> F,
    ) -> Result<T, RemoteError> {
        let mut patience = Patience::new(self.limits);
        loop {
            match once().await {
                Ok(done) => return Ok(done),
                Err(e) => {
                    let pause = patience.pause(self.error(action, key, e))?;
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    fn error(&self, action: &'static str, key: &str, error: object_store::Error) -> RemoteError {
        let (url, scheme) = (self.url(key), self.bucket.scheme);
        let transient = may_pass(&error);
        let status = status(&error);
        let from_metadata = error.to_string().contains(METADATA_SERVER);
        let refused = matches!(
            error,
            object_store::Error::PermissionDenied { .. }
                | object_store::Error::Unauthenticated { .. }
        );
        match error {
            object_store::Error::NotFound { .. } => RemoteError::NotFound(url),
            _ if status == Some(404) => RemoteError::NotFound(url),
            e if refused || matches!(status, Some(401 | 403)) => RemoteError::Refused {
                action,
                url,
                source: Box::new(Cause(e)),
            },
            e if from_metadata => RemoteError::Credentials {
                url,
                scheme,
                source: Box::new(Cause(e)),
            },
            e => RemoteError::Request {
                action,
                url,
                transient,
                source: Box::new(Cause(e)),
            },
        }
    }
}

/// Why a download ended early.
enum Interrupted {
    Disk(FileError),
    Server(object_store::Error),
}

impl From<FileError> for Interrupted {
    fn from(e: FileError) -> Interrupted {
        Interrupted::Disk(e)
    }
}

impl From<object_store::Error> for Interrupted {
    fn from(e: object_store::Error) -> Interrupted {
        Interrupted::Server(e)
    }
}

/// Whether what a server or the network did may pass.
fn may_pass(error: &object_store::Error) -> bool {
    if !matches!(error, object_store::Error::Generic { .. }) {
        return false;
    }
    if chain(error).any(|cause| cause.is::<HttpError>() || cause.is::<Passing>()) {
        return true;
    }
    match status(error) {
        Some(status) => status >= 500 || status == 408 || status == 429,
        // An answer that is cut off or garbled, but not one that sends us elsewhere.
        None => !error.to_string().contains("redirect"),
    }
}

/// A failure that the library knows nothing of.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Passing(String);

fn passing(error: impl std::fmt::Display) -> object_store::Error {
    object_store::Error::Generic {
        store: "object store",
        source: Box::new(Passing(error.to_string())),
    }
}

fn cut_off(at: u64, size: u64) -> object_store::Error {
    passing(format!("it ended after {at} of {size} bytes"))
}

fn object(meta: &ObjectMeta, skip: usize) -> Object {
    let key = meta.location.as_ref();
    Object {
        name: key.get(skip..).unwrap_or_default().to_owned(),
        size: meta.size,
        modified_nanos: meta.last_modified.timestamp_nanos_opt().unwrap_or(0),
        etag: meta.e_tag.clone().unwrap_or_default(),
    }
}

/// The library's client of a bucket.
fn store(
    bucket: &Url,
    limits: &Limits,
    read_timeout: Option<Duration>,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: FIRST_PAUSE,
            max_backoff: LONGEST_PAUSE,
            base: 2.0,
        },
        // A page of a long list is worth some tries of its own; all else is tried again here.
        max_retries: 4,
        retry_timeout: limits.retry,
    };
    let secs = |time: Duration| format!("{} seconds", time.as_secs());
    let mut settings = vec![
        // How long a request may take depends on its size.
        (ClientConfigKey::Timeout, secs(Duration::from_secs(86_400))),
        (
            ClientConfigKey::ConnectTimeout,
            secs(limits.timeout.min(Duration::from_secs(10))),
        ),
    ];
    if let Some(time) = read_timeout {
        settings.push((ClientConfigKey::ReadTimeout, secs(time)));
    }
    let name = &bucket.bucket[..];
    Ok(match bucket.scheme {
        Scheme::S3 => {
            let builder = AmazonS3Builder::from_env()
                .with_bucket_name(name)
                .with_conditional_put(S3ConditionalPut::ETagMatch)
                .with_retry(retry);
            let set = |builder: AmazonS3Builder, (key, value)| {
                builder.with_config(AmazonS3ConfigKey::Client(key), value)
            };
            Arc::new(settings.into_iter().fold(builder, set).build()?)
        }
        Scheme::Gs => {
            let builder = GoogleCloudStorageBuilder::from_env()
                .with_bucket_name(name)
                .with_retry(retry);
            let set = |builder: GoogleCloudStorageBuilder, (key, value)| {
                builder.with_config(GoogleConfigKey::Client(key), value)
            };
            Arc::new(settings.into_iter().fold(builder, set).build()?)
        }
        Scheme::Az => {
            let builder = MicrosoftAzureBuilder::from_env()
                .with_container_name(name)
                .with_retry(retry);
            let set = |builder: MicrosoftAzureBuilder, (key, value)| {
                builder.with_config(AzureConfigKey::Client(key), value)
            };
            Arc::new(settings.into_iter().fold(builder, set).build()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_whether_to_try_again() {
        for (status, passes) in [
            (500, true),
            (503, true),
            (429, true),
            (400, false),
            (301, false),
        ] {
            let text = format!("Server returned non-2xx status code: {status} What: <Error/>");
            let error = object_store::Error::Generic {
                store: "S3",
                source: text.into(),
            };
            assert_eq!(may_pass(&error), passes, "{status}");
        }
        assert!(may_pass(&cut_off(1, 2)));
        assert!(may_pass(&object_store::Error::Generic {
            store: "S3",
            source: "an answer that is garbled".into(),
        }));
    }
}
