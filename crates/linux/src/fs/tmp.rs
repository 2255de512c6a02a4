//! File systems in the guest's memory: `/tmp`, `/dev/shm`, and the files behind `memfd_create`. Pages are frames of guest
//! memory, so shared mappings are coherent, and they count against a limit of their own.

pub(crate) mod saved;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, MutexGuard};

use crate::credentials::Credentials;
use crate::errno::Errno;
use crate::file::inotify::Watches;
use crate::file::pipe::Pipe;
use crate::frames::{Charge, DroppedFrames, Frames};
use crate::fs::host::{HostEntry, HostTrees};
use crate::fs::listing::{ENTRIES_MAX, Entry, entry_kind};
use crate::fs::metadata::{Metadata, Time, check_mode};
use crate::fs::overlay::Below;
use crate::fs::pages::{self, Pages};
use crate::fs::seal::Seals;
use crate::fs::xattr::Attributes;
use crate::net::Socket;

/// Longest target of a symbolic link.
pub const LINK_BYTES_MAX: usize = 4095;

/// Most bytes of the targets of all symbolic links of a file system: they are on the monitor's heap.
pub const LINKS_BYTES_MAX: u64 = 4 << 20;
/// Numbers of files made in an overlay begin above those of the host's files.
const OVERLAY_INODE_FIRST: u64 = 1 << 62;
/// Most names of a file system, for each file that it may have.
const NAMES_PER_INODE_MAX: u64 = 2;

/// One file system in memory.
#[derive(Debug)]
pub struct TmpFileSystem {
    device: u64,
    charge: Charge,
    inodes_max: u64,
    inodes: AtomicU64,
    last_inode: AtomicU64,
    names: AtomicU64,
    link_bytes: AtomicU64,
    dropped: DroppedFrames,
    /// Who is told when a file is gone for good.
    watches: OnceLock<Watches>,
    /// The trees that directories and files of an overlay come from.
    pub(super) trees: Option<Arc<HostTrees>>,
}

/// What a new file belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Now, of the realtime clock.
    pub now: Time,
}

/// A file of any type.
#[derive(Debug)]
pub struct TmpInode {
    fs: Arc<TmpFileSystem>,
    number: u64,
    state: Mutex<State>,
    /// Shared by every shared mapping that may write.
    writers: Arc<()>,
    /// Whether it counts among the files of its file system.
    is_counted: AtomicBool,
    /// Of an overlay, what nobody has changed yet: the directory it was looked up in, and its name there.
    pub(super) origin: Mutex<Option<(Arc<TmpInode>, Vec<u8>)>>,
}

/// What can change about a file.
#[derive(Debug)]
pub struct State {
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names that it has.
    pub links: u32,
    /// Last read.
    pub accessed: Time,
    /// Last change of the content.
    pub modified: Time,
    /// Last change of the metadata.
    pub changed: Time,
    /// The content.
    pub content: Content,
    /// Extended attributes.
    pub attributes: Attributes,
    /// What may not be done to it any more.
    pub seals: Seals,
    /// Whether it was made without a name and may be given one (`O_TMPFILE`).
    pub is_unnamed: bool,
}

/// The content of a file by its type.
#[derive(Debug)]
pub enum Content {
    /// A regular file.
    Regular(Pages),
    /// A directory.
    Directory(Directory),
    /// A symbolic link.
    Link(Vec<u8>),
    /// A named pipe.
    Fifo(Arc<Pipe>),
    /// The name of a Unix socket, and the socket while it lives.
    Socket(Weak<Socket>),
}

impl Content {
    fn link_bytes(&self) -> u64 {
        match self {
            Content::Link(target) => target.len() as u64,
            _ => 0,
        }
    }
}

/// The names of a directory.
#[derive(Debug, Default)]
pub struct Directory {
    pub(super) entries: BTreeMap<Vec<u8>, Arc<TmpInode>>,
    /// Of an overlay: the directory whose names show through.
    pub(super) below: Option<Below>,
    /// The directory that this one is in, and its name there; nothing for the root and once removed.
    pub(super) parent: Option<(Weak<TmpInode>, Vec<u8>)>,
    pub(super) is_removed: bool,
}

