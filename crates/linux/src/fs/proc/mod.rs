//! `/proc`: made up from the kernel's state when it is looked at. A file's content is fixed when it is opened.
//!
//! `system` has the files about the whole guest, `process` those about one process; both are tables.

mod process;
pub(crate) mod processor;
pub(crate) mod saved;
pub(crate) mod system;

use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crate::errno::Errno;
use crate::fs::listing::{Entry, entry_kind};
use crate::fs::metadata::{Metadata, device_number};
use crate::fs::node::{Location, Node, Target};
use crate::kernel::Kernel;
use crate::process::{Pid, Process};
use crate::waits::Tid;

pub use process::Link;

const DEVICE_MINOR: u32 = 4;

/// A file of `/proc`. Nothing of it exists but its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proc {
    /// `/proc`.
    Root,
    /// `/proc/self`.
    OwnProcess,
    /// `/proc/thread-self`.
    OwnThread,
    /// `/proc/mounts`.
    OwnMounts,
    /// `/proc/<path>`, on the way to a file about the guest.
    SystemDirectory(&'static str),
    /// A file about the guest, by its place in the table.
    System(usize),
    /// `/proc/<pid>`, or `/proc/<pid>/task/<tid>`.
    Process(Owner),
    /// `/proc/<pid>/task`.
    Tasks(Pid),
    /// A file about a process, by its place in the table.
    ProcessFile(Owner, usize),
    /// `exe`, `cwd` or `root`.
    Link(Owner, Link),
    /// `fd`.
    Descriptors(Owner),
    /// `fd/<number>`.
    Descriptor(Owner, i32),
    /// `fdinfo`.
    DescriptorInfos(Owner),
    /// `fdinfo/<number>`.
    DescriptorInfo(Owner, i32),
}

/// Whose directory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The process.
    pub pid: Pid,
    /// The thread, below `task`.
    pub tid: Option<Tid>,
}

impl Owner {
    /// The thread that the directory speaks of.
    fn thread(self) -> Tid {
        self.tid.unwrap_or(self.pid)
    }

    fn process(self, kernel: &Kernel) -> Result<&Process, Errno> {
        kernel.processes.get(&self.pid).ok_or(Errno::ESRCH)
    }
}

fn number<T: std::str::FromStr + ToString>(name: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(name).ok()?;
    text.parse::<T>().ok().filter(|number| number.to_string() == text)
}

impl Proc {
    /// What `stat(2)` tells. Sizes are zero, as on Linux.
    pub fn metadata(self, kernel: &Kernel) -> Result<Metadata, Errno> {
        let mode = match self {
            Proc::Descriptor(..) => libc::S_IFLNK | 0o700,
            Proc::OwnProcess | Proc::OwnThread | Proc::OwnMounts | Proc::Link(..) => libc::S_IFLNK | 0o777,
            _ if self.is_directory() => libc::S_IFDIR | 0o555,
            _ if self.is_writable() => libc::S_IFREG | 0o644,
            _ => libc::S_IFREG | 0o444,
        };
        let started = kernel.files.started();
        let credentials =
            self.owner().and_then(|owner| kernel.processes.get(&owner.pid)).map(|process| &process.credentials);
        Ok(Metadata {
            device: device_number(0, DEVICE_MINOR),
            inode: self.inode(),
            mode,
            links: 1,
            uid: credentials.map_or(0, |credentials| credentials.uid_effective),
            gid: credentials.map_or(0, |credentials| credentials.gid_effective),
            accessed: started,
            modified: started,
            changed: started,
            ..Metadata::default()
        })
    }

    fn owner(self) -> Option<Owner> {
        match self {
            Proc::Tasks(pid) => Some(Owner { pid, tid: None }),
            Proc::Process(owner)
            | Proc::ProcessFile(owner, _)
            | Proc::Link(owner, _)
            | Proc::Descriptors(owner)
            | Proc::Descriptor(owner, _)
            | Proc::DescriptorInfos(owner)
            | Proc::DescriptorInfo(owner, _) => Some(owner),
            _ => None,
        }
    }

