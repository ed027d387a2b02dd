//! Makes an index of a folder: walks it, recognises images by content, digests them in parallel.
//!
//! Must not know how an index is stored.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::rows::{Held, Ids, Rows};
use super::{DigestCache, Index, IndexError, Notes};
use crate::decode::{self, Kind};
use crate::digest::{Digest, ImageId};
use crate::images::Dealt;
use crate::paths::Paths;
use crate::transient::Unreadable;
use crate::walk::{self, Skipped, Stamp, Walk};

/// What indexing a folder found besides the index.
#[derive(Debug)]
pub struct Indexed {
    /// The index.
    pub index: Index,
    /// Files that claim to be images and cannot be, with the reason.
    pub skipped: Vec<Skipped>,
    /// How many of them may be read at another try.
    pub transient: usize,
    /// Class folders without a single image.
    pub empty_classes: Vec<String>,
    /// Files that are no images and do not claim to be, hidden files, pipes and the like.
    pub ignored: usize,
    /// The image files' stamps and digests, for [`DigestCache::update`].
    pub stamps: Notes,
}

impl Indexed {
    /// An index that was made before, and found nothing else.
    pub fn of_index(index: Index) -> Indexed {
        Indexed {
            index,
            skipped: Vec::new(),
            transient: 0,
            empty_classes: Vec::new(),
            ignored: 0,
            stamps: DigestCache::default().notes(),
        }
    }
}

/// Files that are looked at together.
pub(super) const CHUNK: usize = 1024;

impl Index {
    /// Indexes the folder `root`: walks it, recognises images by content and digests them in
    /// parallel. Files that `cache` knows are not read. `on_file` is called once for every file
    /// looked at.
    ///
    /// # Errors
    /// When the folder cannot be walked or holds no image.
    pub fn of_folder(
        root: &Path,
        cache: &DigestCache,
        on_file: impl Fn() + Sync,
    ) -> Result<Indexed, IndexError> {
        Index::of_dealt(root, &Dealt::all(), cache, on_file)
    }

    /// [`Index::of_folder`] for what is `dealt` to this process.
    pub(super) fn of_dealt(
        root: &Path,
        dealt: &Dealt,
        cache: &DigestCache,
        on_file: impl Fn() + Sync,
    ) -> Result<Indexed, IndexError> {
        let look = |paths: &Paths, chunk: Range<usize>| {
            let one = |i| {
                let found = look_at(root, paths.get(i), cache);
                on_file();
                found
            };
            Ok(chunk.into_par_iter().map(one).collect())
        };
        let mut walk = walk::walk(root)?;
        let _ = keep_dealt(&mut walk, dealt);
        Index::of_walk(root, walk, dealt, cache, look)
    }

    /// Indexes the files that a walk found, of which what is not `dealt` to this process was dropped.
    /// `look` looks at those of some positions, some at once.
    pub(super) fn of_walk(
        root: &Path,
        walk: Walk,
        dealt: &Dealt,
        cache: &DigestCache,
        look: impl Fn(&Paths, Range<usize>) -> Result<Vec<Found>, IndexError>,
    ) -> Result<Indexed, IndexError> {
        let Walk {
            files: mut paths,
            mut labels,
            classes,
            mut skipped,
            mut ignored,
        } = walk;
        let mut transient = 0;
        let mut ids = cache.spool();
        let mut others = Vec::new(); // positions of files that are no images
        let mut stamps = cache.notes();
        for start in (0..paths.len()).step_by(CHUNK) {
            let chunk = start..paths.len().min(start + CHUNK);
            let found = look(&paths, chunk.clone())?;
            for (position, found) in chunk.zip(found) {
                match found {
                    Found::Image(stamp, id) => {
                        stamps.push(&stamp, &id)?;
                        ids.push(&id)?;
                        continue;
                    }
                    Found::Clutter => ignored += 1,
                    Found::Broken(why) => {
                        transient += usize::from(why.transient);
                        skipped.push(Skipped {
                            path: paths.get(position).to_vec(),
                            reason: why.reason,
                        });
                    }
                }
                others.push(position);
            }
        }
        if ids.len() == 0 && skipped.is_empty() && dealt.is_all() {
            return Err(IndexError::NoImages(root.to_owned()));
        }
        skipped.sort_by(|a, b| a.path.cmp(&b.path));
        drop_others(&mut paths, &mut labels, &others);
        let mut labels = Arc::new(labels);
        let (classes, empty_classes) = renumber(classes, &mut labels);
        Ok(Indexed {
            index: Index {
                classes,
                rows: Rows::Held(Held {
                    ids: Ids::Spooled(ids.finish()?, None),
                    paths: Arc::new(paths),
                    labels,
                }),
            },
            skipped,
            empty_classes,
            transient,
            ignored,
            stamps,
        })
    }
}

