//! `open(2)`: from a location to an open file.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::errno::Errno;
use crate::file::{Body, Mapping, OpenFile, READABLE, Text, WRITABLE};
use crate::fs::devpts::Pts;
use crate::fs::fixed::{Content as FixedContent, Device};
use crate::fs::metadata::{MAY_EXECUTE, MAY_READ, MAY_WRITE, Metadata, Time};
use crate::fs::node::{Location, Node};
use crate::fs::tmp::{Content, Owner, TmpInode};
use crate::fs::walk::{Follow, Found, Resolve, Walker};
use crate::kernel::Kernel;
use crate::process::Pid;
use crate::tty;

const O_TMPFILE: i32 = libc::O_TMPFILE;
/// `O_ACCMODE` as the kernel has it; musl's has `O_PATH` in it.
pub(crate) const O_ACCMODE: i32 = 3;

/// How a file is to be opened: the flags of `open(2)`, checked.
#[derive(Debug, Clone, Copy)]
pub struct OpenHow {
    flags: i32,
    permissions: u32,
    resolve: Resolve,
}

impl OpenHow {
    /// From the arguments of the call; `permissions` already without those of the umask.
    pub fn new(flags: i32, permissions: u32) -> Self {
        let kept = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_PATH | libc::O_CLOEXEC;
        let flags = if flags & libc::O_PATH != 0 { flags & kept } else { flags };
        Self { flags, permissions: permissions & 0o7777, resolve: Resolve::default() }
    }

    /// The same with other permissions and rules for the path.
    pub fn with(self, permissions: u32, resolve: Resolve) -> Self {
        Self { flags: self.flags, permissions: permissions & 0o7777, resolve }
    }

    /// Whether `execve` closes the descriptor.
    pub fn is_closed_on_exec(self) -> bool {
        self.has(libc::O_CLOEXEC)
    }

    fn has(self, flag: i32) -> bool {
        self.flags & flag == flag
    }

    fn access(self) -> Result<u32, Errno> {
        match self.flags & O_ACCMODE {
            libc::O_RDONLY => Ok(READABLE),
            libc::O_WRONLY => Ok(WRITABLE),
            libc::O_RDWR => Ok(READABLE | WRITABLE),
            _ => Err(Errno::EINVAL),
        }
    }

    /// What the permission bits must allow.
    fn wanted(self) -> Result<u32, Errno> {
        let access = self.access()?;
        let read = if access & READABLE != 0 { MAY_READ } else { 0 };
        let is_written = access & WRITABLE != 0 || self.has(libc::O_TRUNC);
        Ok(read | if is_written { MAY_WRITE } else { 0 })
    }
}

/// Opens a path for a process.
pub fn open(kernel: &mut Kernel, pid: Pid, base: &Location, path: &[u8], how: OpenHow) -> Result<Arc<OpenFile>, Errno> {
    let file = open_file(kernel, pid, base, path, how)?;
    if !file.is_path_only() {
        file.tell_opened(kernel.files.watches());
        if how.has(libc::O_TRUNC) && matches!(file.body, Body::Tmp(_)) {
            file.tell(libc::IN_MODIFY);
        }
    }
    Ok(file)
}

fn open_file(
    kernel: &mut Kernel,
    pid: Pid,
    base: &Location,
    path: &[u8],
    how: OpenHow,
) -> Result<Arc<OpenFile>, Errno> {
    if how.has(O_TMPFILE) {
        return open_unnamed(kernel, pid, base, path, how);
    }
    if how.has(libc::O_CREAT | libc::O_DIRECTORY) {
        return Err(Errno::EINVAL);
    }
    let is_exclusive = how.has(libc::O_CREAT | libc::O_EXCL);
    let follow = if how.has(libc::O_NOFOLLOW) || is_exclusive { Follow::No } else { Follow::Yes };
    let found = Walker::new(kernel, pid)?.resolving(how.resolve).find(base, path, follow)?;
    match &found.location {
        Some(_) if is_exclusive => Err(Errno::EEXIST),
        Some(location) => {
            if how.has(libc::O_CREAT) && (found.is_directory_required || location.is_directory()) {
                return Err(Errno::EISDIR);
            }
            let path = found.path(kernel, location);
            open_location(kernel, pid, location, path, how)
        }
        None if how.has(libc::O_CREAT) => create(kernel, pid, &found, how),
        None => Err(Errno::ENOENT),
    }
}

