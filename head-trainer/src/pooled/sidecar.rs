//! One file of pooled features: the rows of one shard, each map's mean over its positions, checked
//! and mapped.
//!
//! A sidecar is a cache: whatever is wrong with one, it is made anew from its shard. Must not know
//! which rows anybody needs, nor where sidecars lie.
//!
//! # Format, version 1
//!
//! Everything is little-endian. A header of 128 bytes, then the values, and nothing after them:
//!
//! | bytes | type | |
//! |---|---|---|
//! | 0..8 | | `HSPOOLED` in ASCII |
//! | 8..12 | u32 | version, `1`; bumped with any change, that of the order of additions included |
//! | 12..16 | u32 | channels, C |
//! | 16..24 | u64 | rows, N |
//! | 24..28, 28..32 | u32 | height and width of the maps that were pooled |
//! | 32..48 | u128 | what was pooled: [`Shard::fingerprint`] |
//! | 48..56 | u64 | checksum of the values |
//! | 56..120 | | zeros |
//! | 120..128 | u64 | XXH3-64 (seed 0) of bytes 0..120 |
//! | 128.. | f32 | values, [N, C]: the shard's rows in its order, record batch by record batch |
//!
//! The value of a channel MUST be the sum over the map's positions in row-major order, beginning
//! with 0, each addition rounded to f32, divided by the number of positions; f16 is widened to f32
//! first. The checksum of the values is the XXH3-64 (seed 0) of a list: the XXH3-64 (seed 0) of
//! each row's bytes, 8 bytes a row. A reader MUST NOT use a file that differs from its shard in any
//! of this, MUST check both checksums, and pools the shard anew instead. A writer MUST give the
//! file its name when it is complete and synced, and MUST NOT change it then: it is memory-mapped.
//!
//! The fingerprint binds a sidecar to what the shard says of itself: key, ids, views, the
//! checksums of its features. The features themselves are read, and checked, only to be pooled.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

use arrow::buffer::{Buffer, ScalarBuffer};
use extractor::files::{FileError, Pending};
use extractor::store::{Shard, StoreError, map};
use rayon::prelude::*;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::average::average;
use super::batch_starts;

/// Version of the format; bumped with any change.
const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"HSPOOLED";
const HEADER_BYTES: usize = 128;
const VALUE_BYTES: usize = size_of::<f32>();

/// Rows that are pooled before they are written.
const PIECE_ROWS: usize = 32;

/// A shard's rows, pooled: [N, C].
pub(super) type Values = ScalarBuffer<f32>;

/// A sidecar cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// There is none.
    #[error("it is not there")]
    Missing,
    /// It cannot be read.
    #[error("it cannot be read")]
    Io(#[source] io::Error),
    /// It is not what was written, or not of this shard.
    #[error("{0}")]
    Wrong(String),
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Unusable {
        match error.kind() {
            io::ErrorKind::NotFound => Unusable::Missing,
            _ => Unusable::Io(error),
        }
    }
}

/// A shard cannot be pooled into a place.
#[derive(Debug, thiserror::Error)]
pub(super) enum PoolError {
    /// The shard is damaged: no place helps.
    #[error(transparent)]
    Shard(#[from] StoreError),
    /// The place cannot be written; another may do.
    #[error(transparent)]
    Place(#[from] FileError),
}

/// What the header says, and the file's length with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    channels: u32,
    rows: u64,
    height: u32,
    width: u32,
    fingerprint: u128,
}

impl Header {
    fn of(shard: &Shard) -> Header {
        let shape = shard.map_shape();
        // A shard says its shape in 32 bits, as Arrow's list lengths are.
        let small = |n: usize| u32::try_from(n).expect("a map's side fits 32 bits");
        Header {
            channels: small(shape.channels),
            rows: shard.rows() as u64,
            height: small(shape.height),
            width: small(shape.width),
            fingerprint: shard.fingerprint(),
        }
    }

