//! Signals: what is pending where, what happens on delivery, and the frame that a handler runs on (`signal(7)`).

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::errno::Errno;
use crate::kernel::Kernel;
use crate::outcome::{WaitKey, Woken};
use crate::process::{Ending, Pid};
use crate::signal_frame;
use crate::thread::{LastFault, Thread, ThreadState};
use crate::waits::Tid;

/// Highest signal number (`_NSIG`).
pub const SIGNAL_MAX: u8 = 64;
/// Most queued signals of a guest (`RLIMIT_SIGPENDING`), not counting one of each standard signal, which are always taken.
pub const QUEUED_MAX: usize = 1024;

/// A signal's number, 1 to [`SIGNAL_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Signal(u8);

impl From<Signal> for u8 {
    fn from(signal: Signal) -> u8 {
        signal.0
    }
}

impl TryFrom<u8> for Signal {
    type Error = &'static str;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        Self::new(number.into()).ok_or("there is no such signal")
    }
}

#[allow(missing_docs, reason = "the names of signal(7)")]
impl Signal {
    pub const HUP: Signal = Signal(1);
    pub const INT: Signal = Signal(2);
    pub const ILL: Signal = Signal(4);
    pub const TRAP: Signal = Signal(5);
    pub const ABRT: Signal = Signal(6);
    pub const BUS: Signal = Signal(7);
    pub const FPE: Signal = Signal(8);
    pub const KILL: Signal = Signal(9);
    pub const SEGV: Signal = Signal(11);
    pub const PIPE: Signal = Signal(13);
    pub const ALRM: Signal = Signal(14);
    pub const TERM: Signal = Signal(15);
    pub const CHLD: Signal = Signal(17);
    pub const CONT: Signal = Signal(18);
    pub const STOP: Signal = Signal(19);
    pub const TSTP: Signal = Signal(20);
    pub const TTIN: Signal = Signal(21);
    pub const TTOU: Signal = Signal(22);
    pub const URG: Signal = Signal(23);
    pub const XCPU: Signal = Signal(24);
    pub const VTALRM: Signal = Signal(26);
    pub const PROF: Signal = Signal(27);
    pub const WINCH: Signal = Signal(28);
    pub const IO: Signal = Signal(29);
}

impl Signal {
    /// Checks a number that a program gave.
    pub fn new(number: i32) -> Option<Self> {
        u8::try_from(number).ok().filter(|number| (1..=SIGNAL_MAX).contains(number)).map(Self)
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self.0
    }

    pub(crate) fn is_ignored_by_default(self) -> bool {
        matches!(self, Self::CHLD | Self::CONT | Self::URG | Self::WINCH)
    }

    /// Whether it stops the process unless there is a handler.
    pub(crate) fn is_stop(self) -> bool {
        (Self::STOP..=Self::TTOU).contains(&self)
    }

    /// Whether several of it can be pending.
    fn is_queued(self) -> bool {
        self.0 >= 32
    }
}

/// A set of signals, bit `n - 1` for signal `n`, as in `sigset_t`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Serialize, Deserialize,
)]
#[repr(transparent)]
pub struct SignalSet(pub u64);

impl SignalSet {
    /// None.
    pub const EMPTY: SignalSet = SignalSet(0);

    /// Whether it has a signal.
    pub fn contains(self, signal: Signal) -> bool {
        self.0 & (1 << (signal.0 - 1)) != 0
    }

    /// With one more.
    pub fn with(self, signal: Signal) -> Self {
        Self(self.0 | 1 << (signal.0 - 1))
    }

    /// Without one.
    pub fn without(self, signal: Signal) -> Self {
        Self(self.0 & !(1 << (signal.0 - 1)))
    }

    /// The set as a mask: `KILL` and `STOP` cannot be blocked.
    pub fn as_mask(self) -> Self {
        self.without(Signal::KILL).without(Signal::STOP)
    }
}

/// A signal on its way, with what `siginfo_t` says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Which.
    pub signal: Signal,
    /// `si_code`.
    pub code: i32,
    /// The 32 bytes after it: sender and value, address of a fault, timer, or what a child has used.
    pub fields: [u64; 4],
}

/// `SI_USER`: sent by `kill`.
const CODE_USER: i32 = 0;
/// `SI_KERNEL`.
const CODE_KERNEL: i32 = 0x80;