impl Found {
    /// The path of the file found, for `/proc/self/fd`.
    fn path(&self, kernel: &Kernel, location: &Location) -> Vec<u8> {
        match (&self.last, &location.node) {
            (_, Node::Open(file)) => file.path(),
            (Some((directory, name)), _) => directory.path_of(&kernel.files, name),
            (None, _) => location.path(&kernel.files).unwrap_or_default(),
        }
    }
}

fn create(kernel: &mut Kernel, pid: Pid, found: &Found, how: OpenHow) -> Result<Arc<OpenFile>, Errno> {
    let (directory, name) = found.last.as_ref().ok_or(Errno::EISDIR)?;
    if found.is_directory_required {
        return Err(Errno::EISDIR);
    }
    let parent = super::change::writable_directory(kernel, pid, directory)?;
    let owner = owner_in(kernel, pid, &parent)?;
    let inode = parent.file_system().create_regular(how.permissions, owner)?;
    parent.insert(name, &inode, owner.now)?;
    kernel.files.watches().tell(parent.key(), libc::IN_CREATE, 0, name);
    let path = directory.path_of(&kernel.files, name);
    let location = Location::from(Node::Tmp(inode.clone())).found_in(directory, name);
    Ok(OpenFile::new(Body::Tmp(inode), Some(location), path.into(), how.access()?, how.flags as u32))
}

fn open_unnamed(
    kernel: &mut Kernel,
    pid: Pid,
    base: &Location,
    path: &[u8],
    how: OpenHow,
) -> Result<Arc<OpenFile>, Errno> {
    let access = how.access()?;
    if access & WRITABLE == 0 {
        return Err(Errno::EINVAL);
    }
    let directory = Walker::new(kernel, pid)?.resolving(how.resolve).existing(base, path, Follow::Yes)?;
    let parent = match super::change::writable_directory(kernel, pid, &directory) {
        Err(Errno::EROFS) => return Err(Errno::EOPNOTSUPP),
        result => result?,
    };
    let inode = parent.file_system().create_regular(how.permissions, owner_in(kernel, pid, &parent)?)?;
    inode.state().is_unnamed = !how.has(libc::O_EXCL);
    let path = directory.path_of(&kernel.files, format!("#{} (deleted)", inode.number()).as_bytes());
    let location = Location::from(Node::Tmp(inode.clone()));
    Ok(OpenFile::new(Body::Tmp(inode), Some(location), path.into(), access, how.flags as u32))
}

/// What a file made by a process now belongs to.
pub fn owner(kernel: &Kernel, pid: Pid) -> Result<Owner, Errno> {
    let credentials = &kernel.processes.get(&pid).ok_or(Errno::ESRCH)?.credentials;
    let now = Time::from_ns(kernel.clock.realtime_ns());
    Ok(Owner { uid: credentials.uid_file, gid: credentials.gid_file, now })
}

/// The same for a file made in a directory, which may give its group (`S_ISGID`).
pub fn owner_in(kernel: &Kernel, pid: Pid, directory: &TmpInode) -> Result<Owner, Errno> {
    let owner = owner(kernel, pid)?;
    let directory = directory.metadata();
    let gid = if directory.mode & libc::S_ISGID != 0 { directory.gid } else { owner.gid };
    Ok(Owner { gid, ..owner })
}

