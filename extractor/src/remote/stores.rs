//! Feature stores in an object store, and their local copies: outlines to plan with, whole ones to
//! train on.
//!
//! Shards never change, so a copy that is there is right as long as the object is there. Copies of
//! objects that are gone go, too. Must not know who reads the copies.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::copies::{Fetch, copy_all, drop_gone, is_missing};
use super::{Client, Object, RemoteError, Url, cache_folder, remove_left_behind};
use crate::files::{FileError, create_folder, write_atomically};
use crate::progress::Progress;
use crate::store::key::STORE_JSON;
use crate::store::{Shard, cost, outline, rejected, shard, verify};

/// Shards up to this size are read whole for their outline.
const WHOLE_BYTES: u64 = 1 << 20;

/// Objects that are read at once.
const OUTLINES_AT_ONCE: usize = 8;
const SHARDS_AT_ONCE: usize = 4;

/// How often a store is listed anew because listed objects were gone.
const LISTINGS: usize = 4;

/// A place in an object store that holds feature stores, or is one.
#[derive(Debug)]
pub struct Remote {
    url: Url,
    client: Arc<Client>,
    data_dir: PathBuf,
}

/// A feature store as it was listed.
#[derive(Debug, Clone)]
pub struct RemoteStore {
    /// Where it lies.
    pub url: Url,
    /// What it consists of; nothing if it could not be listed and the cache has to do.
    objects: Option<Vec<Object>>,
}

/// An object that is not what its name says, and why.
pub type Damage = (Url, String);

impl RemoteStore {
    fn of(&self, prefix: &str, suffix: &str) -> impl Iterator<Item = &Object> {
        let objects = self.objects.iter().flatten();
        objects.filter(move |object| is_named(&object.name, prefix, suffix))
    }

    /// Whether it has a `store.json`.
    pub fn has_json(&self) -> bool {
        self.of(STORE_JSON, "").next().is_some()
    }

    /// Whether it has any shard.
    pub fn has_rows(&self) -> bool {
        self.objects.is_none() || self.shards().next().is_some()
    }

    fn shards(&self) -> impl Iterator<Item = &Object> {
        self.of(shard::PREFIX, shard::SUFFIX)
    }
}

fn is_named(name: &str, prefix: &str, suffix: &str) -> bool {
    name.starts_with(prefix) && name.ends_with(suffix)
}

fn is_shard(name: &str) -> bool {
    is_named(name, shard::PREFIX, shard::SUFFIX)
}

/// Whether a file of this name belongs to a store.
pub(super) fn is_of_store(name: &str) -> bool {
    let kinds = [
        (shard::PREFIX, shard::SUFFIX),
        (rejected::PREFIX, rejected::SUFFIX),
        (cost::PREFIX, cost::SUFFIX),
    ];
    let mut kinds = kinds.into_iter();
    kinds.any(|(prefix, suffix)| is_named(name, prefix, suffix))
}

impl Remote {
    /// The stores at `url`, with copies below `data_dir`. Nothing is sent yet.
    ///
    /// # Errors
    /// When settings or credentials are wrong.
    pub fn open(url: &Url, data_dir: &Path) -> Result<Remote, RemoteError> {
        Ok(Remote {
            url: url.clone(),
            client: Arc::new(Client::open(url)?),
            data_dir: data_dir.to_owned(),
        })
    }

    /// What was named.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The connection.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// The folder of all copies that belong to the stores in `root`.
    pub(super) fn cache(&self, root: &Url) -> PathBuf {
        cache_folder(&self.data_dir, root)
    }

    /// The folder of one kind of copy of a store.
    fn folder(&self, kind: &str, store: &Url) -> PathBuf {
        let (root, name) = store.split_name().unwrap_or((store.clone(), "store"));
        self.cache(&root).join(kind).join(name)
    }

