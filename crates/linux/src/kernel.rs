//! The state of one guest.

use std::collections::BTreeMap;
use std::sync::Arc;

use calypte_platform::Machine;

use crate::clock::Clock;
use crate::console::Console;
use crate::errno::Errno;
use crate::frames::Frames;
use crate::fs::FileSystem;
use crate::mm::AddressSpaces;
use crate::net::Network;
use crate::process::{Pid, Process};
use crate::thread::Thread;
use crate::waits::{Tid, Waits};

/// Everything a guest has. One lock guards it ([`crate::guest::Guest`]).
pub struct Kernel {
    /// What executes guest code.
    pub machine: Arc<dyn Machine>,
    /// Frames of guest memory.
    pub frames: Frames,
    /// Memory areas and mappings of every process.
    pub spaces: AddressSpaces,
    /// Processes by id.
    pub processes: BTreeMap<Pid, Process>,
    /// Threads by id.
    pub threads: BTreeMap<Tid, Thread>,
    /// Parked threads.
    pub waits: Waits,
    /// The guest's clocks.
    pub clock: Clock,
    /// The tree of files: mounts, `/tmp`, `/dev`, `/proc`.
    pub files: FileSystem,
    /// Loopback sockets, Unix sockets, services.
    pub network: Network,
    /// Standard streams.
    pub console: Console,
    /// Host name, as `uname` gives it.
    pub host_name: String,
    /// Set once: the guest has ended.
    pub exit: Option<GuestExit>,
}

/// How the guest's first process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestExit {
    /// `exit_group` with this status.
    Status(u8),
    /// A signal.
    Signal(u8),
    /// Killed because its memory limit was reached.
    OutOfMemory,
}

impl Kernel {
    /// Copies from a process's memory, populating pages as needed. `EFAULT` if any byte may not be read.
    pub fn read_user(&mut self, pid: Pid, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let space = self.processes.get(&pid).ok_or(Errno::ESRCH)?.space;
        self.spaces.read(space, &mut self.frames, address, buffer)
    }

    /// Copies to a process's memory. `EFAULT` if any byte may not be written; bytes before it may have been.
    pub fn write_user(&mut self, pid: Pid, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let space = self.processes.get(&pid).ok_or(Errno::ESRCH)?.space;
        self.spaces.write(space, &mut self.frames, address, bytes)
    }

    /// Reads up to a zero byte: the bytes before it, `None` if the first `length_max` bytes hold none.
    pub fn read_user_string(&mut self, pid: Pid, address: u64, length_max: usize) -> Result<Option<Vec<u8>>, Errno> {
        let mut text = Vec::new();
        while text.len() < length_max {
            let at = address.checked_add(text.len() as u64).ok_or(Errno::EFAULT)?;
            let to_page_end = calypte_platform::PAGE_SIZE - (at as usize % calypte_platform::PAGE_SIZE);
            let mut part = vec![0; to_page_end.min(length_max - text.len())];
            self.read_user(pid, at, &mut part)?;
            if let Some(end) = part.iter().position(|byte| *byte == 0) {
                text.extend_from_slice(&part[..end]);
                return Ok(Some(text));
            }
            text.append(&mut part);
        }
        Ok(None)
    }
}
