//! Files on their way to an object store: written to a local folder first, uploaded from there, and
//! gone from there when the server has them.
//!
//! The folder itself is the queue, so that what a killed run left is found by the next one, and several
//! processes may share it. Names follow from content, so that a file that is there already is the same
//! one. Must not know what is in the files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use arrow::buffer::Buffer;
use bytes::Bytes;

use super::client::Put;
use super::stores::is_of_store;
use super::{Client, Remote, RemoteError, Url, remove_left_behind};
use crate::files::{FileError, counted, is_gone};
use crate::store::key::STORE_JSON;
use crate::store::map;

/// Complete files that may wait before whoever makes them has to wait, too.
const WAITING: usize = 4;

/// Files that are uploaded at once.
const AT_ONCE: usize = 4;

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Files at least this large are mapped rather than read.
const MAPPED_BYTES: u64 = 1 << 20;

/// How often to look at an object that is there and, when looked at, is not.
const TRIES: usize = 8;

/// Uploads of all that appears in the outbox of one store, by a thread of its own.
#[derive(Debug)]
pub struct Outbox {
    folder: PathBuf,
    url: Url,
    client: Arc<Client>,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    closing: AtomicBool,
    failed: AtomicBool,
    error: Mutex<Option<RemoteError>>,
}

/// Where files for the stores at `remote` lie until they are uploaded: a folder of stores.
pub fn root(remote: &Remote) -> PathBuf {
    remote.cache(remote.url()).join("outbox")
}

/// Uploads what earlier runs left in the outbox.
///
/// # Errors
/// When the server or the disk fails; files that were not uploaded stay.
pub fn flush(remote: &Remote) -> Result<(), RemoteError> {
    let root = root(remote);
    let Ok(entries) = fs::read_dir(&root) else {
        return Ok(()); // nothing was ever written
    };
    for entry in entries.flatten() {
        let (folder, name) = (entry.path(), entry.file_name());
        remove_left_behind(&folder);
        let waiting = waiting(&folder);
        if waiting.is_empty() {
            continue;
        }
        let url = remote.url().join(&name.to_string_lossy());
        let files = counted(waiting.len(), "file");
        tracing::info!("uploading {files} of an earlier run to {url}");
        upload_all(remote.client(), &folder, &url, &AtomicBool::new(false))
            .map_err(|e| left(&folder, &url, e))?;
    }
    Ok(())
}

impl Outbox {
    /// Uploads to the store `name` at `remote` all that appears in its outbox from now on.
    ///
    /// # Errors
    /// When the store's own description cannot be uploaded.
    pub fn start(remote: &Remote, name: &str) -> Result<Outbox, RemoteError> {
        let (folder, url) = (root(remote).join(name), remote.url().join(name));
        let client = remote.client().clone();
        // At once, so that a server that refuses is known before the costly step.
        upload(&client, &folder.join(STORE_JSON), &url)?;
        let state = Arc::<State>::default();
        let thread = std::thread::spawn({
            let (state, client) = (state.clone(), client.clone());
            let (folder, url) = (folder.clone(), url.clone());
            move || run(&state, &client, &folder, &url)
        });
        Ok(Outbox {
            folder,
            url,
            client,
            state,
            thread: Some(thread),
        })
    }

    /// Whether uploading failed for good, so that nothing more should be made.
    pub fn has_failed(&self) -> bool {
        self.state.failed.load(Ordering::SeqCst)
    }

