//! The table inside a split file: which columns it has, and the side of each row.
//!
//! Accepted headers (names in any case and order, other columns ignored): `id,split`,
//! `path,split` and `class,file,split`. The split's column is the one whose name begins with
//! `split` (`split`, `splitA`, ...). This file knows no index; [`super::file`] joins the two.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, BufRead, Read};

use csv::ByteRecord;
use extractor::digest::{ImageId, ParseDigestError};

use super::Side;

/// A row's side and the line that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The side.
    pub side: Side,
    /// Line of the file, from 1.
    pub line: u32,
}

/// The rows of a split file by what names the image.
///
/// Headers that are read: `id,split`, `path,split` and `class,file,split`, where the last column
/// is any whose name begins with `split`; other columns are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedSplit {
    /// By id: this program's own form.
    ById(PlacedIds),
    /// By path below the data folder, as bytes with `/` between names.
    ByPath(HashMap<Vec<u8>, Placed>),
}

/// Rows by id, ascending. Takes 38 bytes a row, as a file may have many millions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacedIds {
    ids: Vec<ImageId>,
    sides: Vec<Side>,
    lines: Vec<u32>,
    ends: Vec<u32>, // of each run of ids that begin alike, as `run` says
}

/// Rows of a run, about.
const RUN: usize = 32;

/// Which of `runs` runs an id is in: ids are digests, so that all are about as long.
fn run(id: &ImageId, runs: usize) -> usize {
    let first = u64::from_be_bytes(*id.0.first_chunk().expect("32 bytes"));
    ((u128::from(first) * runs as u128) >> 64) as usize
}

impl PlacedIds {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The row of an image.
    pub fn get(&self, id: &ImageId) -> Option<Placed> {
        let run = run(id, self.ends.len());
        let end = *self.ends.get(run)? as usize;
        let start = run.checked_sub(1).map_or(0, |run| self.ends[run] as usize);
        let found = self.ids[start..end].binary_search(id).ok();
        found.map(|at| self.placed(start + at))
    }

    fn placed(&self, row: usize) -> Placed {
        Placed {
            side: self.sides[row],
            line: self.lines[row],
        }
    }

    /// Adds a row of the file.
    fn push(&mut self, id: ImageId, placed: Placed) {
        push(&mut self.ids, id);
        push(&mut self.sides, placed.side);
        push(&mut self.lines, placed.line);
    }

    /// Brings rows in the order of the file into that of the ids, one an image.
    fn sorted(mut self) -> Result<PlacedIds, TableError> {
        self.sort()?;
        let runs = self.ids.len() / RUN + 1;
        self.ends = vec![0; runs];
        for id in &self.ids {
            self.ends[run(id, runs)] += 1;
        }
        let mut end = 0;
        for rows in &mut self.ends {
            end += *rows;
            *rows = end;
        }
        Ok(self)
    }

    fn sort(&mut self) -> Result<(), TableError> {
        if self.ids.is_sorted_by(|a, b| a < b) {
            return Ok(()); // as this program writes them
        }
        let id = |row: &usize| self.ids[*row];
        let mut order: Vec<usize> = (0..self.ids.len()).collect();
        order.sort_by_key(id); // copies by line
        let copies = order.chunk_by(|a, b| id(a) == id(b));
        let other_side = copies.filter_map(|copies| {
            let first = self.placed(copies[0]);
            let placed = copies.iter().map(|row| self.placed(*row));
            let second = placed.into_iter().find(|other| other.side != first.side);
            second.map(|second| (id(&copies[0]), first, second))
        });
        if let Some((id, first, second)) = other_side.min_by_key(|(.., second)| second.line) {
            let name = format!("image {id}");
            return Err(TableError::TwoSides {
                name,
                first,
                second,
            });
        }
        order.dedup_by_key(|row| id(row));
        self.ids = order.iter().map(id).collect();
        self.sides = order.iter().map(|row| self.sides[*row]).collect();
        self.lines = order.iter().map(|row| self.lines[*row]).collect();
        Ok(())
    }
}

/// Adds an item and, where there is no room, little more than it needs: twice the room of many
/// millions is much.
fn push<T>(to: &mut Vec<T>, item: T) {
    if to.len() == to.capacity() {
        to.reserve_exact(to.len() / 16 + 1024);
    }
    to.push(item);
}

impl ParsedSplit {
    /// Number of images that the file names.
    pub fn len(&self) -> usize {
        match self {
            ParsedSplit::ById(rows) => rows.len(),
            ParsedSplit::ByPath(rows) => rows.len(),
        }
    }

    /// Whether the file names no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row of an image with that id and path.
    pub(super) fn get(&self, id: &ImageId, path: &[u8]) -> Option<Placed> {
        match self {
            ParsedSplit::ById(rows) => rows.get(id),
            ParsedSplit::ByPath(rows) => rows.get(path).copied(),
        }
    }
}