    fn encode(&self, checksum: u64) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, MAGIC);
        put(8, &VERSION.to_le_bytes());
        put(12, &self.channels.to_le_bytes());
        put(16, &self.rows.to_le_bytes());
        put(24, &self.height.to_le_bytes());
        put(28, &self.width.to_le_bytes());
        put(32, &self.fingerprint.to_le_bytes());
        put(48, &checksum.to_le_bytes());
        let own = xxh3_64(&bytes[..120]);
        bytes[120..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    /// Checks that `bytes` are the header of this file; returns the checksum of its values.
    fn check(&self, bytes: &[u8; HEADER_BYTES]) -> Result<u64, String> {
        if &bytes[..8] != MAGIC {
            return Err("it does not begin as a file of pooled features".to_owned());
        }
        let version = u32::from_le_bytes(field(bytes, 8));
        if version != VERSION {
            return Err(format!("it has format {version}, expected {VERSION}"));
        }
        if u64::from_le_bytes(field(bytes, 120)) != xxh3_64(&bytes[..120]) {
            return Err("its header is damaged".to_owned());
        }
        // Field by field would say no more that helps: the file is made anew.
        let checksum = u64::from_le_bytes(field(bytes, 48));
        match self.encode(checksum) == *bytes {
            true => Ok(checksum),
            false => Err("it is of another shard".to_owned()),
        }
    }
}

fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("inside the header")
}

/// Opens the sidecar at `path` if it is that of `shard`, whole and undamaged.
pub(super) fn open(path: &Path, shard: &Shard) -> Result<Values, Unusable> {
    // Opening a pipe would wait for ever.
    if !fs::metadata(path)?.is_file() {
        return Err(Unusable::Wrong("it is no file".to_owned()));
    }
    let file = File::open(path)?;
    if file.metadata()?.len() < HEADER_BYTES as u64 {
        return Err(Unusable::Wrong("it is too short".to_owned()));
    }
    let mapped = map::map(&file)?;
    let header = Header::of(shard);
    let checksum = mapped
        .first_chunk()
        .ok_or_else(|| "it is too short".to_owned())
        .and_then(|bytes| header.check(bytes))
        .map_err(Unusable::Wrong)?;
    let values = values(&mapped, shard).map_err(Unusable::Wrong)?;
    let rows = values.par_chunks(shard.map_shape().channels);
    if combined(&rows.map(hash).collect::<Vec<_>>()) != checksum {
        return Err(Unusable::Wrong("its values are damaged".to_owned()));
    }
    Ok(values)
}

/// The values of a mapped file, if it is exactly as long as it must be.
fn values(mapped: &Buffer, shard: &Shard) -> Result<Values, String> {
    // All this is in the shard, and larger there.
    let count = shard.rows() * shard.map_shape().channels;
    let expected = HEADER_BYTES + count * VALUE_BYTES;
    if mapped.len() != expected {
        return Err(format!(
            "it has {} bytes, expected {expected}",
            mapped.len()
        ));
    }
    Ok(ScalarBuffer::new(
        mapped.clone(),
        HEADER_BYTES / VALUE_BYTES,
        count,
    ))
}

/// Pools `shard` into the file `path`. One that is there by then stays, unless it has to be
/// replaced.
pub(super) fn write(
    path: &Path,
    replace: bool,
    shard: &Shard,
    on_rows: &(dyn Fn(usize) + Sync),
) -> Result<Values, PoolError> {
    let mut pending = Pending::new(path)?;
    let values = fill(pending.file(), path, shard, on_rows)?;
    match replace {
        true => pending.publish()?,
        false => pending.publish_unless_there()?,
    };
    Ok(values)
}

/// Pools `shard` into a file without a name, which goes when the values do.
pub(super) fn write_nameless(
    shard: &Shard,
    on_rows: &(dyn Fn(usize) + Sync),
) -> Result<Values, PoolError> {
    let folder = std::env::temp_dir();
    let mut file = tempfile::tempfile_in(&folder)
        .map_err(FileError::new("create a temporary file in", &folder))?;
    fill(&mut file, &folder, shard, on_rows)
}

