//! Open files: what a descriptor stands for.
//!
//! An [`OpenFile`] is a position, status flags and a [`Body`], the object itself. Objects never block: they return
//! `EAGAIN`, and the system call turns that into a wait for [`OpenFile::wait_keys`]. An object whose last descriptor is
//! closed is dropped, and rings what has to know ([`crate::notifier`]).

pub mod buffers;
pub mod epoll;
pub mod event;
pub mod inotify;
mod io;
pub mod lock;
pub(crate) mod mapping;
pub mod owner;
pub mod pidfd;
pub mod pipe;
pub mod readiness;
pub(crate) mod saved;
pub mod signalfd;
pub(crate) mod table;
pub mod timer;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

pub use mapping::Mapping;
pub use table::{DESCRIPTORS_MAX, FdTable};

use crate::console::Stream;
use crate::errno::Errno;
use crate::file::buffers::{Buffers, Reservation};
use crate::file::epoll::{Epoll, Findings};
use crate::file::event::EventFd;
use crate::file::inotify::{Inotify, Watches};
use crate::file::lock::{FileKey, OpenLocks};
use crate::file::pidfd::PidFd;
use crate::file::pipe::PipeEnd;
use crate::file::signalfd::SignalFd;
use crate::file::timer::TimerFd;
use crate::fs::Location;
use crate::fs::fixed::Device;
use crate::fs::host::HostFile;
use crate::fs::listing::Entry;
use crate::fs::metadata::{Metadata, device_number};
use crate::fs::tmp::{Content, TmpInode};
use crate::kernel::Kernel;
use crate::net::Socket;
use crate::notifier::Beacon;
use crate::outcome::WaitKey;
use crate::tty::TerminalEnd;

/// May be read (`O_RDONLY`, `O_RDWR`).
pub const READABLE: u32 = 1;
/// May be written (`O_WRONLY`, `O_RDWR`).
pub const WRITABLE: u32 = 2;

/// Flags of `open(2)` that `fcntl(F_SETFL)` may change.
pub const CHANGEABLE_FLAGS: u32 = (libc::O_APPEND | libc::O_NONBLOCK | libc::O_DIRECT | libc::O_NOATIME) as u32;

/// Minor device number of objects without a name.
const ANONYMOUS_DEVICE_MINOR: u32 = 14;

/// An open file description: `open(2)`.
#[derive(Debug)]
pub struct OpenFile {
    /// The object.
    pub body: Body,
    /// Where it was opened; nothing for objects without a name.
    pub location: Option<Location>,
    path: Arc<[u8]>,
    access: u32,
    flags: AtomicU32,
    offset: Mutex<u64>,
    locks: OnceLock<OpenLocks>,
    /// Who is told by a signal when there is something to read.
    ownership: Mutex<owner::Ownership>,
    /// Who is told of what happens through it; nobody of objects without a name.
    watches: OnceLock<Watches>,
}

/// What is open.
#[derive(Debug)]
pub enum Body {
    /// A file of the host.
    Host(Arc<HostFile>),
    /// A regular file in guest memory.
    Tmp(Arc<TmpInode>),
    /// A directory: its names, once they were asked for.
    Directory(Mutex<Option<Listing>>),
    /// A file with content of the monitor's making. Writes are taken and forgotten where they are allowed.
    Text(Text),
    /// A character device.
    Device(Device),
    /// The guest's standard input.
    ConsoleInput,
    /// The guest's standard output or error.
    ConsoleOutput(Stream),
    /// An end of a pipe.
    Pipe(PipeEnd),
    /// `eventfd(2)`.
    Event(EventFd),
    /// `timerfd_create(2)`.
    Timer(TimerFd),
    /// `inotify(7)`.
    Inotify(Arc<Inotify>),
    /// `epoll(7)`.
    Epoll(Epoll),
    /// A socket.
    Socket(Arc<Socket>),
    /// `signalfd(2)`.
    Signal(SignalFd),
    /// `pidfd_open(2)`.
    Process(PidFd),
    /// An end of a pseudo-terminal.
    Terminal(TerminalEnd),
    /// `O_PATH`: only a name for a location.
    Path,
}

/// The names of a directory as they were when reading began.
#[derive(Debug)]
pub struct Listing {
    /// The names.
    pub entries: Vec<Entry>,
    _memory: Reservation,
}

impl Listing {
    /// Keeps names. `ENOMEM` if the guest keeps too much already.
    pub fn new(entries: Vec<Entry>, budget: &Buffers) -> Result<Self, Errno> {
        let memory = budget.reserve(Self::size(&entries))?;
        Ok(Self { entries, _memory: memory })
    }

