//! Fetches the pinned library: look, announce, download, check, unpack, rename.
//!
//! It happens once: a library in place or named by `ORT_DYLIB_PATH` ends it before anything is
//! asked. It prints nothing; the caller is told what happens and decides.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::error::RuntimeError;
use super::event::Event;
use super::install::{self, Staging, destination, installed, runtime_folder};
use super::locate::override_path;
use super::pip_config::{FindLinks, PipConfig};
use super::platform::{Flavour, Platform};
use super::simple_index::{ACCEPT, find_link, project_page};
use super::table::Pinned;
use crate::digest::Digest;
use crate::lock::Lock;
use crate::net::{Client, Environment, Hinted, NetError, shown};

/// An index's page is not larger than this.
const PAGE_LIMIT_BYTES: usize = 64 << 20;

/// What to fetch, where to, and under which conditions.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// The data folder; the library goes to `runtime/<name and version>/` in it.
    pub data_dir: PathBuf,
    /// Which build of ONNX Runtime.
    pub flavour: Flavour,
    /// Another wheel than the one in the table for this platform and the flavour.
    pub pinned: Option<Pinned>,
    /// The environment, for `ORT_DYLIB_PATH`, pip's variables and the proxies.
    pub environment: Environment,
    /// pip's configuration instead of the one of the environment and its files.
    pub pip_config: Option<PipConfig>,
    /// How long to wait for a connection. Default: 20 s.
    pub connect_timeout: Duration,
    /// How long a server may be silent, unless pip's `timeout` says otherwise. Default: 60 s.
    pub stall_timeout: Duration,
    /// How often to try again after a transfer broke off. Default: 2.
    pub retries: u32,
}

impl FetchOptions {
    /// The usual conditions, in this process's environment.
    pub fn new(data_dir: impl Into<PathBuf>, flavour: Flavour) -> FetchOptions {
        FetchOptions {
            data_dir: data_dir.into(),
            flavour,
            pinned: None,
            environment: Environment::of_process(),
            pip_config: None,
            connect_timeout: Duration::from_secs(20),
            stall_timeout: Duration::from_secs(60),
            retries: 2,
        }
    }
}

/// Makes sure that the library is there and returns its path.
///
/// `report` hears [`Event::Announce`], with size and place, before the network is touched.
///
/// # Errors
/// Any [`RuntimeError`] but [`RuntimeError::NotInstalled`]. After an error nothing half-written
/// is left behind.
pub fn fetch(
    options: &FetchOptions,
    report: &mut dyn FnMut(Event),
) -> Result<PathBuf, RuntimeError> {
    if let Some(path) = override_path(&options.environment)? {
        report(Event::Overridden { path: path.clone() });
        return Ok(path);
    }
    let pinned = match &options.pinned {
        Some(pinned) => pinned,
        None => Pinned::find(Platform::current()?, options.flavour)?,
    };
    let data_dir = options.data_dir.as_path();
    if let Some(path) = already_installed(data_dir, pinned, report) {
        return Ok(path);
    }
    let config = match &options.pip_config {
        Some(config) => config.clone(),
        None => PipConfig::of_process(&options.environment)?,
    };
    let client = Client::new(
        config.access(),
        &options.environment,
        options.connect_timeout,
        config.timeout.unwrap_or(options.stall_timeout),
    )?;
    let parent = runtime_folder(data_dir);
    let folder = install::folder(data_dir, pinned);
    std::fs::create_dir_all(&parent).map_err(destination(&parent))?;
    let lock = Lock::take(&parent, || {
        report(Event::Waiting {
            folder: folder.clone(),
        });
    });
    // Whoever had the lock may have fetched the same.
    if let Some(path) = already_installed(data_dir, pinned, report) {
        return Ok(path);
    }
    let staging = Staging::new(data_dir, pinned, &lock).map_err(destination(&folder))?;
    report(Event::Announce {
        version: pinned.version.to_owned(),
        wheel: pinned.wheel.to_owned(),
        size_bytes: pinned.size_bytes,
        unpacked_bytes: pinned.unpacked_bytes,
        destination: folder,
    });
    let download = Download {
        client,
        config: &config,
        pinned,
        retries: options.retries,
        to: staging.wheel(),
    };
    download.run(report)?;
    staging.unpack(pinned)?;
    let path = staging.publish(data_dir, pinned)?;
    report(Event::Installed { path: path.clone() });
    Ok(path)
}

fn already_installed(
    data_dir: &Path,
    pinned: &Pinned,
    report: &mut dyn FnMut(Event),
) -> Option<PathBuf> {
    let path = installed(data_dir, pinned)?;
    report(Event::AlreadyInstalled { path: path.clone() });
    Some(path)
}

/// One place that may have the wheel.
enum Place {
    Folder(PathBuf),
    Page(Url),
}

/// The wheel's way to a file.
struct Download<'a> {
    client: Client<'a>,
    config: &'a PipConfig,
    pinned: &'a Pinned,
    retries: u32,
    to: PathBuf,
}