impl TmpFileSystem {
    /// An empty file system.
    pub fn new(device: u64, charge: Charge, inodes_max: u64, frames: &Frames) -> Arc<Self> {
        Arc::new(Self {
            device,
            charge,
            inodes_max,
            inodes: AtomicU64::new(0),
            last_inode: AtomicU64::new(0),
            names: AtomicU64::new(0),
            link_bytes: AtomicU64::new(0),
            dropped: frames.dropped().clone(),
            watches: OnceLock::new(),
            trees: None,
        })
    }

    /// A file system whose content is that of a tree of the host until it is changed, and its root.
    pub fn over(
        device: u64,
        inodes_max: u64,
        (trees, root): (Arc<HostTrees>, Arc<HostEntry>),
        frames: &Frames,
    ) -> Result<Arc<TmpInode>, Errno> {
        let fs = Arc::new(Self {
            device,
            charge: Charge::Tmp,
            inodes_max,
            inodes: AtomicU64::new(0),
            last_inode: AtomicU64::new(OVERLAY_INODE_FIRST),
            names: AtomicU64::new(0),
            link_bytes: AtomicU64::new(0),
            dropped: frames.dropped().clone(),
            watches: OnceLock::new(),
            trees: Some(trees),
        });
        fs.shown(&root)
    }

    /// Says who is told when a file is gone for good.
    pub fn set_watches(&self, watches: &Watches) {
        self.watches.get_or_init(|| watches.clone());
    }

    /// Whether it shows a tree of the host.
    pub fn is_overlay(&self) -> bool {
        self.trees.is_some()
    }

    /// Pages of files of this file system.
    pub(super) fn pages_over(&self, below: pages::Below) -> Pages {
        Pages::over(below, self.charge, self.dropped.clone())
    }

    /// A file that exists anyway: it counts when it is first changed.
    pub(super) fn uncounted(self: &Arc<Self>, number: u64, state: State) -> Arc<TmpInode> {
        self.link_bytes.fetch_add(state.content.link_bytes(), Ordering::Relaxed);
        Arc::new(TmpInode {
            fs: self.clone(),
            number,
            state: Mutex::new(state),
            writers: Arc::default(),
            is_counted: AtomicBool::new(false),
            origin: Mutex::default(),
        })
    }

    pub(super) fn add_names(&self, count: u64) {
        self.names.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn has_room_for_name(&self) -> bool {
        self.names.load(Ordering::Relaxed) < self.inodes_max * NAMES_PER_INODE_MAX
    }

    /// A file without a name. `ENOSPC` when there are too many.
    pub fn create(self: &Arc<Self>, mode: u32, owner: Owner, content: Content) -> Result<Arc<TmpInode>, Errno> {
        if self.inodes.load(Ordering::Relaxed) >= self.inodes_max {
            return Err(Errno::ENOSPC);
        }
        let link_bytes = content.link_bytes();
        if self.link_bytes.load(Ordering::Relaxed) + link_bytes > LINKS_BYTES_MAX {
            return Err(Errno::ENOSPC);
        }
        self.link_bytes.fetch_add(link_bytes, Ordering::Relaxed);
        self.inodes.fetch_add(1, Ordering::Relaxed);
        let is_directory = matches!(content, Content::Directory(_));
        let state = State {
            mode,
            uid: owner.uid,
            gid: owner.gid,
            links: if is_directory { 2 } else { 0 },
            accessed: owner.now,
            modified: owner.now,
            changed: owner.now,
            content,
            attributes: Attributes::default(),
            seals: Seals::NONE,
            is_unnamed: false,
        };
        let number = self.last_inode.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Arc::new(TmpInode {
            fs: self.clone(),
            number,
            state: Mutex::new(state),
            writers: Arc::default(),
            is_counted: AtomicBool::new(true),
            origin: Mutex::default(),
        }))
    }