impl Info {
    /// `SI_TKILL`.
    pub const CODE_THREAD: i32 = -6;

    /// From `kill` (or `tgkill`, for a thread) by a process.
    pub fn from_process(signal: Signal, sender: Pid, is_thread_directed: bool) -> Self {
        let code = if is_thread_directed { Self::CODE_THREAD } else { CODE_USER };
        Self { signal, code, fields: [u64::from(sender), 0, 0, 0] }
    }

    /// With the sender's real user id.
    pub fn by_user(mut self, uid: u32) -> Self {
        self.fields[0] |= u64::from(uid) << 32;
        self
    }

    /// Whether it tells of a child.
    pub(crate) fn is_child(&self) -> bool {
        self.signal == Signal::CHLD
    }

    /// Whether it tells of an address.
    pub(crate) fn is_fault(&self) -> bool {
        matches!(self.signal, Signal::ILL | Signal::TRAP | Signal::BUS | Signal::FPE | Signal::SEGV)
    }

    /// From the kernel.
    pub fn from_kernel(signal: Signal) -> Self {
        Self { signal, code: CODE_KERNEL, fields: [0; 4] }
    }

    /// For an exception of the running thread.
    pub fn fault(signal: Signal, code: i32, address: u64) -> Self {
        Self { signal, code, fields: [address, 0, 0, 0] }
    }
}

/// Signals that wait for delivery.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PendingSignals {
    queue: VecDeque<Info>,
}

impl PendingSignals {
    /// Adds one. A standard signal that is pending already is not added again. `EAGAIN` when `queued`, the number of
    /// queued signals of the guest, is too large for another one.
    pub fn add(&mut self, info: Info, queued: usize) -> Result<(), Errno> {
        if info.signal.is_queued() {
            if queued >= QUEUED_MAX {
                return Err(Errno::EAGAIN);
            }
        } else if self.set().contains(info.signal) {
            return Ok(());
        }
        self.queue.push_back(info);
        Ok(())
    }

    /// How many wait that can wait several times.
    fn queued(&self) -> usize {
        self.queue.iter().filter(|info| info.signal.is_queued()).count()
    }

    /// Which are pending.
    pub fn set(&self) -> SignalSet {
        self.queue.iter().fold(SignalSet::EMPTY, |set, info| set.with(info.signal))
    }

    /// Takes the next that `accepted` has: the lowest number, and of that the first.
    pub fn take(&mut self, accepted: SignalSet) -> Option<Info> {
        let signal = self.queue.iter().map(|info| info.signal).filter(|signal| accepted.contains(*signal)).min()?;
        let position = self.queue.iter().position(|info| info.signal == signal)?;
        self.queue.remove(position)
    }

    /// Forgets all of one signal.
    pub fn forget(&mut self, signal: Signal) {
        self.queue.retain(|info| info.signal != signal);
    }
}

/// `SIG_DFL`.
pub const HANDLER_DEFAULT: u64 = 0;
/// `SIG_IGN`.
pub const HANDLER_IGNORE: u64 = 1;

/// What a process does with a signal; the layout of the kernel's `struct sigaction`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Serialize, Deserialize,
)]
#[repr(C)]
pub struct Action {
    /// Address of the handler, [`HANDLER_DEFAULT`] or [`HANDLER_IGNORE`].
    pub handler: u64,
    /// `SA_*`.
    pub flags: u64,
    /// Where a handler returns to.
    pub restorer: u64,
    /// Blocked while the handler runs.
    pub mask: SignalSet,
}

/// `SA_NOCLDSTOP`.
pub const FLAG_NO_CHILD_STOP: u64 = 1;
/// `SA_NOCLDWAIT`.
pub const FLAG_NO_CHILD_WAIT: u64 = 2;
/// `SA_SIGINFO`.
pub const FLAG_SIGINFO: u64 = 4;
/// `SA_RESTORER`.
pub const FLAG_RESTORER: u64 = 0x0400_0000;
/// `SA_ONSTACK`.
pub const FLAG_ON_STACK: u64 = 0x0800_0000;
/// `SA_RESTART`.
pub const FLAG_RESTART: u64 = 0x1000_0000;
/// `SA_NODEFER`.
pub const FLAG_NO_DEFER: u64 = 0x4000_0000;
/// `SA_RESETHAND`.
pub const FLAG_RESET: u64 = 0x8000_0000;
/// `SA_EXPOSE_TAGBITS`: this processor has none.
const FLAG_EXPOSE_TAGS: u64 = 0x800;
/// All that are kept: programs find out by the others which there are (`sigaction(2)`, "Dynamically probing for flag bit
/// support").
pub const FLAGS_KNOWN: u64 = FLAG_NO_CHILD_STOP
    | FLAG_NO_CHILD_WAIT
    | FLAG_SIGINFO
    | FLAG_RESTORER
    | FLAG_ON_STACK
    | FLAG_RESTART
    | FLAG_NO_DEFER
    | FLAG_RESET
    | FLAG_EXPOSE_TAGS;

