//! File systems in memory as they are saved.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Content, Directory, LINK_BYTES_MAX, State, TmpFileSystem, TmpInode};
use crate::frames::Charge;
use crate::fs::host::HostEntry;
use crate::fs::metadata::{TYPE_MASK, Time};
use crate::fs::overlay::saved::SavedBelow;
use crate::fs::pages::saved::SavedPages;
use crate::fs::seal::Seals;
use crate::fs::xattr::saved::SavedAttributes;
use crate::state::{Restorer, Saver, SectionId, StateError};

/// A [`TmpFileSystem`]. How much is on it is counted again.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedTmpFileSystem {
    device: u64,
    charge: Charge,
    inodes_max: u64,
    last_inode: u64,
    /// Names in directories, and names of the host that are hidden.
    names: u64,
    is_overlay: bool,
    is_watched: bool,
}

/// A [`TmpInode`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedInode {
    fs: u32,
    number: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    links: u32,
    accessed: Time,
    modified: Time,
    changed: Time,
    content: SavedContent,
    attributes: SavedAttributes,
    seals: Seals,
    is_unnamed: bool,
    is_counted: bool,
    /// Of an overlay, what nobody has changed yet: where it was looked up.
    origin: Option<(u32, ByteBuf)>,
}

/// A [`Content`].
#[derive(Debug, Serialize, Deserialize)]
enum SavedContent {
    Regular(SavedPages),
    Directory(SavedDirectory),
    Link(ByteBuf),
    Fifo(u32),
    Socket(Option<u32>),
}

/// A [`Directory`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct SavedDirectory {
    entries: Vec<(ByteBuf, u32)>,
    parent: Option<(u32, ByteBuf)>,
    is_removed: bool,
    below: Option<SavedBelow>,
}

impl TmpFileSystem {
    pub(crate) fn save(&self) -> SavedTmpFileSystem {
        let Self {
            device,
            charge,
            inodes_max,
            inodes: _,
            last_inode,
            names,
            link_bytes: _,
            dropped: _,
            trees,
            watches,
        } = self;
        SavedTmpFileSystem {
            device: *device,
            charge: *charge,
            inodes_max: *inodes_max,
            last_inode: last_inode.load(Ordering::Relaxed),
            names: names.load(Ordering::Relaxed),
            is_overlay: trees.is_some(),
            is_watched: watches.get().is_some(),
        }
    }
}

impl SavedTmpFileSystem {
    pub(crate) fn restore(self, restorer: &Restorer<'_>) -> Arc<TmpFileSystem> {
        let Self { device, charge, inodes_max, last_inode, names, is_overlay, is_watched } = self;
        Arc::new(TmpFileSystem {
            device,
            charge,
            inodes_max,
            inodes: AtomicU64::new(0),
            last_inode: AtomicU64::new(last_inode),
            names: AtomicU64::new(names),
            link_bytes: AtomicU64::new(0),
            dropped: restorer.frames.dropped().clone(),
            watches: is_watched.then(|| restorer.tree.watches().clone()).map_or_else(OnceLock::new, OnceLock::from),
            trees: is_overlay.then(|| restorer.tree.host_trees().clone()),
        })
    }
}

impl TmpInode {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedInode {
        let Self { fs, number, state, writers: _, is_counted, origin } = self;
        let origin = origin.lock().clone();
        let origin = origin.map(|(parent, name)| (saver.inodes.number(&parent), ByteBuf::from(name)));
        let State { mode, uid, gid, links, accessed, modified, changed, content, attributes, seals, is_unnamed } =
            &*state.lock();
        let content = match content {
            Content::Regular(pages) => SavedContent::Regular(pages.save(saver)),
            Content::Directory(Directory { entries, below, parent, is_removed }) => {
                let entries =
                    entries.iter().map(|(name, child)| (ByteBuf::from(name.clone()), saver.inodes.number(child)));
                let entries = entries.collect();
                // A directory whose parent is gone is as good as one that was never in any.
                let parent = parent.as_ref().and_then(|(parent, name)| Some((parent.upgrade()?, name)));
                let parent = parent.map(|(parent, name)| (saver.inodes.number(&parent), ByteBuf::from(name.clone())));
                let below = below.as_ref().map(|below| below.save(saver));
                SavedContent::Directory(SavedDirectory { entries, parent, is_removed: *is_removed, below })
            }
            Content::Link(target) => SavedContent::Link(ByteBuf::from(target.clone())),
            Content::Fifo(pipe) => SavedContent::Fifo(saver.pipes.number(pipe)),
            Content::Socket(socket) => {
                SavedContent::Socket(socket.upgrade().map(|socket| saver.sockets.number(&socket)))
            }
        };
        SavedInode {
            fs: saver.tmp_file_systems.number(fs),
            number: *number,
            mode: *mode,
            uid: *uid,
            gid: *gid,
            links: *links,
            accessed: *accessed,
            modified: *modified,
            changed: *changed,
            content,
            attributes: attributes.save(),
            seals: *seals,
            is_unnamed: *is_unnamed,
            is_counted: is_counted.load(Ordering::Relaxed),
            origin,
        }
    }
}