    /// A regular file without a name.
    pub fn create_regular(self: &Arc<Self>, permissions: u32, owner: Owner) -> Result<Arc<TmpInode>, Errno> {
        let pages = Pages::new(self.charge, self.dropped.clone());
        self.create(libc::S_IFREG | permissions, owner, Content::Regular(pages))
    }

    /// A directory without a name.
    pub fn create_directory(self: &Arc<Self>, permissions: u32, owner: Owner) -> Result<Arc<TmpInode>, Errno> {
        self.create(libc::S_IFDIR | permissions, owner, Content::Directory(Directory::default()))
    }

    /// What its pages count against.
    pub fn charge(&self) -> Charge {
        self.charge
    }

    /// Files that exist and that may.
    pub fn inode_counts(&self) -> (u64, u64) {
        (self.inodes.load(Ordering::Relaxed), self.inodes_max)
    }
}

impl State {
    /// What Linux does when somebody else than root changes a file: it does not lend its owner's rights any more.
    pub fn drop_set_ids(&mut self) {
        self.mode &= !libc::S_ISUID;
        if self.mode & libc::S_IXGRP != 0 {
            self.mode &= !libc::S_ISGID;
        }
    }

    /// Checks the permission bits for a process.
    pub fn check(&self, credentials: &Credentials, wanted: u32) -> Result<(), Errno> {
        check_mode(self.mode, self.uid, self.gid, credentials, wanted)
    }

    /// Whether the file may get a further name: one without any is about to go.
    pub fn may_be_linked(&self) -> bool {
        self.links > 0 || self.is_unnamed
    }

    fn take_entries(&mut self) -> Vec<Arc<TmpInode>> {
        match &mut self.content {
            Content::Directory(directory) => std::mem::take(&mut directory.entries).into_values().collect(),
            _ => Vec::new(),
        }
    }
}

impl Drop for TmpInode {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if let (0, Some(watches)) = (state.links, self.fs.watches.get()) {
            watches.tell_gone((self.fs.device, self.number));
        }
        if *self.is_counted.get_mut() {
            self.fs.inodes.fetch_sub(1, Ordering::Relaxed);
        }
        self.fs.link_bytes.fetch_sub(self.state.get_mut().content.link_bytes(), Ordering::Relaxed);
        // Directories may be nested deeper than the stack is long.
        let mut pending = self.state.get_mut().take_entries();
        while let Some(child) = pending.pop() {
            if let Some(mut inode) = Arc::into_inner(child) {
                pending.extend(inode.state.get_mut().take_entries());
            }
        }
    }
}

impl TmpInode {
    /// The file system it is on.
    pub fn file_system(&self) -> &Arc<TmpFileSystem> {
        &self.fs
    }

