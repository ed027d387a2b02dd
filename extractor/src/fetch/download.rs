//! One file from a server to a place: resumed where it broke off, checked, renamed when it is whole.
//!
//! Must not know what is in the file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::header;
use url::Url;

use super::error::FetchError;
use super::partial::Partial;
use super::space::free_bytes;
use crate::digest::Digest;
use crate::files::{FileError, create_folder, folder_of};
use crate::lock::Lock;
use crate::net::{Client, Environment, Hinted, NetError, Reply, shown};
use crate::runtime::RuntimeError;
use crate::runtime::pip_config::PipConfig;

/// An attempt that got as much as this counts as the first one again.
const PROGRESS_BYTES: u64 = 1 << 20;

/// A file somewhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Its address.
    pub url: Url,
    /// Its size, if known.
    pub size_bytes: Option<u64>,
    /// Its digest, if known. Without it a download starts anew in every run.
    pub sha256: Option<Digest>,
}

/// How to download.
#[derive(Debug, Clone)]
pub struct Conditions {
    /// The environment, for the proxies and for `HEADSTART_MIRROR`.
    pub environment: Environment,
    /// How long to wait for a connection. Default: 20 s.
    pub connect_timeout: Duration,
    /// How long a server may be silent, unless pip's `timeout` says otherwise. Default: 60 s.
    pub stall_timeout: Duration,
    /// How often to go on after a transfer broke off before any progress. Default: 4.
    pub retries: u32,
    /// Before the first retry; doubled before each further one. Default: 0.5 s.
    pub pause: Duration,
}

impl Default for Conditions {
    fn default() -> Conditions {
        Conditions {
            environment: Environment::of_process(),
            connect_timeout: Duration::from_secs(20),
            stall_timeout: Duration::from_secs(60),
            retries: 4,
            pause: Duration::from_millis(500),
        }
    }
}

/// What happens meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Another process fetches into the same folder; this one waits for it.
    Waiting {
        /// The folder.
        folder: PathBuf,
    },
    /// The file is there already and is checked only.
    AlreadyThere {
        /// The file.
        path: PathBuf,
    },
    /// Bytes are asked for.
    Downloading {
        /// From where, without passwords.
        from: String,
        /// Where they go.
        to: PathBuf,
        /// What is there already.
        have_bytes: u64,
    },
    /// How much is there.
    Progress {
        /// Bytes so far.
        done_bytes: u64,
        /// Bytes in all, if known.
        total_bytes: Option<u64>,
    },
    /// An attempt failed and is made again from where it broke off.
    Retry {
        /// Why.
        reason: String,
    },
    /// What was there is thrown away.
    StartingOver {
        /// Why.
        reason: &'static str,
    },
    /// All is there and its digest is being computed.
    Checking,
}

/// Downloads `remote` to `to`, unless it is there, and returns its digest. After an error the beginning
/// stays beside `to`, if its digest is known, for the next call.
///
/// # Errors
/// When it cannot be had, is another file, or a file of another digest is there.
pub fn download(
    remote: &Remote,
    to: &Path,
    conditions: &Conditions,
    report: &mut dyn FnMut(Event),
) -> Result<Digest, FetchError> {
    let folder = folder_of(to);
    create_folder(folder)?;
    let _lock = Lock::take(folder, || {
        report(Event::Waiting {
            folder: folder.to_owned(),
        });
    });
    if to.exists() {
        report(Event::AlreadyThere {
            path: to.to_owned(),
        });
        return there(remote, to);
    }
    let pip = PipConfig::of_process(&conditions.environment).map_err(pips)?;
    let client = Client::new(
        pip.access(),
        &conditions.environment,
        conditions.connect_timeout,
        pip.timeout.unwrap_or(conditions.stall_timeout),
    )?;
    let mut download = Download {
        client,
        remote,
        to,
        partial: Partial::open(to, &remote.url, remote.sha256)?,
        started_over: false,
        report,
    };
    match download.run(conditions) {
        Ok(digest) => {
            download.partial.publish()?;
            Ok(digest)
        }
        Err(error) => {
            if remote.sha256.is_none() || download.partial.len() == 0 {
                download.partial.remove()?;
            }
            Err(error)
        }
    }
}