/// Drops the files that are not `dealt` to this process; returns their positions.
pub(crate) fn keep_dealt(walk: &mut Walk, dealt: &Dealt) -> Vec<usize> {
    if dealt.is_all() {
        return Vec::new();
    }
    let all = 0..walk.files.len();
    let theirs: Vec<usize> = all.filter(|i| !dealt.has(walk.files.get(*i))).collect();
    drop_others(&mut walk.files, &mut walk.labels, &theirs);
    walk.skipped.retain(|skipped| dealt.has(&skipped.path));
    theirs
}

/// Drops what lies at the positions `others`, which ascend.
pub(super) fn drop_others(paths: &mut Paths, labels: &mut Vec<i32>, others: &[usize]) {
    if others.is_empty() {
        return;
    }
    let is_image = || {
        let mut others = others.iter().peekable();
        move |position| others.next_if_eq(&&position).is_none()
    };
    paths.retain(is_image());
    let (mut is_image, mut positions) = (is_image(), 0..);
    labels.retain(|_| positions.next().is_some_and(&mut is_image));
}

/// Takes away the classes without images, so that two classes stay two classes, and numbers the
/// others anew: those that stay, and those that go.
pub(super) fn renumber(
    classes: Vec<String>,
    labels: &mut Arc<Vec<i32>>,
) -> (Vec<String>, Vec<String>) {
    let mut used = vec![false; classes.len()];
    for label in labels.iter().filter(|label| **label >= 0) {
        used[*label as usize] = true;
    }
    if used.iter().all(|used| *used) {
        return (classes, Vec::new());
    }
    let mut numbers = Vec::with_capacity(classes.len());
    let (mut stay, mut go) = (Vec::new(), Vec::new());
    for (name, used) in classes.into_iter().zip(used) {
        numbers.push(stay.len() as i32);
        if used { &mut stay } else { &mut go }.push(name);
    }
    let labels = Arc::make_mut(labels).iter_mut();
    for label in labels.filter(|label| **label >= 0) {
        *label = numbers[*label as usize];
    }
    (stay, go)
}

pub(super) enum Found {
    Image(Stamp, ImageId),
    Clutter,
    Broken(Unreadable),
}

fn look_at(root: &Path, relative: &[u8], cache: &DigestCache) -> Found {
    let path = root.join(OsStr::from_bytes(relative));
    let stamp = match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Stamp::of(&metadata),
        Ok(_) => return Found::Clutter, // no longer the file that the walk saw
        Err(e) => return Found::Broken(Unreadable::of(&e)),
    };
    let look = match cache.get(&stamp) {
        Some(id) => Look::Image(id),
        None => look(File::open(path), decode::has_image_extension(relative)),
    };
    look.found(stamp)
}

/// What the bytes of a file are: the id of an image, or nothing if they neither are an image nor the
/// file `claims` to be one, by its name or by being listed as one.
///
/// # Errors
/// Why a file that claims to be an image is none that can be read.
pub fn identify(bytes: &[u8], claims: bool) -> Result<Option<ImageId>, Unreadable> {
    match look(Ok(bytes), claims) {
        Look::Image(id) => Ok(Some(id)),
        Look::Clutter => Ok(None),
        Look::Broken(why) => Err(why),
    }
}

pub(super) enum Look {
    Image(ImageId),
    Clutter,
    Broken(Unreadable),
}

impl Look {
    /// With the file's stamp.
    pub fn found(self, stamp: Stamp) -> Found {
        match self {
            Look::Image(id) => Found::Image(stamp, id),
            Look::Clutter => Found::Clutter,
            Look::Broken(reason) => Found::Broken(reason),
        }
    }
}

/// Recognises a file by content and digests it. What neither is an image nor `claims` to be one,
/// by its name or by being listed as one, is clutter.
pub(super) fn look(file: std::io::Result<impl Read>, claims: bool) -> Look {
    let mut head = Vec::with_capacity(64);
    let read = file.and_then(|mut file| {
        (&mut file).take(64).read_to_end(&mut head)?;
        match decode::recognise(&head) {
            Kind::Supported(_) => Digest::of_reader((&head[..]).chain(file)).map(Some),
            _ => Ok(None),
        }
    });
    match read {
        Ok(Some(id)) => Look::Image(id),
        Ok(None) => match decode::recognise(&head) {
            Kind::Unsupported(name) => Look::Broken(
                format!("{name} images are not supported (hint: convert it to JPEG or PNG)").into(),
            ),
            _ if !claims => Look::Clutter,
            _ if head.is_empty() => Look::Broken("empty file".into()),
            _ => Look::Broken("not an image, whatever its name says".into()),
        },
        // Whatever its name: it may be an image.
        Err(e) => Look::Broken(Unreadable::of(&e)),
    }
}
