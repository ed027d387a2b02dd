//! A split on disk: written once for an index, reused by every run on it; or one that the user
//! brings.
//!
//! # Format
//!
//! This program writes UTF-8 text with `\n` ends:
//!
//! ```text
//! # headstart split v1
//! # mode: rank
//! # seed: 0
//! # fractions: 80/10/10
//! # index: <64 hexadecimal digits>
//! id,split
//! <64 hexadecimal digits>,train
//! ```
//!
//! The first line is the version; a reader MUST refuse another one. The four lines after it say
//! what the split was made of and MUST be there, in this order. Rows are sorted by id, so that
//! equal splits are equal files, and the sides are `train`, `validation` and `test`. A file
//! without the version line is one that the user brings ([`ParsedSplit`] lists its forms).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use extractor::digest::{Digest, ImageId};
use extractor::files::{FileError, Pending};

pub use super::error::SplitFileError;
use super::table::parse;
pub use super::table::{ParsedSplit, Placed, TableError};
use super::{Side, SplitPlan};

const MARK: &str = "# headstart split ";
pub(super) const VERSION: &str = "v1";

/// Bytes of a file that hold the header of one of our own.
const HEAD_BYTES: u64 = 4096;

/// Lines of a file of our own before its rows.
const USUAL_HEADER_LINES: usize = 6;

/// Images that a message names before it stops.
const EXAMPLES: usize = 3;

/// What a split of our own was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitHeader {
    /// Mode, seed and shares.
    pub plan: SplitPlan,
    /// Digest of the index whose images it gives sides to.
    pub index: Digest,
}

/// What a split file is, whatever sides it gives.
#[derive(Clone, Debug)]
pub struct SplitOrigin {
    /// Where it lies.
    pub path: PathBuf,
    /// Digest of its bytes, for a run's record.
    pub digest: Digest,
    /// What it was made of, if this program made it.
    pub header: Option<SplitHeader>,
}

/// A split file that was read.
#[derive(Clone, Debug)]
pub struct SplitFile {
    /// What it is.
    pub origin: SplitOrigin,
    /// Its rows.
    pub rows: ParsedSplit,
}

/// Sides for the entries of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The side of each entry, in their order.
    pub sides: Vec<Side>,
    /// Images that the file names and the index does not have.
    pub unused: usize,
}

/// Writes a split, whole or not at all. `images` are in ascending order of their ids.
///
/// # Errors
/// [`SplitFileError::File`].
pub fn write(
    path: &Path,
    header: &SplitHeader,
    images: impl Iterator<Item = (ImageId, Side)>,
) -> Result<(), SplitFileError> {
    let mut pending = Pending::new(path)?;
    let mut out = BufWriter::new(pending.file());
    let written = write_rows(&mut out, header, images).and_then(|()| out.flush());
    written.map_err(FileError::new("write", path))?;
    drop(out);
    pending.publish()?;
    Ok(())
}

fn write_rows(
    out: &mut impl Write,
    header: &SplitHeader,
    images: impl Iterator<Item = (ImageId, Side)>,
) -> io::Result<()> {
    let SplitPlan {
        mode,
        seed,
        fractions,
    } = header.plan;
    let index = header.index;
    write!(
        out,
        "{MARK}{VERSION}\n# mode: {mode}\n# seed: {seed}\n# fractions: {fractions}\n\
         # index: {index}\nid,split\n"
    )?;
    for (id, side) in images {
        writeln!(out, "{id},{side}")?;
    }
    Ok(())
}

impl SplitFile {
    /// Reads a split file, our own or one that the user brings.
    ///
    /// # Errors
    /// When it cannot be read, has another version, a damaged header or a table that makes no
    /// sense.
    pub fn read(path: &Path) -> Result<SplitFile, SplitFileError> {
        let read = || {
            let mut file = File::open(path)?;
            let digest = Digest::of_reader(&file)?;
            file.rewind()?;
            let mut head = Vec::new();
            (&file).take(HEAD_BYTES).read_to_end(&mut head)?;
            file.rewind()?;
            Ok((file, digest, head))
        };
        let (file, digest, head) = read().map_err(|source| SplitFileError::Read {
            path: path.to_owned(),
            source,
        })?;
        let header = header(&head, path)?;
        let rows = parse(BufReader::new(file)).map_err(|source| SplitFileError::Table {
            path: path.to_owned(),
            source,
        })?;
        Ok(SplitFile {
            origin: SplitOrigin {
                path: path.to_owned(),
                digest,
                header,
            },
            rows,
        })
    }

