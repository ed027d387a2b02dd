//! Makes an index of any data set: of a folder by its walk, of a manifest or an archive by its
//! listing.
//!
//! What is trusted to be unchanged: a manifest's files by their stamps, as in a folder; an archive's
//! members as long as the archive's own stamp is in the digest cache with the digest of the index
//! written last, whose ids are then used again. Must not know the formats, nor how an index is
//! stored.

use std::fs::File;
use std::path::Path;

use rayon::prelude::*;

use super::folder::{Indexed, Look, look};
use super::{DigestCache, Entry, Index, IndexError, Notes};
use crate::digest::ImageId;
use crate::files::FileError;
use crate::images::{Archive, DataSet, Folder, InputError, Listing, Member, Source, compare_paths};
use crate::walk::{Skipped, Stamp};

impl Index {
    /// Indexes a data set. `previous` is where its index was written before, if it was.
    /// `on_file` is called once for every file or member looked at.
    ///
    /// # Errors
    /// When the folder cannot be walked, no file of a manifest is there, or there is no image.
    pub fn of(
        data: &DataSet,
        cache: &DigestCache,
        previous: &Path,
        on_file: impl Fn() + Sync,
    ) -> Result<Indexed, IndexError> {
        match &data.source {
            Source::Folder(_) => Index::of_folder(&data.path, cache, on_file),
            Source::Files(folder, listing) => {
                let one = |member: &Member| {
                    let found = look_at_file(folder, member, cache);
                    on_file();
                    found
                };
                let looked: Vec<_> = listing.members.par_iter().map(one).collect();
                if !looked.iter().any(|found| found.stamp.is_some()) {
                    return Err(nothing_there(data, folder, listing));
                }
                let mut stamps = cache.notes();
                for found in &looked {
                    if let (Look::Image(id), Some(stamp)) = (&found.look, found.stamp) {
                        stamps.push(&stamp, id)?;
                    }
                }
                let looks = looked.into_iter().map(|found| found.look);
                assemble(&data.path, listing, looks, |_| Ok(stamps))
            }
            Source::Archive(archive, stamp) => {
                let known = known(cache, *stamp, previous);
                let one = |member: &Member| {
                    let look = match find(known.as_ref(), &member.path) {
                        Some(id) => Look::Image(id),
                        None => look_at_member(archive, member),
                    };
                    on_file();
                    look
                };
                let listing = &archive.listing;
                let looks: Vec<Look> = listing.members.par_iter().map(one).collect();
                assemble(&data.path, listing, looks.into_iter(), |index| {
                    let mut stamps = cache.notes();
                    stamps.push(stamp, &index.digest())?;
                    Ok(stamps)
                })
            }
        }
    }
}

struct Found {
    look: Look,
    /// None if there is no such file.
    stamp: Option<Stamp>,
}

fn look_at_file(folder: &Folder, member: &Member, cache: &DigestCache) -> Found {
    let path = folder.locate(&member.path);
    let broken = |reason: String, stamp| Found {
        look: Look::Broken(reason),
        stamp,
    };
    let metadata = match std::fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return broken("listed, and there is no such file".to_owned(), None);
        }
        Err(e) => return broken(crate::walk::describe(&e), None),
        Ok(metadata) => metadata,
    };
    let stamp = Stamp::of(&metadata);
    if !metadata.is_file() {
        return broken("listed, and no regular file".to_owned(), Some(stamp));
    }
    let look = match cache.get(&stamp) {
        Some(id) => Look::Image(id),
        None => look(File::open(path), true),
    };
    Found {
        look,
        stamp: Some(stamp),
    }
}

/// Every file of a manifest is missing: it is read from the wrong place.
fn nothing_there(data: &DataSet, folder: &Folder, listing: &Listing) -> IndexError {
    let example = match listing.members.first() {
        Some(member) => crate::files::escape_path(&folder.locate(&member.path)),
        None => "any of them".to_owned(),
    };
    let reason = format!(
        "lists files of which none is there, such as {example} (hint: paths are relative to the \
         manifest's folder)"
    );
    InputError::refused(&data.path, reason).into()
}

fn look_at_member(archive: &Archive, member: &Member) -> Look {
    let claims = archive.claims(member);
    let looked = archive.with(member, |reader| Ok(look(Ok(reader), claims)));
    looked.unwrap_or_else(|e| Look::Broken(crate::walk::describe(&e)))
}

/// The index written last, if the archive is as it was then.
fn known(cache: &DigestCache, stamp: Stamp, previous: &Path) -> Option<Index> {
    let digest = cache.get(&stamp)?;
    let index = Index::read(previous).ok()?;
    (index.digest() == digest).then_some(index)
}

fn find(known: Option<&Index>, path: &[u8]) -> Option<ImageId> {
    let index = known?;
    let (mut low, mut high) = (0, index.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let entry = index.entry(middle);
        match compare_paths(entry.path, path) {
            std::cmp::Ordering::Equal => return Some(entry.id),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    None
}

fn assemble(
    path: &Path,
    listing: &Listing,
    looks: impl Iterator<Item = Look>,
    stamps: impl FnOnce(&Index) -> Result<Notes, FileError>,
) -> Result<Indexed, IndexError> {
    let (mut images, mut skipped) = (Vec::new(), listing.skipped.clone());
    let mut ignored = listing.ignored;
    for (member, look) in listing.members.iter().zip(looks) {
        match look {
            Look::Image(id) => images.push((id, member)),
            Look::Clutter => ignored += 1,
            Look::Broken(reason) => skipped.push(Skipped {
                path: member.path.clone(),
                reason,
            }),
        }
    }
    if images.is_empty() && skipped.is_empty() {
        return Err(IndexError::NoImages(path.to_owned()));
    }
    skipped.sort_by(|a, b| a.path.cmp(&b.path));
    skipped.dedup();

    // Classes without images get no label number, so that two classes stay two classes.
    let mut numbers: Vec<Option<u32>> = vec![None; listing.classes.len()];
    for class in images.iter().filter_map(|(_, member)| member.class) {
        numbers[class as usize] = Some(0);
    }
    let (mut classes, mut empty_classes) = (Vec::new(), Vec::new());
    for (name, number) in listing.classes.iter().zip(&mut numbers) {
        match number {
            Some(number) => {
                *number = classes.len() as u32;
                classes.push(name.clone());
            }
            None => empty_classes.push(name.clone()),
        }
    }
    let mut index = Index::new(classes);
    for (id, member) in images {
        index.push(Entry {
            id,
            path: &member.path,
            label: member.class.and_then(|class| numbers[class as usize]),
        });
    }
    Ok(Indexed {
        stamps: stamps(&index)?,
        index,
        skipped,
        empty_classes,
        ignored,
    })
}
