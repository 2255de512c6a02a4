//! Guest threads.

use std::sync::Arc;

pub(crate) mod saved;

use calypte_platform::{FpuState, Registers};
use serde::{Deserialize, Serialize};

use crate::file::OpenFile;
use crate::outcome::Woken;
use crate::process::{Pid, ProcessorTime};
use crate::signal::{AlternateStack, PendingSignals, Signal, SignalSet};

/// Bytes of a thread's name, with its final zero (`TASK_COMM_LEN`).
pub const NAME_BYTES: usize = 16;

/// One guest thread. Between runs all of it is here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Thread {
    /// The process whose memory and files it uses.
    pub pid: Pid,
    /// General registers.
    pub registers: Registers,
    /// Floating-point and vector registers.
    pub fpu: Fpu,
    /// What it is doing.
    pub state: ThreadState,
    /// Whether it is in a system call: `registers` hold the call's number and arguments.
    pub is_in_call: bool,
    /// Set when it was parked and runs again.
    pub woken: Option<Woken>,
    /// The deadline of its wait.
    pub wait_deadline_ns: Option<u64>,
    /// How much of its call is done; kept while it is parked ([`crate::call::Call::progress`]).
    pub progress: usize,
    /// Which `FUTEX_WAKE_BITSET` calls may wake it.
    pub futex_bits: u32,
    /// At which of the words that it waited for it was woken (`futex_waitv(2)`).
    pub futex_index: u32,
    /// Zeroed and woken as a futex when the thread ends (`set_tid_address(2)`).
    pub clear_child_tid: u64,
    /// Head of its list of robust futexes (`set_robust_list(2)`).
    pub robust_list: u64,
    /// Name, zero-padded.
    pub name: [u8; NAME_BYTES],
    /// Signals that wait until they are unblocked.
    pub blocked: SignalSet,
    /// The mask to go back to after a call that replaced it (`sigsuspend`, `ppoll`, ...).
    pub saved_blocked: Option<SignalSet>,
    /// Blocked signals that it waits for (`sigtimedwait(2)`).
    pub awaited: SignalSet,
    /// Signals sent to this thread.
    pub pending: PendingSignals,
    /// The last exception it caused, as signal frames show it.
    pub last_fault: LastFault,
    /// Where handlers run that ask for it.
    pub alternate_stack: AlternateStack,
    /// The number of a call that a signal has interrupted, until it is known whether a handler runs.
    pub interrupted_call: Option<u64>,
    /// The deadline of that call.
    pub interrupted_deadline_ns: Option<u64>,
    /// Time it has run.
    pub time: ProcessorTime,
    /// The virtual CPUs that it has asked for, a bit each; the scheduler takes it as a hint (`sched_setaffinity(2)`).
    pub affinity: u64,
    /// The policy that it has asked for, with `SCHED_RESET_ON_FORK`: told, without an effect.
    pub policy: i32,
    /// Set when it must end as soon as it is off its virtual CPU.
    pub is_killed: bool,
    /// The FIFO whose other side its `open(2)` waits for.
    #[serde(skip)]
    pub opening: Option<Arc<OpenFile>>,
}

/// An exception as signal frames show it (`gregs[REG_TRAPNO]`, `REG_ERR`, `REG_CR2`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LastFault {
    /// Vector of the exception.
    pub vector: u8,
    /// Its error code.
    pub error_code: u64,
    /// Address of the last page fault.
    pub address: u64,
}

/// Where a thread's floating-point state is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fpu {
    /// Nowhere yet: that of a program that has just been started.
    Initial,
    /// Here.
    Saved(FpuState),
    /// On the virtual CPU that ran the thread last.
    Loaded,
}

/// What a thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ThreadState {
    /// It waits for a virtual CPU.
    Ready,
    /// A virtual CPU has it.
    Running(usize),
    /// It waits for an event ([`crate::waits::Waits`] says which).
    Parked,
    /// It could run, but its process is stopped.
    Stopped,
}

impl Thread {
    /// A thread that begins with these registers.
    pub fn new(pid: Pid, registers: Registers, fpu: Fpu) -> Self {
        Self {
            pid,
            registers,
            fpu,
            state: ThreadState::Ready,
            is_in_call: false,
            woken: None,
            wait_deadline_ns: None,
            progress: 0,
            futex_bits: u32::MAX,
            futex_index: 0,
            clear_child_tid: 0,
            robust_list: 0,
            name: [0; NAME_BYTES],
            blocked: SignalSet::EMPTY,
            saved_blocked: None,
            awaited: SignalSet::EMPTY,
            pending: PendingSignals::default(),
            last_fault: LastFault::default(),
            alternate_stack: AlternateStack::DISABLED,
            interrupted_call: None,
            interrupted_deadline_ns: None,
            time: ProcessorTime::default(),
            affinity: u64::MAX,
            policy: 0,
            is_killed: false,
            opening: None,
        }
    }

    /// Whether a signal concerns the thread now: it is not blocked, or waited for.
    pub fn takes(&self, signal: Signal) -> bool {
        !self.blocked.contains(signal) || self.awaited.contains(signal)
    }

    /// Makes the thread execute its `syscall` instruction (two bytes long) again.
    pub fn restart_call(&mut self, number: u64) {
        self.registers.rip = self.registers.rip.wrapping_sub(2);
        self.registers.rax = number;
    }

    /// Goes on with a call that a signal without a handler has interrupted, until the same deadline.
    pub fn resume_call(&mut self, number: u64) {
        self.registers.rax = number;
        self.is_in_call = true;
        self.wait_deadline_ns = self.interrupted_deadline_ns.take();
    }

    /// Sets the name: at most 15 bytes, up to a zero.
    pub fn set_name(&mut self, name: &[u8]) {
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len()).min(NAME_BYTES - 1);
        self.name = [0; NAME_BYTES];
        self.name[..length].copy_from_slice(&name[..length]);
    }

    /// The name without padding.
    pub fn name(&self) -> &[u8] {
        &self.name[..self.name.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES)]
    }
}
