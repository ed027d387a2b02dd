//! Writes shards: rows come in, files of about the target size come out, each renamed into place
//! when it is complete.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeBinaryArray, FixedSizeListArray, Float16Array, Float32Array, StringArray,
    UInt8Array,
};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::FileWriter;
use arrow::record_batch::RecordBatch;
use half::f16;
use half::slice::HalfFloatSliceExt;
use xxhash_rust::xxh3::Xxh3Default;

use super::shard::{self, FORMAT};
use super::{Dtype, FORMAT_VERSION, Provenance, StoreError, StoreKey, key, verify};
use crate::backbone::MapShape;
use crate::digest::ImageId;
use crate::files::{Pending, Published, escape_path, printable};

/// A shard is closed when its features reach this size: 256 MiB.
pub const SHARD_BYTES: usize = 256 << 20;

const LAST_GENERATION: u32 = 9999;

/// How often to try a name that is taken and, when looked at, is not.
const TRIES: usize = 8;

/// Name of a shard. That of a rewritten shard sorts before those of the shards whose rows it took
/// over, one generation older each: so its rows are the ones that count, as soon as it is there.
fn name(generation: u32, content: u128) -> String {
    match LAST_GENERATION.saturating_sub(generation) {
        LAST_GENERATION => format!("shard-{content:032x}.arrow"),
        rank => format!("shard--{rank:04}-{content:032x}.arrow"), // `-` sorts before every digit
    }
}

/// How often the rows of the shard at `path` have been rewritten, by its name.
pub(super) fn generation(path: &Path) -> u32 {
    let rank = || {
        let name = path.file_name()?.to_str()?;
        let rank = name.strip_prefix("shard--")?.get(..4)?;
        rank.parse().ok()
    };
    LAST_GENERATION.saturating_sub(rank().unwrap_or(LAST_GENERATION))
}

/// The digest of its rows that a shard's writer put into its name; none in a name of another kind.
pub(super) fn content_in_name(path: &Path) -> Option<u128> {
    let name = path.file_name()?.to_str()?;
    let name = name
        .strip_prefix(shard::PREFIX)?
        .strip_suffix(shard::SUFFIX)?;
    let digest = match name.strip_prefix('-') {
        Some(rewritten) => rewritten.get(5..)?,
        None => name,
    };
    let is_digest = digest.len() == 32 && digest.bytes().all(|b| b.is_ascii_hexdigit());
    is_digest.then(|| u128::from_str_radix(digest, 16).ok())?
}

/// Writes rows into shards of one store.
pub struct ShardWriter {
    folder: PathBuf,
    key: StoreKey,
    shape: MapShape,
    schema: SchemaRef,
    rows_per_shard: usize,
    generation: u32,
    open: Option<OpenShard>,
    published: Vec<PathBuf>,
}

struct OpenShard {
    pending: Pending,
    writer: FileWriter<BufWriter<File>>,
    rows: usize,
    checksums: Vec<String>,
    content: Xxh3Default,
}

impl ShardWriter {
    /// A writer of maps of `shape` for the store of `key` in `folder`. Creates no file yet.
    pub fn new(
        folder: &Path,
        key: &StoreKey,
        provenance: &Provenance,
        shape: MapShape,
        shard_bytes: usize,
    ) -> ShardWriter {
        ShardWriter {
            folder: folder.to_owned(),
            key: key.clone(),
            shape,
            schema: schema(key, provenance, shape),
            rows_per_shard: (shard_bytes / (shape.len() * key.dtype.size_bytes())).max(1),
            generation: 0,
            open: None,
            published: Vec::new(),
        }
    }

    /// Names the shards as the given generation: that of the shards whose rows they take over,
    /// plus one.
    pub(super) fn with_generation(mut self, generation: u32) -> ShardWriter {
        self.generation = generation;
        self
    }

