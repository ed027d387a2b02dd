//! What a request, and all of them together, may cost.
//!
//! Must not know how the limits are kept.

use std::time::Duration;

/// Limits of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's body at most.
    pub request_bytes: usize,
    /// Bytes of all requests' bodies that are in memory together.
    pub buffered_bytes: usize,
    /// Pixels of an image at most, by its header.
    pub image_pixels: u64,
    /// Images of a request at most.
    pub images: usize,
    /// Images that may wait for the model.
    pub queue: usize,
    /// Connections that are served together; more wait to be accepted.
    pub connections: usize,
    /// From a request's header to its answer.
    pub timeout: Duration,
    /// From a connection's beginning, or its last answer, to the next request's whole header.
    pub header_timeout: Duration,
}

/// Limits contradict each other.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LimitsError {
    /// A full request would never fit into the queue.
    #[error(
        "a request may have {images} images, but only {queue} may wait (hint: --queue {images} or more, or a smaller --max-images)"
    )]
    Images {
        /// Images of a request.
        images: usize,
        /// Images that may wait.
        queue: usize,
    },
    /// A full request would never fit into memory.
    #[error(
        "a request may have {request} bytes, but all together only {buffered} (hint: --max-buffered-bytes {request} or more)"
    )]
    Bytes {
        /// Bytes of a request.
        request: usize,
        /// Bytes of all.
        buffered: usize,
    },
}

impl Limits {
    /// Checks that any request within the limits can be answered.
    ///
    /// # Errors
    /// When one never could.
    pub fn checked(self) -> Result<Limits, LimitsError> {
        if self.images > self.queue {
            return Err(LimitsError::Images {
                images: self.images,
                queue: self.queue,
            });
        }
        if self.request_bytes > self.buffered_bytes {
            return Err(LimitsError::Bytes {
                request: self.request_bytes,
                buffered: self.buffered_bytes,
            });
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_request_must_fit() {
        let limits = Limits {
            request_bytes: 10,
            buffered_bytes: 10,
            image_pixels: 1,
            images: 2,
            queue: 2,
            connections: 1,
            timeout: Duration::from_secs(1),
            header_timeout: Duration::from_secs(1),
        };
        assert_eq!(limits.clone().checked(), Ok(limits.clone()));
        let mut many = limits.clone();
        many.images = 3;
        assert!(matches!(
            many.checked(),
            Err(LimitsError::Images {
                images: 3,
                queue: 2
            })
        ));
        let mut large = limits;
        large.request_bytes = 11;
        assert!(matches!(large.checked(), Err(LimitsError::Bytes { .. })));
    }
}