    /// What names count on the monitor's heap.
    fn size(entries: &[Entry]) -> usize {
        entries.iter().map(|entry| size_of::<Entry>() + entry.name.len()).sum()
    }
}

/// Content as it was when the file was opened.
#[derive(Debug)]
pub struct Text {
    /// The content.
    pub bytes: Arc<[u8]>,
    _memory: Option<Reservation>,
}

impl Text {
    /// Content that exists only for this open file. `ENOMEM` if the guest keeps too much already.
    pub fn new(bytes: Vec<u8>, budget: &Buffers) -> Result<Self, Errno> {
        let memory = Some(budget.reserve(bytes.len())?);
        Ok(Self { bytes: bytes.into(), _memory: memory })
    }
}

impl From<Arc<[u8]>> for Text {
    /// Content that exists anyway.
    fn from(bytes: Arc<[u8]>) -> Self {
        Self { bytes, _memory: None }
    }
}

impl Body {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self, Body::Directory(_))
    }
}

impl OpenFile {
    /// An object without a name. `flags` are those of `open(2)`.
    pub fn anonymous(body: Body, path: &str, access: u32, flags: u32) -> Arc<Self> {
        Self::new(body, None, path.as_bytes().into(), access, flags)
    }

    /// A file that was opened by its name.
    pub fn new(body: Body, location: Option<Location>, path: Arc<[u8]>, access: u32, flags: u32) -> Arc<Self> {
        let kept = CHANGEABLE_FLAGS | (libc::O_PATH | libc::O_DIRECTORY | libc::O_SYNC | libc::O_DSYNC) as u32;
        let flags = AtomicU32::new(flags & kept);
        Arc::new(Self {
            body,
            location,
            path,
            access,
            flags,
            offset: Mutex::new(0),
            locks: OnceLock::new(),
            ownership: Mutex::default(),
            watches: OnceLock::new(),
        })
    }

    /// What `/proc/self/fd` shows.
    pub fn path(&self) -> Vec<u8> {
        match &self.body {
            Body::Pipe(_) | Body::Socket(_) if self.location.is_none() => {
                let mut path = self.path.to_vec();
                path.extend_from_slice(format!("[{}]", self.identity()).as_bytes());
                path
            }
            _ => self.path.to_vec(),
        }
    }

    /// A number that only this object has among those without a name.
    fn identity(&self) -> u64 {
        let mut keys = Vec::new();
        match &self.body {
            Body::Pipe(end) => return end.pipe().identity(),
            Body::Socket(socket) => keys.push(WaitKey::Object(socket.beacon().object())),
            Body::Event(event) => keys.push(WaitKey::Object(event.beacon().object())),
            Body::Inotify(inotify) => keys.push(WaitKey::Object(inotify.beacon().object())),
            Body::Timer(timer) => keys.push(WaitKey::Object(timer.beacon().object())),
            Body::Epoll(epoll) => keys.push(WaitKey::Object(epoll.beacon().object())),
            _ => {}
        }
        match keys.first() {
            Some(WaitKey::Object(object)) => object.0,
            _ => 1,
        }
    }

    /// It was opened by its name: whoever watches is told, of this and of what happens through it.
    pub fn tell_opened(&self, watches: &Watches) {
        self.watches.get_or_init(|| watches.clone());
        self.tell(libc::IN_OPEN);
    }

    /// Tells whoever watches it.
    pub fn tell(&self, event: u32) {
        if let (Some(watches), Some(location)) = (self.watches.get(), &self.location) {
            location.tell(watches, event);
        }
    }

    /// What its locks are known by.
    pub fn key(&self, kernel: &Kernel) -> Result<FileKey, Errno> {
        match &self.body {
            Body::Host(file) => Ok(file.device_and_inode()),
            Body::Tmp(inode) => Ok(inode.key()),
            _ => self.metadata(kernel).map(|metadata| (metadata.device, metadata.inode)),
        }
    }

    /// The key of a file that a process can have record locks on without the kernel's help.
    fn known_key(&self) -> Option<FileKey> {
        match &self.body {
            Body::Host(file) => Some(file.device_and_inode()),
            Body::Tmp(inode) => Some(inode.key()),
            _ => self.locks.get().map(OpenLocks::key),
        }
    }

    /// Its locks: of `flock(2)` and of `F_OFD_SETLK`.
    pub fn locks(&self, kernel: &Kernel) -> Result<&OpenLocks, Errno> {
        let key = self.key(kernel)?;
        Ok(self.locks.get_or_init(|| kernel.files.locks().new_open(key)))
    }

    /// Whether it takes bytes as there is room for them, and a blocking write waits for room.
    pub fn is_stream(&self) -> bool {
        matches!(self.body, Body::ConsoleOutput(_) | Body::Pipe(_) | Body::Socket(_) | Body::Terminal(_))
    }