/// The digest of a file that is there, if it is the one wanted.
fn there(remote: &Remote, path: &Path) -> Result<Digest, FetchError> {
    let got = Digest::of_file(path).map_err(FileError::new("read", path))?;
    match remote.sha256 {
        Some(expected) if got != expected => Err(FetchError::Occupied {
            path: path.to_owned(),
            got,
            expected,
        }),
        Some(_) => Ok(got),
        None => Err(FetchError::There {
            path: path.to_owned(),
            url: shown(&remote.url),
        }),
    }
}

/// What is wrong with pip's configuration, whose proxy and certificates count here too.
fn pips(error: RuntimeError) -> FetchError {
    match error {
        RuntimeError::Net(Hinted { error, .. }) => error.into(),
        other => FetchError::Pip(Box::new(other)),
    }
}

struct Download<'a> {
    client: Client<'a>,
    remote: &'a Remote,
    to: &'a Path,
    partial: Partial,
    /// Pieces did not fit once.
    started_over: bool,
    report: &'a mut dyn FnMut(Event),
}

impl Download<'_> {
    /// Attempts until all is there and right.
    fn run(&mut self, conditions: &Conditions) -> Result<Digest, FetchError> {
        let mut failed = 0;
        loop {
            let before = self.partial.len();
            let error = match self.attempt() {
                Ok(()) => match self.check()? {
                    Some(digest) => return Ok(digest),
                    None => continue,
                },
                Err(error) => error,
            };
            if self.partial.len() >= before + PROGRESS_BYTES {
                failed = 0;
            }
            if !error.is_passing() || failed >= conditions.retries {
                return Err(error);
            }
            (self.report)(Event::Retry {
                reason: error.to_string(),
            });
            std::thread::sleep(conditions.pause * (1 << failed.min(6)));
            failed += 1;
        }
    }

    fn start_over(&mut self, reason: &'static str) -> Result<(), FetchError> {
        (self.report)(Event::StartingOver { reason });
        Ok(self.partial.clear()?)
    }

    /// Gets what is lacking.
    fn attempt(&mut self) -> Result<(), FetchError> {
        if self.partial.len() > 0 && !self.partial.can_go_on() {
            self.start_over("nothing tells whether the rest would fit")?;
        }
        match self.remote.size_bytes {
            Some(size) if self.partial.len() == size => return Ok(()),
            Some(size) if self.partial.len() > size => {
                self.start_over("more is there than the whole file has")?;
            }
            _ => {}
        }
        let mut reply = self.ask()?;
        if reply.is_part {
            self.partial.resumed = self.partial.len() > 0;
        } else if self.partial.len() > 0 {
            self.start_over("the server sends it from its beginning")?;
        }
        let total_bytes = self.total(&reply)?;
        self.check_space(total_bytes)?;
        let validator = [header::ETAG, header::LAST_MODIFIED];
        let mut validator = validator.iter().filter_map(|name| reply.header(name));
        self.partial
            .note(validator.find(|v| !v.starts_with("W/")))?;

        let url = shown(&self.remote.url);
        let mut buffer = vec![0; 1 << 18];
        let broke_off = loop {
            let n = match reply.read(&mut buffer) {
                Ok(0) => break false,
                Ok(n) => n,
                Err(error) if error.is_end() => break true,
                Err(error) => return Err(error.into()),
            };
            self.partial.push(&buffer[..n])?;
            let done_bytes = self.partial.len();
            if let Some(expected_bytes) = total_bytes.filter(|total| done_bytes > *total) {
                self.partial.clear()?;
                return Err(FetchError::WrongSize {
                    url,
                    got_bytes: expected_bytes + 1,
                    expected_bytes,
                });
            }
            (self.report)(Event::Progress {
                done_bytes,
                total_bytes,
            });
        };
        let is_all = total_bytes.map_or(!broke_off, |total| self.partial.len() == total);
        match is_all {
            true => Ok(()),
            false => Err(FetchError::Short {
                url,
                got_bytes: self.partial.len(),
                expected_bytes: total_bytes,
            }),
        }
    }

    /// Asks for the file, or for its rest.
    fn ask(&mut self) -> Result<Reply, FetchError> {
        let have_bytes = self.partial.len();
        (self.report)(Event::Downloading {
            from: shown(&self.remote.url),
            to: self.to.to_owned(),
            have_bytes,
        });
        let mut headers = vec![(header::ACCEPT, "*/*".to_owned())];
        if have_bytes > 0 {
            headers.push((header::RANGE, format!("bytes={have_bytes}-")));
            if let Some(validator) = self.partial.validator() {
                headers.push((header::IF_RANGE, validator.to_owned()));
            }
        }
        match self.client.get_with(&self.remote.url, &headers) {
            Err(NetError::Status { status: 416, .. }) if have_bytes > 0 => {
                self.start_over("the server's file ends before the rest")?;
                self.ask()
            }
            other => Ok(other?),
        }
    }

    /// The whole file's size, as far as it is known. What the server says of it is checked against
    /// what is wanted before anything is read.
    fn total(&mut self, reply: &Reply) -> Result<Option<u64>, FetchError> {
        let url = || shown(&self.remote.url);
        let said = match reply.is_part {
            true => {
                let range = reply.header(&header::CONTENT_RANGE).and_then(content_range);
                match range {
                    Some((start, total)) if start == self.partial.len() => total,
                    _ => {
                        self.partial.clear()?;
                        return Err(FetchError::WrongRange { url: url() });
                    }
                }
            }
            false => reply
                .header(&header::CONTENT_LENGTH)
                .and_then(|length| length.trim().parse().ok()),
        };
        match (said, self.remote.size_bytes) {
            (Some(got_bytes), Some(expected_bytes)) if got_bytes != expected_bytes => {
                Err(FetchError::WrongSize {
                    url: url(),
                    got_bytes,
                    expected_bytes,
                })
            }
            (said, wanted) => Ok(wanted.or(said)),
        }
    }

    /// Refuses what the disk cannot take before any of it is read.
    fn check_space(&self, total_bytes: Option<u64>) -> Result<(), FetchError> {
        let folder = folder_of(self.to);
        let (Some(total_bytes), Some(free_bytes)) = (total_bytes, free_bytes(folder)) else {
            return Ok(());
        };
        let needed_bytes = total_bytes.saturating_sub(self.partial.len());
        match needed_bytes > free_bytes {
            true => Err(FetchError::NoSpace {
                folder: folder.to_owned(),
                url: shown(&self.remote.url),
                free_bytes,
                needed_bytes,
            }),
            false => Ok(()),
        }
    }

    /// The digest, if the file is the one wanted. None if pieces did not fit: they were thrown away.
    fn check(&mut self) -> Result<Option<Digest>, FetchError> {
        (self.report)(Event::Checking);
        let got = self.partial.digest()?;
        match self.remote.sha256 {
            Some(expected) if got != expected => {
                if self.partial.resumed && !self.started_over {
                    self.started_over = true;
                    self.start_over("its pieces do not fit together")?;
                    return Ok(None);
                }
                self.partial.clear()?;
                Err(FetchError::WrongHash {
                    url: shown(&self.remote.url),
                    got,
                    expected,
                })
            }
            _ => Ok(Some(got)),
        }
    }
}

/// Where a part begins, and the whole file's size if the server knows it: `bytes 5-9/10`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::content_range;

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for wrong in ["", "bytes */10", "items 5-9/10", "bytes 5"] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
