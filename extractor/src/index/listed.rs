//! Makes an index of any data set: of a folder by its walk, of a manifest or an archive by its
//! listing.
//!
//! What is trusted to be unchanged: a manifest's files by their stamps, as in a folder; an archive's
//! members as long as the archive's own stamp is in the digest cache with the digest of the index
//! written last, of the whole or of parts, whose ids are then used again. Must not know the formats,
//! nor how an index is stored.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::folder::{CHUNK, Indexed, Look, drop_others, look, renumber};
use super::rows::{Held, Ids, Rows};
use super::spool::Spool;
use super::{DigestCache, Index, IndexError};
use crate::digest::{Digest, ImageId};
use crate::files::FileError;
use crate::images::{
    Archive, DataSet, Dealt, Folder, InputError, Listing, Member, Source, compare_paths,
};
use crate::part::Part;
use crate::transient::Unreadable;
use crate::walk::{Skipped, Stamp};

impl Index {
    /// Indexes a data set. `on_file` is called once for every file or member looked at.
    ///
    /// # Errors
    /// When the folder cannot be walked, no file of a manifest is there, or there is no image.
    pub fn of(
        data: &DataSet,
        cache: &DigestCache,
        on_file: impl Fn() + Sync,
    ) -> Result<Indexed, IndexError> {
        Index::of_part(data, Part::WHOLE, cache, on_file)
    }

    /// Indexes one part of a data set; nothing else of it is looked at. It may be empty.
    ///
    /// # Errors
    /// As for [`Index::of`].
    pub fn of_part(
        data: &DataSet,
        part: Part,
        cache: &DigestCache,
        on_file: impl Fn() + Sync,
    ) -> Result<Indexed, IndexError> {
        let dealt = data.dealt(part);
        let mut stamps = cache.notes();
        match &data.source {
            Source::Folder(_) => Index::of_dealt(&data.path, &dealt, cache, on_file),
            Source::Prefix(prefix) => Index::of_prefix(&data.path, prefix, &dealt, cache, on_file),
            Source::Files(folder, listing) => {
                let one = |position: usize, _| {
                    let found = look_at_file(folder, listing.member(position), cache);
                    on_file();
                    found
                };
                let mut gathered = Gathered::nothing(listing, &dealt, cache.spool());
                let mut absent = 0;
                gathered.look(listing, one, |found| {
                    absent += usize::from(found.absent);
                    if let (Look::Image(id), Some(stamp)) = (&found.look, found.stamp) {
                        stamps.push(&stamp, id)?;
                    }
                    Ok(found.look)
                })?;
                if absent == listing.len() && dealt.is_all() {
                    return Err(nothing_there(data, folder, listing));
                }
                let indexed = gathered.assemble(&data.path, listing)?;
                Ok(Indexed { stamps, ..indexed })
            }
            Source::Archive(archive, stamp) => {
                let listing = &archive.listing;
                let mut gathered = Gathered::nothing(listing, &dealt, cache.spool());
                for (index, digest) in cache.indexes(stamp) {
                    gathered.known.add(listing, &index, digest);
                }
                let one = |position: usize, known: Option<ImageId>| {
                    let look = match known {
                        None => look_at_member(archive, listing.member(position)),
                        Some(id) => Look::Image(id),
                    };
                    on_file();
                    look
                };
                gathered.look(listing, one, Ok)?;
                let indexed = gathered.assemble(&data.path, listing)?;
                stamps.push(stamp, &indexed.index.digest())?;
                Ok(Indexed { stamps, ..indexed })
            }
        }
    }
}

/// Ids by position, of members that were looked at before. Takes 4 bytes a member, if there are any.
#[derive(Default)]
struct Known {
    indexes: Vec<(u32, Index)>, // each with the number of its first entry, all numbered through
    entries: Vec<u32>,          // of each member; UNKNOWN: none
}

const UNKNOWN: u32 = u32::MAX;

impl Known {
    /// Adds what the index at `previous` knows, if it is the one of this digest.
    fn add(&mut self, listing: &Listing, previous: &Path, digest: Digest) {
        let Ok(previous) = Index::read(previous) else {
            return;
        };
        let last = self.indexes.last();
        let first = last.map_or(0, |(first, index)| *first as usize + index.len());
        if previous.digest() != digest || first + previous.len() > UNKNOWN as usize {
            return;
        }
        let (mut position, count) = (0, listing.len());
        self.entries.resize(count, UNKNOWN);
        let path = |position| listing.member(position).path;
        for (number, entry) in (first as u32..).zip(previous.iter()) {
            while position < count && compare_paths(path(position), entry.path).is_lt() {
                position += 1;
            }
            if position < count && path(position) == entry.path {
                self.entries[position] = number;
            }
        }
        self.indexes.push((first as u32, previous));
    }

    fn get(&self, position: usize) -> Option<ImageId> {
        let number = *self.entries.get(position)?;
        if number == UNKNOWN {
            return None;
        }
        let later = self.indexes.partition_point(|(first, _)| *first <= number);
        let (first, index) = &self.indexes[later - 1];
        Some(*index.id((number - first) as usize))
    }
}

/// What a listing's members were found to be.
struct Gathered<'a> {
    dealt: &'a Dealt<'a>,
    known: Known,
    ids: Spool,         // of the images, as they lie
    ranks: Vec<u32>,    // of each member in `ids`; empty: as they lie is in the order of the paths
    others: Vec<usize>, // positions of members that are no images
    skipped: Vec<Skipped>,
    transient: usize,
    ignored: usize,
}

