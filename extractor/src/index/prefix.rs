//! Makes an index of the objects below a URL: those that the digest cache does not know are read, many
//! at once.
//!
//! Must not know how an object store is spoken to, nor how an index is stored.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

use super::folder::{Found, Indexed, Look, keep_dealt, look};
use super::{DigestCache, Index, IndexError};
use crate::decode::{self, Kind, has_image_extension};
use crate::images::{Dealt, InputError, Prefix};
use crate::paths::Paths;
use crate::remote::RemoteError;

/// What is read of an object that does not claim to be an image, to see whether it is one.
const HEAD_BYTES: u64 = 64;

impl Index {
    /// Indexes the objects below a URL. Those that `cache` knows are not read. `on_file` is called once
    /// for every object.
    ///
    /// # Errors
    /// When the server fails or there is no image.
    pub(super) fn of_prefix(
        root: &Path,
        prefix: &Prefix,
        dealt: &Dealt,
        cache: &DigestCache,
        on_file: impl Fn() + Sync,
    ) -> Result<Indexed, IndexError> {
        let (mut walk, mut stamps) = prefix.take_walk().map_err(InputError::from)?;
        stamps.drop(&keep_dealt(&mut walk, dealt));
        Index::of_walk(root, walk, dealt, cache, |paths, chunk| {
            let stamp = |i: usize| stamps.get(i, paths.get(i));
            let known = |i: usize| cache.get(&stamp(i)).map(Look::Image);
            let mut found: Vec<Option<Look>> = chunk.clone().map(known).collect();
            let start = chunk.start;
            look_closer(prefix, paths, chunk, &mut found, |i| stamp(i).size_bytes)
                .map_err(InputError::from)?;
            let found = found.into_iter().enumerate().map(|(i, look)| {
                on_file();
                look.unwrap_or(Look::Clutter).found(stamp(start + i))
            });
            Ok(found.collect::<Vec<Found>>())
        })
    }
}

/// Reads the objects of a chunk that are not found out yet: what claims to be an image whole, else its
/// beginning first.
fn look_closer(
    prefix: &Prefix,
    paths: &Paths,
    chunk: Range<usize>,
    found: &mut [Option<Look>],
    size: impl Fn(usize) -> u64,
) -> Result<(), RemoteError> {
    let start = chunk.start;
    let open: Vec<usize> = chunk.filter(|i| found[i - start].is_none()).collect();
    let claims = |i: usize| has_image_extension(paths.get(i));
    // Of an empty object nothing can be read.
    let (read, empty): (Vec<usize>, Vec<usize>) = open.into_iter().partition(|i| size(*i) > 0);
    for i in empty {
        found[i - start] = Some(look(Ok(&[][..]), claims(i)));
    }
    let (mut whole, others): (Vec<usize>, Vec<usize>) = read.into_iter().partition(|i| claims(*i));
    let heads = others
        .iter()
        .map(|i| (paths.get(*i), Some(HEAD_BYTES.min(size(*i)))));
    let is_image = prefix.read_many(heads.collect(), |_, head| {
        head.is_ok_and(|head| matches!(decode::recognise(&head), Kind::Supported(_)))
    })?;
    whole.extend(
        others
            .iter()
            .zip(is_image)
            .filter(|(_, is)| *is)
            .map(|(i, _)| *i),
    );
    let names = whole.iter().map(|i| (paths.get(*i), None)).collect();
    let looked = prefix.read_many(names, |n, bytes: Result<Bytes, String>| match bytes {
        Ok(bytes) => look(Ok(&bytes[..]), claims(whole[n])),
        Err(reason) => Look::Broken(reason.into()),
    })?;
    for (i, look) in whole.iter().zip(looked) {
        found[i - start] = Some(look);
    }
    Ok(())
}