    fn inode(self) -> u64 {
        let (kind, detail) = match self {
            Proc::Root => (1, 0),
            Proc::OwnProcess => (2, 0),
            Proc::OwnThread => (3, 0),
            Proc::OwnMounts => (14, 0),
            Proc::SystemDirectory(path) => {
                (4, system::FILES.iter().position(|file| file.path.starts_with(path)).unwrap_or(0))
            }
            Proc::System(index) => (5, index),
            Proc::Process(_) => (6, 0),
            Proc::Tasks(_) => (7, 0),
            Proc::ProcessFile(_, index) => (8, index),
            Proc::Link(_, link) => (9, link as usize),
            Proc::Descriptors(_) => (10, 0),
            Proc::Descriptor(_, fd) => (11, fd as usize),
            Proc::DescriptorInfos(_) => (12, 0),
            Proc::DescriptorInfo(_, fd) => (13, fd as usize),
        };
        let whose = self.owner().map_or(0, |owner| u64::from(owner.thread()) << 1 | u64::from(owner.tid.is_some()));
        whose << 20 | kind << 14 | detail as u64
    }

    /// Whether it is a directory.
    pub fn is_directory(self) -> bool {
        matches!(
            self,
            Proc::Root
                | Proc::SystemDirectory(_)
                | Proc::Process(_)
                | Proc::Tasks(_)
                | Proc::Descriptors(_)
                | Proc::DescriptorInfos(_)
        )
    }

    /// Whether writes are accepted: they have no effect on a guest of ours.
    pub fn is_writable(self) -> bool {
        matches!(self, Proc::ProcessFile(_, index) if process::FILES[index].is_writable)
    }

    /// Looks a name up for a process.
    pub fn lookup(self, kernel: &Kernel, _caller: Pid, name: &[u8]) -> Result<Option<Proc>, Errno> {
        Ok(match self {
            Proc::Root => match name {
                b"self" => Some(Proc::OwnProcess),
                b"thread-self" => Some(Proc::OwnThread),
                b"mounts" => Some(Proc::OwnMounts),
                _ => number(name)
                    .filter(|pid| kernel.processes.contains_key(pid))
                    .map(|pid| Proc::Process(Owner { pid, tid: None }))
                    .or_else(|| system::lookup("", name)),
            },
            Proc::SystemDirectory(path) => system::lookup(path, name),
            Proc::Process(owner) => process::lookup(kernel, owner, name),
            Proc::Tasks(pid) => number(name)
                .filter(|tid| kernel.threads.get(tid).is_some_and(|thread| thread.pid == pid))
                .map(|tid| Proc::Process(Owner { pid, tid: Some(tid) })),
            Proc::Descriptors(owner) => descriptor(kernel, owner, name)?.map(|fd| Proc::Descriptor(owner, fd)),
            Proc::DescriptorInfos(owner) => descriptor(kernel, owner, name)?.map(|fd| Proc::DescriptorInfo(owner, fd)),
            _ => return Err(Errno::ENOTDIR),
        })
    }

    /// The directory it is in, and its name there; nothing for `/proc` itself, which is mounted.
    pub fn parent(self) -> Option<(Proc, Vec<u8>)> {
        let (parent, name) = match self {
            Proc::Root => return None,
            Proc::OwnMounts => (Proc::Root, "mounts".to_owned()),
            Proc::OwnProcess => (Proc::Root, "self".to_owned()),
            Proc::OwnThread => (Proc::Root, "thread-self".to_owned()),
            Proc::SystemDirectory(path) => system::parent(path),
            Proc::System(index) => system::parent(system::FILES[index].path),
            Proc::Process(Owner { pid, tid: Some(tid) }) => (Proc::Tasks(pid), tid.to_string()),
            Proc::Process(Owner { pid, tid: None }) => (Proc::Root, pid.to_string()),
            Proc::Tasks(pid) => (Proc::Process(Owner { pid, tid: None }), "task".to_owned()),
            Proc::ProcessFile(owner, index) => (Proc::Process(owner), process::FILES[index].name.to_owned()),
            Proc::Link(owner, link) => (Proc::Process(owner), link.name().to_owned()),
            Proc::Descriptors(owner) => (Proc::Process(owner), "fd".to_owned()),
            Proc::Descriptor(owner, fd) => (Proc::Descriptors(owner), fd.to_string()),
            Proc::DescriptorInfos(owner) => (Proc::Process(owner), "fdinfo".to_owned()),
            Proc::DescriptorInfo(owner, fd) => (Proc::DescriptorInfos(owner), fd.to_string()),
        };
        Some((parent, name.into_bytes()))
    }

