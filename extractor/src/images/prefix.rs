//! Image files that lie in an object store, below one URL.
//!
//! Objects are listed as the walk lists a folder: the first part of the key behind the URL is the
//! class, names that begin with a dot are ignored. Must not know who looks at the images.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::{DataSet, ImageBytes, Images, InputError, Source, compare_paths};
use crate::decode::has_image_extension;
use crate::files;
use crate::paths::Paths;
use crate::remote::{Client, Location, Object, RemoteError, Url, cache_folder, objects};
use crate::transient::Unreadable;
use crate::walk::{Stamp, Walk};

/// Ends of the names of data sets that are one file.
const FILES: [&str; 5] = ["zip", "tar", "csv", "tsv", "parquet"];

/// Objects that are listed to see what a folder holds: a page of the servers' lists.
const SOME: usize = 1000;

/// Image files below a URL. Takes 24 bytes an image more than a folder does.
#[derive(Debug)]
pub struct Prefix {
    client: Client,
    url: Url,
    /// What was listed, and of each file its stamp, until the index takes it.
    listed: Mutex<Option<(Walk, Vec<Brief>)>>,
    /// Images that were read ahead.
    ahead: Mutex<HashMap<Vec<u8>, Result<Bytes, String>>>,
    failed: AtomicBool,
    failure: Mutex<Option<RemoteError>>,
}

/// What a stamp is made of.
#[derive(Debug, Clone, Copy)]
struct Brief {
    size: u64,
    modified_nanos: i64,
    etag: u64, // its digest
}

impl Prefix {
    fn new(client: Client, url: &Url, objects: Vec<Object>) -> Result<Prefix, InputError> {
        let listed = arrange(objects);
        if listed.0.files.is_empty() {
            return Err(InputError::refused(
                &url.to_path(),
                "holds no object (hint: one folder a class, such as Cat/1.jpg and Dog/1.jpg)",
            ));
        }
        Ok(Prefix {
            listed: Mutex::new(Some(listed)),
            ..Prefix::unlisted(client, url)
        })
    }

