//! Files of the host as they are saved: by mount and path, with what tells whether the file is still the same.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{DEVICES_MAX, HostEntry, HostFile, HostTrees};
use crate::fs::metadata::{Metadata, Time};
use crate::state::{Restorer, Saver, SectionId, StateError};

/// A [`HostEntry`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedHostEntry {
    place: SavedPlace,
    identity: Identity,
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedPlace {
    /// The root of what is mounted at a junction.
    Junction(u32),
    /// A name in a directory that stands before this one.
    Child(u32, ByteBuf),
}

/// What must not have changed. Directories come and go with what is in them: only their number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    device: u64,
    inode: u64,
    kind: u32,
    size: u64,
    modified: Time,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        let is_directory = metadata.is_directory();
        Self {
            device: metadata.device,
            inode: metadata.inode,
            kind: metadata.kind(),
            size: if is_directory { 0 } else { metadata.size },
            modified: if is_directory { Time::default() } else { metadata.modified },
        }
    }
}

impl HostTrees {
    /// The host's devices in the order of the guest's numbers for them. Directories and files that are
    /// only cached are not saved.
    pub(crate) fn save(&self) -> Vec<u64> {
        let Self { last_directory: _, directories: _, files: _, devices } = self;
        devices.lock().clone()
    }

    /// Gives devices of the host the numbers that they had.
    pub(crate) fn restore(&self, saved: Vec<u64>) -> Result<(), StateError> {
        let mut devices = self.devices.lock();
        if saved.len() > DEVICES_MAX {
            return Err(StateError::broken(SectionId::Files, "too many file systems of the host"));
        }
        // What is mounted now has numbers already. They must be the same, since nodes hold them.
        if !saved.starts_with(&devices) {
            return Err(StateError::OtherMounts);
        }
        *devices = saved;
        Ok(())
    }
}

impl HostEntry {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedHostEntry {
        let Self { parent, name, metadata, directory: _ } = self;
        let place = match parent {
            Some(parent) => SavedPlace::Child(saver.host_entry(parent), ByteBuf::from(name.clone())),
            None => SavedPlace::Junction(saver.junction_of(self)),
        };
        SavedHostEntry { place, identity: Identity::of(metadata) }
    }

    /// Opens it again: it is the file that it was.
    pub(crate) fn reopen(self: &Arc<Self>) -> Result<HostFile, StateError> {
        self.open().map_err(|_| StateError::HostFileGone { path: self.path_from_mount() })
    }

    /// Its path below the mount, for messages.
    fn path_from_mount(&self) -> String {
        let mut names = vec![&*self.name];
        let mut at = self.parent.as_ref();
        while let Some(entry) = at {
            names.push(&entry.name);
            at = entry.parent.as_ref();
        }
        names.reverse();
        String::from_utf8_lossy(&names.join(&b'/')).into_owned()
    }
}

impl SavedHostEntry {
    /// Looks the file up again. An error if it is gone or not the same any more.
    pub(crate) fn restore(self, restorer: &Restorer<'_>) -> Result<Arc<HostEntry>, StateError> {
        let Self { place, identity } = self;
        let entry = match place {
            SavedPlace::Junction(index) => match restorer.tree.junction_node(index as usize) {
                Some(node) => node.host_root().ok_or(StateError::OtherMounts)?,
                None => return Err(StateError::OtherMounts),
            },
            SavedPlace::Child(parent, name) => {
                let is_plain = !name.is_empty() && !name.contains(&b'/') && *name != *b"." && *name != *b"..";
                if !is_plain || name.contains(&0) {
                    return Err(StateError::broken(SectionId::Files, "a name of a file that no file can have"));
                }
                let parent = restorer.host_entry(parent)?;
                let found = restorer.tree.hosts().lookup(parent, &name).ok().flatten();
                found.ok_or_else(|| {
                    let name = String::from_utf8_lossy(&name);
                    StateError::HostFileGone { path: format!("{}/{name}", parent.path_from_mount()) }
                })?
            }
        };
        if Identity::of(&entry.metadata) != identity {
            return Err(StateError::HostFileChanged { path: entry.path_from_mount() });
        }
        Ok(entry)
    }
}

impl HostFile {
    /// The number of the entry that it was opened as.
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> u32 {
        let Self { entry, fd: _, device: _, inode: _ } = self;
        saver.host_entry(entry)
    }
}
