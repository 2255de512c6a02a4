//! What `stat(2)` tells about a file, and whether a process may use it.

use crate::credentials::Credentials;
use crate::errno::Errno;
use serde::{Deserialize, Serialize};

/// Bits of `st_mode` that hold the type.
pub const TYPE_MASK: u32 = libc::S_IFMT;
/// Bits of `st_mode` that hold the permissions, with set-id and sticky bits.
pub const PERMISSION_MASK: u32 = 0o7777;

/// A point in time, since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time {
    /// Whole seconds.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanoseconds: u32,
}

impl Time {
    /// From nanoseconds since 1970.
    pub fn from_ns(ns: u64) -> Self {
        Self { seconds: (ns / 1_000_000_000) as i64, nanoseconds: (ns % 1_000_000_000) as u32 }
    }
}

/// What `stat(2)` tells about a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The file system it lies on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Hard links.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Which device it is, if it is one.
    pub special_device: u64,
    /// Length in bytes.
    pub size: u64,
    /// Space used, in units of 512 bytes.
    pub blocks: u64,
    /// Last read.
    pub accessed: Time,
    /// Last change of the content.
    pub modified: Time,
    /// Last change of the metadata.
    pub changed: Time,
}

/// What a process wants to do with a file: bits of `access(2)`.
pub const MAY_READ: u32 = 4;
/// See [`MAY_READ`].
pub const MAY_WRITE: u32 = 2;
/// See [`MAY_READ`]; for directories, to look names up.
pub const MAY_EXECUTE: u32 = 1;

impl Metadata {
    /// The type bits of the mode.
    pub fn kind(&self) -> u32 {
        self.mode & TYPE_MASK
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    /// Whether it is a symbolic link.
    pub fn is_link(&self) -> bool {
        self.kind() == libc::S_IFLNK
    }

    /// Checks the permission bits for a process. `EACCES` when they forbid any of `wanted`.
    pub fn check(&self, credentials: &Credentials, wanted: u32) -> Result<(), Errno> {
        check_mode(self.mode, self.uid, self.gid, credentials, wanted)
    }
}

/// As [`Metadata::check`], from the parts.
pub fn check_mode(mode: u32, uid: u32, gid: u32, credentials: &Credentials, wanted: u32) -> Result<(), Errno> {
    let is_directory = mode & TYPE_MASK == libc::S_IFDIR;
    let allowed = if credentials.is_file_root() {
        let is_executable = is_directory || mode & 0o111 != 0;
        MAY_READ | MAY_WRITE | if is_executable { MAY_EXECUTE } else { 0 }
    } else if credentials.uid_file == uid {
        mode >> 6 & 7
    } else if credentials.is_member(gid) {
        mode >> 3 & 7
    } else {
        mode & 7
    };
    if wanted & !allowed == 0 { Ok(()) } else { Err(Errno::EACCES) }
}

/// A device number as `makedev(3)` composes it.
pub fn device_number(major: u32, minor: u32) -> u64 {
    libc::makedev(major, minor)
}