impl Download<'_> {
    /// Tries pip's places in order, local ones first. If all fail, the error that says most.
    fn run(&self, report: &mut dyn FnMut(Event)) -> Result<(), RuntimeError> {
        let links = self.config.find_links.iter().map(|links| match links {
            FindLinks::Folder(path) => Place::Folder(path.clone()),
            FindLinks::Page(url) => Place::Page(url.clone()),
        });
        let indexes = self.config.indexes.iter();
        let pages = indexes.map(|index| Place::Page(project_page(index, self.pinned.project)));
        let places: Vec<Place> = links.chain(pages).collect();
        let mut worst: Option<RuntimeError> = None;
        for (i, place) in places.iter().enumerate() {
            let error = match self.try_place(place, report) {
                Ok(true) => return Ok(()),
                Ok(false) => continue,
                Err(error) => error,
            };
            // Trying elsewhere does not help a full disk.
            if matches!(error, RuntimeError::Destination { .. }) {
                return Err(error);
            }
            if i + 1 < places.len() {
                report(Event::NextSource {
                    reason: error.to_string(),
                });
            }
            if worst.as_ref().is_none_or(|w| weight(w) < weight(&error)) {
                worst = Some(error);
            }
        }
        Err(worst.unwrap_or_else(|| RuntimeError::NoSource {
            wheel: self.pinned.wheel.to_owned(),
        }))
    }

    /// Whether the place had the wheel; only a folder may lack it without an error.
    fn try_place(
        &self,
        place: &Place,
        report: &mut dyn FnMut(Event),
    ) -> Result<bool, RuntimeError> {
        let page = match place {
            Place::Folder(folder) => return self.copy_from_folder(folder, report),
            Place::Page(page) => page,
        };
        for attempt in 0.. {
            match self.get_from_page(page, report) {
                Ok(()) => return Ok(true),
                Err(error) if attempt < self.retries && is_passing(&error) => {
                    report(Event::Retry {
                        reason: error.to_string(),
                    });
                    std::thread::sleep(Duration::from_millis(500 << attempt.min(6)));
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last attempt returns")
    }

    fn copy_from_folder(
        &self,
        folder: &Path,
        report: &mut dyn FnMut(Event),
    ) -> Result<bool, RuntimeError> {
        let path = folder.join(self.pinned.wheel);
        if !path.is_file() {
            return Ok(false);
        }
        let from = path.display().to_string();
        report(Event::Downloading { from: from.clone() });
        let unreadable = |e| RuntimeError::LocalRead {
            path: path.clone(),
            source: e,
        };
        let mut wheel = File::open(&path).map_err(unreadable)?;
        // Not `std::fs::copy`, which takes over a write protection that the next attempt meets.
        self.save(
            &mut |buffer| wheel.read(buffer).map_err(unreadable),
            &from,
            report,
        )?;
        self.check_hash(from)?;
        Ok(true)
    }

    fn get_from_page(&self, page: &Url, report: &mut dyn FnMut(Event)) -> Result<(), RuntimeError> {
        let mut reply = self.client.get(page, ACCEPT)?;
        let text = reply.text(PAGE_LIMIT_BYTES)?;
        let media_type = reply.media_type.as_deref();
        let link = find_link(&text, media_type, &reply.url, self.pinned.wheel).map_err(|e| {
            RuntimeError::BadIndexPage {
                url: shown(page),
                source: Box::new(e),
            }
        })?;
        // A server's page does not make us read local files.
        let link = link.filter(|link| match link.scheme() {
            "http" | "https" => true,
            scheme => scheme == "file" && reply.url.scheme() == "file",
        });
        let link = link.ok_or_else(|| RuntimeError::NotListed {
            place: shown(page),
            wheel: self.pinned.wheel.to_owned(),
        })?;
        let from = shown(&link);
        report(Event::Downloading { from: from.clone() });
        let mut reply = self.client.get(&link, "*/*")?;
        self.save(&mut |buffer| Ok(reply.read(buffer)?), &from, report)?;
        self.check_hash(from)
    }

    fn save(
        &self,
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize, RuntimeError>,
        from: &str,
        report: &mut dyn FnMut(Event),
    ) -> Result<(), RuntimeError> {
        let total_bytes = self.pinned.size_bytes;
        let mut file = File::create(&self.to).map_err(destination(&self.to))?;
        let mut buffer = vec![0; 1 << 18];
        let mut done_bytes = 0;
        loop {
            let n = match read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(RuntimeError::Net(hinted)) if hinted.error.is_end() => break,
                Err(error) => return Err(error),
            };
            done_bytes += n as u64;
            if done_bytes > total_bytes {
                break;
            }
            file.write_all(&buffer[..n])
                .map_err(destination(&self.to))?;
            report(Event::Progress {
                done_bytes,
                total_bytes,
            });
        }
        self.check_size(from, done_bytes.min(total_bytes + 1))
    }

    fn check_size(&self, from: &str, got_bytes: u64) -> Result<(), RuntimeError> {
        if got_bytes == self.pinned.size_bytes {
            return Ok(());
        }
        Err(RuntimeError::WrongSize {
            url: from.to_owned(),
            got_bytes,
            expected_bytes: self.pinned.size_bytes,
        })
    }

    /// Checks what is on disk, not what was meant to be written.
    fn check_hash(&self, from: String) -> Result<(), RuntimeError> {
        let got = Digest::of_file(&self.to).map_err(destination(&self.to))?;
        if got == self.pinned.sha256 {
            return Ok(());
        }
        Err(RuntimeError::WrongHash {
            url: from,
            got,
            expected: self.pinned.sha256,
        })
    }
}

/// Whether the same request may succeed a moment later.
fn is_passing(error: &RuntimeError) -> bool {
    match error {
        RuntimeError::Net(hinted) => hinted.error.is_passing(),
        RuntimeError::WrongSize {
            got_bytes,
            expected_bytes,
            ..
        } => got_bytes < expected_bytes,
        _ => false,
    }
}

/// How much an error says: a bad file more than no answer, no answer more than no file.
fn weight(error: &RuntimeError) -> u8 {
    match error {
        RuntimeError::WrongHash { .. } | RuntimeError::WrongSize { .. } => 3,
        RuntimeError::NotListed { .. }
        | RuntimeError::Net(Hinted {
            error: NetError::Status { status: 404, .. },
            ..
        }) => 1,
        _ => 2,
    }
}
