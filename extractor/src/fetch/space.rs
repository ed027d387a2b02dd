//! How much room a disk has, so that a download that cannot fit is refused before it begins.
//!
//! Must not know what is downloaded.

use std::path::Path;

/// Bytes that may still be written into a folder by somebody who is not root. None where the file system
/// does not say.
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    // Some network and FUSE file systems know no sizes at all.
    (stat.f_blocks > 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_room_and_no_folder_says_nothing() {
        assert!(free_bytes(&std::env::temp_dir()).is_some_and(|bytes| bytes < 1 << 60));
        assert_eq!(free_bytes(Path::new("/no/such/folder")), None);
    }
}
