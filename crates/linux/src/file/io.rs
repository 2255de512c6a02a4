//! Reading, writing and seeking of open files, by what they are.

use crate::console::Stream;
use crate::errno::Errno;
use crate::file::{Body, OpenFile};
use crate::fs::fixed::Device;
use crate::fs::metadata::Time;
use crate::fs::pages::FILE_BYTES_MAX;
use crate::fs::tmp::{Content, TmpInode};
use crate::kernel::Kernel;
use crate::random;
use crate::tty::TerminalEnd;

impl OpenFile {
    /// Reads up to `length` bytes, at the file's own position or at the given one. `EAGAIN` if it would have to wait.
    /// The caller bounds `length`.
    pub fn read(&self, kernel: &mut Kernel, position: Option<u64>, length: usize) -> Result<Vec<u8>, Errno> {
        if !self.is_readable() || self.is_path_only() {
            return Err(Errno::EBADF);
        }
        match &self.body {
            Body::Host(file) => self.read_positioned(position, |offset| {
                let mut buffer = vec![0; length];
                let count = file.read_at(offset, &mut buffer)?;
                buffer.truncate(count);
                Ok(buffer)
            }),
            Body::Tmp(inode) => self.read_positioned(position, |offset| read_tmp(inode, kernel, offset, length)),
            Body::Text(text) => self.read_positioned(position, |offset| {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.bytes.len());
                let end = start.saturating_add(length).min(text.bytes.len());
                Ok(text.bytes[start..end].to_vec())
            }),
            Body::Directory(_) => Err(Errno::EISDIR),
            Body::Device(device) => read_device(*device, length),
            _ if position.is_some() => Err(Errno::ESPIPE),
            Body::ConsoleInput if length == 0 => Ok(Vec::new()),
            Body::ConsoleInput => kernel.console.read(length).ok_or(Errno::EAGAIN),
            Body::Pipe(end) => end.read(length),
            Body::Event(event) => event.read(length),
            Body::Inotify(inotify) => inotify.read(length),
            Body::Timer(timer) => timer.read(kernel.clock.monotonic_ns(), length),
            Body::Socket(socket) => socket.read(kernel, length),
            Body::Signal(signals) => signals.read(kernel, length),
            Body::Terminal(end) => end.read(length),
            Body::ConsoleOutput(_) | Body::Epoll(_) | Body::Process(_) | Body::Path => Err(Errno::EINVAL),
        }
    }

    fn read_positioned(
        &self,
        position: Option<u64>,
        read: impl FnOnce(u64) -> Result<Vec<u8>, Errno>,
    ) -> Result<Vec<u8>, Errno> {
        if let Some(offset) = position {
            return read(offset);
        }
        let mut offset = self.offset.lock();
        let bytes = read(*offset)?;
        *offset += bytes.len() as u64;
        Ok(bytes)
    }

    /// Writes bytes, at the file's own position or at the given one, as many as there is room for. `EAGAIN` if it would
    /// have to wait for room for the first.
    pub fn write(&self, kernel: &mut Kernel, position: Option<u64>, bytes: &[u8]) -> Result<usize, Errno> {
        self.write_or_append(kernel, position, bytes, false)
    }

    /// As [`OpenFile::write`]; `is_appending` means the end of a regular file, as if it had been opened so.
    pub fn write_or_append(
        &self,
        kernel: &mut Kernel,
        position: Option<u64>,
        bytes: &[u8],
        is_appending: bool,
    ) -> Result<usize, Errno> {
        if !self.is_writable() || self.is_path_only() {
            return Err(Errno::EBADF);
        }
        match &self.body {
            Body::Tmp(inode) => self.write_tmp(inode, kernel, position, bytes, is_appending),
            Body::Text(_) => Ok(bytes.len()),
            Body::Device(Device::Full) => Err(Errno::ENOSPC),
            Body::Device(_) => Ok(bytes.len()),
            _ if position.is_some() => Err(Errno::ESPIPE),
            Body::ConsoleOutput(stream) => write_console(kernel, *stream, bytes),
            Body::Pipe(end) => end.write(bytes),
            Body::Event(event) => event.write(bytes),
            Body::Terminal(end) => write_terminal(kernel, end, bytes),
            Body::Socket(socket) => socket.write(kernel, bytes),
            Body::Host(_) => Err(Errno::EROFS),
            Body::Directory(_) => Err(Errno::EISDIR),
            Body::ConsoleInput
            | Body::Inotify(_)
            | Body::Timer(_)
            | Body::Epoll(_)
            | Body::Signal(_)
            | Body::Process(_)
            | Body::Path => Err(Errno::EINVAL),
        }
    }

    fn write_tmp(
        &self,
        inode: &TmpInode,
        kernel: &mut Kernel,
        position: Option<u64>,
        bytes: &[u8],
        is_appending: bool,
    ) -> Result<usize, Errno> {
        let now = Time::from_ns(kernel.clock.realtime_ns());
        let mut state = inode.state();
        let seals = state.seals;
        let Content::Regular(pages) = &mut state.content else { return Err(Errno::EINVAL) };
        let mut own = self.offset.lock();
        let is_appending = is_appending || self.has_flag(libc::O_APPEND);
        let offset = if is_appending { pages.size() } else { position.unwrap_or(*own) };
        if !bytes.is_empty() {
            seals.check_write(pages.size(), offset.saturating_add(bytes.len() as u64))?;
        }
        let written = pages.write(&mut kernel.frames, offset, bytes)?;
        if position.is_none() {
            *own = offset + written as u64;
        }
        if written > 0 {
            state.modified = now;
            state.changed = now;
        }
        Ok(written)
    }

    /// Where a write would begin.
    pub fn write_position(&self, position: Option<u64>, is_appending: bool) -> u64 {
        match &self.body {
            Body::Tmp(inode) if is_appending || self.has_flag(libc::O_APPEND) => inode.metadata().size,
            _ => position.unwrap_or_else(|| self.offset()),
        }
    }

    /// The position.
    pub fn offset(&self) -> u64 {
        *self.offset.lock()
    }

    /// Sets the position, for what has a meaning of its own for it (directories).
    pub fn set_offset(&self, offset: u64) {
        *self.offset.lock() = offset;
    }

    /// `lseek(2)`: the new position.
    pub fn seek(&self, offset: i64, whence: i32) -> Result<u64, Errno> {
        let size = match &self.body {
            Body::Path => return Err(Errno::EBADF),
            Body::Host(file) => file.size()?,
            Body::Tmp(inode) => inode.metadata().size,
            Body::Text(text) => text.bytes.len() as u64,
            Body::Directory(_) => 0,
            Body::Device(_) => return Ok(0),
            // As Linux has it for objects without a position.
            Body::Event(_) | Body::Timer(_) | Body::Epoll(_) | Body::Signal(_) | Body::Inotify(_) => return Ok(0),
            _ => return Err(Errno::ESPIPE),
        };
        let from = |base: u64| {
            let base = i64::try_from(base).map_err(|_| Errno::EOVERFLOW)?;
            let sum = base.checked_add(offset).ok_or(Errno::EOVERFLOW)?;
            u64::try_from(sum).map_err(|_| Errno::EINVAL)
        };
        let new = match whence {
            libc::SEEK_SET => from(0)?,
            libc::SEEK_CUR => from(self.offset())?,
            libc::SEEK_END => from(size)?,
            libc::SEEK_DATA | libc::SEEK_HOLE => {
                let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                self.seek_data(offset, size, whence == libc::SEEK_DATA)?
            }
            _ => return Err(Errno::EINVAL),
        };
        if new > FILE_BYTES_MAX && !matches!(self.body, Body::Host(_) | Body::Directory(_)) {
            return Err(Errno::EINVAL);
        }
        if let Body::Directory(entries) = &self.body
            && new == 0
        {
            *entries.lock() = None;
        }
        self.set_offset(new);
        Ok(new)
    }

    fn seek_data(&self, offset: u64, size: u64, is_data_wanted: bool) -> Result<u64, Errno> {
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        match &self.body {
            Body::Tmp(inode) => match &inode.state().content {
                Content::Regular(pages) => pages.seek(offset, is_data_wanted).ok_or(Errno::ENXIO),
                _ => Err(Errno::EINVAL),
            },
            _ => Ok(if is_data_wanted { offset } else { size }),
        }
    }
}