    /// Whether it was opened for reading.
    pub fn is_readable(&self) -> bool {
        self.access & READABLE != 0
    }

    /// Whether it was opened for writing.
    pub fn is_writable(&self) -> bool {
        self.access & WRITABLE != 0
    }

    /// Flags as `fcntl(F_GETFL)` gives them.
    pub fn flags(&self) -> u32 {
        let access = match self.access {
            WRITABLE => libc::O_WRONLY,
            access if access == READABLE | WRITABLE => libc::O_RDWR,
            _ => libc::O_RDONLY,
        };
        self.flags.load(Ordering::Relaxed) | access as u32
    }

    /// Changes the flags that may change.
    pub fn set_flags(&self, flags: u32) {
        let kept = self.flags.load(Ordering::Relaxed) & !CHANGEABLE_FLAGS;
        self.flags.store(kept | flags & CHANGEABLE_FLAGS, Ordering::Relaxed);
    }

    /// Switches `O_NONBLOCK`.
    pub fn set_nonblocking(&self, is_nonblocking: bool) {
        self.set_flag(libc::O_NONBLOCK, is_nonblocking);
    }

    fn set_flag(&self, flag: i32, is_set: bool) {
        let flags = self.flags.load(Ordering::Relaxed);
        let bit = flag as u32;
        self.flags.store(if is_set { flags | bit } else { flags & !bit }, Ordering::Relaxed);
    }

    /// Whether operations fail with `EAGAIN` instead of waiting.
    pub fn is_nonblocking(&self) -> bool {
        self.has_flag(libc::O_NONBLOCK)
    }

    fn has_flag(&self, flag: i32) -> bool {
        self.flags.load(Ordering::Relaxed) & flag as u32 != 0
    }

    /// Whether it is only a name (`O_PATH`): most calls refuse it with `EBADF`.
    pub fn is_path_only(&self) -> bool {
        matches!(self.body, Body::Path)
    }

    /// The file of the host whose bytes it has, if it is one, or is one that nobody has changed in an overlay.
    pub fn host_file(&self) -> Option<Result<Arc<HostFile>, Errno>> {
        match &self.body {
            Body::Host(file) => Some(Ok(file.clone())),
            Body::Tmp(inode) => match &inode.state().content {
                Content::Regular(pages) => pages.unchanged(),
                _ => None,
            },
            _ => None,
        }
    }

    /// The socket, `ENOTSOCK` if it is none.
    pub fn socket(&self) -> Result<&Arc<Socket>, Errno> {
        match &self.body {
            Body::Socket(socket) => Ok(socket),
            Body::Path => Err(Errno::EBADF),
            _ => Err(Errno::ENOTSOCK),
        }
    }

    /// How long reading waits, where there is a limit (`SO_RCVTIMEO`).
    pub fn receive_timeout_ns(&self) -> Option<u64> {
        match &self.body {
            Body::Socket(socket) => socket.receive_timeout_ns(),
            _ => None,
        }
    }

    /// How long writing waits, where there is a limit (`SO_SNDTIMEO`).
    pub fn send_timeout_ns(&self) -> Option<u64> {
        match &self.body {
            Body::Socket(socket) => socket.send_timeout_ns(),
            _ => None,
        }
    }

    /// What `fstat(2)` tells.
    pub fn metadata(&self, kernel: &Kernel) -> Result<Metadata, Errno> {
        if let Body::Host(file) = &self.body {
            return file.metadata(kernel.files.hosts());
        }
        if let Some(location) = &self.location {
            return location.metadata(kernel);
        }
        let mode = match &self.body {
            Body::Tmp(inode) => return Ok(inode.metadata()),
            Body::Pipe(_) | Body::ConsoleInput | Body::ConsoleOutput(_) => libc::S_IFIFO | 0o600,
            Body::Socket(_) => libc::S_IFSOCK | 0o777,
            _ => 0o600,
        };
        let started = kernel.files.started();
        Ok(Metadata {
            device: device_number(0, ANONYMOUS_DEVICE_MINOR),
            inode: self.identity(),
            mode,
            links: 1,
            accessed: started,
            modified: started,
            changed: started,
            ..Metadata::default()
        })
    }

    /// What can be done without blocking.
    pub fn readiness(&self, kernel: &Kernel) -> u32 {
        self.readiness_with(kernel, &mut Findings::default())
    }

