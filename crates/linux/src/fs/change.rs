//! Changes to the tree: making, removing, linking and renaming files, and changing their metadata. Only file systems in
//! guest memory can be changed.

use std::sync::{Arc, Weak};

use crate::errno::Errno;
use crate::file::pipe::Pipe;
use crate::fs::metadata::{MAY_EXECUTE, MAY_READ, MAY_WRITE, PERMISSION_MASK, Time};
use crate::fs::node::{Location, Node};
use crate::fs::open::owner_in;
use crate::fs::tmp::{Content, LINK_BYTES_MAX, State, TmpInode};
use crate::fs::walk::{Follow, Found, Walker};
use crate::kernel::Kernel;
use crate::net::Socket;
use crate::process::Pid;

/// A directory that a process may make and remove names in.
pub fn writable_directory(kernel: &Kernel, pid: Pid, directory: &Location) -> Result<Arc<TmpInode>, Errno> {
    let Node::Tmp(inode) = &directory.node else {
        return Err(if matches!(directory.node, Node::Proc(_)) { Errno::ENOENT } else { Errno::EROFS });
    };
    if !inode.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    inode.metadata().check(Walker::new(kernel, pid)?.credentials(), MAY_WRITE | MAY_EXECUTE)?;
    Ok(inode.clone())
}

/// In a sticky directory only the owner of a file, or of the directory, takes its name away.
fn check_sticky(kernel: &Kernel, pid: Pid, directory: &Arc<TmpInode>, name: &[u8]) -> Result<(), Errno> {
    let directory_metadata = directory.metadata();
    let uid = Walker::new(kernel, pid)?.credentials().uid_file;
    if uid == 0 || directory_metadata.mode & libc::S_ISVTX == 0 || directory_metadata.uid == uid {
        return Ok(());
    }
    match directory.lookup(name)? {
        Some(child) if child.metadata().uid != uid => Err(Errno::EPERM),
        _ => Ok(()),
    }
}

/// What `mknod(2)` and its relatives make.
#[derive(Debug, Clone)]
pub enum Made {
    /// A directory.
    Directory,
    /// An empty regular file.
    Regular,
    /// A named pipe.
    Fifo,
    /// The name of a Unix socket.
    Socket(Weak<Socket>),
    /// A symbolic link.
    Link(Vec<u8>),
}

/// Makes a file. `permissions` are already without those of the umask.
pub fn make(
    kernel: &mut Kernel,
    pid: Pid,
    base: &Location,
    path: &[u8],
    made: Made,
    permissions: u32,
) -> Result<Arc<TmpInode>, Errno> {
    let found = Walker::new(kernel, pid)?.find(base, path, Follow::Never)?;
    if found.location.is_some() {
        return Err(Errno::EEXIST);
    }
    let (directory, name) = found.last.ok_or(Errno::EEXIST)?;
    if found.is_directory_required && !matches!(made, Made::Directory) {
        return Err(Errno::ENOENT);
    }
    let parent = writable_directory(kernel, pid, &directory)?;
    let owner = owner_in(kernel, pid, &parent)?;
    let fs = parent.file_system();
    let inode = match made {
        Made::Directory => fs.create_directory(permissions | parent.metadata().mode & libc::S_ISGID, owner)?,
        Made::Regular => fs.create_regular(permissions, owner)?,
        Made::Fifo => {
            let pipe = Pipe::new(kernel.waits.notifier(), kernel.files.buffers());
            fs.create(libc::S_IFIFO | permissions, owner, Content::Fifo(pipe))?
        }
        Made::Socket(socket) => fs.create(libc::S_IFSOCK | permissions, owner, Content::Socket(socket))?,
        Made::Link(target) if target.is_empty() => return Err(Errno::ENOENT),
        Made::Link(target) if target.len() > LINK_BYTES_MAX => return Err(Errno::ENAMETOOLONG),
        Made::Link(target) => fs.create(libc::S_IFLNK | 0o777, owner, Content::Link(target))?,
    };
    parent.insert(&name, &inode, owner.now)?;
    let bit = directory_bit(inode.is_directory());
    kernel.files.watches().tell(parent.key(), libc::IN_CREATE | bit, 0, &name);
    Ok(inode)
}