    /// Checks that a file of our own was made for this plan and index before it is reused. A file
    /// that the user brought passes.
    ///
    /// # Errors
    /// [`SplitFileError::Other`] with the first difference.
    pub fn check_made_for(&self, expected: &SplitHeader) -> Result<(), SplitFileError> {
        let Some(header) = &self.origin.header else {
            return Ok(());
        };
        let pairs = |header: &SplitHeader| {
            [
                ("mode", header.plan.mode.to_string()),
                ("seed", header.plan.seed.to_string()),
                ("fractions", header.plan.fractions.to_string()),
                ("index", header.index.to_string()),
            ]
        };
        let both = pairs(header).into_iter().zip(pairs(expected));
        match both
            .into_iter()
            .find(|((_, found), (_, expected))| found != expected)
        {
            None => Ok(()),
            Some(((what, found), (_, expected))) => Err(SplitFileError::Other {
                path: self.origin.path.clone(),
                what,
                found,
                expected,
            }),
        }
    }

    /// The side of every index entry (id, path below the data folder).
    ///
    /// One image may have several entries. They share a side: it is enough if the file names one
    /// of their paths, and an error if it puts two of them on different sides.
    ///
    /// # Errors
    /// [`SplitFileError::AcrossSides`] and [`SplitFileError::Missing`].
    pub fn resolve<'a>(
        &self,
        entries: impl Iterator<Item = (ImageId, &'a [u8])> + Clone,
    ) -> Result<Resolved, SplitFileError> {
        let mut used = Used::of(self.rows.len());
        let sides: Vec<Option<Side>> = match &self.rows {
            ParsedSplit::ById(rows) => {
                let side = |(id, _)| rows.get(&id).map(|placed| used.side(placed));
                entries.clone().map(side).collect()
            }
            ParsedSplit::ByPath(_) => {
                let sides = self.sides_by_path(entries.clone(), &mut used)?;
                let side = |(id, _)| sides.get(&id).map(|(side, _)| *side);
                entries.clone().map(side).collect()
            }
        };
        let missing = || {
            sides
                .iter()
                .zip(entries.clone())
                .filter(|(side, _)| side.is_none())
        };
        let count = missing().count();
        if count > 0 {
            let path = |(_, (_, path)): (_, (ImageId, &[u8]))| lossy(path);
            return Err(SplitFileError::Missing {
                path: self.origin.path.clone(),
                count,
                total: sides.len(),
                examples: missing().take(EXAMPLES).map(path).collect(),
                own: self.origin.header.is_some(),
            });
        }
        Ok(Resolved {
            sides: sides.into_iter().flatten().collect(),
            unused: self.rows.len() - used.count,
        })
    }

    /// The side of each image of which the file names a path, and that path.
    fn sides_by_path<'a>(
        &self,
        entries: impl Iterator<Item = (ImageId, &'a [u8])>,
        used: &mut Used,
    ) -> Result<HashMap<ImageId, (Side, &'a [u8])>, SplitFileError> {
        let mut sides: HashMap<ImageId, (Side, &[u8])> = HashMap::new();
        for (id, path) in entries {
            let Some(placed) = self.rows.get(&id, path) else {
                continue;
            };
            used.side(placed);
            let &mut (side, first) = sides.entry(id).or_insert((placed.side, path));
            if side != placed.side {
                return Err(SplitFileError::AcrossSides {
                    path: self.origin.path.clone(),
                    first: lossy(first),
                    first_side: side,
                    second: lossy(path),
                    second_side: placed.side,
                });
            }
        }
        Ok(sides)
    }
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Rows of a file that were asked for, by line.
struct Used {
    lines: Vec<bool>,
    count: usize,
}

impl Used {
    /// For a file of about so many rows.
    fn of(rows: usize) -> Used {
        Used {
            lines: vec![false; rows + USUAL_HEADER_LINES + 1],
            count: 0,
        }
    }

