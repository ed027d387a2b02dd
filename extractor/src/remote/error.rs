//! What can go wrong with an object store, and whether another try may help.

use std::error::Error;
use std::path::PathBuf;

use super::location::{Scheme, Url};
use crate::files::{FileError, counted, escape_path};
use crate::store::StoreError;

/// Something in an object store cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// A URL of a kind that is not known.
    #[error(
        "{0} has no scheme that is known (hint: s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY, file:///FOLDER, or a path)"
    )]
    Scheme(String),
    /// A URL that names nothing.
    #[error("{url} is no URL of an object: {reason}")]
    Url {
        /// What was named.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A URL where only a local path will do.
    #[error("{url} lies in an object store, and {what} has to be a local path")]
    NotHere {
        /// What was named.
        url: Url,
        /// What it was named for.
        what: &'static str,
    },
    /// An environment variable that is no number.
    #[error("{name} is {value}, which is no number of seconds from 1 to 86400")]
    Variable {
        /// The variable.
        name: &'static str,
        /// What it is.
        value: String,
    },
    /// The store's own settings are wrong, or there are no credentials.
    #[error("cannot use {url}: there are no credentials, or they are incomplete (hint: {})", variables(*scheme))]
    Credentials {
        /// What was named.
        url: Url,
        /// Whose.
        scheme: Scheme,
        /// What the library says.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The server does not let us.
    #[error("no permission to {action} {url} (hint: {})", variables(url.scheme))]
    Refused {
        /// What was tried.
        action: &'static str,
        /// The object.
        url: Url,
        /// What the server says.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// There is no such object or bucket.
    #[error("there is no {0} (hint: check bucket and key)")]
    NotFound(Url),
    /// The server says no for another reason, or cannot be reached.
    #[error("cannot {action} {url}{}", if *transient { " (hint: the server or the network fails; run the same command again later, finished work is kept)" } else { "" })]
    Request {
        /// What was tried.
        action: &'static str,
        /// The object.
        url: Url,
        /// Whether it may pass.
        transient: bool,
        /// What the library says.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// An object is not what its name says.
    #[error(
        "{url} is damaged: {reason} (hint: remove this object; the next extractor features computes its rows anew)"
    )]
    Damaged {
        /// The object.
        url: Url,
        /// What is wrong.
        reason: String,
    },
    /// There is no store where one was expected.
    #[error("no feature store in {0} (hint: extractor features DATA --store {0})")]
    NoStore(Url),
    /// Some files could not be uploaded.
    #[error("{} not uploaded to {url} and kept in {} (hint: run the same command again, which uploads them first)", counted(*files, "file"), escape_path(folder))]
    Left {
        /// How many.
        files: usize,
        /// Where to.
        url: Url,
        /// Where they lie.
        folder: PathBuf,
        /// Why.
        #[source]
        source: Box<RemoteError>,
    },
    /// A file of the cache cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A store in the cache cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RemoteError {
    /// Whether the same command may succeed later: the server or the network failed.
    pub fn is_transient(&self) -> bool {
        match self {
            RemoteError::Request { transient, .. } => *transient,
            RemoteError::Left { source, .. } => source.is_transient(),
            _ => false,
        }
    }

    /// Whether there is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, RemoteError::NotFound(_))
    }
}

/// Where credentials come from.
pub(super) fn variables(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::S3 => {
            "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, for another server than \
             Amazon's AWS_ENDPOINT_URL, too, and AWS_ALLOW_HTTP=true if that is http://"
        }
        Scheme::Gs => {
            "set GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT to the file of a key"
        }
        Scheme::Az => {
            "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY"
        }
    }
}