fn open_location(
    kernel: &mut Kernel,
    pid: Pid,
    location: &Location,
    path: Vec<u8>,
    how: OpenHow,
) -> Result<Arc<OpenFile>, Errno> {
    let metadata = location.metadata(kernel)?;
    if how.has(libc::O_DIRECTORY) && !metadata.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    let flags = how.flags as u32;
    if how.has(libc::O_PATH) {
        return Ok(OpenFile::new(Body::Path, Some(location.settled()), path.into(), 0, flags));
    }
    if metadata.is_link() {
        return Err(Errno::ELOOP);
    }
    if let Node::Open(file) = &location.node {
        return reopen(kernel, pid, file, path, how);
    }
    let wanted = how.wanted()?;
    if metadata.is_directory() && wanted & MAY_WRITE != 0 {
        return Err(Errno::EISDIR);
    }
    if matches!(location.node, Node::Host(_)) && wanted & MAY_WRITE != 0 {
        return Err(Errno::EROFS);
    }
    let is_fixed_text = match &location.node {
        Node::Fixed(place) => matches!(place.file.content(), FixedContent::Text(_)),
        Node::Proc(entry) => !entry.is_writable(),
        _ => false,
    };
    if is_fixed_text && wanted & MAY_WRITE != 0 {
        return Err(Errno::EACCES);
    }
    let credentials = Walker::new(kernel, pid)?.credentials();
    metadata.check(credentials, wanted)?;
    if how.has(libc::O_NOATIME) && !credentials.is_file_root() && credentials.uid_file != metadata.uid {
        return Err(Errno::EPERM);
    }
    let body = body(kernel, pid, location, &metadata, how)?;
    Ok(OpenFile::new(body, Some(location.clone()), path.into(), how.access()?, flags))
}

fn body(kernel: &mut Kernel, pid: Pid, location: &Location, metadata: &Metadata, how: OpenHow) -> Result<Body, Errno> {
    if metadata.is_directory() {
        return Ok(Body::Directory(Mutex::new(None)));
    }
    match &location.node {
        Node::Host(entry) => Ok(Body::Host(Arc::new(entry.open()?))),
        Node::Tmp(inode) => open_tmp(kernel, inode, how),
        Node::Fixed(place) => match place.file.content() {
            FixedContent::Device(Device::Terminal) => {
                let terminal = kernel.terminal_of(pid).ok_or(Errno::ENXIO)?;
                Ok(Body::Terminal(kernel.files.terminals().open_slave(&terminal)?))
            }
            FixedContent::Device(Device::Multiplexer) => {
                let Owner { uid, gid, now: opened } = owner(kernel, pid)?;
                let owner = tty::Owner { uid, gid, opened };
                let master = kernel.files.terminals().open_master(kernel.waits.notifier(), owner)?;
                Ok(Body::Terminal(master))
            }
            FixedContent::Device(device) => Ok(Body::Device(*device)),
            FixedContent::Text(text) => Ok(Body::Text(Text::from(text.clone()))),
            FixedContent::Directory(_) | FixedContent::Link(_) => Err(Errno::ELOOP),
        },
        Node::Proc(entry) => {
            let content = entry.content(kernel, pid)?;
            Ok(Body::Text(Text::new(content, kernel.files.buffers())?))
        }
        Node::Pts(Pts::Slave(index)) => {
            let terminal = kernel.files.terminals().get(*index).ok_or(Errno::ENOENT)?;
            let slave = kernel.files.terminals().open_slave(&terminal)?;
            if !how.has(libc::O_NOCTTY) && how.access()? & READABLE != 0 {
                kernel.acquire_terminal(pid, &terminal);
            }
            Ok(Body::Terminal(slave))
        }
        Node::Pts(Pts::Root) | Node::Open(_) => Err(Errno::ENXIO),
    }
}

fn open_tmp(kernel: &mut Kernel, inode: &Arc<TmpInode>, how: OpenHow) -> Result<Body, Errno> {
    let access = how.access()?;
    let now = Time::from_ns(kernel.clock.realtime_ns());
    if access & WRITABLE != 0 || how.has(libc::O_TRUNC) {
        inode.pin()?;
    }
    let mut state = inode.state();
    match &mut state.content {
        Content::Regular(pages) => {
            if how.has(libc::O_TRUNC) {
                pages.truncate(&mut kernel.frames, 0)?;
                state.modified = now;
                state.changed = now;
            }
            Ok(Body::Tmp(inode.clone()))
        }
        Content::Fifo(pipe) => {
            let is_without_reader = access == WRITABLE && !pipe.has_reader();
            if how.has(libc::O_NONBLOCK) && is_without_reader {
                return Err(Errno::ENXIO);
            }
            Ok(Body::Pipe(pipe.open(access & READABLE != 0, access & WRITABLE != 0)))
        }
        Content::Socket(_) => Err(Errno::ENXIO),
        Content::Directory(_) | Content::Link(_) => Err(Errno::ELOOP),
    }
}