/// What events about directories carry.
fn directory_bit(is_directory: bool) -> u32 {
    if is_directory { libc::IN_ISDIR } else { 0 }
}

/// What a call says to names that cannot be taken away.
struct Refused {
    dot: Errno,
    dot_dot: Errno,
    root: Errno,
}

const UNLINKED: Refused = Refused { dot: Errno::EISDIR, dot_dot: Errno::EISDIR, root: Errno::EISDIR };
const REMOVED: Refused = Refused { dot: Errno::EINVAL, dot_dot: Errno::ENOTEMPTY, root: Errno::EBUSY };
const RENAMED: Refused = Refused { dot: Errno::EBUSY, dot_dot: Errno::EBUSY, root: Errno::EBUSY };

/// The directory and name at the end of a path, for calls that take a name away.
fn named(
    kernel: &Kernel,
    pid: Pid,
    base: &Location,
    path: &[u8],
    refused: Refused,
) -> Result<(Location, Vec<u8>, Found), Errno> {
    let mut found = Walker::new(kernel, pid)?.find(base, path, Follow::Never)?;
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let trimmed = &path[..end];
    if trimmed.ends_with(b"/.") || trimmed == b"." {
        return Err(refused.dot);
    }
    if path.iter().all(|byte| *byte == b'/') {
        return Err(refused.root);
    }
    let (directory, name) = found.last.take().ok_or(refused.dot_dot)?;
    if found.location.as_ref().is_some_and(Location::is_junction) {
        return Err(Errno::EBUSY);
    }
    Ok((directory, name, found))
}

/// `unlink(2)`.
pub fn unlink(kernel: &mut Kernel, pid: Pid, base: &Location, path: &[u8]) -> Result<(), Errno> {
    let (directory, name, found) = named(kernel, pid, base, path, UNLINKED)?;
    let location = found.location.ok_or(Errno::ENOENT)?;
    let parent = writable_directory(kernel, pid, &directory)?;
    check_sticky(kernel, pid, &parent, &name)?;
    if location.is_directory() {
        return Err(Errno::EISDIR);
    }
    if found.is_directory_required {
        return Err(Errno::ENOTDIR);
    }
    parent.unlink(&name, Time::from_ns(kernel.clock.realtime_ns()))?;
    let watches = kernel.files.watches();
    if let Some(key) = location.key() {
        watches.tell(key, libc::IN_ATTRIB, 0, b"");
    }
    drop(location);
    watches.tell(parent.key(), libc::IN_DELETE, 0, &name);
    Ok(())
}

/// `rmdir(2)`.
pub fn remove_directory(kernel: &mut Kernel, pid: Pid, base: &Location, path: &[u8]) -> Result<(), Errno> {
    let (directory, name, found) = named(kernel, pid, base, path, REMOVED)?;
    let location = found.location.ok_or(Errno::ENOENT)?;
    if !location.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    let parent = writable_directory(kernel, pid, &directory)?;
    check_sticky(kernel, pid, &parent, &name)?;
    parent.remove_directory(&name, Time::from_ns(kernel.clock.realtime_ns()))?;
    drop(location);
    kernel.files.watches().tell(parent.key(), libc::IN_DELETE | libc::IN_ISDIR, 0, &name);
    Ok(())
}

/// How [`rename`] treats an existing target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It is replaced.
    Replace,
    /// It is an error (`RENAME_NOREPLACE`).
    Refuse,
    /// It gets the other name (`RENAME_EXCHANGE`).
    Exchange,
}

