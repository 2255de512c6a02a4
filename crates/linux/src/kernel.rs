//! The state of one guest.

pub(crate) mod saved;

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use calypte_platform::{Access, Frame, FramePart, Machine, PAGE_SIZE, Protection};

use crate::clock::Clock;
use crate::console::{Console, Stream};
use crate::errno::Errno;
use crate::file::OpenFile;
use crate::frames::Frames;
use crate::fs::FileSystem;
use crate::limits::THREADS_MAX;
use crate::mm::{AddressSpaces, Fault};
use crate::net::Network;
use crate::process::{Ending, Pid, Process};
use crate::profile::Profile;
use crate::quota::Quota;
use crate::sched::Scheduler;
use crate::signal::{Info, Signal};
use crate::thread::{Fpu, LastFault, Thread, ThreadState};
use crate::vdso::Vdso;
use crate::waits::{Tid, Waits};

/// The first process's id. Not 1, which programs take for an `init` with duties.
pub const FIRST_PID: Pid = 2;
/// Ids are reused from the start beyond this one (`/proc/sys/kernel/pid_max`).
pub const PID_MAX: u32 = 4_194_304;

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
    /// Which thread runs where.
    pub scheduler: Scheduler,
    /// The guest's clocks.
    pub clock: Clock,
    /// Code that the monitor lends to programs.
    pub vdso: Vdso,
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
    /// Why, if the platform failed.
    pub failure: Option<String>,
    /// What the guest has cost.
    pub statistics: Statistics,
    /// Where its exits go, when somebody wants to know.
    pub profile: Option<Profile>,
    /// Numbers of calls that were refused for want of an implementation: each is logged once.
    pub(crate) unknown_calls: BTreeSet<u64>,
    /// Open files whose owners are told of their readiness.
    pub(crate) asynchronous: Vec<Weak<OpenFile>>,
    /// The thread whose system call is being served, or was served last.
    pub(crate) caller: Tid,
    pub(crate) last_tid: Tid,
}

/// How the guest's first process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestExit {
    /// `exit_group` with this status.
    Status(u8),
    /// A signal.
    Signal(u8),
    /// Killed because its memory limit was reached.
    OutOfMemory,
    /// The platform could not go on: [`Kernel::failure`] says why.
    Failed,
}

/// What a guest has cost so far.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Statistics {
    /// Returns from guest code to the monitor.
    pub exits: u64,
    /// Time in guest code, nanoseconds.
    pub guest_ns: u64,
    /// Page faults of guest code.
    pub page_faults: u64,
}

impl Statistics {
    /// Counts a return from guest code after so much time in it. The counts of a saved state may be anything, so they end at
    /// the greatest number.
    pub(crate) fn count_exit(&mut self, ran_ns: u64, is_page_fault: bool) {
        self.exits = self.exits.saturating_add(1);
        self.guest_ns = self.guest_ns.saturating_add(ran_ns);
        self.page_faults = self.page_faults.saturating_add(is_page_fault.into());
    }
}

impl Kernel {
    /// Takes away what the guest has printed.
    pub fn take_output(&mut self) -> Vec<(Stream, Vec<u8>)> {
        self.console.take_output()
    }

    /// Adds input of the first program, at most [`Console::input_room`] bytes.
    pub fn push_input(&mut self, bytes: &[u8]) {
        self.console.push_input(bytes);
    }

    /// No more input will come.
    pub fn close_input(&mut self) {
        self.console.close_input();
    }

    /// From now on the guest gets no more than a share of the processors, in thousandths of one. What it costs in the
    /// monitor counts too.
    pub fn cap_processors(&mut self, share: u32) {
        let (now_ns, used_ns) = (self.clock.monotonic_ns(), self.processor_time_ns());
        self.scheduler.quota = Some(Quota::new(share, self.scheduler.vcpu_count(), now_ns, used_ns));
        // A virtual CPU that goes on tells the ticker about it.
        self.scheduler.kick_all();
    }