fn read_tmp(inode: &TmpInode, kernel: &Kernel, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let state = inode.state();
    let Content::Regular(pages) = &state.content else { return Err(Errno::EINVAL) };
    let rest = usize::try_from(pages.size().saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut buffer = vec![0; length.min(rest)];
    let count = pages.read(&kernel.frames, offset, &mut buffer)?;
    buffer.truncate(count);
    Ok(buffer)
}

fn read_device(device: Device, length: usize) -> Result<Vec<u8>, Errno> {
    match device {
        Device::Null => Ok(Vec::new()),
        Device::Zero | Device::Full => Ok(vec![0; length]),
        Device::Random | Device::Urandom => {
            let mut bytes = vec![0; length];
            random::fill(&mut bytes);
            Ok(bytes)
        }
        // These become something else when they are opened.
        Device::Terminal | Device::Multiplexer => Err(Errno::EIO),
    }
}

fn write_terminal(kernel: &mut Kernel, end: &TerminalEnd, bytes: &[u8]) -> Result<usize, Errno> {
    let (taken, signals) = end.write(bytes)?;
    for signal in signals {
        kernel.signal_foreground(end.terminal(), signal);
    }
    Ok(taken)
}

fn write_console(kernel: &mut Kernel, stream: Stream, bytes: &[u8]) -> Result<usize, Errno> {
    match kernel.console.write(stream, bytes) {
        0 if !bytes.is_empty() => Err(Errno::EAGAIN),
        written => Ok(written),
    }
}
