//! Why a request, or one of its images, has no answer: an RFC 9457 problem with its HTTP status.
//!
//! Must not know of the web framework.

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

/// A problem, written as `{"title": ..., "status": ..., "detail": ...}`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// What is wrong, as a lowercase fragment.
    pub detail: String,
}

impl Problem {
    /// A problem of that status.
    pub fn new(status: u16, detail: impl Into<String>) -> Problem {
        Problem {
            status,
            detail: detail.into(),
        }
    }

    /// The status's name.
    pub fn title(&self) -> &'static str {
        match self.status {
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            408 => "Request Timeout",
            413 => "Content Too Large",
            415 => "Unsupported Media Type",
            422 => "Unprocessable Content",
            429 => "Too Many Requests",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        }
    }

    /// After how many seconds another try makes sense, if it does.
    pub fn retry_after_secs(&self) -> Option<u32> {
        matches!(self.status, 429 | 503).then_some(1)
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("title", self.title())?;
        map.serialize_entry("status", &self.status)?;
        map.serialize_entry("detail", &self.detail)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_as_json() {
        let problem = Problem::new(429, "512 images wait already");
        let json = serde_json::to_string(&problem).unwrap();
        assert_eq!(
            json,
            r#"{"title":"Too Many Requests","status":429,"detail":"512 images wait already"}"#
        );
        assert_eq!(problem.retry_after_secs(), Some(1));
        assert_eq!(Problem::new(422, "").retry_after_secs(), None);
    }
}