    /// Processor time of the guest so far, as the host's kernel counts it. Where guest code runs in other processes, the time
    /// of their turns stands for theirs, which is more when the host is busy.
    pub(crate) fn processor_time_ns(&self) -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let own_ns = time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs();
        match self.machine.runs_guest_in_this_process() {
            true => own_ns,
            false => own_ns.saturating_add(self.statistics.guest_ns),
        }
    }

    /// Copies from a process's memory, populating pages as needed. `EFAULT` if any byte may not be read.
    pub fn read_user(&mut self, pid: Pid, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let space = self.processes.get(&pid).ok_or(Errno::ESRCH)?.space;
        self.spaces.read(space, &mut self.frames, address, buffer)
    }

    /// As [`Kernel::read_user`], but only as far as bytes may be read: how many, `EFAULT` if that is none.
    pub fn read_user_some(&mut self, pid: Pid, address: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let space = self.processes.get(&pid).ok_or(Errno::ESRCH)?.space;
        self.spaces.read_some(space, &mut self.frames, address, buffer)
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
            let to_page_end = PAGE_SIZE - (at as usize % PAGE_SIZE);
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

    /// The frame behind an aligned word of a process's memory, and the offset in it.
    pub fn locate_word(&mut self, pid: Pid, address: u64, is_write: bool) -> Result<(Frame, usize), Errno> {
        if !address.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let space = self.processes.get(&pid).ok_or(Errno::ESRCH)?.space;
        self.spaces.locate(space, &mut self.frames, address, is_write)
    }

    /// The process of the thread whose system call is being served.
    pub fn calling_process(&self) -> Option<&Process> {
        self.processes.get(&self.threads.get(&self.caller)?.pid)
    }

    /// The frame behind the first byte of a buffer in a process's memory, not an empty one, and as many of its bytes as lie
    /// in consecutive frames, made ready to be written. `EFAULT` if the first one may not be written.
    pub fn locate_run(&mut self, pid: Pid, address: u64, length: usize) -> Result<FramePart, Errno> {
        let space = self.processes.get(&pid).ok_or(Errno::ESRCH)?.space;
        self.spaces.locate_run(space, &mut self.frames, (address, length), true)
    }

    /// A process that is known to exist.
    pub fn process_mut(&mut self, pid: Pid) -> &mut Process {
        self.processes.get_mut(&pid).expect("the caller has seen the process")
    }

    /// The process that an id names: its own or that of one of its threads.
    pub fn process_of(&self, id: Tid) -> Option<Pid> {
        let is_process = self.processes.contains_key(&id);
        if is_process { Some(id) } else { self.threads.get(&id).map(|thread| thread.pid) }
    }

    /// The threads of a process.
    pub fn threads_of(&self, pid: Pid) -> Vec<Tid> {
        self.threads.iter().filter(|(_, thread)| thread.pid == pid).map(|(tid, _)| *tid).collect()
    }

    /// An unused id for a thread or process. `EAGAIN` when there are too many threads and zombies.
    pub fn new_tid(&mut self) -> Result<Tid, Errno> {
        let zombies = self.processes.values().filter(|process| process.is_zombie()).count();
        if (self.threads.len() + zombies) as u64 >= THREADS_MAX {
            return Err(Errno::EAGAIN);
        }
        loop {
            self.last_tid = if self.last_tid >= PID_MAX { FIRST_PID + 1 } else { self.last_tid + 1 };
            let id = self.last_tid;
            let is_group = |process: &Process| process.group == id || process.session == id;
            let is_used = self.threads.contains_key(&id)
                || self.processes.contains_key(&id)
                || self.processes.values().any(is_group);
            if !is_used {
                return Ok(id);
            }
        }
    }

    /// Adds a thread, ready to run.
    pub(crate) fn start_thread(&mut self, tid: Tid, thread: Thread) {
        debug_assert_eq!(thread.state, ThreadState::Ready);
        self.threads.insert(tid, thread);
        self.scheduler.push_ready(tid);
    }

    /// Makes threads ready whose wait is over.
    pub(crate) fn settle(&mut self) {
        self.settle_terminals();
        self.signal_owners();
        for (tid, why) in self.waits.take_woken() {
            let Some(thread) = self.threads.get_mut(&tid) else { continue };
            debug_assert_eq!(thread.state, ThreadState::Parked);
            thread.woken = Some(why);
            thread.state = ThreadState::Ready;
            self.scheduler.push_ready(tid);
        }
    }

    /// Whether all of every thread is here, and nothing on a virtual CPU.
    pub(crate) fn is_quiet(&self) -> bool {
        let is_off = |thread: &Thread| !matches!(thread.state, ThreadState::Running(_)) && thread.fpu != Fpu::Loaded;
        self.threads.values().all(is_off)
    }

    /// When something happens by itself: a wait times out, a timer expires.
    pub(crate) fn next_event_ns(&self) -> Option<u64> {
        let timers = self.processes.values().filter_map(|process| process.timers.next_ns());
        timers.chain(self.waits.next_deadline_ns()).min()
    }

    /// Whether a thread is on a virtual CPU whose process has timers or a limit of processor time: somebody must look at
    /// them while it runs.
    pub(crate) fn is_processor_time_watched(&self) -> bool {
        let process_of = |tid: Tid| self.processes.get(&self.threads.get(&tid)?.pid);
        self.scheduler.all_running().filter_map(process_of).any(Process::is_processor_time_watched)
    }

    /// After a process has used processor time: lets its timers of that expire, and holds it to its limit.
    pub(crate) fn charge_processor_time(&mut self, pid: Pid) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if !process.is_processor_time_watched() {
            return;
        }
        let threads = &self.threads;
        let of_thread = |tid| threads.get(&tid).map(|thread| thread.time.total_ns());
        let sent = process.timers.expire_processor_time(process.time, of_thread);
        let excess = process.processor_time_excess();
        self.send_expired(sent.into_iter().map(|(tid, info)| (pid, tid, info)));
        match excess {
            Some(Signal::KILL) => self.end_process(pid, Ending::Signal(Signal::KILL)),
            Some(signal) => _ = self.signal_process(pid, Info::from_kernel(signal)),
            None => {}
        }
    }

    fn send_expired(&mut self, sent: impl IntoIterator<Item = (Pid, Option<Tid>, Info)>) {
        for (pid, tid, info) in sent {
            // A full queue loses timer signals, as for Linux.
            let _ = match tid {
                Some(tid) => self.signal_thread(tid, info),
                None => self.signal_process(pid, info),
            };
        }
    }

    /// Lets waits and timers expire that are due.
    pub(crate) fn expire(&mut self) {
        let Some(next) = self.next_event_ns() else { return };
        let now_ns = self.clock.monotonic_ns();
        if next > now_ns {
            return;
        }
        self.waits.expire(now_ns);
        let sent: Vec<(Pid, Option<Tid>, Info)> = self
            .processes
            .iter_mut()
            .flat_map(|(pid, process)| process.timers.expire(now_ns).into_iter().map(|(tid, info)| (*pid, tid, info)))
            .collect();
        self.send_expired(sent);
    }

    /// Makes a thread's access to memory possible, or sends it the signal that Linux would.
    pub(crate) fn page_fault(&mut self, tid: Tid, address: u64, access: Access) {
        let Some(thread) = self.threads.get(&tid) else { return };
        let pid = thread.pid;
        let space = self.processes[&pid].space;
        let needed = match access {
            Access::Read => Protection::READ,
            Access::Write => Protection::WRITE,
            Access::Execute => Protection::EXECUTE,
        };
        let fault = match self.spaces.space(space).fault(&mut self.frames, address, needed) {
            Ok(()) => return,
            Err(Fault::OutOfMemory) => return self.kill_largest(pid),
            Err(fault) => fault,
        };
        let is_present = self.spaces.space(space).is_present(address);
        if let Some(thread) = self.threads.get_mut(&tid) {
            let error_code = page_fault_code(is_present, access);
            thread.last_fault = LastFault { vector: PAGE_FAULT, error_code, address };
        }
        let info = match fault {
            Fault::NotAllowed => Info::fault(Signal::SEGV, 2, address),
            Fault::NoContent => Info::fault(Signal::BUS, 2, address),
            Fault::NoArea | Fault::OutOfMemory => Info::fault(Signal::SEGV, 1, address),
        };
        self.force_signal(tid, info);
    }

    /// Ends a process whose system call has run out of memory half-way: it cannot be run again.
    pub(crate) fn kill_for_memory(&mut self, pid: Pid) {
        self.end_process(pid, Ending::OutOfMemory);
    }

    /// What Linux's out-of-memory killer does for a page fault of `pid`: ends the process that has the most memory, with all
    /// that share it. The fault happens again until the memory is free.
    fn kill_largest(&mut self, pid: Pid) {
        let is_memory_coming = self.processes.values().any(|process| process.end.is_some() && !process.is_zombie());
        if is_memory_coming {
            return;
        }
        let living = self.processes.values().filter(|process| process.end.is_none());
        let score = |process: &&Process| {
            let resident = self.spaces.sizes(process.space).0;
            // Of equals the first process, with which the guest ends, is the last.
            (resident, process.pid != FIRST_PID, process.pid == pid, process.pid)
        };
        let Some(largest) = living.max_by_key(score).map(|process| process.space) else { return };
        for victim in self.processes_where(|process| process.space == largest && process.end.is_none()) {
            self.end_process(victim, Ending::OutOfMemory);
        }
    }
}

/// Vector of the page fault.
const PAGE_FAULT: u8 = 14;

/// The error code that the processor would give (Intel SDM volume 3, 4.7): user mode, and why.
fn page_fault_code(is_present: bool, access: Access) -> u64 {
    const PRESENT: u64 = 1;
    const WRITE: u64 = 2;
    const USER: u64 = 4;
    const FETCH: u64 = 16;
    let kind = match access {
        Access::Read => 0,
        Access::Write => WRITE,
        Access::Execute => FETCH,
    };
    USER | kind | if is_present { PRESENT } else { 0 }
}