/// What is wrong with a table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Not a table at all.
    #[error("its table cannot be read")]
    Csv(#[from] csv::Error),
    /// No image or no split can be told from the columns.
    #[error(
        "its header is `{found}` (hint: expected `id,split`, `path,split` or `class,file,split`, \
         with one column whose name begins with split)"
    )]
    Header {
        /// The header as it is.
        found: String,
    },
    /// A word that is no side.
    #[error("line {line}: `{word}` is no side of a split (hint: train, validation or test)")]
    Word {
        /// Line of the file, from 1.
        line: u32,
        /// The word.
        word: String,
    },
    /// An id that is none.
    #[error("line {line} has no image id")]
    Id {
        /// Line of the file, from 1.
        line: u32,
        /// What is there instead.
        source: ParseDigestError,
    },
    /// One image, two sides.
    #[error("{name} is {} on line {} and {} on line {}", first.side, first.line, second.side, second.line)]
    TwoSides {
        /// The image's id or path.
        name: String,
        /// The first row.
        first: Placed,
        /// The row that says otherwise.
        second: Placed,
    },
}

/// Where the columns are.
enum Key {
    Id(usize),
    Path(usize),
    ClassAndFile(usize, usize),
}

/// Reads a table: lines beginning with `#` before the header are skipped.
pub(super) fn parse(file: impl BufRead) -> Result<ParsedSplit, TableError> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(Lines::of(file));
    let (key, split) = columns(reader.byte_headers()?)?;
    let mut by_id = PlacedIds::default();
    let mut by_path = HashMap::new();
    let mut record = ByteRecord::new();
    while reader.read_byte_record(&mut record)? {
        let line = record.position().map_or(0, csv::Position::line);
        let line = u32::try_from(line).unwrap_or(u32::MAX);
        let side = side(&record[split]).ok_or_else(|| TableError::Word {
            line,
            word: lossy(&record[split]),
        })?;
        let placed = Placed { side, line };
        match key {
            Key::Id(id) => {
                let id = String::from_utf8_lossy(&record[id]);
                let id = id
                    .parse()
                    .map_err(|source| TableError::Id { line, source })?;
                by_id.push(id, placed);
            }
            Key::Path(path) => {
                let path = &record[path];
                let path = path.strip_prefix(b"./").unwrap_or(path).to_vec();
                place(&mut by_path, path, placed, |path| lossy(path))?;
            }
            Key::ClassAndFile(class, file) => {
                let path = [&record[class], b"/", &record[file]].concat();
                place(&mut by_path, path, placed, |path| lossy(path))?;
            }
        }
    }
    Ok(match key {
        Key::Id(_) => ParsedSplit::ById(by_id.sorted()?),
        _ => ParsedSplit::ByPath(by_path),
    })
}

/// A file with its leading comment lines emptied and every `\r\n` made `\n`, so that the reader's
/// line numbers are the file's (it counts a `\r\n` only once the next row begins).
struct Lines<R> {
    file: R,
    line: Vec<u8>,
    given: usize, // of the line
    begun: bool,
    in_comments: bool,
}

impl<R: BufRead> Lines<R> {
    fn of(file: R) -> Lines<R> {
        Lines {
            file,
            line: Vec::new(),
            given: 0,
            begun: false,
            in_comments: true,
        }
    }