    /// Waits as long as too many files wait to be uploaded, but not once `stop` is set.
    pub fn wait_for_room(&self, stop: &AtomicBool) {
        let in_vain = || self.has_failed() || stop.load(Ordering::SeqCst);
        while !in_vain() && waiting(&self.folder).len() > WAITING {
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until everything is uploaded.
    ///
    /// # Errors
    /// [`RemoteError::Left`]; what was not uploaded stays, and the next run uploads it first.
    pub fn finish(mut self) -> Result<(), RemoteError> {
        self.close();
        let error = self.state.error.lock().expect("no uploader panics").take();
        match error {
            Some(error) => Err(left(&self.folder, &self.url, error)),
            // What came last may have come after the last look.
            None => upload_all(&self.client, &self.folder, &self.url, &self.state.failed)
                .map_err(|e| left(&self.folder, &self.url, e)),
        }
    }

    fn close(&mut self) {
        self.state.closing.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(state: &State, client: &Client, folder: &Path, url: &Url) {
    loop {
        let closing = state.closing.load(Ordering::SeqCst);
        if let Err(error) = upload_all(client, folder, url, &state.failed) {
            tracing::warn!("uploading to {url} failed; what is not uploaded is kept");
            *state.error.lock().expect("no uploader panics") = Some(error);
            state.failed.store(true, Ordering::SeqCst);
            return;
        }
        if closing {
            return;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn left(folder: &Path, url: &Url, source: RemoteError) -> RemoteError {
    RemoteError::Left {
        files: waiting(folder).len(),
        url: url.clone(),
        folder: folder.to_owned(),
        source: Box::new(source),
    }
}

/// Complete files in an outbox, by name.
fn waiting(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| is_of_store(&entry.file_name().to_string_lossy()));
    let mut paths: Vec<PathBuf> = ours.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn upload_all(
    client: &Client,
    folder: &Path,
    url: &Url,
    stop: &AtomicBool,
) -> Result<(), RemoteError> {
    let paths = waiting(folder);
    if paths.is_empty() {
        return Ok(());
    }
    // A store is whole with its description alone.
    upload(client, &folder.join(STORE_JSON), url)?;
    for some in paths.chunks(AT_ONCE) {
        if stop.load(Ordering::SeqCst) {
            return Ok(());
        }
        let outcomes: Vec<Result<(), RemoteError>> = std::thread::scope(|scope| {
            let start = |path| scope.spawn(move || move_up(client, path, url));
            let uploads: Vec<_> = some.iter().map(PathBuf::as_path).map(start).collect();
            let end = |upload: std::thread::ScopedJoinHandle<_>| upload.join();
            let ended = uploads.into_iter().map(end);
            ended
                .map(|upload| upload.expect("no uploader panics"))
                .collect()
        });
        outcomes.into_iter().collect::<Result<(), RemoteError>>()?;
    }
    Ok(())
}

/// Uploads a file and removes it here.
fn move_up(client: &Client, path: &Path, url: &Url) -> Result<(), RemoteError> {
    upload(client, path, url)?;
    match fs::remove_file(path) {
        Err(e) if !is_gone(&e) => Err(FileError::new("remove", path)(e).into()),
        _ => Ok(()),
    }
}

/// Uploads a file into the folder `url`, unless the same one is there. One that is gone was uploaded
/// by another process.
fn upload(client: &Client, path: &Path, url: &Url) -> Result<(), RemoteError> {
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(e) if is_gone(&e) => return Ok(()),
        Err(e) => return Err(FileError::new("read", path)(e).into()),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let url = url.join(&name);
    for _ in 0..TRIES {
        if client.put_new(&url, bytes.clone())? == Put::Created {
            return Ok(());
        }
        match client.head(&url) {
            Ok(there) if name == STORE_JSON || there.size == bytes.len() as u64 => return Ok(()),
            Ok(there) => {
                tracing::warn!(
                    "{url} has {} bytes in place of {} and is replaced",
                    there.size,
                    bytes.len()
                );
                break;
            }
            Err(e) if e.is_not_found() => {} // gone again, or not there yet
            Err(e) => return Err(e),
        }
        std::thread::sleep(LOOK_EVERY);
    }
    client.put(&url, bytes)
}

/// A file's bytes, mapped where they are many, so that memory stays as it is.
fn read(path: &Path) -> std::io::Result<Bytes> {
    struct Mapped(Buffer);
    impl AsRef<[u8]> for Mapped {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let file = File::open(path)?;
    match file.metadata()?.len() < MAPPED_BYTES {
        true => fs::read(path).map(Bytes::from),
        false => Ok(Bytes::from_owner(Mapped(map::map(&file)?))),
    }
}