/// A thread's alternate stack; the layout of `stack_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Serialize, Deserialize)]
#[repr(C)]
pub struct AlternateStack {
    /// Lowest address.
    pub address: u64,
    /// `SS_DISABLE`, `SS_AUTODISARM`.
    pub flags: u32,
    /// Zero.
    pub padding: u32,
    /// Bytes.
    pub size: u64,
}

impl AlternateStack {
    /// `SS_DISABLE`.
    pub const DISABLE: u32 = 2;
    /// `SS_AUTODISARM`: not used again until the handler returns.
    pub const AUTO_DISARM: u32 = 1 << 31;
    /// `SS_ONSTACK`.
    pub const IN_USE: u32 = 1;
    /// None.
    pub const DISABLED: Self = Self { address: 0, flags: Self::DISABLE, padding: 0, size: 0 };

    /// Whether it can be used.
    pub fn is_enabled(&self) -> bool {
        self.flags & Self::DISABLE == 0
    }

    /// Whether a stack pointer is on it.
    pub fn holds(&self, stack_pointer: u64) -> bool {
        self.is_enabled() && stack_pointer > self.address && stack_pointer - self.address <= self.size
    }
}

impl Kernel {
    /// Sends a signal to a process: any of its threads takes it.
    pub fn signal_process(&mut self, pid: Pid, info: Info) -> Result<(), Errno> {
        if self.processes.get(&pid).ok_or(Errno::ESRCH)?.end.is_some() {
            return Ok(()); // It can be named, but nothing of it can be told any more.
        }
        if info.signal == Signal::KILL {
            self.end_process(pid, Ending::Signal(Signal::KILL));
            return Ok(());
        }
        self.prepare_signal(pid, info.signal);
        let members: Vec<Tid> = self.threads_of(pid);
        let queued = if info.signal.is_queued() { self.queued_signals() } else { 0 };
        let process = self.processes.get_mut(&pid).ok_or(Errno::ESRCH)?;
        let open = |thread: &Thread| thread.takes(info.signal);
        // A blocked signal is kept even if it is ignored now: that may change.
        let is_wanted_later = members.iter().all(|tid| self.threads[tid].blocked.contains(info.signal));
        if process.is_ignored(info.signal) && !is_wanted_later {
            return Ok(());
        }
        process.pending.add(info, queued)?;
        process.signals_sent += 1;
        self.waits.notify_key(WaitKey::Signals(pid), usize::MAX);
        // Rather a thread that waits than one that works.
        let target = members
            .iter()
            .filter(|tid| open(&self.threads[tid]))
            .min_by_key(|tid| self.threads[tid].state != ThreadState::Parked);
        if let Some(tid) = target {
            self.interrupt(*tid);
        }
        Ok(())
    }

    /// Sends a signal to one thread.
    pub fn signal_thread(&mut self, tid: Tid, info: Info) -> Result<(), Errno> {
        let pid = self.threads.get(&tid).ok_or(Errno::ESRCH)?.pid;
        if info.signal == Signal::KILL {
            self.end_process(pid, Ending::Signal(Signal::KILL));
            return Ok(());
        }
        self.prepare_signal(pid, info.signal);
        let queued = if info.signal.is_queued() { self.queued_signals() } else { 0 };
        let thread = self.threads.get_mut(&tid).ok_or(Errno::ESRCH)?;
        let process = self.processes.get_mut(&pid).ok_or(Errno::ESRCH)?;
        if process.is_ignored(info.signal) && !thread.blocked.contains(info.signal) {
            return Ok(());
        }
        thread.pending.add(info, queued)?;
        process.signals_sent += 1;
        let is_taken = thread.takes(info.signal);
        self.waits.notify_key(WaitKey::Signals(pid), usize::MAX);
        if is_taken {
            self.interrupt(tid);
        }
        Ok(())
    }

