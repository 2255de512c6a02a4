//! One system call being served: its arguments and what handlers need to answer it.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::errno::Errno;
use crate::kernel::Kernel;
use crate::outcome::{Stop, Wait, Woken};
use crate::process::{Pid, Process};
use crate::thread::Thread;
use crate::waits::Tid;

/// Longest path, with its final zero (`PATH_MAX`).
pub const PATH_BYTES_MAX: usize = 4096;

/// A system call of one thread.
pub struct Call<'k> {
    /// Everything else.
    pub kernel: &'k mut Kernel,
    /// The calling thread.
    pub tid: Tid,
    /// Its process.
    pub pid: Pid,
    /// The six arguments, as they stood in the registers.
    pub args: [u64; 6],
    /// Set when the call was blocked and runs again.
    pub woken: Option<Woken>,
    /// The deadline of the wait that has just ended.
    pub resumed_deadline_ns: Option<u64>,
}

impl Call<'_> {
    /// The calling process.
    pub fn process(&mut self) -> &mut Process {
        self.kernel.processes.get_mut(&self.pid).expect("a calling thread has a process")
    }

    /// The calling thread.
    pub fn thread(&mut self) -> &mut Thread {
        self.kernel.threads.get_mut(&self.tid).expect("a calling thread exists")
    }

    /// An argument that is a C `int`: the upper half of the register is ignored, as Linux does.
    pub fn int(&self, index: usize) -> i32 {
        self.args[index] as i32
    }

    /// Copies bytes from the guest. The caller bounds `length`.
    pub fn read_bytes(&mut self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let mut buffer = vec![0; length];
        self.kernel.read_user(self.pid, address, &mut buffer)?;
        Ok(buffer)
    }

    /// Copies bytes to the guest.
    pub fn write_bytes(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.kernel.write_user(self.pid, address, bytes)
    }

    /// Reads a structure of the kernel's ABI.
    pub fn read<T: FromBytes + FromZeros + IntoBytes>(&mut self, address: u64) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.kernel.read_user(self.pid, address, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a structure of the kernel's ABI.
    pub fn write<T: IntoBytes + Immutable>(&mut self, address: u64, value: &T) -> Result<(), Errno> {
        self.kernel.write_user(self.pid, address, value.as_bytes())
    }

    /// Reads a path: the bytes before the zero. `ENAMETOOLONG` beyond [`PATH_BYTES_MAX`].
    pub fn read_path(&mut self, address: u64) -> Result<Vec<u8>, Errno> {
        self.kernel.read_user_string(self.pid, address, PATH_BYTES_MAX)?.ok_or(Errno::ENAMETOOLONG)
    }

    /// What [`Call::block_with_progress`] was given when the call was blocked last; zero at first.
    pub fn progress(&mut self) -> usize {
        self.thread().progress
    }

    /// Blocks a call that has done a part of its work: the handler finds it in [`Call::progress`] when it runs again.
    pub fn block_with_progress(&mut self, wait: Wait, progress: usize) -> Stop {
        self.thread().progress = progress;
        Stop::Block(wait)
    }

    /// The deadline of this call for a relative time-out: counted from the first attempt, not from this one.
    pub fn deadline(&self, timeout_ns: Option<u64>) -> Option<u64> {
        if self.woken.is_some() || self.resumed_deadline_ns.is_some() {
            return self.resumed_deadline_ns;
        }
        timeout_ns.map(|timeout| self.kernel.clock.monotonic_ns().saturating_add(timeout))
    }

    /// Whether the wait of this call has ended by its deadline.
    pub fn has_timed_out(&self) -> bool {
        self.woken == Some(Woken::Deadline)
    }

    /// Whether the wait of this call has ended by a signal: the handler gives `EINTR` unless it has a result.
    pub fn is_interrupted(&self) -> bool {
        self.woken == Some(Woken::Signal)
    }
}