    /// Adds a record batch: a row for each image and view, `features` [rows, h, w, c] flat. Gives the
    /// buffer back, with anything in it.
    ///
    /// # Errors
    /// When the disk is full or fails; published shards are not affected.
    ///
    /// # Panics
    /// When `features` has not one map a row.
    pub fn write(
        &mut self,
        rows: &[(ImageId, &str)],
        features: Vec<f32>,
    ) -> Result<Vec<f32>, StoreError> {
        assert_eq!(
            features.len(),
            rows.len() * self.shape.len(),
            "one map a row"
        );
        if rows.is_empty() {
            return Ok(features);
        }
        let id_bytes: Vec<u8> = rows.iter().flat_map(|(id, _)| id.0).collect();
        let mut converted = None; // what the features were converted from
        let (values, value_bytes): (ArrayRef, Buffer) = match self.key.dtype {
            Dtype::F32 => {
                let values = ScalarBuffer::<f32>::from(features);
                let bytes = values.inner().clone();
                (Arc::new(Float32Array::new(values, None)), bytes)
            }
            Dtype::F16 => {
                let mut halves = vec![f16::ZERO; features.len()];
                halves.convert_from_f32_slice(&features);
                converted = Some(features);
                let values = ScalarBuffer::<f16>::from(halves);
                let bytes = values.inner().clone();
                (Arc::new(Float16Array::new(values, None)), bytes)
            }
            Dtype::U8 => {
                let bytes = features.iter().map(|v| v.round_ties_even() as u8);
                let values: ScalarBuffer<u8> = bytes.collect::<Vec<u8>>().into();
                converted = Some(features);
                let bytes = values.inner().clone();
                (Arc::new(UInt8Array::new(values, None)), bytes)
            }
        };
        let views = rows.iter().map(|(_, view)| *view);
        let checksum = shard::checksum(&id_bytes, views.clone(), &value_bytes);
        let batch = self.batch(id_bytes.clone(), views, values);
        let batch = batch.map_err(|e| self.failed(e))?;
        if self.open.is_none() {
            self.open = Some(self.start()?);
        }
        let open = self.open.as_mut().expect("just opened");
        open.content.update(&id_bytes);
        open.content.update(checksum.as_bytes());
        open.checksums.push(checksum);
        open.rows += rows.len();
        let full = open.rows >= self.rows_per_shard;
        if let Err(e) = open.writer.write(&batch) {
            // Half a record batch may be in the file: it must never be published.
            self.open = None;
            return Err(self.failed(e));
        }
        if full {
            self.publish()?;
        }
        drop(batch);
        // Ours alone again, unless Arrow keeps it.
        let buffer = converted.or_else(|| value_bytes.into_vec().ok());
        Ok(buffer.unwrap_or_default())
    }

    /// Publishes what is left and returns the paths of all shards written.
    ///
    /// # Errors
    /// When the last shard cannot be completed.
    pub fn finish(mut self) -> Result<Vec<PathBuf>, StoreError> {
        self.publish()?;
        Ok(std::mem::take(&mut self.published))
    }