/// `renameat2(2)`.
pub fn rename(
    kernel: &mut Kernel,
    pid: Pid,
    (old_base, old_path): (&Location, &[u8]),
    (new_base, new_path): (&Location, &[u8]),
    existing: Existing,
) -> Result<(), Errno> {
    let (old_directory, old_name, old) = named(kernel, pid, old_base, old_path, RENAMED)?;
    let (new_directory, new_name, new) = named(kernel, pid, new_base, new_path, RENAMED)?;
    let source = old.location.ok_or(Errno::ENOENT)?;
    if (old.is_directory_required || new.is_directory_required) && !source.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    if !is_same_mount(&old_directory, &new_directory) {
        return Err(Errno::EXDEV);
    }
    let from = writable_directory(kernel, pid, &old_directory)?;
    let to = writable_directory(kernel, pid, &new_directory)?;
    check_sticky(kernel, pid, &from, &old_name)?;
    check_sticky(kernel, pid, &to, &new_name)?;
    if !Arc::ptr_eq(&from, &to) {
        check_moved(kernel, pid, &source)?;
        if let (Existing::Exchange, Some(other)) = (existing, &new.location) {
            check_moved(kernel, pid, other)?;
        }
    }
    let now = Time::from_ns(kernel.clock.realtime_ns());
    if new.location.as_ref().is_some_and(|location| location.is_same(&source)) {
        return if existing == Existing::Refuse { Err(Errno::EEXIST) } else { Ok(()) };
    }
    let watches = kernel.files.watches();
    let moved = |location: &Location, from: (&TmpInode, &[u8]), to: (&TmpInode, &[u8])| {
        let (cookie, bit) = (watches.new_cookie(), directory_bit(location.is_directory()));
        watches.tell(from.0.key(), libc::IN_MOVED_FROM | bit, cookie, from.1);
        watches.tell(to.0.key(), libc::IN_MOVED_TO | bit, cookie, to.1);
    };
    let move_self = |location: &Location| {
        if let Some(key) = location.key() {
            watches.tell(key, libc::IN_MOVE_SELF, 0, b"");
        }
    };
    match (existing, &new.location) {
        (Existing::Exchange, Some(other)) => {
            from.exchange(&old_name, &to, &new_name, now)?;
            moved(&source, (&from, &old_name), (&to, &new_name));
            move_self(&source);
            moved(other, (&to, &new_name), (&from, &old_name));
            move_self(other);
        }
        (Existing::Exchange, None) => return Err(Errno::ENOENT),
        (_, replaced) => {
            from.rename(&old_name, &to, &new_name, existing == Existing::Replace, now)?;
            moved(&source, (&from, &old_name), (&to, &new_name));
            if let Some(key) = replaced.as_ref().and_then(Location::key) {
                watches.tell(key, libc::IN_ATTRIB | directory_bit(source.is_directory()), 0, b"");
            }
            move_self(&source);
        }
    }
    Ok(())
}

/// A directory that gets another parent is written to: its `..` changes.
fn check_moved(kernel: &Kernel, pid: Pid, moved: &Location) -> Result<(), Errno> {
    if !moved.is_directory() {
        return Ok(());
    }
    moved.metadata(kernel)?.check(Walker::new(kernel, pid)?.credentials(), MAY_WRITE)
}

fn is_same_mount(a: &Location, b: &Location) -> bool {
    match (&a.node, &b.node) {
        (Node::Tmp(a), Node::Tmp(b)) => Arc::ptr_eq(a.file_system(), b.file_system()),
        (Node::Host(_), Node::Host(_)) | (Node::Fixed(_), Node::Fixed(_)) | (Node::Proc(_), Node::Proc(_)) => true,
        _ => false,
    }
}