    /// The same, in a call that looks at several files.
    pub fn readiness_with(&self, kernel: &Kernel, findings: &mut Findings) -> u32 {
        match &self.body {
            Body::ConsoleInput => readiness::from(kernel.console.is_readable(), false),
            Body::ConsoleOutput(_) => readiness::from(false, kernel.console.output_room() > 0),
            Body::Pipe(end) => end.readiness(),
            Body::Event(event) => event.readiness(),
            Body::Inotify(inotify) => inotify.readiness(),
            Body::Timer(timer) => timer.readiness(kernel.clock.monotonic_ns()),
            Body::Epoll(epoll) => readiness::from(epoll.has_ready(kernel, 0, findings), false),
            Body::Socket(socket) => socket.readiness(),
            Body::Signal(signals) => signals.readiness(kernel),
            Body::Process(process) => process.readiness(),
            Body::Terminal(end) => end.readiness(),
            _ => readiness::BOTH,
        }
    }

    /// What to wait for when it is not ready.
    pub fn wait_keys(&self, kernel: &Kernel, keys: &mut BTreeSet<WaitKey>) {
        match &self.body {
            Body::ConsoleInput | Body::ConsoleOutput(_) => {
                keys.insert(WaitKey::Object(kernel.console.beacon().object()));
            }
            Body::Pipe(end) => keys.extend(end.beacons().map(|beacon| WaitKey::Object(beacon.object()))),
            Body::Inotify(inotify) => _ = keys.insert(WaitKey::Object(inotify.beacon().object())),
            Body::Terminal(end) => _ = keys.insert(WaitKey::Object(end.beacon().object())),
            Body::Event(event) => _ = keys.insert(WaitKey::Object(event.beacon().object())),
            Body::Timer(timer) => _ = keys.insert(WaitKey::Object(timer.beacon().object())),
            Body::Epoll(epoll) => epoll.wait_keys(kernel, keys, 0),
            Body::Socket(socket) => _ = keys.insert(WaitKey::Object(socket.beacon().object())),
            Body::Signal(_) => _ = kernel.calling_process().map(|process| keys.insert(WaitKey::Signals(process.pid))),
            Body::Process(process) => _ = keys.insert(WaitKey::Object(process.life().beacon().object())),
            _ => {}
        }
    }

    /// Counts changes of readiness, for edge-triggered epoll.
    pub fn changes(&self, kernel: &Kernel) -> u64 {
        match &self.body {
            Body::ConsoleInput | Body::ConsoleOutput(_) => kernel.console.beacon().changes(),
            Body::Pipe(end) => end.beacons().map(Beacon::changes).sum(),
            Body::Event(event) => event.beacon().changes(),
            Body::Inotify(inotify) => inotify.beacon().changes(),
            Body::Timer(timer) => timer.changes(kernel.clock.monotonic_ns()),
            Body::Epoll(epoll) => epoll.changes(kernel, 0, &mut Findings::default()),
            Body::Socket(socket) => socket.beacon().changes(),
            Body::Signal(_) => kernel.calling_process().map_or(0, |process| process.signals_sent),
            Body::Process(process) => process.life().beacon().changes(),
            Body::Terminal(end) => end.beacon().changes(),
            _ => 0,
        }
    }

    /// Whether epoll can watch it; regular files and directories are always ready, and refused with `EPERM`.
    pub fn is_pollable(&self) -> bool {
        !matches!(
            self.body,
            Body::Host(_) | Body::Tmp(_) | Body::Directory(_) | Body::Text(_) | Body::Device(_) | Body::Path
        )
    }

    /// What `mmap` needs. `ENODEV` if it cannot be mapped.
    pub fn mapping(&self) -> Result<Mapping, Errno> {
        match &self.body {
            Body::Host(file) => {
                let (device, inode) = file.device_and_inode();
                Ok(Mapping::of_host(file.clone(), self.path.clone(), device, inode))
            }
            Body::Tmp(inode) => Ok(Mapping::of_tmp(inode.clone(), self.path.clone())),
            Body::Device(Device::Zero) => Ok(Mapping::of_zeros(self.path.clone())),
            Body::Path => Err(Errno::EBADF),
            _ => Err(Errno::ENODEV),
        }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.tell(if self.is_writable() { libc::IN_CLOSE_WRITE } else { libc::IN_CLOSE_NOWRITE });
    }
}

/// A table with the standard streams as descriptors 0, 1 and 2.
pub fn standard_streams() -> FdTable {
    let mut table = FdTable::default();
    let streams = [
        (Body::ConsoleInput, READABLE),
        (Body::ConsoleOutput(Stream::Output), WRITABLE),
        (Body::ConsoleOutput(Stream::Error), WRITABLE),
    ];
    for (fd, (body, access)) in (0..).zip(streams) {
        let file = OpenFile::anonymous(body, &format!("pipe:[{}]", fd + 1), access, 0);
        table.insert_at_least(file, false, fd).expect("a new table has room");
    }
    table
}