    /// Counts it among the files of its file system, if it does not yet. `ENOSPC` when there are too many.
    pub(super) fn count(&self) -> Result<(), Errno> {
        if self.is_counted.load(Ordering::Relaxed) {
            return Ok(());
        }
        if self.fs.inodes.load(Ordering::Relaxed) >= self.fs.inodes_max {
            return Err(Errno::ENOSPC);
        }
        self.fs.inodes.fetch_add(1, Ordering::Relaxed);
        self.is_counted.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Device and number.
    pub fn key(&self) -> (u64, u64) {
        (self.fs.device, self.number)
    }

    /// `F_ADD_SEALS`.
    pub fn add_seals(&self, seals: u32) -> Result<(), Errno> {
        let has_writers = Arc::strong_count(&self.writers) > 1;
        self.state().seals.add(seals, has_writers)
    }

    /// What a shared mapping keeps through which the file may be written. `EPERM` if a seal forbids that.
    pub fn writer(&self) -> Result<Arc<()>, Errno> {
        if self.state().seals.forbid_writing() { Err(Errno::EPERM) } else { Ok(self.writers.clone()) }
    }

    /// What can change. Never hold two of these at once.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Its metadata.
    pub fn metadata(&self) -> Metadata {
        let state = self.state();
        let (size, blocks) = match &state.content {
            Content::Regular(pages) => (pages.size(), pages.count() * 8),
            Content::Directory(directory) => (directory.entries.len() as u64 * 20 + 40, 0),
            Content::Link(target) => (target.len() as u64, 0),
            Content::Fifo(_) | Content::Socket(_) => (0, 0),
        };
        Metadata {
            device: self.fs.device,
            inode: self.number,
            mode: state.mode,
            links: state.links,
            uid: state.uid,
            gid: state.gid,
            special_device: 0,
            size,
            blocks,
            accessed: state.accessed,
            modified: state.modified,
            changed: state.changed,
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.state().content, Content::Directory(_))
    }

    /// Works on the names of a directory. `ENOTDIR` for anything else.
    pub(super) fn with_directory<T>(&self, work: impl FnOnce(&mut Directory) -> T) -> Result<T, Errno> {
        match &mut self.state().content {
            Content::Directory(directory) => Ok(work(directory)),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Looks a name up.
    pub fn lookup(self: &Arc<Self>, name: &[u8]) -> Result<Option<Arc<TmpInode>>, Errno> {
        match self.with_directory(|directory| directory.entries.get(name).cloned())? {
            Some(child) => Ok(Some(child)),
            None => self.lookup_below(name),
        }
    }

    /// The directory that this directory is in, and its name there; `None` for the root and once removed.
    pub fn parent(&self) -> Option<(Arc<TmpInode>, Vec<u8>)> {
        if let Some((directory, name)) = &*self.origin.lock() {
            return Some((directory.clone(), name.clone()));
        }
        let parent = self.with_directory(|directory| directory.parent.clone()).ok().flatten();
        parent.and_then(|(directory, name)| Some((directory.upgrade()?, name)))
    }

    /// Everything in a directory.
    pub fn list(self: &Arc<Self>) -> Result<Vec<Entry>, Errno> {
        let children: Vec<(Vec<u8>, Arc<TmpInode>)> = self.with_directory(|directory| {
            directory.entries.iter().map(|(name, child)| (name.clone(), child.clone())).collect()
        })?;
        let entry = |(name, child): (Vec<u8>, Arc<TmpInode>)| Entry {
            inode: child.number,
            kind: entry_kind(child.state().mode),
            name,
        };
        let mut entries: Vec<Entry> = children.into_iter().map(entry).collect();
        self.list_below(&mut entries)?;
        Ok(entries)
    }

    /// Gives a file a (further) name in this directory. `EEXIST` if the name is taken.
    pub fn insert(self: &Arc<Self>, name: &[u8], child: &Arc<TmpInode>, now: Time) -> Result<(), Errno> {
        self.pin()?;
        if self.lookup_below(name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        child.count()?;
        self.with_directory(|directory| {
            if directory.is_removed {
                return Err(Errno::ENOENT);
            }
            if directory.entries.contains_key(name) {
                return Err(Errno::EEXIST);
            }
            let names_max = self.fs.inodes_max * NAMES_PER_INODE_MAX;
            if directory.entries.len() >= ENTRIES_MAX || self.fs.names.load(Ordering::Relaxed) >= names_max {
                return Err(Errno::ENOSPC);
            }
            self.fs.names.fetch_add(1, Ordering::Relaxed);
            directory.entries.insert(name.to_vec(), child.clone());
            Ok(())
        })??;
        let is_directory = {
            let mut state = child.state();
            state.changed = now;
            match &mut state.content {
                Content::Directory(directory) => {
                    directory.parent = Some((Arc::downgrade(self), name.to_vec()));
                    true
                }
                _ => {
                    state.links += 1;
                    state.is_unnamed = false;
                    false
                }
            }
        };
        self.names_changed(now, i32::from(is_directory));
        Ok(())
    }

    /// Takes a name away from this directory and gives the file that had it.
    fn take(self: &Arc<Self>, name: &[u8], now: Time) -> Result<Arc<TmpInode>, Errno> {
        let child = self.lookup(name)?.ok_or(Errno::ENOENT)?;
        self.pin()?;
        self.hide_below(name)?;
        if self.with_directory(|directory| directory.entries.remove(name))?.is_some() {
            self.fs.names.fetch_sub(1, Ordering::Relaxed);
        }
        let origin = child.origin.lock().take();
        drop(origin);
        let is_directory = {
            let mut state = child.state();
            state.changed = now;
            match &mut state.content {
                Content::Directory(directory) => {
                    directory.parent = None;
                    true
                }
                _ => {
                    state.links = state.links.saturating_sub(1);
                    false
                }
            }
        };
        self.names_changed(now, -i32::from(is_directory));
        Ok(child)
    }

    fn names_changed(&self, now: Time, links: i32) {
        let mut state = self.state();
        state.links = state.links.saturating_add_signed(links);
        state.modified = now;
        state.changed = now;
    }

    /// `unlink(2)`.
    pub fn unlink(self: &Arc<Self>, name: &[u8], now: Time) -> Result<(), Errno> {
        let child = self.lookup(name)?.ok_or(Errno::ENOENT)?;
        if child.is_directory() {
            return Err(Errno::EISDIR);
        }
        self.take(name, now).map(drop)
    }

    /// `rmdir(2)`.
    pub fn remove_directory(self: &Arc<Self>, name: &[u8], now: Time) -> Result<(), Errno> {
        let child = self.lookup(name)?.ok_or(Errno::ENOENT)?;
        if child.shows_names_below()? {
            return Err(Errno::ENOTEMPTY);
        }
        child.with_directory(|directory| {
            if !directory.entries.is_empty() {
                return Err(Errno::ENOTEMPTY);
            }
            directory.is_removed = true;
            Ok(())
        })??;
        self.take(name, now)?;
        child.state().links = 0;
        Ok(())
    }

    /// Whether this directory is `other` or inside it.
    fn is_within(self: &Arc<Self>, other: &Arc<TmpInode>) -> bool {
        let mut directory = self.clone();
        loop {
            if Arc::ptr_eq(&directory, other) {
                return true;
            }
            match directory.parent() {
                Some((parent, _)) => directory = parent,
                None => return false,
            }
        }
    }

    /// `rename(2)` of `name` in this directory to `new_name` in `target`, which is on the same file system.
    pub fn rename(
        self: &Arc<Self>,
        name: &[u8],
        target: &Arc<TmpInode>,
        new_name: &[u8],
        is_replacing: bool,
        now: Time,
    ) -> Result<(), Errno> {
        let child = self.lookup(name)?.ok_or(Errno::ENOENT)?;
        if child.is_directory() && target.is_within(&child) {
            return Err(Errno::EINVAL);
        }
        if let Some(existing) = target.lookup(new_name)? {
            if !is_replacing {
                return Err(Errno::EEXIST);
            }
            if Arc::ptr_eq(&existing, &child) {
                return Ok(());
            }
            match (child.is_directory(), existing.is_directory()) {
                (true, true) => {
                    if self.is_within(&existing) {
                        return Err(Errno::ENOTEMPTY);
                    }
                    target.remove_directory(new_name, now)?;
                }
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (false, false) => target.unlink(new_name, now)?,
            }
        }
        let child = self.take(name, now)?;
        target.insert(new_name, &child, now).inspect_err(|_| {
            self.insert(name, &child, now).expect("the place that was just left is free");
        })
    }

    /// `renameat2(2)` with `RENAME_EXCHANGE`.
    pub fn exchange(
        self: &Arc<Self>,
        name: &[u8],
        target: &Arc<TmpInode>,
        other_name: &[u8],
        now: Time,
    ) -> Result<(), Errno> {
        let child = self.lookup(name)?.ok_or(Errno::ENOENT)?;
        let other = target.lookup(other_name)?.ok_or(Errno::ENOENT)?;
        if Arc::ptr_eq(&child, &other) {
            return Ok(());
        }
        if child.is_directory() && target.is_within(&child) || other.is_directory() && self.is_within(&other) {
            return Err(Errno::EINVAL);
        }
        let child = self.take(name, now)?;
        let other = target.take(other_name, now)?;
        target.insert(other_name, &child, now)?;
        self.insert(name, &other, now)
    }
}
