//! Makes an index of a folder: walks it, recognises images by content, digests them in parallel.
//!
//! Must not know how an index is stored.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rayon::prelude::*;

use super::{DigestCache, Entry, Index, IndexError};
use crate::decode::{self, Kind};
use crate::digest::{Digest, ImageId};
use crate::walk::{self, Skipped, Stamp};

/// What indexing a folder found besides the index.
#[derive(Debug)]
pub struct Indexed {
    /// The index.
    pub index: Index,
    /// Files that claim to be images and cannot be, with the reason.
    pub skipped: Vec<Skipped>,
    /// Class folders without a single image.
    pub empty_classes: Vec<String>,
    /// Files that are no images and do not claim to be, hidden files, pipes and the like.
    pub ignored: usize,
    /// The image files' stamps and digests, for [`DigestCache::update`].
    pub stamps: Vec<(Stamp, ImageId)>,
}

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
        let walk = walk::walk(root)?;
        let looked: Vec<Look> = walk
            .files
            .par_iter()
            .map(|file| {
                let look = match cache.get(&file.stamp) {
                    Some(id) => Look::Image(id),
                    None => look(
                        File::open(root.join(std::ffi::OsStr::from_bytes(&file.path))),
                        decode::has_image_extension(&file.path),
                    ),
                };
                on_file();
                look
            })
            .collect();

        let mut skipped = walk.skipped;
        let mut ignored = walk.ignored;
        let (mut images, mut stamps) = (Vec::new(), Vec::new());
        for (file, look) in walk.files.into_iter().zip(looked) {
            match look {
                Look::Image(id) => {
                    stamps.push((file.stamp, id));
                    images.push((id, file.path, file.class));
                }
                Look::Clutter => ignored += 1,
                Look::Broken(reason) => skipped.push(Skipped {
                    path: file.path,
                    reason,
                }),
            }
        }
        if images.is_empty() && skipped.is_empty() {
            return Err(IndexError::NoImages(root.to_owned()));
        }
        skipped.sort_by(|a, b| a.path.cmp(&b.path));

        // Classes without images get no label number, so that two classes stay two classes.
        let mut used = vec![false; walk.classes.len()];
        for class in images.iter().filter_map(|(_, _, class)| *class) {
            used[class as usize] = true;
        }
        let mut numbers = vec![0; used.len()];
        let (mut classes, mut empty_classes) = (Vec::new(), Vec::new());
        for (i, name) in walk.classes.into_iter().enumerate() {
            numbers[i] = classes.len() as u32;
            if used[i] {
                &mut classes
            } else {
                &mut empty_classes
            }
            .push(name);
        }
        let mut index = Index::new(classes);
        for (id, path, class) in &images {
            index.push(Entry {
                id: *id,
                path,
                label: class.map(|c| numbers[c as usize]),
            });
        }
        Ok(Indexed {
            index,
            skipped,
            empty_classes,
            ignored,
            stamps,
        })
    }
}

pub(super) enum Look {
    Image(ImageId),
    Clutter,
    Broken(String),
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
            Kind::Unsupported(name) => Look::Broken(format!(
                "{name} images are not supported (hint: convert it to JPEG or PNG)"
            )),
            _ if !claims => Look::Clutter,
            _ if head.is_empty() => Look::Broken("empty file".to_owned()),
            _ => Look::Broken("not an image, whatever its name says".to_owned()),
        },
        // Whatever its name: it may be an image.
        Err(e) => Look::Broken(walk::describe(&e)),
    }
}
