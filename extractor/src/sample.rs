//! A small synthetic two-class image set, `rings` against `stripes`, for trying the pipeline
//! without downloading anything.
//!
//! It is meant to be learnable but not solved by a linear head on an untrained backbone. The
//! bytes depend only on the seed and on [`GENERATOR`]: pictures come from seeded numbers, plain
//! arithmetic and the pure Rust JPEG encoder.
//!
//! Nothing here deletes a file. A folder that holds something else is refused; one that holds the
//! same set is completed, and files that are already right are not touched.

mod scene;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::backbone::seed::random::Stream;
use crate::files::Pending;

/// Version of the generator: bumped whenever a picture's bytes change.
pub const GENERATOR: u32 = 1;

/// The file that makes a folder a sample set; hidden, so that no image walk sees it.
pub const MARKER: &str = ".headstart-sample.toml";

/// File names have four digits.
const PER_CLASS: std::ops::RangeInclusive<usize> = 1..=10_000;

/// What to draw and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleOptions {
    /// Folder to create or to complete.
    pub out: PathBuf,
    /// Pictures in each of the two classes. A larger set contains the smaller one.
    pub per_class: usize,
    /// Seed of every picture.
    pub seed: u64,
}

impl SampleOptions {
    /// Pictures per class unless asked otherwise.
    pub const DEFAULT_PER_CLASS: usize = 300;

    /// The default set, in the folder `out`.
    pub fn new(out: impl Into<PathBuf>) -> SampleOptions {
        SampleOptions {
            out: out.into(),
            per_class: Self::DEFAULT_PER_CLASS,
            seed: 0,
        }
    }
}

/// The two classes, in the order of their labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Bands that curve around a point among them.
    Rings,
    /// Bands that are almost straight.
    Stripes,
}

impl Class {
    /// Both classes, in the order of their folders' names.
    pub const ALL: [Class; 2] = [Class::Rings, Class::Stripes];

    /// The class's folder.
    pub fn name(self) -> &'static str {
        match self {
            Class::Rings => "rings",
            Class::Stripes => "stripes",
        }
    }
}

/// What [`write()`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleSummary {
    /// The set's folder.
    pub out: PathBuf,
    /// Pictures in the set.
    pub images: usize,
    /// Those of them that were written now; the others were there already.
    pub written: usize,
    /// Size of all pictures.
    pub size_bytes: u64,
}

