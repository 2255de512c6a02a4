//! `/dev/pts`: the slaves of pseudo-terminals, made up when it is looked at.

use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::fs::listing::{Entry, entry_kind};
use crate::fs::metadata::{Metadata, Time, device_number};
use crate::tty::Terminals;

/// Minor device number of the file system.
const DEVICE_MINOR: u32 = 23;
/// Major device number of slaves (`Documentation/admin-guide/devices.txt`).
pub const SLAVE_MAJOR: u32 = 136;
/// Number of the root; slaves come after [`SLAVE_INODE_BASE`], as on Linux.
const ROOT_INODE: u64 = 1;
const SLAVE_INODE_BASE: u64 = 3;

/// A file of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pts {
    /// The directory.
    Root,
    /// The slave of the terminal with this number.
    Slave(u32),
}

impl Pts {
    /// Looks a name up.
    pub fn lookup(self, terminals: &Terminals, name: &[u8]) -> Option<Pts> {
        let index: u32 = std::str::from_utf8(name).ok()?.parse().ok()?;
        let is_plain = self == Pts::Root && index.to_string().as_bytes() == name;
        (is_plain && terminals.get(index).is_some()).then_some(Pts::Slave(index))
    }

    /// What `stat(2)` tells. `ENOENT` of a terminal that is gone.
    pub fn metadata(self, terminals: &Terminals, started: Time) -> Result<Metadata, Errno> {
        let common = Metadata { device: device_number(0, DEVICE_MINOR), links: 1, ..Metadata::default() };
        match self {
            Pts::Root => Ok(Metadata {
                inode: ROOT_INODE,
                mode: libc::S_IFDIR | 0o755,
                links: 2,
                accessed: started,
                modified: started,
                changed: started,
                ..common
            }),
            Pts::Slave(index) => {
                let owner = terminals.owner(index).ok_or(Errno::ENOENT)?;
                Ok(Metadata {
                    inode: SLAVE_INODE_BASE + u64::from(index),
                    mode: libc::S_IFCHR | 0o600,
                    uid: owner.uid,
                    gid: owner.gid,
                    special_device: device_number(SLAVE_MAJOR, index),
                    accessed: owner.opened,
                    modified: owner.opened,
                    changed: owner.opened,
                    ..common
                })
            }
        }
    }

    /// The directory that it is in, and its name there.
    pub fn parent(self) -> Option<(Pts, Vec<u8>)> {
        match self {
            Pts::Root => None,
            Pts::Slave(index) => Some((Pts::Root, index.to_string().into_bytes())),
        }
    }

    /// Names of the directory.
    pub fn list(terminals: &Terminals) -> Vec<Entry> {
        let entry = |index: u32| Entry {
            inode: SLAVE_INODE_BASE + u64::from(index),
            kind: entry_kind(libc::S_IFCHR),
            name: index.to_string().into_bytes(),
        };
        terminals.indices().into_iter().map(entry).collect()
    }
}