impl Gathered<'_> {
    fn nothing<'a>(listing: &Listing, dealt: &'a Dealt<'a>, ids: Spool) -> Gathered<'a> {
        let mut skipped = listing.skipped.clone();
        skipped.retain(|skipped| dealt.has(&skipped.path));
        let ranks = match listing.lies_in_order() {
            true => 0,
            false => listing.len(),
        };
        Gathered {
            dealt,
            known: Known::default(),
            ids,
            ranks: vec![0; ranks],
            others: Vec::new(),
            skipped,
            transient: 0,
            ignored: listing.ignored,
        }
    }

    /// Looks at the members in the order in which they lie, some at once. `one` looks at a position
    /// whose id is known or not, `take` takes what it found, one by one.
    fn look<T: Send>(
        &mut self,
        listing: &Listing,
        one: impl Fn(usize, Option<ImageId>) -> T + Sync,
        mut take: impl FnMut(T) -> Result<Look, FileError>,
    ) -> Result<(), FileError> {
        for mut piece in listing.as_they_lie() {
            if !self.dealt.is_all() {
                let is_ours = |i: &u32| self.dealt.has(listing.member(*i as usize).path);
                let (ours, theirs) = piece.into_iter().partition::<Vec<u32>, _>(is_ours);
                self.others.extend(theirs.into_iter().map(|i| i as usize));
                piece = ours;
            }
            for chunk in piece.chunks(CHUNK) {
                self.look_at(listing, chunk, &one, &mut take)?;
            }
        }
        self.others.sort_unstable();
        Ok(())
    }

    /// Looks at the members at the positions `chunk` at once.
    fn look_at<T: Send>(
        &mut self,
        listing: &Listing,
        chunk: &[u32],
        one: &(impl Fn(usize, Option<ImageId>) -> T + Sync),
        take: &mut impl FnMut(T) -> Result<Look, FileError>,
    ) -> Result<(), FileError> {
        let known = &self.known;
        let look = |position: &u32| one(*position as usize, known.get(*position as usize));
        let found: Vec<T> = chunk.par_iter().map(look).collect();
        for (position, found) in chunk.iter().zip(found) {
            let position = *position as usize;
            match take(found)? {
                Look::Image(id) => {
                    let rank = self.ids.push(&id)?;
                    if let Some(of_member) = self.ranks.get_mut(position) {
                        *of_member = rank;
                    }
                    continue;
                }
                Look::Clutter => self.ignored += 1,
                Look::Broken(why) => {
                    self.transient += usize::from(why.transient);
                    self.skipped.push(Skipped {
                        path: listing.member(position).path.to_vec(),
                        reason: why.reason,
                    });
                }
            }
            self.others.push(position);
        }
        Ok(())
    }

    /// The index, for now without stamps.
    fn assemble(self, path: &Path, listing: &Listing) -> Result<Indexed, IndexError> {
        let Gathered {
            dealt,
            known: _,
            ids,
            mut ranks,
            others,
            mut skipped,
            transient,
            ignored,
        } = self;
        if others.len() == listing.len() && skipped.is_empty() && dealt.is_all() {
            return Err(IndexError::NoImages(path.to_owned()));
        }
        skipped.sort_by(|a, b| a.path.cmp(&b.path));
        skipped.dedup();
        let mut paths = listing.paths.clone();
        let mut labels = listing.labels.clone();
        if !others.is_empty() {
            let labels = Arc::make_mut(&mut labels);
            drop_others(Arc::make_mut(&mut paths), labels, &others);
            let (mut others, mut positions) = (others.iter().peekable(), 0_usize..);
            ranks.retain(|_| others.next_if_eq(&&positions.next().unwrap_or(0)).is_none());
        }
        let (classes, empty_classes) = renumber(listing.classes.clone(), &mut labels);
        let ranks = (!listing.lies_in_order()).then_some(ranks);
        Ok(Indexed {
            index: Index {
                classes,
                rows: Rows::Held(Held {
                    ids: Ids::Spooled(ids.finish()?, ranks.map(Arc::new)),
                    paths,
                    labels,
                }),
            },
            skipped,
            transient,
            empty_classes,
            ignored,
            stamps: DigestCache::default().notes(),
        })
    }
}

struct Found {
    look: Look,
    /// There is no such file.
    absent: bool,
    /// If there is a file.
    stamp: Option<Stamp>,
}

fn look_at_file(folder: &Folder, member: Member, cache: &DigestCache) -> Found {
    let path = folder.locate(member.path);
    let broken = |why: Unreadable| Found {
        look: Look::Broken(why),
        absent: false,
        stamp: None,
    };
    let metadata = match std::fs::metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Found {
                absent: true,
                ..broken("listed, and there is no such file".into())
            };
        }
        Err(e) => return broken(Unreadable::of(&e)),
        Ok(metadata) => metadata,
    };
    if !metadata.is_file() {
        return broken("listed, and no regular file".into());
    }
    let stamp = Stamp::of(&metadata);
    let look = match cache.get(&stamp) {
        Some(id) => Look::Image(id),
        None => look(File::open(path), true),
    };
    Found {
        look,
        absent: false,
        stamp: Some(stamp),
    }
}

/// Every file of a manifest is missing: it is read from the wrong place.
fn nothing_there(data: &DataSet, folder: &Folder, listing: &Listing) -> IndexError {
    let example = match listing.len() {
        0 => "any of them".to_owned(),
        _ => crate::files::escape_path(&folder.locate(listing.member(0).path)),
    };
    let reason = format!(
        "lists files of which none is there, such as {example} (hint: paths are relative to the \
         manifest's folder)"
    );
    InputError::refused(&data.path, reason).into()
}

fn look_at_member(archive: &Archive, member: Member) -> Look {
    let claims = archive.claims(member);
    let looked = archive.with(member, |reader| Ok(look(Ok(reader), claims)));
    looked.unwrap_or_else(|e| Look::Broken(Unreadable::of(&e)))
}