/// Why no sample set was written.
#[derive(Debug, Error)]
pub enum SampleError {
    /// A number of pictures outside the accepted range.
    #[error("{0} images per class is outside {min}..={max} (hint: the usual number is {usual})", min = PER_CLASS.start(), max = PER_CLASS.end(), usual = SampleOptions::DEFAULT_PER_CLASS)]
    PerClass(usize),
    /// A folder with something else in it.
    #[error("{} is not empty and not a sample set (hint: name a new folder)", .0.display())]
    Foreign(PathBuf),
    /// A sample set made with other options.
    #[error("{} holds another sample set: {found}; asked for {wanted} (hint: name a new folder, or remove this one)", path.display())]
    OtherSet {
        /// The folder.
        path: PathBuf,
        /// What its marker says.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// A marker that does not parse.
    #[error("cannot understand {} (hint: name a new folder)", path.display())]
    Marker {
        /// The marker file.
        path: PathBuf,
        /// The parser's reason.
        source: toml::de::Error,
    },
    /// A marker that could not be serialised.
    #[error("cannot record the sample set's options")]
    Record(#[source] toml::ser::Error),
    /// A picture that could not be encoded.
    #[error("cannot encode {} as JPEG", path.display())]
    Encode {
        /// The picture's file.
        path: PathBuf,
        /// The encoder's reason.
        source: image::ImageError,
    },
    /// A file that could not be written.
    #[error(transparent)]
    File(#[from] crate::files::FileError),
    /// A file or folder that could not be read or written.
    #[error("cannot read or write {} (hint: check the folder's permissions and free space)", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Everything that the set's bytes depend on, as the marker file records it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    generator: u32,
    seed: u64,
    per_class: usize,
}

impl Marker {
    fn describe(&self) -> String {
        let Marker {
            generator,
            seed,
            per_class,
        } = self;
        format!("generator {generator}, seed {seed}, {per_class} images per class")
    }
}

/// Draws the set into `options.out`, calling `progress` with the number of pictures done so far
/// (from several threads).
///
/// # Errors
/// When the folder holds something else, an option is out of range or a file cannot be written.
pub fn write(
    options: &SampleOptions,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<SampleSummary, SampleError> {
    let SampleOptions {
        out,
        per_class,
        seed,
    } = options;
    if !PER_CLASS.contains(per_class) {
        return Err(SampleError::PerClass(*per_class));
    }
    claim(
        out,
        &Marker {
            generator: GENERATOR,
            seed: *seed,
            per_class: *per_class,
        },
    )?;
    for class in Class::ALL {
        let folder = out.join(class.name());
        std::fs::create_dir_all(&folder).map_err(io_error(&folder))?;
    }
    let done = AtomicUsize::new(0);
    let one = |place: usize| {
        // Alternating classes keep the threads' work even.
        let (class, index) = (Class::ALL[place % 2], place / 2);
        let path = out.join(class.name()).join(format!("{index:04}.jpg"));
        let jpeg = encode(class, index, *seed).map_err(|source| SampleError::Encode {
            path: path.clone(),
            source,
        })?;
        let written = put(&path, &jpeg)?;
        progress(done.fetch_add(1, Ordering::Relaxed) + 1);
        Ok::<_, SampleError>((usize::from(written), jpeg.len() as u64))
    };
    let images = 2 * per_class;
    let (written, size_bytes) = (0..images)
        .into_par_iter()
        .map(one)
        .try_reduce(|| (0, 0), |a, b| Ok((a.0 + b.0, a.1 + b.1)))?;
    Ok(SampleSummary {
        out: out.clone(),
        images,
        written,
        size_bytes,
    })
}

/// Makes sure that `out` is ours to write to, and marks it, before anything is drawn.
fn claim(out: &Path, wanted: &Marker) -> Result<(), SampleError> {
    let marker = out.join(MARKER);
    match std::fs::read_to_string(&marker) {
        Ok(text) => {
            let found: Marker = toml::from_str(&text).map_err(|source| SampleError::Marker {
                path: marker,
                source,
            })?;
            if found == *wanted {
                return Ok(());
            }
            let (found, wanted) = (found.describe(), wanted.describe());
            return Err(SampleError::OtherSet {
                path: out.to_owned(),
                found,
                wanted,
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => {
            return Err(SampleError::Io {
                path: marker,
                source,
            });
        }
    }
    let text = toml::to_string(wanted).map_err(SampleError::Record)?;
    std::fs::create_dir_all(out).map_err(io_error(out))?;
    if std::fs::read_dir(out)
        .map_err(io_error(out))?
        .next()
        .is_some()
    {
        return Err(SampleError::Foreign(out.to_owned()));
    }
    put(&marker, text.as_bytes())?;
    Ok(())
}

/// The bytes of one picture.
fn encode(class: Class, index: usize, seed: u64) -> image::ImageResult<Vec<u8>> {
    let mut stream = Stream::new(seed, 2 * index as u64 + class as u64);
    let picture = scene::draw(class, &mut stream);
    let quality = stream.between(50.0, 96.0) as u8;
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, quality).encode_image(&picture)?;
    Ok(jpeg)
}

/// Puts `bytes` at `path` through a temporary sibling, unless they are there already; says
/// whether it wrote.
fn put(path: &Path, bytes: &[u8]) -> Result<bool, SampleError> {
    match std::fs::read(path) {
        Ok(present) if present == bytes => return Ok(false),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(path)(error)),
        _ => {}
    }
    let mut file = Pending::new(path)?;
    file.write_all(bytes)?;
    file.publish_unsynced()?;
    Ok(true)
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> SampleError {
    let path = path.to_owned();
    move |source| SampleError::Io { path, source }
}

#[cfg(test)]
mod tests;
