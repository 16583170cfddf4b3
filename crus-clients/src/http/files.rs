//! Files that others change while we run: tokens, secrets, certificates.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

/// Changes whenever a file does, whether it is written anew or another one is put in its place. Platforms do the latter
/// with the certificates and tokens that they mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    file: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Version {
            file: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
