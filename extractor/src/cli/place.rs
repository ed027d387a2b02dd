//! Where feature stores and indexes lie, here or in an object store, for the verbs of both binaries.
//!
//! Verbs see folders and files; what has to be brought in or uploaded is done here. Must not know what
//! a verb does with them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use super::common::{Bar, OutputArgs, default_index_path};
use crate::features::Report;
use crate::files::escape_path;
use crate::index::DigestCache;
use crate::remote::{self, Client, Location, Outbox, Remote, RemoteError, Url};
use crate::store::{StoreJson, StoreKey, key};

/// Where an extraction finds what is there, and puts what is new.
pub enum Stores {
    /// In a folder.
    Local(PathBuf),
    /// In an object store.
    Remote(Box<Remote>),
}

impl Stores {
    /// The stores at `place`, or at their usual one.
    ///
    /// # Errors
    /// When it is no place, or credentials are wrong.
    pub fn open(place: Option<&Path>, output: &OutputArgs) -> anyhow::Result<Stores> {
        let usual = output.data_dir.join("features");
        Ok(match Location::parse(place.unwrap_or(&usual))? {
            Location::Local(root) => Stores::Local(root),
            Location::Remote(url) => {
                Stores::Remote(Box::new(Remote::open(&url, &output.data_dir)?))
            }
        })
    }

    /// The folder of the store of `key` to plan with, and the one that it lies in. Of an object store
    /// the outline; what an earlier run did not upload is uploaded first.
    ///
    /// # Errors
    /// When the server or the disk fails.
    pub fn to_plan_with(
        &self,
        key: &StoreKey,
        output: &OutputArgs,
    ) -> anyhow::Result<(PathBuf, PathBuf)> {
        let root = match self {
            Stores::Local(root) => root.clone(),
            Stores::Remote(remote) => {
                remote::outbox::flush(remote)?;
                let store = remote.store(&name(key))?;
                let folder = remote.outline(&store, output.quiet)?;
                folder.parent().unwrap_or(Path::new(".")).to_owned()
            }
        };
        Ok((root.clone(), key.folder(&root)))
    }

    /// Makes the folder that new rows go to.
    ///
    /// # Errors
    /// When it cannot be made, or the server refuses.
    pub fn to_write_to(&self, json: &StoreJson) -> anyhow::Result<Writing> {
        Ok(match self {
            Stores::Local(root) => Writing {
                folder: key::create(root, json)?,
                outbox: None,
            },
            Stores::Remote(remote) => Writing {
                folder: key::create(&remote::outbox::root(remote), json)?,
                outbox: Some(Outbox::start(remote, &name(&json.key))?),
            },
        })
    }

    /// What people call the store of `key`.
    pub fn shown(&self, key: &StoreKey) -> String {
        match self {
            Stores::Local(root) => escape_path(&key.folder(root)),
            Stores::Remote(remote) => remote.url().join(&name(key)).to_string(),
        }
    }
}

/// The name of a store's folder.
fn name(key: &StoreKey) -> String {
    let folder = key.folder(Path::new(""));
    folder.to_string_lossy().into_owned()
}

/// A folder that rows are written to, and what uploads them from there.
pub struct Writing {
    /// The folder.
    pub folder: PathBuf,
    outbox: Option<Outbox>,
}

impl Writing {
    /// Waits until all of it is where it belongs.
    ///
    /// # Errors
    /// When something cannot be uploaded; it is kept for the next run.
    pub fn finish(self) -> Result<(), RemoteError> {
        self.outbox.map_or(Ok(()), Outbox::finish)
    }
}

/// The progress of an extraction that keeps no more than some shards ahead of their upload, and stops
/// when that fails for good.
pub struct Uploading<'a> {
    bar: &'a Bar,
    writing: &'a Writing,
    signalled: &'a AtomicBool,
    /// Whether to stop, for whatever reason.
    pub stop: AtomicBool,
}

impl<'a> Uploading<'a> {
    /// Shows progress in `bar`; stops at a signal, too.
    pub fn new(bar: &'a Bar, writing: &'a Writing, signalled: &'a AtomicBool) -> Uploading<'a> {
        Uploading {
            bar,
            writing,
            signalled,
            stop: AtomicBool::new(signalled.load(Ordering::SeqCst)),
        }
    }
}

impl Report for Uploading<'_> {
    fn done(&self, n: usize) {
        self.bar.done(n);
        let mut stop = self.signalled.load(Ordering::SeqCst);
        if let Some(outbox) = &self.writing.outbox {
            outbox.wait_for_room(self.signalled);
            stop = stop || outbox.has_failed();
        }
        if stop {
            self.stop.store(true, Ordering::SeqCst);
        }
    }