    /// The side of a row, which counts as used now.
    fn side(&mut self, placed: Placed) -> Side {
        let line = placed.line as usize;
        if line >= self.lines.len() {
            self.lines.resize(line + 1, false);
        }
        self.count += usize::from(!std::mem::replace(&mut self.lines[line], true));
        placed.side
    }
}

/// The header of a file of our own; none if the user brought it.
fn header(bytes: &[u8], path: &Path) -> Result<Option<SplitHeader>, SplitFileError> {
    let lines = bytes.split(|b| *b == b'\n');
    let mut lines = lines.map(|line| String::from_utf8_lossy(line));
    let first = lines.next().unwrap_or_default();
    let Some(version) = first.strip_prefix(MARK) else {
        return Ok(None);
    };
    if version != VERSION {
        return Err(SplitFileError::Version {
            path: path.to_owned(),
            found: version.to_owned(),
        });
    }
    let bad = |expected| SplitFileError::Header {
        path: path.to_owned(),
        expected,
    };
    let mut value = |prefix: &'static str| {
        let line = lines.next().unwrap_or_default();
        line.strip_prefix(prefix)
            .map(str::to_owned)
            .ok_or_else(|| bad(prefix))
    };
    let [mode, seed] = [value("# mode: ")?, value("# seed: ")?];
    let [fractions, index] = [value("# fractions: ")?, value("# index: ")?];
    Ok(Some(SplitHeader {
        plan: SplitPlan {
            mode: mode.parse().map_err(|_| bad("# mode: "))?,
            seed: seed.parse().map_err(|_| bad("# seed: "))?,
            fractions: fractions.parse().map_err(|_| bad("# fractions: "))?,
        },
        index: index.parse().map_err(|_| bad("# index: "))?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::{Fractions, SplitMode};

    fn id(name: &str) -> ImageId {
        Digest::of(name.as_bytes())
    }

    fn header() -> SplitHeader {
        SplitHeader {
            plan: SplitPlan {
                mode: SplitMode::Threshold,
                seed: u64::MAX,
                fractions: Fractions::new(7, 2, 1).unwrap(),
            },
            index: id("index"),
        }
    }

    /// A file with these contents, read.
    fn read(text: &str) -> Result<SplitFile, SplitFileError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("split.csv");
        std::fs::write(&path, text).unwrap();
        SplitFile::read(&path)
    }

    #[test]
    fn golden_file() {
        let images = [(id("b"), Side::Validation), (id("a"), Side::Train)].into_iter();
        let (a, b, index) = (id("a"), id("b"), id("index"));
        let expected = format!(
            "# headstart split v1\n# mode: threshold\n# seed: 18446744073709551615\n\
             # fractions: 7/2/1\n# index: {index}\nid,split\n{b},validation\n{a},train\n"
        );
        assert!(b < a); // 3e23... and ca97...
        let mut bytes = Vec::new();
        write_rows(&mut bytes, &header(), images).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn round_trip_and_reuse() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("split.csv");
        let mut images = [
            (id("a"), Side::Train),
            (id("b"), Side::Test),
            (id("c"), Side::Test),
        ];
        images.sort_unstable();
        write(&path, &header(), images.into_iter()).unwrap();
        let digest = Digest::of(&std::fs::read(&path).unwrap());
        let file = SplitFile::read(&path).unwrap();
        let origin = &file.origin;
        assert_eq!((origin.digest, origin.header), (digest, Some(header())));
        file.check_made_for(&header()).unwrap();
        let entries: [(ImageId, &[u8]); 3] = [(id("b"), b"b"), (id("a"), b"a"), (id("b"), b"b2")];
        let resolved = file.resolve(entries.into_iter()).unwrap();
        assert_eq!(resolved.sides, [Side::Test, Side::Train, Side::Test]);
        assert_eq!(resolved.unused, 1);

        let mut other = header();
        other.plan.seed = 3;
        let message = file.check_made_for(&other).unwrap_err().to_string();
        assert!(message.contains("seed 18446744073709551615, now it is 3 (hint: --resplit)"));
        let message = file
            .resolve([(id("d"), &b"dd"[..])].into_iter())
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with("1 of 1 images are not in split file"),
            "{message}"
        );
        assert!(
            message.contains("dd (hint: --resplit draws all sides anew"),
            "{message}"
        );
    }

    #[test]
    fn a_foreign_split_is_joined_by_path() {
        let file = read("class,file,splitA\nCat,1.jpg,train\nDog,1.jpg,val\n").unwrap();
        assert_eq!(file.origin.header, None);
        file.check_made_for(&header()).unwrap();
        // The last two entries are one image, of which the file names one path.
        let entries: [(ImageId, &[u8]); 3] = [
            (id("cat"), b"Cat/1.jpg"),
            (id("dog"), b"Dog/copy of 1.jpg"),
            (id("dog"), b"Dog/1.jpg"),
        ];
        let resolved = file.resolve(entries.into_iter()).unwrap();
        assert_eq!(
            resolved.sides,
            [Side::Train, Side::Validation, Side::Validation]
        );
        assert_eq!(resolved.unused, 0);
        let same: [(ImageId, &[u8]); 2] = [(id("x"), b"Cat/1.jpg"), (id("x"), b"Dog/1.jpg")];
        let message = file.resolve(same.into_iter()).unwrap_err().to_string();
        assert!(
            message.contains("Cat/1.jpg is train and Dog/1.jpg is validation"),
            "{message}"
        );
        let paths = ["a", "b", "c", "d"];
        let missing: Vec<(ImageId, &[u8])> = paths.map(|p| (id(p), p.as_bytes())).to_vec();
        let message = file.resolve(missing.into_iter()).unwrap_err().to_string();
        assert!(
            message.contains("a, b, c (hint: it must name every image"),
            "{message}"
        );
    }

    #[test]
    fn damaged_files_are_refused() {
        let message = |text: &str| read(text).unwrap_err().to_string();
        assert!(message("# headstart split v2\n").contains("has format v2, expected v1"));
        let damaged = "# headstart split v1\n# mode: rank\n# seed: -1\n";
        assert!(message(damaged).contains("no proper line"));
        assert!(message("").contains("cannot be used"));
        let missing = SplitFile::read(Path::new("/none/split.csv")).unwrap_err();
        assert!(matches!(missing, SplitFileError::Read { .. }));
    }
}
