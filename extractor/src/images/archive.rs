//! Reads members of a container in place, from many threads, within limits.
//!
//! A container is anything that hands out a member's bytes as a stream: zip, tar, Parquet. Its
//! readers are other people's code on hostile bytes: what is read is bounded by what really comes
//! out, never by what a header claims, and a panic costs one member. Must not know the formats.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3Default;

use super::{ImageBytes, Images, InputError, Listing, Member};
use crate::decode::has_image_extension;
use crate::transient::{Unreadable, io_is_transient};
use crate::walk::Stamp;

/// A member of more bytes than this, uncompressed, is refused.
pub const MAX_MEMBER_BYTES: u64 = 256 << 20;

/// Hands out members' bytes.
pub(super) trait Container: Send + Sync {
    /// Gives `use_it` the bytes of a member.
    fn with(
        &self,
        at: u64,
        use_it: &mut dyn FnMut(&mut dyn Read) -> io::Result<()>,
    ) -> io::Result<()>;

    /// The same for a member whose neighbours are not read next.
    fn with_alone(
        &self,
        at: u64,
        use_it: &mut dyn FnMut(&mut dyn Read) -> io::Result<()>,
    ) -> io::Result<()> {
        self.with(at, use_it)
    }

    /// Whether a member that is no image is to be reported rather than ignored.
    fn claims(&self, path: &[u8]) -> bool {
        has_image_extension(path)
    }
}

/// A container and what is in it.
pub(crate) struct Archive {
    pub(crate) listing: Listing,
    container: Box<dyn Container>,
    in_order: bool,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let members = self.listing.len();
        f.debug_struct("Archive")
            .field("members", &members)
            .finish()
    }
}

impl Archive {
    pub(super) fn new(listing: Listing, container: impl Container + 'static) -> Archive {
        Archive {
            in_order: listing.lies_in_order(),
            listing,
            container: Box::new(container),
        }
    }

    /// Leaves out the members of these paths. Returns how many there were.
    pub(super) fn leave_out(&mut self, paths: &HashSet<Vec<u8>>) -> usize {
        let before = self.listing.len();
        self.listing.retain(|path| !paths.contains(path));
        self.in_order = self.listing.lies_in_order();
        before - self.listing.len()
    }

    /// Whether this member is to be reported if it is no image.
    pub(crate) fn claims(&self, member: Member) -> bool {
        self.container.claims(member.path)
    }

    /// Gives `use_it` a member's bytes, as far as the limit goes. It may leave some unread. Members
    /// are asked for about in the order in which they lie.
    pub(crate) fn with<T>(
        &self,
        member: Member,
        mut use_it: impl FnMut(&mut dyn Read) -> io::Result<T>,
    ) -> io::Result<T> {
        let container = self.container.as_ref();
        read_within(container, member.at, MAX_MEMBER_BYTES, &mut use_it)
    }
}

/// What `use_it` makes of a member's first `limit` bytes; one byte more is an error, a panic, too.
pub(super) fn read_within<T>(
    container: &dyn Container,
    at: u64,
    limit: u64,
    use_it: &mut dyn FnMut(&mut dyn Read) -> io::Result<T>,
) -> io::Result<T> {
    within(limit, use_it, |use_it| container.with(at, use_it))
}

/// Gives `use_it` the bytes of a member.
type UseIt<'a> = &'a mut dyn FnMut(&mut dyn Read) -> io::Result<()>;

fn within<T>(
    limit: u64,
    use_it: &mut dyn FnMut(&mut dyn Read) -> io::Result<T>,
    with: impl FnOnce(UseIt) -> io::Result<()>,
) -> io::Result<T> {
    let mut made = None;
    let read = crate::quietly::catch(AssertUnwindSafe(|| {
        with(&mut |reader| {
            let mut reader = Limited {
                reader,
                left: limit,
                limit,
            };
            made = Some(use_it(&mut reader)?);
            Ok(())
        })
    }));
    read.unwrap_or_else(|| Err(io::Error::other("the archive's reader failed on it")))?;
    made.ok_or_else(|| io::Error::other("the archive's reader gave nothing"))
}