/// `linkat(2)`: gives a file that was found a further name.
pub fn link(kernel: &mut Kernel, pid: Pid, source: &Location, base: &Location, path: &[u8]) -> Result<(), Errno> {
    let found = Walker::new(kernel, pid)?.find(base, path, Follow::Never)?;
    if found.location.is_some() {
        return Err(Errno::EEXIST);
    }
    let (directory, name) = found.last.ok_or(Errno::EEXIST)?;
    if found.is_directory_required {
        return Err(Errno::ENOENT);
    }
    if matches!(directory.node, Node::Proc(_)) {
        return Err(Errno::ENOENT);
    }
    let source = match &source.node {
        Node::Open(file) => file.location.as_ref().ok_or(Errno::EXDEV)?,
        _ => source,
    };
    if source.is_directory() {
        return Err(Errno::EPERM);
    }
    let Node::Tmp(inode) = &source.node else {
        return Err(if is_same_mount(source, &directory) { Errno::EROFS } else { Errno::EXDEV });
    };
    if !matches!(&directory.node, Node::Tmp(parent) if Arc::ptr_eq(parent.file_system(), inode.file_system())) {
        return Err(Errno::EXDEV);
    }
    check_linkable(kernel, pid, inode)?;
    let parent = writable_directory(kernel, pid, &directory)?;
    inode.pin()?;
    if !inode.state().may_be_linked() {
        return Err(Errno::ENOENT);
    }
    parent.insert(&name, inode, Time::from_ns(kernel.clock.realtime_ns()))?;
    kernel.files.watches().tell(inode.key(), libc::IN_ATTRIB, 0, b"");
    kernel.files.watches().tell(parent.key(), libc::IN_CREATE, 0, &name);
    Ok(())
}

/// Nobody links what others own and might lend rights, or what one could not use anyway (`fs.protected_hardlinks`).
fn check_linkable(kernel: &Kernel, pid: Pid, inode: &TmpInode) -> Result<(), Errno> {
    let credentials = Walker::new(kernel, pid)?.credentials();
    let metadata = inode.metadata();
    if credentials.is_file_root() || credentials.uid_file == metadata.uid {
        return Ok(());
    }
    let group_bits = libc::S_ISGID | libc::S_IXGRP;
    let lends_rights = metadata.mode & libc::S_ISUID != 0 || metadata.mode & group_bits == group_bits;
    let is_usable = metadata.check(credentials, MAY_READ | MAY_WRITE).is_ok();
    if metadata.kind() == libc::S_IFREG && !lends_rights && is_usable { Ok(()) } else { Err(Errno::EPERM) }
}

/// A file whose metadata a process wants to change; `EROFS` outside guest memory.
fn changeable(location: &Location) -> Result<&Arc<TmpInode>, Errno> {
    match &location.node {
        Node::Tmp(inode) => {
            inode.pin()?;
            Ok(inode)
        }
        Node::Open(file) => match &file.location {
            Some(location) if !matches!(location.node, Node::Open(_)) => changeable(location),
            _ => Err(Errno::EPERM),
        },
        Node::Host(_) | Node::Fixed(_) | Node::Pts(_) => Err(Errno::EROFS),
        Node::Proc(_) => Err(Errno::EPERM),
    }
}

/// Changes metadata of a file that the process owns (or as root).
fn change_owned(
    kernel: &Kernel,
    pid: Pid,
    location: &Location,
    event: u32,
    change: impl FnOnce(&mut State) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let inode = changeable(location)?;
    let credentials = Walker::new(kernel, pid)?.credentials();
    let mut state = inode.state();
    if !credentials.is_file_root() && credentials.uid_file != state.uid {
        return Err(Errno::EPERM);
    }
    change(&mut state)?;
    state.changed = Time::from_ns(kernel.clock.realtime_ns());
    drop(state);
    location.tell(kernel.files.watches(), event);
    Ok(())
}

/// `chmod(2)`.
pub fn change_mode(kernel: &Kernel, pid: Pid, location: &Location, mode: u32) -> Result<(), Errno> {
    let credentials = Walker::new(kernel, pid)?.credentials();
    change_owned(kernel, pid, location, libc::IN_ATTRIB, |state| {
        let is_group_kept = credentials.is_file_root() || credentials.is_member(state.gid);
        let mode = if is_group_kept { mode } else { mode & !libc::S_ISGID };
        if state.seals.forbid_mode(state.mode, mode) {
            return Err(Errno::EPERM);
        }
        state.mode = state.mode & !PERMISSION_MASK | mode & PERMISSION_MASK;
        Ok(())
    })
}