    fn next(&mut self) -> io::Result<()> {
        self.line.clear();
        self.given = 0;
        self.file.read_until(b'\n', &mut self.line)?;
        if !self.begun && self.line.starts_with(b"\xef\xbb\xbf") {
            self.line.drain(..3); // byte order mark
        }
        self.begun = true;
        self.in_comments &= self.line.starts_with(b"#");
        if self.in_comments {
            self.line.clear();
            self.line.push(b'\n');
        } else if self.line.ends_with(b"\r\n") {
            self.line.truncate(self.line.len() - 2);
            self.line.push(b'\n');
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Lines<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.given == self.line.len() {
            self.next()?;
        }
        let given = (&self.line[self.given..]).read(to)?;
        self.given += given;
        Ok(given)
    }
}

/// The columns that name the image, and the column of the split.
fn columns(header: &ByteRecord) -> Result<(Key, usize), TableError> {
    let names: Vec<String> = header
        .iter()
        .map(|name| lossy(name).to_lowercase())
        .collect();
    let find = |name: &str| names.iter().position(|n| n == name);
    let splits: Vec<usize> = (0..names.len())
        .filter(|i| names[*i].starts_with("split"))
        .collect();
    let key = match (find("id"), find("path"), find("class"), find("file")) {
        (Some(id), ..) => Some(Key::Id(id)),
        (_, Some(path), ..) => Some(Key::Path(path)),
        (_, _, Some(class), Some(file)) => Some(Key::ClassAndFile(class, file)),
        _ => None,
    };
    match (key, &splits[..]) {
        (Some(key), &[split]) => Ok((key, split)),
        _ => Err(TableError::Header {
            found: names.join(","),
        }),
    }
}

/// The side that a word names.
fn side(word: &[u8]) -> Option<Side> {
    match &word.to_ascii_lowercase()[..] {
        b"train" => Some(Side::Train),
        b"validation" | b"val" | b"valid" => Some(Side::Validation),
        b"test" => Some(Side::Test),
        _ => None,
    }
}

/// Adds a row; the same row twice is fine, another side is not.
fn place<K: std::hash::Hash + Eq>(
    rows: &mut HashMap<K, Placed>,
    key: K,
    placed: Placed,
    name: impl Fn(&K) -> String,
) -> Result<(), TableError> {
    match rows.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(placed);
        }
        Entry::Occupied(entry) if entry.get().side == placed.side => {}
        Entry::Occupied(entry) => {
            return Err(TableError::TwoSides {
                name: name(entry.key()),
                first: *entry.get(),
                second: placed,
            });
        }
    }
    Ok(())
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use extractor::digest::Digest;

    fn paths(text: &[u8]) -> Vec<(String, Side, u64)> {
        let ParsedSplit::ByPath(rows) = parse(text).unwrap() else {
            panic!("by path");
        };
        let mut rows: Vec<_> = rows
            .into_iter()
            .map(|(path, placed)| (lossy(&path), placed.side, u64::from(placed.line)))
            .collect();
        rows.sort();
        rows
    }

    fn message(text: &str) -> String {
        parse(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn every_form_is_read() {
        let expected = [
            ("Cat/1.jpg".to_owned(), Side::Train, 2),
            ("Dog/1.jpg".to_owned(), Side::Validation, 3),
        ];
        for text in [
            "class,file,splitA\nCat,1.jpg,train\nDog,1.jpg,val\n",
            "\u{feff}Split, path\r\ntrain, ./Cat/1.jpg\r\nVALID, Dog/1.jpg\r\n",
            "path,note,split\nCat/1.jpg,\"a, b\",train\nDog/1.jpg,,validation",
        ] {
            assert_eq!(paths(text.as_bytes()), expected, "{text}");
        }
        let id = Digest::of(b"x");
        let text = format!("# a comment, with commas\n#\nid,split\n{id},test\n{id},test\n");
        let placed = Placed {
            side: Side::Test,
            line: 4,
        };
        let ParsedSplit::ById(rows) = parse(text.as_bytes()).unwrap() else {
            panic!("by id");
        };
        assert_eq!((rows.len(), rows.get(&id)), (1, Some(placed)));
    }

    #[test]
    fn every_id_is_found_and_no_other() {
        for count in [0, 1, 31, 32, 1000_u32] {
            let id = |i: u32| Digest::of(&i.to_le_bytes());
            let line = |i: u32| format!("{},{}\n", id(i), Side::ALL[i as usize % 3]);
            let lines: String = (0..count).map(line).collect();
            let parsed = parse(format!("id,split\n{lines}").as_bytes()).unwrap();
            assert_eq!(parsed.len(), count as usize);
            for i in 0..2 * count {
                let placed = parsed.get(&id(i), b"");
                let expected = (i < count).then(|| Placed {
                    side: Side::ALL[i as usize % 3],
                    line: i + 2,
                });
                assert_eq!(placed, expected);
            }
        }
    }

    #[test]
    fn a_path_is_bytes() {
        let ParsedSplit::ByPath(rows) = parse(&b"path,split\n#\xff/a,test\n"[..]).unwrap() else {
            panic!("by path");
        };
        assert_eq!(rows.keys().next().unwrap(), b"#\xff/a");
    }

    #[test]
    fn faults_are_named_with_their_line() {
        let text = "# x\npath,split\na,train\nb,dev\n";
        assert!(
            message(text).starts_with("line 4: `dev` is no side"),
            "{}",
            message(text)
        );
        let text = "path,split\na,train\nb,test\na,test\n";
        assert_eq!(message(text), "a is train on line 2 and test on line 4");
        let [a, b] = [b"a", b"b"].map(|bytes| Digest::of(bytes));
        assert!(b < a);
        let text = format!("id,split\n{a},test\n{b},test\n{a},test\n{b},train\n{a},train\n");
        let twice = format!("image {b} is test on line 3 and train on line 5");
        assert_eq!(message(&text), twice);
        let error = parse(&b"id,split\nabc,test\n"[..]).unwrap_err();
        assert_eq!(error.to_string(), "line 2 has no image id");
        for header in [
            "",
            "file,split\n",
            "path\n",
            "path,splitA,splitB\n",
            "a,train\n",
        ] {
            assert!(message(header).contains("its header is"), "{header}");
        }
        let short = parse(&b"path,split\na\n"[..]);
        assert!(matches!(short, Err(TableError::Csv(_))));
    }
}
