//! What a system-call handler gives back.

use crate::errno::Errno;
use serde::{Deserialize, Serialize};

/// The value for `rax`, or why there is none (yet).
pub type SysResult = Result<u64, Stop>;

/// Why a handler gives no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The call fails.
    Errno(Errno),
    /// The calling thread waits; the handler runs again from the start when the wait is over, with
    /// [`crate::call::Call::woken`] saying why. Between the two it keeps nothing but this value and
    /// [`crate::call::Call::progress`].
    Block(Wait),
    /// The registers of the calling thread are already as they should be (`execve`, `rt_sigreturn`), or it is gone
    /// (`exit`): nothing is to be stored in `rax`.
    Replaced,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Stop::Errno(errno)
    }
}

/// What a parked thread waits for. Plain data, so that it can be saved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// The wait ends when any of these is notified.
    pub keys: Vec<WaitKey>,
    /// The wait ends at this time of the guest's monotonic clock, in nanoseconds. When the call blocks again after a
    /// wake-up it must give the same deadline again: see [`crate::call::Call::deadline`].
    pub deadline_ns: Option<u64>,
}

impl Wait {
    /// A wait for one object without a deadline.
    pub fn on(key: WaitKey) -> Self {
        Self { keys: vec![key], deadline_ns: None }
    }
}

/// Something that can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WaitKey {
    /// A change of an object's readiness: pipe, socket, eventfd, timerfd, epoll instance, console.
    Object(ObjectId),
    /// A futex word of one address space: its id and the address, odd if other processes may wake too (an operation without
    /// `FUTEX_PRIVATE_FLAG` on private memory). Linux, too, keeps the two apart. `FUTEX_WAKE` wakes a limited number of
    /// waiters, so it does not use the "wake all" of the others.
    PrivateFutex(u32, u64),
    /// A futex word in shared memory: the content's identity and the offset in it.
    SharedFutex(u64, u64),
    /// A thread has ended: the id of its process.
    Exit(u32),
    /// A child process has ended, stopped or gone on: the id of its parent.
    Child(u32),
    /// A `vfork` child, with this id, needs its parent's memory no more.
    Release(u32),
    /// A signal was sent to the process with this id or to one of its threads.
    Signals(u32),
}

/// The identity of an object that can be waited for, unique within one guest for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectId(pub u64);

/// Why a parked thread runs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Woken {
    /// One of its objects was notified.
    Notified,
    /// Its deadline has passed.
    Deadline,
    /// A signal with a handler, or one that ends the process, is pending: a restartable handler returns `EINTR`.
    Signal,
}
