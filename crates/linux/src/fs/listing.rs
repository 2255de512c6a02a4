//! Names in a directory, as `getdents64(2)` gives them.

use serde::{Deserialize, Serialize};

/// Most names of one directory.
pub const ENTRIES_MAX: usize = 100_000;

/// One name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Number of the file.
    pub inode: u64,
    /// `DT_REG`, `DT_DIR`, …
    pub kind: u8,
    /// The name.
    pub name: Vec<u8>,
}

/// The directory-entry type for type bits of a mode (`IFTODT` of `dirent.h`).
pub fn entry_kind(mode: u32) -> u8 {
    ((mode & libc::S_IFMT) >> 12) as u8
}
