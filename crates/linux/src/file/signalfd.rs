//! Signals as something to read: `signalfd(2)`. Which process's signals they are is decided by who reads or polls, as on
//! Linux: after `fork` the same descriptor gives the child the child's.

use parking_lot::Mutex;
use zerocopy::{Immutable, IntoBytes};

use crate::errno::Errno;
use crate::file::readiness;
use crate::kernel::Kernel;
use crate::signal::{Info, SignalSet};

/// Bytes of one signal as it is read.
pub const RECORD_BYTES: usize = 128;

/// Which signals are read.
#[derive(Debug)]
pub struct SignalFd {
    pub(super) accepted: Mutex<SignalSet>,
}

/// `struct signalfd_siginfo`.
#[derive(IntoBytes, Immutable, Default)]
#[repr(C)]
struct Record {
    signal: u32,
    errno: i32,
    code: i32,
    pid: u32,
    uid: u32,
    fd: i32,
    timer: u32,
    band: u32,
    overrun: u32,
    trap: u32,
    status: i32,
    value: i32,
    pointer: u64,
    user_ticks: u64,
    system_ticks: u64,
    address: u64,
    address_bits: u16,
    padding: u16,
    syscall: i32,
    call_address: u64,
    arch: u32,
    rest: [u8; 28],
}

const _: () = assert!(size_of::<Record>() == RECORD_BYTES);

impl SignalFd {
    /// For a set of signals.
    pub fn new(accepted: SignalSet) -> Self {
        Self { accepted: Mutex::new(accepted) }
    }

    /// Changes the set.
    pub fn set(&self, accepted: SignalSet) {
        *self.accepted.lock() = accepted;
    }

    /// Its signals.
    pub fn accepted(&self) -> SignalSet {
        *self.accepted.lock()
    }

    /// Readable when the caller has a pending signal of the set.
    pub fn readiness(&self, kernel: &Kernel) -> u32 {
        let pending = kernel.pending_signals(kernel.caller);
        readiness::from(pending.0 & self.accepted().0 != 0, false)
    }

    /// Takes as many of the caller's pending signals as there is room for. `EAGAIN` if there are none.
    pub fn read(&self, kernel: &mut Kernel, length: usize) -> Result<Vec<u8>, Errno> {
        let room = length / RECORD_BYTES;
        if room == 0 {
            return Err(Errno::EINVAL);
        }
        let (caller, accepted) = (kernel.caller, self.accepted());
        let taken = std::iter::from_fn(|| kernel.take_signal(caller, accepted));
        let bytes: Vec<u8> = taken.take(room).flat_map(|info| Record::from(info).as_bytes().to_vec()).collect();
        if bytes.is_empty() { Err(Errno::EAGAIN) } else { Ok(bytes) }
    }
}

impl From<Info> for Record {
    /// What the fields of a signal are depends on where it comes from (`sigaction(2)`).
    fn from(info: Info) -> Self {
        const CODE_TIMER: i32 = -2;
        let [first, second, third, fourth] = info.fields;
        let (low, high) = (first as u32, (first >> 32) as u32);
        let base = Self { signal: info.signal.number().into(), code: info.code, ..Self::default() };
        if info.code == CODE_TIMER {
            return Self { timer: low, overrun: high, value: second as i32, pointer: second, ..base };
        }
        if info.code > 0 && info.is_child() {
            let status = second as i32;
            return Self { pid: low, uid: high, status, user_ticks: third, system_ticks: fourth, ..base };
        }
        if info.code > 0 && info.is_fault() {
            return Self { address: first, ..base };
        }
        Self { pid: low, uid: high, value: second as i32, pointer: second, ..base }
    }
}