    /// Signals of all processes and threads that wait and count against [`QUEUED_MAX`].
    pub fn queued_signals(&self) -> usize {
        let of_processes = self.processes.values().map(|process| process.pending.queued());
        of_processes.chain(self.threads.values().map(|thread| thread.pending.queued())).sum()
    }

    /// What sending does whether the signal is blocked or ignored: signals that stop and the one that continues take each
    /// other back, and that one continues.
    fn prepare_signal(&mut self, pid: Pid, signal: Signal) {
        let forgotten: &[Signal] = match signal {
            Signal::CONT => &[Signal::STOP, Signal::TSTP, Signal::TTIN, Signal::TTOU],
            signal if signal.is_stop() => &[Signal::CONT],
            _ => return,
        };
        for forgotten in forgotten {
            self.process_mut(pid).pending.forget(*forgotten);
            for tid in self.threads_of(pid) {
                self.threads.get_mut(&tid).expect("just listed").pending.forget(*forgotten);
            }
        }
        if signal == Signal::CONT {
            self.continue_process(pid);
        }
    }

    /// Makes a thread look at its signals soon.
    fn interrupt(&mut self, tid: Tid) {
        match self.threads[&tid].state {
            ThreadState::Parked => {
                self.waits.wake(tid, Woken::Signal);
            }
            ThreadState::Running(vcpu) => self.scheduler.kick(vcpu),
            ThreadState::Ready | ThreadState::Stopped => {}
        }
    }

    /// Signals that `signalfd` and `sigpending` see for a thread.
    pub fn pending_signals(&self, tid: Tid) -> SignalSet {
        let thread = &self.threads[&tid];
        SignalSet(thread.pending.set().0 | self.processes[&thread.pid].pending.set().0)
    }

    /// Takes a pending signal of a set (`sigtimedwait`, `signalfd`).
    pub fn take_signal(&mut self, tid: Tid, accepted: SignalSet) -> Option<Info> {
        let thread = self.threads.get_mut(&tid)?;
        let process = self.processes.get_mut(&thread.pid)?;
        thread.pending.take(accepted).or_else(|| process.pending.take(accepted))
    }

    /// Whether a thread has a signal to be delivered.
    pub fn has_signal(&self, tid: Tid) -> bool {
        let open = !self.threads[&tid].blocked.0;
        self.pending_signals(tid).0 & open != 0
    }

    /// Delivers what is pending to a thread that is about to run user code; its floating-point state has been saved. The
    /// thread may be gone afterwards.
    pub(crate) fn deliver_signals(&mut self, tid: Tid) {
        while let Some(thread) = self.threads.get(&tid) {
            let open = SignalSet(!thread.blocked.0);
            let Some(info) = self.take_signal(tid, open) else { break };
            if self.deliver(tid, info) {
                return;
            }
        }
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        // No handler runs: an interrupted call goes on, and a mask that was set for it goes back.
        if let Some(number) = thread.interrupted_call.take() {
            thread.resume_call(number);
        }
        if let Some(mask) = thread.saved_blocked.take() {
            thread.blocked = mask;
        }
    }

    /// Whether a handler will run.
    fn deliver(&mut self, tid: Tid, info: Info) -> bool {
        let pid = self.threads[&tid].pid;
        let action = self.processes[&pid].action(info.signal);
        match action.handler {
            HANDLER_IGNORE => false,
            HANDLER_DEFAULT if info.signal.is_ignored_by_default() => false,
            HANDLER_DEFAULT if info.signal.is_stop() => {
                if info.signal != Signal::STOP && self.is_orphaned_group(self.processes[&pid].group, 0) {
                    return false;
                }
                let thread = self.threads.get_mut(&tid).expect("it is about to run");
                thread.interrupted_call = thread.interrupted_call.filter(|number| !is_ended_by_stop(*number));
                self.stop_process(pid, info.signal);
                true
            }
            HANDLER_DEFAULT => {
                self.end_process(pid, Ending::Signal(info.signal));
                true
            }
            _ => {
                if action.flags & FLAG_RESET != 0 {
                    self.process_mut(pid).set_action(info.signal, Action::default());
                }
                if signal_frame::push(self, tid, info, action).is_err() {
                    // No room for the frame: as Linux, the process dies of it.
                    self.end_process(pid, Ending::Signal(Signal::SEGV));
                }
                true
            }
        }
    }

