//! Tells trouble that may pass by itself from trouble that stays: a scheduler should try a job again
//! after the one, and never after the other.
//!
//! Must not know what was being done.

use std::error::Error;
use std::io;

use crate::features::FeaturesError;
use crate::fetch::FetchError;
use crate::remote::RemoteError;
use crate::store::StoreError;

/// Why an image's bytes cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// As a lowercase fragment.
    pub reason: String,
    /// Another try may succeed.
    pub transient: bool,
}

impl Unreadable {
    /// What the operating system says of a file.
    pub fn of(error: &io::Error) -> Unreadable {
        Unreadable {
            reason: crate::walk::describe(error),
            transient: io_is_transient(error),
        }
    }
}

impl<T: Into<String>> From<T> for Unreadable {
    fn from(reason: T) -> Unreadable {
        Unreadable {
            reason: reason.into(),
            transient: false,
        }
    }
}

/// Whether an error or any of its sources is trouble that may pass: of a network, a server or a
/// file system on one, of memory or handles that others hold.
pub fn is_transient(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let gone = |error: &StoreError| matches!(error, StoreError::Gone(_));
        let here = [
            error.downcast_ref().is_some_and(io_is_transient),
            error.downcast_ref().is_some_and(gone),
            error.downcast_ref().is_some_and(RemoteError::is_transient),
            // A transparent error has no source of its own kind.
            matches!(error.downcast_ref(), Some(FeaturesError::Store(e)) if gone(e)),
            error.downcast_ref().is_some_and(FetchError::may_pass),
        ];
        if here.contains(&true) {
            return true;
        }
        next = error.source();
    }
    false
}

/// [`is_transient`] for one of the operating system's answers. A full disk stays full.
pub fn io_is_transient(error: &io::Error) -> bool {
    use io::ErrorKind;
    match error.raw_os_error() {
        Some(code) => [
            libc::EIO, // what a network file system says of a server that is away
            libc::ESTALE,
            libc::ETIMEDOUT,
            libc::EAGAIN,
            libc::EBUSY,
            libc::ENOMEM,
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOLCK,
            libc::ENOTCONN,
            libc::ECONNABORTED,
            libc::ECONNREFUSED,
            libc::ECONNRESET,
            libc::EHOSTDOWN,
            libc::EHOSTUNREACH,
            libc::ENETDOWN,
            libc::ENETRESET,
            libc::ENETUNREACH,
            libc::EPIPE,
        ]
        .contains(&code),
        None => matches!(
            error.kind(),
            ErrorKind::TimedOut
                | ErrorKind::ConnectionAborted
                | ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::NotConnected
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::FileError;
    use std::path::Path;

    #[test]
    fn a_lost_server_passes_and_a_full_disk_stays() {
        let os = |code| {
            let error = FileError::new("read", Path::new("x"))(io::Error::from_raw_os_error(code));
            is_transient(&FeaturesError::Store(error.into()))
        };
        for code in [libc::ESTALE, libc::EIO, libc::ECONNREFUSED] {
            assert!(os(code), "{code}");
        }
        for code in [libc::ENOSPC, libc::ENOENT, libc::EACCES, libc::EROFS] {
            assert!(!os(code), "{code}");
        }
        assert!(is_transient(&FeaturesError::Store(StoreError::Gone(
            "x".into()
        ))));
        assert!(!is_transient(&FeaturesError::Store(StoreError::None(
            "x".into()
        ))));
        let answer = io::Error::from(io::ErrorKind::TimedOut);
        assert!(Unreadable::of(&answer).transient);
        assert!(!Unreadable::from("changed").transient);
    }
}