/// Checks that every directory is where it says it is, and that none is inside itself: a circle would be walked for ever.
pub(crate) fn check_directories(inodes: &[SavedInode]) -> Result<(), StateError> {
    let broken = |rule| Err(StateError::broken(SectionId::Files, rule));
    let directory = |number: u32| match inodes.get(number as usize).map(|inode| &inode.content) {
        Some(SavedContent::Directory(directory)) => Some(directory),
        _ => None,
    };
    for number in 0..inodes.len() as u32 {
        for (name, child) in directory(number).into_iter().flat_map(|directory| &directory.entries) {
            if let Some(child) = directory(*child)
                && child.parent.as_ref().is_none_or(|(parent, known)| *parent != number || known != name)
            {
                return broken("a directory that is not where it says it is");
            }
        }
        // Half as fast as the first pointer: they meet in a circle and nowhere else.
        let up = |at: u32| {
            let origin = inodes.get(at as usize).and_then(|inode| inode.origin.as_ref());
            let parent = || directory(at).and_then(|directory| directory.parent.as_ref());
            origin.or_else(parent).map(|(parent, _)| *parent)
        };
        let (mut fast, mut slow) = (up(number), number);
        while let Some(at) = fast.and_then(up) {
            slow = up(slow).unwrap_or(slow);
            if at == slow {
                return broken("directories that are inside each other");
            }
            fast = up(at);
        }
    }
    Ok(())
}

impl SavedInode {
    /// The file; with the names in it, if it is a directory, to be restored when all files exist.
    pub(crate) fn restore(self, restorer: &mut Restorer<'_>) -> Result<(Arc<TmpInode>, SavedNames), StateError> {
        let broken = |rule| StateError::broken(SectionId::Files, rule);
        let Self {
            fs,
            number,
            mode,
            uid,
            gid,
            links,
            accessed,
            modified,
            changed,
            content,
            attributes,
            seals,
            is_unnamed,
            is_counted,
            origin,
        } = self;
        let attributes = attributes.restore(restorer)?;
        let fs = restorer.tmp_file_system(fs)?.clone();
        let (kind, content, names) = match content {
            SavedContent::Regular(pages) => (libc::S_IFREG, Content::Regular(pages.restore(restorer)?), None),
            SavedContent::Directory(names) => (libc::S_IFDIR, Content::Directory(Directory::default()), Some(names)),
            SavedContent::Link(target) => {
                if target.len() > LINK_BYTES_MAX {
                    return Err(broken("a symbolic link longer than links may be"));
                }
                (libc::S_IFLNK, Content::Link(target.into_vec()), None)
            }
            SavedContent::Fifo(pipe) => (libc::S_IFIFO, Content::Fifo(restorer.pipe(pipe)?.clone()), None),
            SavedContent::Socket(socket) => {
                let socket = socket.map(|socket| restorer.socket(socket).map(Arc::downgrade)).transpose()?;
                (libc::S_IFSOCK, Content::Socket(socket.unwrap_or_default()), None)
            }
        };
        if mode & TYPE_MASK != kind {
            return Err(broken("a file in memory whose type is not that of its content"));
        }
        fs.inodes.fetch_add(u64::from(is_counted), Ordering::Relaxed);
        fs.link_bytes.fetch_add(content.link_bytes(), Ordering::Relaxed);
        let state =
            State { mode, uid, gid, links, accessed, modified, changed, content, attributes, seals, is_unnamed };
        let inode = TmpInode {
            fs,
            number,
            state: Mutex::new(state),
            writers: Arc::default(),
            is_counted: AtomicBool::new(is_counted),
            origin: Mutex::default(),
        };
        Ok((Arc::new(inode), SavedNames { names, origin }))
    }
}

impl TmpInode {
    /// One of the mappings through which it may be written, since before it was sealed.
    pub(crate) fn writer_whatever_seals(&self) -> Arc<()> {
        self.writers.clone()
    }
}

impl TmpInode {
    /// The directory of the host that shows through this one.
    pub(crate) fn entry_below(&self) -> Option<Arc<HostEntry>> {
        match &self.state().content {
            Content::Directory(directory) => directory.below.as_ref().map(|below| below.entry().clone()),
            _ => None,
        }
    }
}

/// What a file has of other files.
pub(crate) struct SavedNames {
    names: Option<SavedDirectory>,
    origin: Option<(u32, ByteBuf)>,
}

impl SavedNames {
    /// Gives a file that, when all files exist.
    pub(crate) fn restore(self, inode: &Arc<TmpInode>, restorer: &Restorer<'_>) -> Result<(), StateError> {
        let Self { names, origin } = self;
        if let Some((parent, name)) = origin {
            *inode.origin.lock() = Some((restorer.inode(parent)?.clone(), name.into_vec()));
        }
        names.map_or(Ok(()), |names| names.restore(inode, restorer))
    }
}

impl SavedDirectory {
    /// Puts the names into a directory.
    fn restore(self, inode: &Arc<TmpInode>, restorer: &Restorer<'_>) -> Result<(), StateError> {
        let Self { entries, parent, is_removed, below } = self;
        let broken = |rule| StateError::broken(SectionId::Files, rule);
        let mut directory = Directory { is_removed, ..Directory::default() };
        if let Some((parent, name)) = parent {
            directory.parent = Some((Arc::downgrade(restorer.inode(parent)?), name.into_vec()));
        }
        for (name, child) in entries {
            let child = restorer.inode(child)?;
            if !Arc::ptr_eq(&child.fs, &inode.fs) {
                return Err(broken("a directory with a file of another file system"));
            }
            if directory.entries.insert(name.into_vec(), child.clone()).is_some() {
                return Err(broken("a directory with a name that is there twice"));
            }
        }
        directory.below = below.map(|below| below.restore(restorer)).transpose()?;
        match &mut inode.state().content {
            Content::Directory(empty) => *empty = directory,
            _ => return Err(broken("names in a file that is no directory")),
        }
        Ok(())
    }
}