    /// One that is listed when its list is asked for.
    fn unlisted(client: Client, url: &Url) -> Prefix {
        Prefix {
            client,
            url: url.clone(),
            listed: Mutex::default(),
            ahead: Mutex::default(),
            failed: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    /// What was listed, or is now, and each file's stamp.
    ///
    /// # Errors
    /// When it has to be listed and the server fails.
    pub(crate) fn take_walk(&self) -> Result<(Walk, Stamps), RemoteError> {
        let listed = self.listed.lock().expect("nobody panics with it").take();
        let (walk, briefs) = match listed {
            Some(listed) => listed,
            None => arrange(self.client.list(&self.url)?),
        };
        let url = self.url.to_string();
        Ok((walk, Stamps { url, briefs }))
    }

    /// Reads the objects of these names, or the first bytes of some, several at once, in order. None is
    /// an object that is gone or may not be read, with the reason.
    ///
    /// # Errors
    /// When the server fails for good.
    pub(crate) fn read_many<T>(
        &self,
        names: Vec<(&[u8], Option<u64>)>,
        take: impl Fn(usize, Result<Bytes, String>) -> T,
    ) -> Result<Vec<T>, RemoteError> {
        let keys = names.into_iter().enumerate().map(|(i, (name, head))| {
            let name = std::str::from_utf8(name).unwrap_or_default();
            (i, self.url.join(name).key, head)
        });
        let read = self.client.get_many(keys, |i, read| {
            let read = match read {
                Ok(bytes) => Ok(bytes),
                Err(e @ RemoteError::Refused { .. }) => Err(one_line(e)),
                Err(RemoteError::NotFound(_)) => Err("vanished object".to_owned()),
                Err(e) => return Err(e),
            };
            Ok(take(i, read))
        });
        read.into_iter().collect()
    }

    /// Why reading failed for good, if it did.
    pub fn take_failure(&self) -> Option<RemoteError> {
        self.failure.lock().expect("nobody panics with it").take()
    }
}

fn one_line(error: RemoteError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

/// Stamps of objects, by their positions in a walk.
pub(crate) struct Stamps {
    url: String,
    briefs: Vec<Brief>,
}

impl Stamps {
    /// Forgets the objects at these positions, which ascend.
    pub fn drop(&mut self, positions: &[usize]) {
        let (mut gone, mut all) = (positions.iter().peekable(), 0_usize..);
        self.briefs
            .retain(|_| gone.next_if_eq(&&all.next().unwrap_or(0)).is_none());
    }

    /// What tells that the object at `position`, of this name, is still the same.
    pub fn get(&self, position: usize, name: &[u8]) -> Stamp {
        let Brief {
            size,
            modified_nanos,
            etag,
        } = self.briefs[position];
        let place = [self.url.as_bytes(), b"/", name].concat();
        Stamp {
            device: xxh3_64(&place),
            inode: etag,
            size_bytes: size,
            modified_nanos,
            changed_nanos: modified_nanos,
        }
    }
}

/// Puts objects in the order of an index, by the walk's rules.
fn arrange(mut objects: Vec<Object>) -> (Walk, Vec<Brief>) {
    let mut walk = Walk::default();
    objects.retain(|object| {
        let hidden = object.name.split('/').any(|part| part.starts_with('.'));
        walk.ignored += usize::from(hidden);
        !hidden && !object.name.is_empty()
    });
    objects.sort_unstable_by(|a, b| compare_paths(a.name.as_bytes(), b.name.as_bytes()));
    let mut briefs = Vec::with_capacity(objects.len());
    let mut paths = Paths::default();
    for object in &objects {
        let label = match object.name.split_once('/') {
            None => -1,
            Some((class, _)) => {
                // In order, so that a class's files are neighbours.
                if walk.classes.last().map(String::as_str) != Some(class) {
                    walk.classes.push(class.to_owned());
                }
                walk.classes.len() as i32 - 1
            }
        };
        paths.push(object.name.as_bytes());
        walk.labels.push(label);
        briefs.push(Brief {
            size: object.size,
            modified_nanos: object.modified_nanos,
            etag: xxh3_64(object.etag.as_bytes()),
        });
    }
    paths.shrink_to_fit();
    walk.files = paths;
    (walk, briefs)
}

impl Images for Prefix {
    fn read(&self, path: &[u8]) -> Result<ImageBytes<'_>, Unreadable> {
        let ahead = self
            .ahead
            .lock()
            .expect("nobody panics with it")
            .remove(path);
        let read = match ahead {
            Some(read) => read,
            None => {
                self.read_ahead(&[path]);
                let read = self
                    .ahead
                    .lock()
                    .expect("nobody panics with it")
                    .remove(path);
                read.unwrap_or_else(|| Err("the object store cannot be read".to_owned()))
            }
        };
        Ok(Cow::Owned(read?.into()))
    }

    fn read_ahead(&self, paths: &[&[u8]]) {
        if self.has_failed() {
            return;
        }
        let names = paths.iter().map(|path| (*path, None)).collect();
        match self.read_many(names, |i, read| (paths[i].to_vec(), read)) {
            Ok(read) => self
                .ahead
                .lock()
                .expect("nobody panics with it")
                .extend(read),
            Err(e) => {
                self.failure
                    .lock()
                    .expect("nobody panics with it")
                    .get_or_insert(e);
                self.failed.store(true, Ordering::SeqCst);
            }
        }
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }
}

/// Opens the data set at `url`: one that is a file is brought in and opened there.
///
/// Where an index says what there is, `indexed`, a folder of many objects is not listed.
pub(super) fn open(
    url: &Url,
    columns: &super::Columns,
    data_dir: &Path,
    indexed: bool,
) -> Result<DataSet, InputError> {
    let opened = std::time::SystemTime::now();
    let client = Client::open(url)?;
    let is_file = FILES.iter().any(|end| has_end(url.name(), end));
    if is_file && !url.key.is_empty() {
        match objects::bring(&client, url, data_dir) {
            Ok(path) => return of_copy(&path, url, columns),
            Err(e) if e.is_not_found() => {} // there may be a folder of this name
            Err(e) => return Err(e.into()),
        }
    }
    let (objects, all) = match indexed {
        true => client.list_some(url, SOME)?,
        false => (client.list(url)?, true),
    };
    let (objects, all) = match only_parquet(&objects) {
        Some(_) if !all => (client.list(url)?, true),
        _ => (objects, all),
    };
    if let Some(shards) = only_parquet(&objects) {
        let folder = cache_folder(data_dir, url).join(url.name());
        for object in shards {
            let path = folder.join(OsStr::from_bytes(object.name.as_bytes()));
            objects::bring_to(&client, &url.join(&object.name), object, &path)?;
        }
        drop_gone(&folder, &objects)?;
        return of_copy(&folder, url, columns);
    }
    if let Some(flag) = columns.given_but(&[]) {
        let reason = format!("is a folder, which has no columns, so {flag} means nothing");
        return Err(InputError::refused(&url.to_path(), reason));
    }
    Ok(DataSet {
        path: url.to_path(),
        opened,
        left_out: None,
        source: Source::Prefix(Box::new(match all {
            true => Prefix::new(client, url, objects)?,
            false => Prefix::unlisted(client, url),
        })),
    })
}

fn has_end(name: &str, end: &str) -> bool {
    let extension = Path::new(name).extension();
    extension.is_some_and(|extension| extension.eq_ignore_ascii_case(end))
}

/// The data set in a copy, called by its URL.
fn of_copy(path: &Path, url: &Url, columns: &super::Columns) -> Result<DataSet, InputError> {
    let data = DataSet::open(path, columns)?;
    if let Source::Files(..) = data.source {
        return Err(InputError::refused(
            &url.to_path(),
            "lists image files, which are not read from an object store (hint: name the folder of \
             the images, or put them into a .zip, .tar or .parquet)",
        ));
    }
    Ok(DataSet {
        path: url.to_path(),
        ..data
    })
}

/// The Parquet files of a place that holds such and neither folders nor images.
fn only_parquet(objects: &[Object]) -> Option<Vec<&Object>> {
    let seen = || {
        objects
            .iter()
            .filter(|object| !object.name.starts_with('.'))
    };
    let other =
        |object: &Object| object.name.contains('/') || has_image_extension(object.name.as_bytes());
    if seen().any(other) {
        return None;
    }
    let shards: Vec<&Object> = seen()
        .filter(|object| has_end(&object.name, "parquet"))
        .collect();
    (!shards.is_empty()).then_some(shards)
}

/// Removes copies of Parquet files that are gone.
fn drop_gone(folder: &Path, objects: &[Object]) -> Result<(), InputError> {
    let error = |e| InputError::from(RemoteError::from(files::FileError::new("tidy", folder)(e)));
    for entry in std::fs::read_dir(folder).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = entry.file_name();
        let is_there = |object: &Object| object.name.as_bytes() == name.as_bytes();
        if has_end(&name.to_string_lossy(), "parquet") && !objects.iter().any(is_there) {
            std::fs::remove_file(entry.path()).map_err(error)?;
        }
    }
    Ok(())
}

impl DataSet {
    /// [`DataSet::open`] for a path or a URL; what has to be brought in goes below `data_dir`.
    ///
    /// # Errors
    /// Those of [`DataSet::open`], and when an object store fails.
    pub fn open_at(
        place: &Path,
        columns: &super::Columns,
        data_dir: &Path,
    ) -> Result<DataSet, InputError> {
        DataSet::open_place(place, columns, data_dir, false)
    }