    fn rejected(&self, path: &[u8], reason: &str) {
        self.bar.rejected(path, reason);
    }
}

/// Where an index is read and written.
pub struct IndexPlace {
    /// The file to work on.
    pub path: PathBuf,
    remote: Option<(Client, Url)>,
}

impl IndexPlace {
    /// The index `named`, or the usual one of the data set `dir`. Of an object store what is there, with
    /// its digest cache, is brought in.
    ///
    /// # Errors
    /// When the data set is not there, or the server fails.
    pub fn open(
        named: Option<&Path>,
        dir: &Path,
        output: &OutputArgs,
    ) -> anyhow::Result<IndexPlace> {
        let path = match named {
            Some(path) => path.to_owned(),
            None => default_index_path(&output.data_dir, dir)?,
        };
        IndexPlace::named(&path, output)
    }

    /// [`IndexPlace::open`] for an index that was named.
    ///
    /// # Errors
    /// When the server fails.
    pub fn named(path: &Path, output: &OutputArgs) -> anyhow::Result<IndexPlace> {
        let url = match Location::parse(path)? {
            Location::Local(path) => return Ok(IndexPlace { path, remote: None }),
            Location::Remote(url) => url,
        };
        let client = Client::open(&url)?;
        let path = remote::objects::place(&url, &output.data_dir);
        for (url, path) in [
            (digests(&url), DigestCache::path(&path)),
            (url.clone(), path.clone()),
        ] {
            match client.head(&url) {
                Ok(object) => remote::objects::bring_to(&client, &url, &object, &path)?,
                // What was brought in before must not stand in for what is gone.
                Err(e) if e.is_not_found() => _ = std::fs::remove_file(&path),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(IndexPlace {
            path,
            remote: Some((client, url)),
        })
    }

    /// Uploads what was written, if it belongs to an object store.
    ///
    /// # Errors
    /// When the server fails.
    pub fn publish(&self) -> anyhow::Result<()> {
        if let Some((client, url)) = &self.remote {
            let upload = |path: &Path, url: &Url| {
                let uploaded = remote::objects::publish(client, path, url);
                uploaded.with_context(|| format!("the index is complete in {}", escape_path(path)))
            };
            upload(&self.path, url)?;
            upload(&DigestCache::path(&self.path), &digests(url))?;
        }
        Ok(())
    }

    /// What people call it.
    pub fn shown(&self) -> String {
        match &self.remote {
            None => escape_path(&self.path),
            Some((_, url)) => url.to_string(),
        }
    }
}

/// Where the digest cache of the index at `url` lies.
fn digests(url: &Url) -> Url {
    let path = DigestCache::path(Path::new(&url.key));
    Url {
        key: path.to_string_lossy().into_owned(),
        ..url.clone()
    }
}

/// The local file of the index at `path`, brought in if it lies in an object store.
///
/// # Errors
/// When the server fails; one that is not there is none here, either.
pub fn local_index(path: &Path, output: &OutputArgs) -> anyhow::Result<PathBuf> {
    Ok(IndexPlace::named(path, output)?.path)
}

/// The local copy of a store that lies in an object store.
pub struct Copied {
    /// Its folder.
    pub folder: PathBuf,
    /// What it is a copy of.
    pub url: Url,
    /// Objects that are damaged and so not in it, and why.
    pub damaged: Vec<(Url, String)>,
}

/// A copy of the only store at `place`, `whole` or its outline; none if the place is a local one.
///
/// # Errors
/// When there is none or several, or the server fails.
pub fn only_copied(
    place: &Path,
    whole: bool,
    output: &OutputArgs,
) -> anyhow::Result<Option<Copied>> {
    let Location::Remote(url) = Location::parse(place)? else {
        return Ok(None);
    };
    let remote = Remote::open(&url, &output.data_dir)?;
    let mut stores = remote.stores()?;
    if stores.len() > 1 {
        let list: Vec<_> = stores.iter().map(|store| store.url.to_string()).collect();
        anyhow::bail!(
            "{url} holds {} stores (hint: name one of them: {})",
            list.len(),
            list.join(", ")
        );
    }
    let store = stores.remove(0);
    let (folder, damaged) = match whole {
        true => remote.bring_in_sound(&store, output.quiet)?,
        false => (remote.outline(&store, output.quiet)?, Vec::new()),
    };
    Ok(Some(Copied {
        folder,
        url: store.url,
        damaged,
    }))
}