/// Pools `shard` into memory.
///
/// # Errors
/// When the shard is damaged.
pub(super) fn in_memory(
    shard: &Shard,
    on_rows: &(dyn Fn(usize) + Sync),
) -> Result<Values, StoreError> {
    let channels = shard.map_shape().channels;
    let pooled_nc = Mutex::new(vec![0.0; shard.rows() * channels]);
    pool(shard, on_rows, &|row, values| {
        let mut pooled_nc = pooled_nc.lock().expect("copying does not panic");
        pooled_nc[row * channels..][..values.len()].copy_from_slice(values);
        Ok(())
    })
    .map_err(|e: PoolError| match e {
        PoolError::Shard(damage) => damage,
        PoolError::Place(never) => StoreError::File(never),
    })?;
    let pooled_nc = pooled_nc.into_inner();
    Ok(pooled_nc.expect("copying does not panic").into())
}

/// Writes the whole sidecar of `shard` into `file` and maps it.
fn fill(
    file: &mut File,
    path: &Path,
    shard: &Shard,
    on_rows: &(dyn Fn(usize) + Sync),
) -> Result<Values, PoolError> {
    let file = &*file;
    let row_bytes = shard.map_shape().channels * VALUE_BYTES;
    // Written, not mapped, as a full disk is then an error and no signal.
    let checksum = pool(shard, on_rows, &|row, values| {
        let at = (HEADER_BYTES + row * row_bytes) as u64;
        file.write_all_at(bytemuck::cast_slice(values), at)
            .map_err(FileError::new("write", path))
    })?;
    file.write_all_at(&Header::of(shard).encode(checksum), 0)
        .map_err(FileError::new("write", path))?;
    let mapped = map::map(file).map_err(FileError::new("map", path))?;
    let wrong = |reason| FileError::new("write", path)(io::Error::other(reason));
    Ok(values(&mapped, shard).map_err(wrong)?)
}

/// Where pooled rows go: the number of the first one in the shard, then their values.
type Put<'a> = &'a (dyn Fn(usize, &[f32]) -> Result<(), FileError> + Sync);

/// Reads the shard once, in parallel: checks its checksums and hands on the pooled rows. Returns
/// their checksum.
fn pool(shard: &Shard, on_rows: &(dyn Fn(usize) + Sync), put: Put) -> Result<u64, PoolError> {
    let hashes: Vec<Vec<u64>> = batch_starts(shard)
        .into_par_iter()
        .enumerate()
        .map(|(batch, start)| {
            let hashes = pool_batch(shard, batch, start as usize, put)?;
            on_rows(hashes.len());
            Ok(hashes)
        })
        .collect::<Result<_, PoolError>>()?;
    Ok(combined(&hashes.concat()))
}

/// [`pool`] for one record batch whose first row is number `start` of the shard. Returns the hash
/// of every row.
fn pool_batch(shard: &Shard, batch: usize, start: usize, put: Put) -> Result<Vec<u64>, PoolError> {
    let channels = shard.map_shape().channels;
    let mut hashes = Vec::with_capacity(shard.rows_in(batch));
    let mut piece = vec![0.0; PIECE_ROWS.min(shard.rows_in(batch)) * channels];
    let mut pooled = 0; // rows in the piece
    let written = |hashes: &[u64], pooled| start + hashes.len() - pooled;
    shard.verify_batch(batch, |map_hwc| {
        let row_c = &mut piece[pooled * channels..][..channels];
        average(map_hwc, row_c);
        hashes.push(hash(row_c));
        pooled += 1;
        if pooled * channels == piece.len() {
            put(written(&hashes, pooled), &piece)?;
            pooled = 0;
        }
        Ok::<_, PoolError>(())
    })?;
    put(written(&hashes, pooled), &piece[..pooled * channels])?;
    Ok(hashes)
}

fn hash(row_c: &[f32]) -> u64 {
    xxh3_64(bytemuck::cast_slice(row_c))
}

/// The checksum of all values from the hashes of the rows.
fn combined(hashes: &[u64]) -> u64 {
    let mut hasher = Xxh3Default::new();
    hashes.iter().for_each(|h| hasher.update(&h.to_le_bytes()));
    hasher.digest()
}

#[cfg(not(target_endian = "little"))]
compile_error!("pooled features are mapped as they lie in the file, which is little-endian");
