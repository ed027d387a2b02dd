//! Which images there are to predict, in the order in which they were named: files, data sets with
//! all that they list, and paths that come in line by line.
//!
//! What comes in line by line is taken as it comes, so that an answer does not wait for the end of
//! the input. Must not know what is done with an image.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;

use extractor::decode::{Kind, has_image_extension, recognise};
use extractor::files::folder_of;
use extractor::images::{Columns, DataSet, Images as _, InputError, Listed};
use extractor::transient::{Unreadable, is_transient};

/// Lines that may wait.
const LINES: usize = 1024;

/// An image to predict.
#[derive(Debug)]
pub struct Item {
    /// What it is called: a path that leads to it, through its archive if it is in one.
    pub path: Vec<u8>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    File,
    Member(Arc<Open>, usize),
    Nowhere(Unreadable),
}

/// A data set that was named.
#[derive(Debug)]
struct Open {
    data: DataSet,
    listed: Listed,
}

impl Item {
    /// Hands the image's bytes to `take`, and whether it claims to be an image.
    ///
    /// # Errors
    /// Why they cannot be had, or that of `take`.
    pub fn read<T>(
        &self,
        take: impl FnOnce(&[u8], bool) -> Result<T, Unreadable>,
    ) -> Result<T, Unreadable> {
        match &self.place {
            Place::File => {
                let bytes = fs::read(Path::new(OsStr::from_bytes(&self.path)));
                take(&bytes.map_err(|e| Unreadable::of(&e))?, true)
            }
            Place::Member(open, position) => {
                let path = open.listed.paths.get(*position);
                take(&open.data.read(path)?, open.data.claims(path))
            }
            Place::Nowhere(why) => Err(why.clone()),
        }
    }
}

/// The images, one after the other.
pub struct Feed {
    columns: Columns,
    named: std::vec::IntoIter<PathBuf>,
    lines: Option<Receiver<io::Result<PathBuf>>>,
    set: Option<(Arc<Open>, usize)>, // and the position of its next member
    refused: std::vec::IntoIter<Item>,
}

impl Feed {
    /// The images that `named` names: files, data sets (`columns` are their manifests'), or `-` for
    /// those that the lines of the standard input name.
    pub fn new(named: Vec<PathBuf>, columns: Columns) -> Feed {
        Feed {
            columns,
            named: named.into_iter(),
            lines: None,
            set: None,
            refused: Vec::new().into_iter(),
        }
    }

    /// The next image, waiting for a line if need be; none at the end.
    pub fn wait(&mut self) -> Option<Item> {
        self.next(true)
    }

    /// The next image if it need not be waited for.
    pub fn ready(&mut self) -> Option<Item> {
        self.next(false)
    }

    fn next(&mut self, wait: bool) -> Option<Item> {
        loop {
            if let Some(item) = self.refused.next().or_else(|| self.member()) {
                return Some(item);
            }
            let path = match &self.lines {
                Some(lines) => {
                    let line = match wait {
                        true => lines.recv().map_err(|_| TryRecvError::Disconnected),
                        false => lines.try_recv(),
                    };
                    match line {
                        Ok(Ok(path)) => path,
                        Ok(Err(error)) => return Some(nowhere(b"-", Unreadable::of(&error))),
                        Err(TryRecvError::Empty) => return None,
                        Err(TryRecvError::Disconnected) => {
                            self.lines = None;
                            continue;
                        }
                    }
                }
                None => match self.named.next()? {
                    path if path.as_os_str() == "-" => {
                        self.lines = Some(lines_of_stdin());
                        continue;
                    }
                    path => path,
                },
            };
            match self.open(&path) {
                Ok(None) => {
                    return Some(Item {
                        path: path.into_os_string().into_vec(),
                        place: Place::File,
                    });
                }
                Ok(Some(open)) => {
                    let refused = open.listed.skipped.iter().map(|skipped| {
                        let why = skipped.reason.as_str().into();
                        nowhere(&called(&open.data, &skipped.path), why)
                    });
                    self.refused = refused.collect::<Vec<_>>().into_iter();
                    self.set = Some((Arc::new(open), 0));
                }
                Err(why) => return Some(nowhere(path.as_os_str().as_bytes(), why)),
            }
        }
    }

    fn member(&mut self) -> Option<Item> {
        let (open, next) = self.set.as_mut()?;
        if *next == open.listed.paths.len() {
            self.set = None;
            return None;
        }
        let position = *next;
        *next += 1;
        Some(Item {
            path: called(&open.data, open.listed.paths.get(position)),
            place: Place::Member(open.clone(), position),
        })
    }

    /// The data set that `path` names; none if it is an image's file.
    fn open(&self, path: &Path) -> Result<Option<Open>, Unreadable> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => {
                let mut head = Vec::with_capacity(64);
                File::open(path)
                    .and_then(|file| file.take(64).read_to_end(&mut head))
                    .map_err(|e| Unreadable::of(&e))?;
                let named_so = has_image_extension(path.as_os_str().as_bytes());
                if named_so || recognise(&head) != Kind::Other {
                    return Ok(None);
                }
            }
            // Of the paths that are not there, a pattern of Parquet files is a data set.
            Err(error) if path.extension() != Some(OsStr::new("parquet")) => {
                return Err(match fs::symlink_metadata(path) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => "no such file".into(),
                    _ => Unreadable::of(&error),
                });
            }
            _ => {}
        }
        let data = DataSet::open(path, &self.columns).map_err(|e| match e {
            // It goes on where the path ends, and so it is shown.
            InputError::Refused { reason, .. } => reason.into(),
            other => unreadable(&other),
        })?;
        let listed = data.list().map_err(|e| unreadable(&e))?;
        Ok(Some(Open { data, listed }))
    }
}

fn unreadable(error: &(dyn Error + 'static)) -> Unreadable {
    let mut reason = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        reason += &format!(": {source}");
        next = source.source();
    }
    Unreadable {
        reason,
        transient: is_transient(error),
    }
}

fn nowhere(path: &[u8], why: Unreadable) -> Item {
    Item {
        path: path.to_vec(),
        place: Place::Nowhere(why),
    }
}

/// What a member of a data set is called: where it lies.
fn called(data: &DataSet, path: &[u8]) -> Vec<u8> {
    let root = match data.is_manifest() {
        true => folder_of(&data.path),
        false => &data.path,
    };
    let path = root.join(OsStr::from_bytes(path));
    path.into_os_string().into_vec()
}

/// The lines of the standard input as they come; empty ones are nothing.
fn lines_of_stdin() -> Receiver<io::Result<PathBuf>> {
    let (sender, receiver) = sync_channel(LINES);
    // Never joined: it may wait for input that nobody needs any more.
    thread::spawn(move || {
        for line in io::stdin().lock().split(b'\n') {
            let path = line.map(|line| PathBuf::from(OsString::from_vec(line)));
            if path.as_ref().is_ok_and(|path| path.as_os_str().is_empty()) {
                continue;
            }
            if sender.send(path).is_err() {
                return;
            }
        }
    });
    receiver
}