    /// A signal that the thread has caused by what it did: it cannot be blocked or ignored.
    pub(crate) fn force_signal(&mut self, tid: Tid, info: Info) {
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        let pid = thread.pid;
        let was_blocked = thread.blocked.contains(info.signal);
        let process = self.processes.get_mut(&pid).expect("a thread has a process");
        if was_blocked || process.action(info.signal).handler == HANDLER_IGNORE {
            process.set_action(info.signal, Action::default());
            thread.blocked = thread.blocked.without(info.signal);
        }
        thread.pending.forget(info.signal);
        let _ = thread.pending.add(info, 0);
    }

    /// The signal for an exception in user code, other than a page fault.
    pub(crate) fn signal_exception(&mut self, tid: Tid, vector: u8, error_code: u64) {
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        let rip = thread.registers.rip;
        thread.last_fault = LastFault { vector, error_code, address: thread.last_fault.address };
        let info = match vector {
            0 => Info::fault(Signal::FPE, 1, rip),
            1 => Info::fault(Signal::TRAP, 2, rip),
            3 => Info::from_kernel(Signal::TRAP),
            6 => Info::fault(Signal::ILL, 2, rip),
            16 | 19 => Info::fault(Signal::FPE, 0, rip),
            17 => Info::fault(Signal::BUS, 1, 0),
            11 | 12 => Info::from_kernel(Signal::BUS),
            _ => Info::from_kernel(Signal::SEGV),
        };
        self.force_signal(tid, info);
    }
}

/// Whether a call that a handler has interrupted is made again when the handler asks for that (`signal(7)`, "Interruption of
/// system calls and library functions by signal handlers").
pub fn is_restartable(number: u64) -> bool {
    const READ_WRITE: [u64; 8] = [0, 1, 17, 18, 19, 20, 295, 296];
    const WAITS: [u64; 2] = [61, 247];
    const FILES: [u64; 6] = [2, 16, 72, 73, 257, 318];
    const SOCKETS: [u64; 9] = [42, 43, 44, 45, 46, 47, 288, 299, 307];
    const FUTEX: u64 = 202;
    READ_WRITE.contains(&number)
        || WAITS.contains(&number)
        || FILES.contains(&number)
        || SOCKETS.contains(&number)
        || number == FUTEX
}

/// Whether a call fails with `EINTR` although no handler runs, when the process was stopped and goes on (`signal(7)`,
/// "Interruption of system calls and library functions by stop signals").
fn is_ended_by_stop(number: u64) -> bool {
    const TIMED_WAIT: u64 = 128;
    const EPOLL: [u64; 3] = [232, 281, 441];
    number == TIMED_WAIT || EPOLL.contains(&number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_signals_are_pending_once_and_low_numbers_come_first() {
        let mut pending = PendingSignals::default();
        let realtime = Signal::new(40).unwrap();
        for signal in [realtime, Signal::TERM, realtime, Signal::TERM, Signal::INT] {
            pending.add(Info::from_kernel(signal), 0).unwrap();
        }
        let all = SignalSet(u64::MAX);
        let order: Vec<u8> = std::iter::from_fn(|| pending.take(all)).map(|info| info.signal.number()).collect();
        assert_eq!(order, [2, 15, 40, 40]);
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut pending = PendingSignals::default();
        let info = Info::from_kernel(Signal::new(34).unwrap());
        let refused = (0..QUEUED_MAX + 5).filter(|queued| pending.add(info, *queued).is_err()).count();
        assert_eq!(refused, 5);
        assert_eq!(pending.queued(), QUEUED_MAX);
        assert_eq!(pending.add(Info::from_kernel(Signal::TERM), QUEUED_MAX), Ok(()));
    }

    #[test]
    fn numbers_are_checked() {
        let cases = [(0, false), (1, true), (64, true), (65, false), (-1, false), (257, false)];
        for (number, is_valid) in cases {
            assert_eq!(Signal::new(number).is_some(), is_valid, "{number}");
        }
    }
}