    /// Where a symbolic link leads; `None` if it is none.
    pub fn link_target(self, kernel: &Kernel, caller: Pid) -> Result<Option<Target>, Errno> {
        match self {
            Proc::OwnProcess => Ok(Some(Target::Path(caller.to_string().into_bytes()))),
            Proc::OwnThread => {
                let is_own = kernel.threads.get(&kernel.caller).is_some_and(|thread| thread.pid == caller);
                let tid = if is_own { kernel.caller } else { caller };
                Ok(Some(Target::Path(format!("{caller}/task/{tid}").into_bytes())))
            }
            Proc::OwnMounts => Ok(Some(Target::Path(b"self/mounts".to_vec()))),
            Proc::Link(owner, link) => process::link_target(kernel, owner, link).map(Some),
            Proc::Descriptor(owner, fd) => {
                let file = owner.process(kernel)?.files.get(fd).map_err(|_| Errno::ENOENT)?;
                match (&file.location, file.body.is_directory()) {
                    (Some(location), true) => Ok(Some(Target::Jump(location.clone()))),
                    _ => Ok(Some(Target::Jump(Location::from(Node::Open(file))))),
                }
            }
            _ => Ok(None),
        }
    }

    /// The text that `readlink(2)` gives for a link that jumps.
    pub fn link_text(self, kernel: &Kernel) -> Result<Option<Vec<u8>>, Errno> {
        match self {
            Proc::Link(owner, link) => process::link_text(kernel, owner, link).map(Some),
            Proc::Descriptor(owner, fd) => {
                let file = owner.process(kernel)?.files.get(fd).map_err(|_| Errno::ENOENT)?;
                Ok(Some(file.path()))
            }
            _ => Ok(None),
        }
    }

    /// The names in a directory.
    pub fn list(self, kernel: &Kernel, _caller: Pid) -> Result<Vec<Entry>, Errno> {
        let children: Vec<Proc> = match self {
            Proc::Root => {
                let processes = kernel.processes.keys().map(|pid| Proc::Process(Owner { pid: *pid, tid: None }));
                [Proc::OwnProcess, Proc::OwnThread, Proc::OwnMounts]
                    .into_iter()
                    .chain(system::children(""))
                    .chain(processes)
                    .collect()
            }
            Proc::SystemDirectory(path) => system::children(path),
            Proc::Process(owner) => process::children(owner),
            Proc::Tasks(pid) => {
                let threads = kernel.threads.iter().filter(|(_, thread)| thread.pid == pid);
                threads.map(|(tid, _)| Proc::Process(Owner { pid, tid: Some(*tid) })).collect()
            }
            Proc::Descriptors(owner) => {
                owner.process(kernel)?.files.descriptors().map(|fd| Proc::Descriptor(owner, fd)).collect()
            }
            Proc::DescriptorInfos(owner) => {
                owner.process(kernel)?.files.descriptors().map(|fd| Proc::DescriptorInfo(owner, fd)).collect()
            }
            _ => return Err(Errno::ENOTDIR),
        };
        let entry = |child: Proc| {
            let (_, name) = child.parent()?;
            let kind = entry_kind(child.metadata(kernel).ok()?.mode);
            Some(Entry { inode: child.inode(), kind, name })
        };
        Ok(children.into_iter().filter_map(entry).collect())
    }

    /// The content of a file.
    pub fn content(self, kernel: &Kernel, _caller: Pid) -> Result<Vec<u8>, Errno> {
        match self {
            Proc::System(index) => (system::FILES[index].content)(kernel),
            Proc::ProcessFile(owner, index) => (process::FILES[index].content)(kernel, owner),
            Proc::DescriptorInfo(owner, fd) => {
                let file = owner.process(kernel)?.files.get(fd).map_err(|_| Errno::ENOENT)?;
                Ok(descriptor_info(&file).into_bytes())
            }
            _ => Err(Errno::EISDIR),
        }
    }
}

fn descriptor_info(file: &Arc<crate::file::OpenFile>) -> String {
    format!("pos:\t{}\nflags:\t0{:o}\nmnt_id:\t1\n", file.offset(), file.flags())
}

fn descriptor(kernel: &Kernel, owner: Owner, name: &[u8]) -> Result<Option<i32>, Errno> {
    let Some(fd) = number::<i32>(name) else { return Ok(None) };
    Ok(owner.process(kernel)?.files.get(fd).is_ok().then_some(fd))
}