    fn batch<'a>(
        &self,
        ids: Vec<u8>,
        views: impl Iterator<Item = &'a str>,
        values: ArrayRef,
    ) -> Result<RecordBatch, ArrowError> {
        let element = Arc::new(Field::new("item", values.data_type().clone(), false));
        let ids = FixedSizeBinaryArray::try_new(32, ids.into(), None)?;
        let views = StringArray::from_iter_values(views);
        let features = FixedSizeListArray::try_new(element, self.shape.len() as i32, values, None)?;
        let columns = vec![
            Arc::new(ids) as _,
            Arc::new(views) as _,
            Arc::new(features) as _,
        ];
        RecordBatch::try_new(self.schema.clone(), columns)
    }

    fn start(&self) -> Result<OpenShard, StoreError> {
        key::must_be_there(&self.folder)?;
        let mut pending = Pending::new(&self.folder.join("shard"))?;
        let file = pending
            .file()
            .try_clone()
            .map_err(|e| self.failed(e.into()))?;
        let writer =
            FileWriter::try_new_buffered(file, &self.schema).map_err(|e| self.failed(e))?;
        Ok(OpenShard {
            pending,
            writer,
            rows: 0,
            checksums: Vec::new(),
            content: Xxh3Default::new(),
        })
    }

    /// Completes the open shard and gives it its name. That follows from its rows, so two writers
    /// that computed the same rows take the same one: the shard that is there first stays, as
    /// somebody may read it, unless it is damaged.
    ///
    /// What fails as the store is gone says so, whatever the system says of the file.
    fn publish(&mut self) -> Result<(), StoreError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        self.complete(open)
            .map_err(|e| match key::must_be_there(&self.folder) {
                Err(gone @ StoreError::Gone(_)) => gone,
                _ => e,
            })
    }

    fn complete(&mut self, mut open: OpenShard) -> Result<(), StoreError> {
        let checksums = serde_json::to_string(&open.checksums).expect("a list of texts");
        open.writer.write_metadata("headstart.checksums", checksums);
        open.writer.finish().map_err(|e| self.failed(e))?;
        drop(open.writer);
        let name = name(self.generation, open.content.digest128());
        let mut pending = open.pending;
        pending.retarget(self.folder.join(name));
        for _ in 0..TRIES {
            pending = match pending.publish_new()? {
                Published::Here(path) => {
                    self.published.push(path);
                    return Ok(());
                }
                Published::Taken(pending) => pending,
            };
            match self.accept(&mut pending) {
                Ok(()) => {
                    self.published.push(pending.target().to_owned());
                    return Ok(());
                }
                Err(e) => match verify::reason(e)? {
                    None => {} // gone again
                    Some(reason) => {
                        tracing::warn!(
                            "the damaged shard {} is replaced by a sound one of the same rows: {}",
                            escape_path(pending.target()),
                            printable(&reason)
                        );
                        break;
                    }
                },
            }
        }
        self.published.push(pending.publish()?);
        Ok(())
    }

    /// Checks that the shard that has the name of ours is as good.
    fn accept(&self, ours: &mut Pending) -> Result<(), StoreError> {
        verify::look(ours.target(), &|_| {})?.must_be_of(&self.key)?;
        // Its rows were asked for now, so it must not be taken for one that nobody needed for
        // long. If it belongs to somebody else, its age stays.
        let modified = ours.file().metadata().and_then(|m| m.modified());
        if let (Ok(modified), Ok(theirs)) = (modified, File::open(ours.target())) {
            let _ = theirs.set_modified(modified);
        }
        Ok(())
    }

    fn failed(&self, source: ArrowError) -> StoreError {
        StoreError::write(&self.folder, source)
    }
}

fn schema(key: &StoreKey, provenance: &Provenance, shape: MapShape) -> SchemaRef {
    let MapShape {
        height,
        width,
        channels,
    } = shape;
    let element = match key.dtype {
        Dtype::F32 => DataType::Float32,
        Dtype::F16 => DataType::Float16,
        Dtype::U8 => DataType::UInt8,
    };
    // The extension's metadata is written by hand: arrow-rs's own type writes a null that it
    // cannot read back.
    let tensor = format!(r#"{{"shape":[{height},{width},{channels}],"dim_names":["h","w","c"]}}"#);
    let features = Field::new_fixed_size_list(
        "features",
        Field::new("item", element, false),
        shape.len() as i32,
        false,
    )
    .with_metadata([
        (
            "ARROW:extension:name".to_owned(),
            "arrow.fixed_shape_tensor".to_owned(),
        ),
        ("ARROW:extension:metadata".to_owned(), tensor),
    ]);
    let provenance = serde_json::to_string(provenance).expect("texts and numbers");
    let metadata = [
        ("headstart.format", FORMAT.to_owned()),
        ("headstart.version", FORMAT_VERSION.to_string()),
        ("headstart.key", key.to_json()),
        ("headstart.provenance", provenance),
    ];
    Arc::new(Schema::new_with_metadata(
        vec![
            Field::new("id", DataType::FixedSizeBinary(32), false),
            Field::new("view", DataType::Utf8, false),
            features,
        ],
        metadata.map(|(k, v)| (k.to_owned(), v)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_generation_sorts_first() {
        let names: Vec<_> = [0, 1, 2, 500, 9999].map(|g| name(g, 1 << (g % 128))).into();
        assert!(names.is_sorted_by(|a, b| a > b), "{names:?}");
        for (generation, name) in [0, 1, 2, 500, 9999].iter().zip(&names) {
            let path = Path::new("x").join(name);
            assert_eq!(super::generation(&path), *generation);
            assert_eq!(content_in_name(&path), Some(1 << (generation % 128)));
        }
        for other in ["shard-v1.arrow", "shard--0001-12.arrow", "shard--1.arrow"] {
            assert_eq!(content_in_name(Path::new(other)), None);
        }
        assert_eq!(super::generation(Path::new("shard--x.arrow")), 0);
    }
}