    /// The store of this name below the URL, whether it is there or not.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub fn store(&self, name: &str) -> Result<RemoteStore, RemoteError> {
        self.listed(self.url.join(name))
    }

    fn listed(&self, url: Url) -> Result<RemoteStore, RemoteError> {
        let mut objects = self.client.list(&url)?;
        objects.retain(|object| !object.name.contains('/'));
        let objects = Some(objects);
        Ok(RemoteStore { url, objects })
    }

    /// The stores below the URL, or the one that it names, by name. If the server cannot be reached,
    /// those that the cache knows, with a warning.
    ///
    /// # Errors
    /// When there is none, or nothing can be listed.
    pub fn stores(&self) -> Result<Vec<RemoteStore>, RemoteError> {
        let objects = match self.client.list(&self.url) {
            Ok(objects) => objects,
            Err(e) if e.is_transient() => return self.known_stores(e),
            Err(e) => return Err(e),
        };
        let mut stores: BTreeMap<String, Vec<Object>> = BTreeMap::new();
        for mut object in objects {
            let (folder, name) = object.name.rsplit_once('/').unwrap_or(("", &object.name));
            if folder.contains('/') || !(name == STORE_JSON || is_of_store(name)) {
                continue;
            }
            let folder = folder.to_owned();
            object.name = name.to_owned();
            stores.entry(folder).or_default().push(object);
        }
        // As of a folder: what is a store itself holds none.
        if let Some(itself) = stores.remove("") {
            return Ok(vec![RemoteStore {
                url: self.url.clone(),
                objects: Some(itself),
            }]);
        }
        stores.retain(|_, objects| {
            let mut names = objects.iter().map(|object| &object.name[..]);
            names.any(|name| name == STORE_JSON || is_shard(name))
        });
        if stores.is_empty() {
            return Err(RemoteError::NoStore(self.url.clone()));
        }
        let store = |(name, objects): (String, _)| RemoteStore {
            url: self.url.join(&name),
            objects: Some(objects),
        };
        Ok(stores.into_iter().map(store).collect())
    }

    /// What the cache has of the stores, as the server cannot be asked.
    fn known_stores(&self, error: RemoteError) -> Result<Vec<RemoteStore>, RemoteError> {
        let itself = self.folder("stores", &self.url);
        let below = fs::read_dir(self.cache(&self.url).join("stores"));
        let mut stores = match itself.join(STORE_JSON).is_file() {
            true => vec![self.url.clone()],
            false => below
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.path().join(STORE_JSON).is_file())
                .filter_map(|entry| Some(self.url.join(entry.file_name().to_str()?)))
                .collect(),
        };
        if stores.is_empty() {
            return Err(error);
        }
        stores.sort_by_key(Url::to_string);
        let error = anyhow::Error::from(error);
        tracing::warn!("going on with what was brought in before: {error:#}");
        let store = |url| RemoteStore { url, objects: None };
        Ok(stores.into_iter().map(store).collect())
    }

    /// Makes the local folder of a store's whole copy with its `store.json`, but no shard yet.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn begin(&self, store: &RemoteStore) -> Result<PathBuf, RemoteError> {
        let folder = self.folder("stores", &store.url);
        if store.has_json() {
            self.copy_json(store, &folder)?;
        }
        Ok(folder)
    }

    /// Brings in what the local copy of a store lacks and drops what is gone, so that the folder can
    /// be used as any store's. Every shard is checked once, as it comes.
    ///
    /// # Errors
    /// When the server or the disk fails, or an object is damaged.
    pub fn bring_in(&self, store: &RemoteStore, quiet: bool) -> Result<PathBuf, RemoteError> {
        let (folder, damaged) = self.bring_in_sound(store, quiet)?;
        match damaged.into_iter().next() {
            None => Ok(folder),
            Some((url, reason)) => Err(RemoteError::Damaged { url, reason }),
        }
    }

    /// [`Remote::bring_in`] that leaves damaged shards out and says which.
    ///
    /// # Errors
    /// When the server or the disk fails.
    pub fn bring_in_sound(
        &self,
        store: &RemoteStore,
        quiet: bool,
    ) -> Result<(PathBuf, Vec<Damage>), RemoteError> {
        let folder = self.folder("stores", &store.url);
        let Some(objects) = &store.objects else {
            return Ok((folder, Vec::new()));
        };
        let missing = objects.iter().filter(|object| is_missing(&folder, object));
        let total: u64 = missing.map(|object| object.size).sum();
        let progress = Progress::new("bringing in", "bytes", total, quiet);
        let on_bytes = |bytes| progress.add(bytes);
        let fetch = |url: &Url, object: &Object, path: &Path| {
            self.download(url, object, path, &on_bytes)?;
            match is_shard(&object.name) {
                true => Ok(verify::look(path, &|_| {}).map(drop)?),
                false => Ok(()),
            }
        };
        let damaged = self.copy(store.clone(), &folder, SHARDS_AT_ONCE, &fetch);
        progress.finish();
        Ok((folder, damaged?))
    }

    /// Brings the outlines of a store's shards, and all its other files, to a local folder that opens
    /// as the store does; its features must not be looked at.
    ///
    /// # Errors
    /// When the server or the disk fails, or an object is damaged.
    pub fn outline(&self, store: &RemoteStore, quiet: bool) -> Result<PathBuf, RemoteError> {
        let folder = self.folder("outlines", &store.url);
        let objects = store.objects.iter().flatten();
        let missing = objects.filter(|object| is_missing(&folder, object)).count();
        let progress = Progress::new("looking at", "objects", missing as u64, quiet);
        let fetch = |url: &Url, object: &Object, path: &Path| {
            match is_shard(&object.name) && object.size > WHOLE_BYTES {
                true => self.sketch(url, object, path)?,
                false => self.download(url, object, path, &|_| {})?,
            }
            progress.add(1);
            match is_shard(&object.name) {
                true => Ok(verify::must_fit_name(&Shard::open(path)?)?),
                false => Ok(()),
            }
        };
        let damaged = self.copy(store.clone(), &folder, OUTLINES_AT_ONCE, &fetch);
        progress.finish();
        match damaged?.into_iter().next() {
            None => Ok(folder),
            Some((url, reason)) => Err(RemoteError::Damaged { url, reason }),
        }
    }

    /// Makes `folder` hold what the store holds, each file as `fetch` makes it; returns what `fetch`
    /// found damaged. What is gone since it was listed was replaced: the store is listed anew then.
    fn copy(
        &self,
        mut store: RemoteStore,
        folder: &Path,
        at_once: usize,
        fetch: Fetch,
    ) -> Result<Vec<Damage>, RemoteError> {
        for _ in 0..LISTINGS {
            create_folder(folder)?;
            remove_left_behind(folder);
            if store.has_json() {
                self.copy_json(&store, folder)?;
            }
            let objects = store.objects.as_deref().unwrap_or_default();
            drop_gone(folder, objects)?;
            let missing = objects.iter().filter(|object| is_missing(folder, object));
            let missing: Vec<&Object> = missing.collect();
            let copied = copy_all(&store.url, folder, &missing, at_once, fetch)?;
            if !copied.vanished {
                return Ok(copied.damaged);
            }
            store = self.listed(store.url)?;
        }
        tracing::warn!(
            "{} changes as it is read; some shards are left out",
            store.url
        );
        Ok(Vec::new())
    }

    fn copy_json(&self, store: &RemoteStore, folder: &Path) -> Result<(), RemoteError> {
        let bytes = self.client.get(&store.url.join(STORE_JSON))?;
        let path = folder.join(STORE_JSON);
        if fs::read(&path).is_ok_and(|there| there == bytes[..]) {
            return Ok(());
        }
        Ok(write_atomically(&path, &bytes)?)
    }

    fn download(
        &self,
        url: &Url,
        object: &Object,
        path: &Path,
        on_bytes: &dyn Fn(u64),
    ) -> Result<(), RemoteError> {
        let file = File::create(path).map_err(FileError::new("write", path))?;
        self.client.download(url, object, &file, on_bytes)?;
        Ok(file.sync_all().map_err(FileError::new("write", path))?)
    }

    /// A file as long as the shard with its outline alone filled in; the whole shard if it has none.
    fn sketch(&self, url: &Url, object: &Object, path: &Path) -> Result<(), RemoteError> {
        let pieces = outline::pieces(object.size, |ranges| self.client.get_ranges(url, ranges))?;
        let Some(pieces) = pieces else {
            return self.download(url, object, path, &|_| {});
        };
        let write = || {
            let file = File::create(path)?;
            file.set_len(object.size)?;
            for (at, bytes) in &pieces {
                file.write_all_at(bytes, *at)?;
            }
            file.sync_all()
        };
        Ok(write().map_err(FileError::new("write", path))?)
    }
}