/// `chown(2)`: `None` leaves an id as it is. Only root gives files away.
pub fn change_owner(
    kernel: &Kernel,
    pid: Pid,
    location: &Location,
    uid: Option<u32>,
    gid: Option<u32>,
) -> Result<(), Errno> {
    let credentials = Walker::new(kernel, pid)?.credentials();
    change_owned(kernel, pid, location, libc::IN_ATTRIB, |state| {
        let is_root = credentials.is_file_root();
        let may_change_uid = is_root || uid.is_none_or(|uid| uid == state.uid);
        let may_change_gid = is_root || gid.is_none_or(|gid| gid == state.gid || credentials.is_member(gid));
        if !may_change_uid || !may_change_gid {
            return Err(Errno::EPERM);
        }
        state.uid = uid.unwrap_or(state.uid);
        state.gid = gid.unwrap_or(state.gid);
        if !matches!(state.content, Content::Directory(_)) {
            state.drop_set_ids();
        }
        Ok(())
    })
}

/// `utimensat(2)`: `None` leaves a time as it is. `is_now` needs only the right to write.
pub fn change_times(
    kernel: &Kernel,
    pid: Pid,
    location: &Location,
    accessed: Option<Time>,
    modified: Option<Time>,
    is_now: bool,
) -> Result<(), Errno> {
    let set = |state: &mut State| {
        state.accessed = accessed.unwrap_or(state.accessed);
        state.modified = modified.unwrap_or(state.modified);
        Ok(())
    };
    // As Linux has it: a new time of reading looks like a read, one of writing like a write.
    let event = match (accessed, modified) {
        (Some(_), None) => libc::IN_ACCESS,
        (None, Some(_)) => libc::IN_MODIFY,
        _ => libc::IN_ATTRIB,
    };
    if is_now {
        let inode = changeable(location)?;
        let credentials = Walker::new(kernel, pid)?.credentials();
        if inode.metadata().uid != credentials.uid_file {
            inode.metadata().check(credentials, MAY_WRITE)?;
        }
        {
            let mut state = inode.state();
            state.changed = Time::from_ns(kernel.clock.realtime_ns());
            set(&mut state)?;
        }
        location.tell(kernel.files.watches(), event);
        return Ok(());
    }
    change_owned(kernel, pid, location, event, set)
}

/// `truncate(2)`.
pub fn truncate(kernel: &mut Kernel, pid: Pid, location: &Location, size: u64) -> Result<(), Errno> {
    if location.is_directory() {
        return Err(Errno::EISDIR);
    }
    let inode = changeable(location)?.clone();
    inode.metadata().check(Walker::new(kernel, pid)?.credentials(), MAY_WRITE)?;
    truncate_inode(kernel, pid, &inode, size)?;
    location.tell(kernel.files.watches(), libc::IN_MODIFY);
    Ok(())
}

/// `ftruncate(2)` of a file in guest memory.
pub fn truncate_inode(kernel: &mut Kernel, pid: Pid, inode: &TmpInode, size: u64) -> Result<(), Errno> {
    let now = Time::from_ns(kernel.clock.realtime_ns());
    let is_root = Walker::new(kernel, pid)?.credentials().is_file_root();
    let mut state = inode.state();
    let seals = state.seals;
    let Content::Regular(pages) = &mut state.content else { return Err(Errno::EINVAL) };
    seals.check_size(pages.size(), size)?;
    pages.truncate(&mut kernel.frames, size)?;
    if !is_root {
        state.drop_set_ids();
    }
    state.modified = now;
    state.changed = now;
    Ok(())
}
