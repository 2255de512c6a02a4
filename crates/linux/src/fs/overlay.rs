//! A tree of the host that can be changed: a file system in guest memory whose directories show the names of a directory
//! of the host until they are hidden, and whose files show the bytes of a file of the host until they are overwritten. The
//! host's files never change.
//!
//! A file that nobody has changed exists in memory only while somebody uses it: it knows where it was found
//! (`TmpInode::origin`). Its first change pins it and the directories above into the tree. What it shows of the host it
//! keeps wherever it is renamed to; a new directory shows nothing, so it is opaque.

pub(crate) mod saved;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Weak};

use crate::errno::Errno;
use crate::fs::host::HostEntry;
use crate::fs::listing::{ENTRIES_MAX, Entry};
use crate::fs::pages;
use crate::fs::seal::Seals;
use crate::fs::tmp::{Content, Directory, State, TmpFileSystem, TmpInode};
use crate::fs::xattr::Attributes;

/// Files in use that were looked up in one directory, before those out of use are forgotten.
const SHOWN_MAX: usize = 64;

/// What a directory shows of one of the host.
#[derive(Debug)]
pub struct Below {
    entry: Arc<HostEntry>,
    /// Names of it that are hidden: removed, or something else has the name.
    hidden: BTreeSet<Vec<u8>>,
    /// Files that were looked up and are in use.
    shown: BTreeMap<Vec<u8>, Weak<TmpInode>>,
}

impl TmpFileSystem {
    /// A file of the host as it shows, not yet in any directory.
    pub(super) fn shown(self: &Arc<Self>, entry: &Arc<HostEntry>) -> Result<Arc<TmpInode>, Errno> {
        let trees = self.trees.as_ref().ok_or(Errno::EIO)?;
        let metadata = entry.known_metadata();
        let content = match metadata.kind() {
            libc::S_IFDIR => {
                let below = Below { entry: entry.clone(), hidden: BTreeSet::new(), shown: BTreeMap::new() };
                Content::Directory(Directory { below: Some(below), ..Directory::default() })
            }
            libc::S_IFLNK => Content::Link(entry.read_link()?),
            _ => Content::Regular(self.pages_over(pages::Below::new(trees.clone(), entry.clone()))),
        };
        let state = State {
            mode: metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            links: if metadata.is_directory() { metadata.links.max(2) } else { 1 },
            accessed: metadata.accessed,
            modified: metadata.modified,
            changed: metadata.changed,
            content,
            attributes: Attributes::default(),
            seals: Seals::NONE,
            is_unnamed: false,
        };
        Ok(self.uncounted(trees.unique_number(metadata), state))
    }
}

impl TmpInode {
    /// The directory of the host that shows here, unless this name of it is hidden.
    fn below(&self, name: &[u8]) -> Result<Option<Arc<HostEntry>>, Errno> {
        self.with_directory(|directory| {
            let below = directory.below.as_ref().filter(|below| !below.hidden.contains(name));
            below.map(|below| below.entry.clone())
        })
    }

    /// Looks a name up that the directory in memory does not have.
    pub(super) fn lookup_below(self: &Arc<Self>, name: &[u8]) -> Result<Option<Arc<TmpInode>>, Errno> {
        let Some(entry) = self.below(name)? else { return Ok(None) };
        let known = self.with_directory(|directory| {
            let is_in_memory = directory.entries.contains_key(name);
            let shown = directory.below.as_ref().and_then(|below| below.shown.get(name)).and_then(Weak::upgrade);
            (is_in_memory, shown)
        })?;
        match known {
            (true, _) => return Ok(None),
            (false, Some(child)) => return Ok(Some(child)),
            (false, None) => {}
        }
        let fs = self.file_system();
        let Some(found) = fs.trees.as_ref().ok_or(Errno::EIO)?.lookup(&entry, name)? else { return Ok(None) };
        let child = fs.shown(&found)?;
        *child.origin.lock() = Some((self.clone(), name.to_vec()));
        self.with_directory(|directory| {
            if let Some(below) = &mut directory.below {
                if below.shown.len() >= SHOWN_MAX {
                    below.shown.retain(|_, child| child.strong_count() > 0);
                }
                below.shown.insert(name.to_vec(), Arc::downgrade(&child));
            }
        })?;
        Ok(Some(child))
    }

    /// Adds the names of the host's directory that show.
    pub(super) fn list_below(&self, entries: &mut Vec<Entry>) -> Result<(), Errno> {
        let below = self.with_directory(|directory| {
            let below = directory.below.as_ref();
            below.map(|below| (below.entry.clone(), below.hidden.clone()))
        })?;
        let Some((entry, hidden)) = below else { return Ok(()) };
        let names: HashSet<Vec<u8>> = entries.iter().map(|entry| entry.name.clone()).collect();
        let shows = |entry: &Entry| !names.contains(&entry.name) && !hidden.contains(&entry.name);
        entries.extend(entry.list()?.into_iter().filter(shows));
        if entries.len() > ENTRIES_MAX { Err(Errno::EOVERFLOW) } else { Ok(()) }
    }

    /// Whether any name of the host's directory shows.
    pub(super) fn shows_names_below(&self) -> Result<bool, Errno> {
        let mut entries = Vec::new();
        self.list_below(&mut entries)?;
        Ok(!entries.is_empty())
    }

    /// Hides a name of the host's directory, if it has it.
    pub(super) fn hide_below(&self, name: &[u8]) -> Result<(), Errno> {
        let Some(entry) = self.below(name)? else { return Ok(()) };
        let fs = self.file_system();
        if fs.trees.as_ref().ok_or(Errno::EIO)?.lookup(&entry, name)?.is_none() {
            return Ok(());
        }
        if !fs.has_room_for_name() {
            return Err(Errno::ENOSPC);
        }
        self.with_directory(|directory| {
            if let Some(below) = &mut directory.below {
                below.hidden.insert(name.to_vec());
                below.shown.remove(name);
            }
        })?;
        fs.add_names(1);
        Ok(())
    }

    /// Keeps it, and the directories above, in memory from now on: it is about to be changed. `ENOSPC` when there are too
    /// many files.
    pub fn pin(self: &Arc<Self>) -> Result<(), Errno> {
        // The root's own first change and every other file's: each is counted.
        self.count()?;
        let mut at = self.clone();
        loop {
            let origin = at.origin.lock().clone();
            let Some((parent, name)) = origin else { return Ok(()) };
            at.count()?;
            if !self.file_system().has_room_for_name() {
                return Err(Errno::ENOSPC);
            }
            parent.with_directory(|directory| directory.entries.insert(name.clone(), at.clone()))?;
            self.file_system().add_names(1);
            if let Content::Directory(directory) = &mut at.state().content {
                directory.parent = Some((Arc::downgrade(&parent), name));
            }
            let origin = at.origin.lock().take();
            drop(origin);
            at = parent;
        }
    }
}
