//! From a call's arguments to descriptors and places in the tree, and from `EAGAIN` to a wait.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::call::Call;
use crate::errno::Errno;
use crate::file::{Body, OpenFile};
use crate::fs::metadata::Time;
use crate::fs::walk::{Follow, Walker};
use crate::fs::{Location, Node};
use crate::outcome::{Stop, SysResult, Wait};
use crate::signal::{Info, Signal};

impl Call<'_> {
    /// The open file behind a descriptor argument.
    pub fn file(&mut self, index: usize) -> Result<Arc<OpenFile>, Errno> {
        self.file_of(self.int(index))
    }

    /// The open file behind a descriptor.
    pub fn file_of(&mut self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        self.process().files.get(fd)
    }

    /// The open file behind a descriptor argument, `EBADF` if it is only a name (`O_PATH`).
    pub fn usable_file(&mut self, index: usize) -> Result<Arc<OpenFile>, Errno> {
        let file = self.file(index)?;
        if file.is_path_only() { Err(Errno::EBADF) } else { Ok(file) }
    }

    /// Gives a new open file a descriptor.
    pub fn install(&mut self, file: Arc<OpenFile>, is_closed_on_exec: bool) -> Result<i32, Errno> {
        self.process().files.insert(file, is_closed_on_exec)
    }

    /// The directory that a path is relative to: that of a descriptor, or the working directory (`AT_FDCWD`).
    pub fn base(&mut self, fd: i32, path: &[u8]) -> Result<Location, Errno> {
        if path.first() == Some(&b'/') {
            return Ok(self.kernel.files.root());
        }
        if fd == libc::AT_FDCWD {
            return Ok(self.process().cwd());
        }
        let file = self.file_of(fd)?;
        match &file.location {
            Some(location) if path.is_empty() || location.is_directory() => Ok(location.clone()),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The directory of a descriptor, which even an absolute path is resolved below (`RESOLVE_IN_ROOT`).
    pub fn location_of_directory(&mut self, fd: i32) -> Result<Location, Errno> {
        let location = self.location_of(fd)?;
        if location.is_directory() { Ok(location) } else { Err(Errno::ENOTDIR) }
    }

    /// The file that a path means. With `AT_EMPTY_PATH` among `flags` and an empty path it is that of the descriptor;
    /// with `AT_SYMLINK_NOFOLLOW` a link at the end is not followed.
    pub fn locate(&mut self, fd: i32, path: &[u8], flags: i32) -> Result<Location, Errno> {
        if path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
            return self.location_of(fd);
        }
        let follow = if flags & libc::AT_SYMLINK_NOFOLLOW != 0 { Follow::No } else { Follow::Yes };
        let base = self.base(fd, path)?;
        Walker::new(self.kernel, self.pid)?.existing(&base, path, follow)
    }

    /// The file behind a descriptor as a place in the tree.
    pub fn location_of(&mut self, fd: i32) -> Result<Location, Errno> {
        if fd == libc::AT_FDCWD {
            return Ok(self.process().cwd());
        }
        let file = self.file_of(fd)?;
        match (&file.location, &file.body) {
            (Some(location), _) => Ok(location.clone()),
            (None, Body::Tmp(inode)) => Ok(Location::from(Node::Tmp(inode.clone()))),
            _ => Ok(Location::from(Node::Open(file))),
        }
    }

    /// Bits of a mode argument that remain after the umask.
    pub fn permissions(&mut self, mode: u64) -> u32 {
        let umask = self.process().umask();
        mode as u32 & 0o7777 & !umask
    }

    /// Now, of the realtime clock.
    pub fn now(&self) -> Time {
        Time::from_ns(self.kernel.clock.realtime_ns())
    }

    /// Turns `EAGAIN` of an object into a wait for it, unless the caller does not want to wait.
    pub fn or_wait<T>(
        &mut self,
        file: &OpenFile,
        result: Result<T, Errno>,
        is_nonblocking: bool,
        timeout_ns: Option<u64>,
    ) -> Result<T, Stop> {
        match result {
            Err(Errno::EAGAIN) if !is_nonblocking && !self.has_timed_out() => {
                if self.is_interrupted() {
                    return Err(Errno::EINTR.into());
                }
                let mut keys = BTreeSet::new();
                file.wait_keys(self.kernel, &mut keys);
                Err(Stop::Block(Wait { keys: keys.into_iter().collect(), deadline_ns: self.deadline(timeout_ns) }))
            }
            Err(errno) => Err(errno.into()),
            Ok(value) => Ok(value),
        }
    }

    /// Sends the caller `SIGXFSZ`: it wanted to make a file larger than `RLIMIT_FSIZE`.
    pub fn signal_file_too_large(&mut self) {
        if let Some(signal) = Signal::new(libc::SIGXFSZ)
            && let Err(errno) = self.kernel.signal_thread(self.tid, Info::from_kernel(signal))
        {
            tracing::debug!(errno = errno.name(), "SIGXFSZ not delivered");
        }
    }

    /// Sends the caller `SIGPIPE` if a write has failed for want of a reader.
    pub fn signal_broken_pipe<T>(&mut self, result: &Result<T, Errno>) {
        if matches!(result, Err(Errno::EPIPE))
            && let Some(signal) = Signal::new(libc::SIGPIPE)
            && let Err(errno) = self.kernel.signal_thread(self.tid, Info::from_kernel(signal))
        {
            tracing::debug!(errno = errno.name(), "SIGPIPE not delivered");
        }
    }
}

/// A handler's result for a count of bytes.
pub fn count(bytes: usize) -> SysResult {
    Ok(bytes as u64)
}