impl Images for Archive {
    fn read(&self, path: &[u8]) -> Result<ImageBytes<'_>, Unreadable> {
        let member = self.listing.find(path).ok_or("no longer in the archive")?;
        let mut all = |reader: &mut dyn Read| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let container = self.container.as_ref();
        // An index is read in the order of its paths.
        let bytes = within(MAX_MEMBER_BYTES, &mut all, |use_it| match self.in_order {
            true => container.with(member.at, use_it),
            false => container.with_alone(member.at, use_it),
        });
        bytes.map(Cow::Owned).map_err(|e| Unreadable {
            reason: e.to_string(),
            transient: io_is_transient(&e),
        })
    }
}

/// Fails once more than `limit` bytes come.
struct Limited<'a> {
    reader: &'a mut dyn Read,
    left: u64,
    limit: u64,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let more = self.reader.read(&mut [0])? > 0 && !buffer.is_empty();
            let reason = format!("larger than {} bytes, the limit for a member", self.limit);
            return if more {
                Err(io::Error::other(reason))
            } else {
                Ok(0)
            };
        }
        let room = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.reader.read(&mut buffer[..room])?;
        self.left -= n as u64;
        Ok(n)
    }
}

/// A file read at positions: clones share the file, and no clone moves another's position.
#[derive(Debug, Clone)]
pub(super) struct At {
    file: Arc<File>,
    pub len: u64,
    position: u64,
}

impl At {
    /// The file at `path`, and its stamp as it was opened.
    pub fn open(path: &Path) -> Result<(At, Stamp), InputError> {
        let file = File::open(path).map_err(InputError::io(path))?;
        let metadata = file.metadata().map_err(InputError::io(path))?;
        let at = At {
            file: Arc::new(file),
            len: metadata.len(),
            position: 0,
        };
        Ok((at, Stamp::of(&metadata)))
    }

    /// The same file, read from `position` on.
    pub fn from(&self, position: u64) -> At {
        At {
            position,
            ..self.clone()
        }
    }
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl Seek for At {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        // The system's own limit for positions.
        let target = target.filter(|&p| i64::try_from(p).is_ok());
        self.position = target.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "position outside of the file")
        })?;
        Ok(self.position)
    }
}

/// One stamp for all files of a data set and for which bytes each path means: as long as it is the
/// same, so are the images. `more` is what else decides that.
pub(super) fn combined(files: &[(&Path, Stamp)], listing: &Listing, more: &str) -> Stamp {
    use std::os::unix::ffi::OsStrExt;
    let mut hasher = Xxh3Default::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(b"headstart archive 2");
    field(more.as_bytes());
    for (path, stamp) in files {
        field(path.file_name().unwrap_or_default().as_bytes());
        field(format!("{stamp:?}").as_bytes());
    }
    for member in (0..listing.len()).map(|i| listing.member(i)) {
        field(member.path);
        field(&member.at.to_le_bytes());
    }
    let latest = |time: fn(&Stamp) -> i64| files.iter().map(|(_, s)| time(s)).max();
    Stamp {
        device: files.first().map_or(0, |(_, s)| s.device),
        inode: hasher.digest(),
        size_bytes: files.iter().map(|(_, s)| s.size_bytes).sum(),
        modified_nanos: latest(|s| s.modified_nanos).unwrap_or_default(),
        changed_nanos: latest(|s| s.changed_nanos).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Endless;

    impl Container for Endless {
        fn with(
            &self,
            at: u64,
            use_it: &mut dyn FnMut(&mut dyn Read) -> io::Result<()>,
        ) -> io::Result<()> {
            assert_ne!(at, 7, "a bug in the reader");
            use_it(&mut io::repeat(1).take(at))
        }
    }

    #[test]
    fn what_comes_out_is_bounded() {
        let all = &mut |r: &mut dyn Read| {
            let mut bytes = Vec::new();
            r.read_to_end(&mut bytes).map(|_| bytes.len())
        };
        assert_eq!(read_within(&Endless, 100, 100, all).unwrap(), 100);
        let error = read_within(&Endless, 101, 100, all).unwrap_err();
        assert!(error.to_string().contains("larger than 100 bytes"));
        let error = read_within(&Endless, 7, 100, all).unwrap_err();
        assert!(error.to_string().contains("failed on it"));
    }
}