    /// [`DataSet::open_at`] for one whose index is there, so that it need not be listed.
    ///
    /// # Errors
    /// Those of [`DataSet::open_at`].
    pub fn open_indexed(
        place: &Path,
        columns: &super::Columns,
        data_dir: &Path,
    ) -> Result<DataSet, InputError> {
        DataSet::open_place(place, columns, data_dir, true)
    }

    fn open_place(
        place: &Path,
        columns: &super::Columns,
        data_dir: &Path,
        indexed: bool,
    ) -> Result<DataSet, InputError> {
        match Location::parse(place)? {
            Location::Local(path) => DataSet::open(&path, columns),
            Location::Remote(url) => open(&url, columns, data_dir, indexed),
        }
    }

    /// Why images could not be read any more, if that is so.
    pub fn take_failure(&self) -> Option<RemoteError> {
        match &self.source {
            Source::Prefix(prefix) => prefix.take_failure(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, etag: &str) -> Object {
        Object {
            name: name.to_owned(),
            size: 10,
            modified_nanos: 5,
            etag: etag.to_owned(),
        }
    }

    #[test]
    fn objects_are_arranged_as_a_walk() {
        let names = [
            "Dog/2.jpg",
            "Cat/deep/1.jpg",
            "Dog/10.jpg",
            "loose.jpg",
            "Cat/.hid",
            ".git/x",
            "Cat-2/1.jpg",
            "Cat/z.jpg",
        ];
        let (walk, briefs) = arrange(names.iter().map(|name| object(name, name)).collect());
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
        let expected = crate::walk::walk(folder.path()).unwrap();
        assert_eq!(walk.files, expected.files);
        assert_eq!(walk.labels, expected.labels);
        assert_eq!(walk.classes, expected.classes);
        assert_eq!(walk.ignored, expected.ignored);
        assert_eq!(briefs.len(), walk.files.len());
    }

    #[test]
    fn a_stamp_tells_objects_apart() {
        let stamp = |url: &str, object: Object| {
            let name = object.name.clone();
            let (_, briefs) = arrange(vec![object]);
            let url = url.to_owned();
            Stamps { url, briefs }.get(0, name.as_bytes())
        };
        let one = stamp("s3://b/x", object("a/1.jpg", "e"));
        assert_eq!(stamp("s3://b/x", object("a/1.jpg", "e")), one);
        let (mut grown, mut later) = (object("a/1.jpg", "e"), object("a/1.jpg", "e"));
        grown.size += 1;
        later.modified_nanos += 1;
        for other in [
            stamp("s3://b/y", object("a/1.jpg", "e")),
            stamp("s3://b/x", object("a/2.jpg", "e")),
            stamp("s3://b/x", object("a/1.jpg", "f")),
            stamp("s3://b/x", grown),
            stamp("s3://b/x", later),
        ] {
            assert_ne!(other, one);
        }
    }

    #[test]
    fn parquet_alone_is_one_data_set() {
        let of = |names: &[&str]| {
            let objects: Vec<Object> = names.iter().map(|name| object(name, "")).collect();
            only_parquet(&objects).map(|shards| shards.len())
        };
        assert_eq!(of(&["a.parquet", "b.PARQUET", "readme.md", ".x"]), Some(2));
        assert_eq!(of(&["a.parquet", "b/1.txt"]), None);
        assert_eq!(of(&["a.parquet", "b.jpg"]), None);
        assert_eq!(of(&["readme.md"]), None);
    }
}