/// Opens what an entry of `/proc/self/fd` stands for.
fn reopen(
    kernel: &mut Kernel,
    pid: Pid,
    file: &Arc<OpenFile>,
    path: Vec<u8>,
    how: OpenHow,
) -> Result<Arc<OpenFile>, Errno> {
    if let Some(location) = &file.location {
        return open_location(kernel, pid, location, path, how);
    }
    let access = how.access()?;
    let body = match &file.body {
        Body::Pipe(end) => Body::Pipe(end.pipe().reopen(access & READABLE != 0, access & WRITABLE != 0)),
        Body::ConsoleInput if access == READABLE => Body::ConsoleInput,
        Body::ConsoleOutput(stream) if access == WRITABLE => Body::ConsoleOutput(*stream),
        Body::ConsoleInput | Body::ConsoleOutput(_) => return Err(Errno::EACCES),
        Body::Tmp(inode) => open_tmp(kernel, inode, how)?,
        _ => return Err(Errno::ENXIO),
    };
    Ok(OpenFile::new(body, None, path.into(), access, how.flags as u32))
}

/// A file that may be executed.
#[derive(Debug, Clone)]
pub struct ExecutableFile {
    /// Its content.
    pub mapping: Mapping,
    /// Its absolute path, symbolic links resolved.
    pub path: Vec<u8>,
    /// Type and permissions.
    pub mode: u32,
    /// Length in bytes.
    pub size: u64,
}

/// Opens a file for `execve` and for the program interpreter. `EACCES` unless it is a regular file with the right to
/// execute it.
pub fn open_executable(kernel: &Kernel, pid: Pid, base: &Location, path: &[u8]) -> Result<ExecutableFile, Errno> {
    let walker = Walker::new(kernel, pid)?;
    let found = walker.find(base, path, Follow::Yes)?;
    let location = found.location.as_ref().ok_or(Errno::ENOENT)?;
    executable_at(kernel, walker, location, found.path(kernel, location))
}

/// A file in the tree as one that may be executed, with the same checks.
pub fn executable(kernel: &Kernel, pid: Pid, location: &Location) -> Result<ExecutableFile, Errno> {
    let path = location.path(&kernel.files).unwrap_or_default();
    executable_at(kernel, Walker::new(kernel, pid)?, location, path)
}

fn executable_at(
    kernel: &Kernel,
    walker: Walker<'_>,
    location: &Location,
    path: Vec<u8>,
) -> Result<ExecutableFile, Errno> {
    let metadata = location.metadata(kernel)?;
    if metadata.kind() != libc::S_IFREG {
        return Err(Errno::EACCES);
    }
    metadata.check(walker.credentials(), MAY_EXECUTE)?;
    let shared_path: Arc<[u8]> = path.clone().into();
    let mapping = match &location.node {
        Node::Host(entry) => {
            let file = Arc::new(entry.open()?);
            Mapping::of_host(file, shared_path, metadata.device, metadata.inode)
        }
        Node::Tmp(inode) => Mapping::of_tmp(inode.clone(), shared_path),
        Node::Open(file) => match &file.location {
            Some(location) if !matches!(location.node, Node::Open(_)) => {
                return executable_at(kernel, walker, location, path);
            }
            _ => file.mapping().map_err(|_| Errno::EACCES)?,
        },
        Node::Fixed(_) | Node::Proc(_) | Node::Pts(_) => return Err(Errno::EACCES),
    };
    Ok(ExecutableFile { mapping, path, mode: metadata.mode, size: metadata.size })
}
