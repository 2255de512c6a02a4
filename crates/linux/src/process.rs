//! Processes: what the threads of one program share. What happens to them is in [`crate::lifecycle`].

pub(crate) mod saved;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock::SECOND_NS;
use crate::credentials::Credentials;
use crate::exec::NS_PER_TICK;
use crate::file::FdTable;
use crate::file::buffers::Reservation;
use crate::fs::Location;
use crate::kernel::GuestExit;
use crate::limits::{Limits, Resource, UNLIMITED};
use crate::mm::SpaceId;
use crate::notifier::{Beacon, Notifier};
use crate::signal::{Action, HANDLER_DEFAULT, HANDLER_IGNORE, PendingSignals, SIGNAL_MAX, Signal};
use crate::thread::NAME_BYTES;
use crate::timers::Timers;

/// A process's id, that of its first thread.
pub type Pid = u32;

/// The parent of processes whose own parent has ended. There is no such process: its children are never waited for and
/// leave nothing behind.
pub const INIT_PID: Pid = 1;

/// One process.
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// Its parent's id, 0 for the first process, [`INIT_PID`] for orphans.
    pub parent: Pid,
    /// Its process group.
    pub group: Pid,
    /// Its session.
    pub session: Pid,
    /// Its controlling terminal's number.
    pub terminal: Option<u32>,
    /// Its memory; [`SpaceId::NONE`] when it has ended.
    pub space: SpaceId,
    /// Its descriptors.
    pub files: FdTable,
    surroundings: Arc<Mutex<Surroundings>>,
    /// Who it is.
    pub credentials: Credentials,
    /// What it may use.
    pub limits: Limits,
    /// The program it runs, the same for processes that have forked since.
    pub program: Arc<ProgramFacts>,
    /// What it does with signals, by number less one.
    actions: Arc<Mutex<Actions>>,
    /// Signals sent to it as a whole.
    pub pending: PendingSignals,
    /// Counts signals sent to it and to its threads, for edge-triggered epoll on a `signalfd`.
    pub signals_sent: u64,
    /// Interval timers.
    pub timers: Timers,
    /// When it started, nanoseconds of the monotonic clock.
    pub started_ns: u64,
    /// With what its first thread has ended before the others: the process's status then.
    pub first_thread_status: Option<u8>,
    /// Time that its threads have run.
    pub time: ProcessorTime,
    /// The last second of its processor time at which it was sent `SIGXCPU`.
    warned_at_seconds: u64,
    /// What its children have used that it has waited for.
    pub children_usage: Usage,
    /// `PR_SET_DUMPABLE` and the like: values that are kept and given back.
    pub settings: Settings,
    /// What its parent is sent when it ends; nothing for some children of `clone`.
    pub exit_signal: Option<Signal>,
    /// Whether its parent's thread waits until it ends or runs another program (`vfork`).
    pub is_holding_parent: bool,
    /// Whether it has called `execve` since it was made: its parent may not move it to another group any more.
    pub has_called_exec: bool,
    /// Whether it is stopped, and what of that its parent has not been told yet.
    pub job: Job,
    /// Set once it ends.
    pub end: Option<End>,
    life: Option<Arc<Life>>,
}

/// What processes made with `CLONE_FS` share.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    cwd: Location,
    umask: u32,
}

pub(crate) type Actions = [Action; SIGNAL_MAX as usize];

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// By itself, with this status.
    Status(u8),
    /// By a signal.
    Signal(Signal),
    /// By the want of memory, for its parent a `SIGKILL`.
    OutOfMemory,
}

impl Ending {
    /// The status as `wait4` gives it.
    pub fn wait_status(self) -> u32 {
        match self {
            Ending::Status(status) => u32::from(status) << 8,
            Ending::Signal(signal) => signal.number().into(),
            Ending::OutOfMemory => Signal::KILL.number().into(),
        }
    }
}

impl From<Ending> for GuestExit {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Status(status) => GuestExit::Status(status),
            Ending::Signal(signal) => GuestExit::Signal(signal.number()),
            Ending::OutOfMemory => GuestExit::OutOfMemory,
        }
    }
}

/// What is known of a process that ends.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct End {
    /// How.
    pub ending: Ending,
    /// Whether its threads are gone and only the parent's waiting is missing.
    pub is_zombie: bool,
    /// What it has used, once it is a zombie.
    pub usage: Usage,
    /// Name of its first thread.
    pub name: [u8; NAME_BYTES],
}

/// Job control.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// By which signal it is stopped.
    pub stopped_by: Option<Signal>,
    /// What its parent may be told by `wait4`.
    pub report: Option<JobChange>,
}

/// A change that `wait4` tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobChange {
    /// It was stopped by a signal.
    Stopped(Signal),
    /// It goes on.
    Continued,
}

/// Processor time. A saved state may say anything, so sums end at the greatest number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessorTime {
    /// In guest code, nanoseconds.
    pub user_ns: u64,
    /// While the monitor served system calls and faults, nanoseconds.
    pub system_ns: u64,
}

impl ProcessorTime {
    /// Both, nanoseconds.
    pub fn total_ns(self) -> u64 {
        self.user_ns.saturating_add(self.system_ns)
    }

    /// Both, user time first, as programs are told (`sysconf(_SC_CLK_TCK)`).
    pub fn ticks(self) -> [u64; 2] {
        [self.user_ns, self.system_ns].map(|time_ns| time_ns / NS_PER_TICK)
    }

    /// Adds other time to it.
    pub fn add(&mut self, other: Self) {
        self.user_ns = self.user_ns.saturating_add(other.user_ns);
        self.system_ns = self.system_ns.saturating_add(other.system_ns);
    }

    /// Time in guest code.
    pub fn user(user_ns: u64) -> Self {
        Self { user_ns, system_ns: 0 }
    }

    /// Time of serving.
    pub fn system(system_ns: u64) -> Self {
        Self { user_ns: 0, system_ns }
    }
}

/// What processes have used (`getrusage(2)`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Time that threads have run.
    pub time: ProcessorTime,
    /// Largest memory of one of them, KiB.
    pub resident_max_kib: u64,
}

impl Usage {
    /// Adds that of another process.
    pub fn add(&mut self, other: Usage) {
        self.time.add(other.time);
        self.resident_max_kib = self.resident_max_kib.max(other.resident_max_kib);
    }
}

/// The life of one process, for those who hold a descriptor for it (`pidfd_open(2)`): its id may be another's afterwards.
#[derive(Debug)]
pub struct Life {
    pid: Pid,
    phase: AtomicU8,
    beacon: Beacon,
}

const PHASE_ALIVE: u8 = 0;
const PHASE_ENDED: u8 = 1;
const PHASE_GONE: u8 = 2;

impl Life {
    /// The process's id, as long as it can be waited for.
    pub fn pid(&self) -> Option<Pid> {
        (self.phase.load(Ordering::Relaxed) != PHASE_GONE).then_some(self.pid)
    }

    /// Whether the process has ended.
    pub fn has_ended(&self) -> bool {
        self.phase.load(Ordering::Relaxed) != PHASE_ALIVE
    }

    /// Rings when it ends.
    pub fn beacon(&self) -> &Beacon {
        &self.beacon
    }

    fn enter(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
        self.beacon.ring();
    }
}

/// What `/proc` and `AT_*` say about the program.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ProgramFacts {
    /// Absolute path of the executable file.
    pub path: Vec<u8>,
    /// Arguments, each with its final zero (`/proc/<pid>/cmdline`).
    pub arguments: Vec<u8>,
    /// Environment, each with its final zero (`/proc/<pid>/environ`).
    pub environment: Vec<u8>,
    /// Auxiliary vector as it lies on the stack (`/proc/<pid>/auxv`).
    pub auxiliary: Vec<u8>,
    /// Lowest address of the arguments on the stack.
    pub stack_start: u64,
    /// What all this counts on the monitor's heap.
    #[serde(skip)]
    pub memory: Option<Reservation>,
}

/// Settings of `prctl(2)` and `personality(2)` without an effect here beyond being remembered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// `PR_SET_PDEATHSIG`.
    pub parent_death_signal: i32,
    /// `PR_SET_DUMPABLE`.
    pub is_dumpable: bool,
    /// `PR_SET_KEEPCAPS`.
    pub keeps_capabilities: bool,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub has_no_new_privileges: bool,
    /// `PR_SET_CHILD_SUBREAPER`.
    pub is_subreaper: bool,
    /// `PR_SET_THP_DISABLE`.
    pub has_huge_pages_disabled: bool,
    /// `PR_SET_TIMERSLACK`, nanoseconds.
    pub timer_slack_ns: u64,
    /// `personality(2)`.
    pub personality: u32,
    /// Nice value.
    pub nice: i32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            parent_death_signal: 0,
            is_dumpable: true,
            keeps_capabilities: false,
            has_no_new_privileges: false,
            is_subreaper: false,
            has_huge_pages_disabled: false,
            timer_slack_ns: 50_000,
            personality: 0,
            nice: 0,
        }
    }
}

impl Process {
    /// A process that has nothing yet but these.
    pub fn new(pid: Pid, space: SpaceId, files: FdTable, cwd: Location, started_ns: u64) -> Self {
        Self {
            pid,
            parent: 0,
            group: pid,
            session: pid,
            terminal: None,
            space,
            files,
            surroundings: Arc::new(Mutex::new(Surroundings { cwd, umask: 0o022 })),
            credentials: Credentials::default(),
            limits: Limits::default(),
            program: Arc::default(),
            actions: Arc::new(Mutex::new([Action::default(); SIGNAL_MAX as usize])),
            pending: PendingSignals::default(),
            signals_sent: 0,
            timers: Timers::default(),
            started_ns,
            first_thread_status: None,
            time: ProcessorTime::default(),
            warned_at_seconds: 0,
            children_usage: Usage::default(),
            settings: Settings::default(),
            exit_signal: Some(Signal::CHLD),
            is_holding_parent: false,
            has_called_exec: false,
            job: Job::default(),
            end: None,
            life: None,
        }
    }

    /// A child of this process as `fork` makes it, in `space`. What `sharing` names is the same for both, the rest a copy.
    pub fn child(&self, pid: Pid, space: SpaceId, sharing: Sharing, started_ns: u64) -> Self {
        let surroundings = if sharing.surroundings {
            self.surroundings.clone()
        } else {
            Arc::new(Mutex::new(self.surroundings.lock().clone()))
        };
        let actions = if sharing.actions { self.actions.clone() } else { Arc::new(Mutex::new(*self.actions.lock())) };
        let settings = Settings { parent_death_signal: 0, is_subreaper: false, ..self.settings.clone() };
        let files = if sharing.files { self.files.share() } else { self.files.copy() };
        Self {
            parent: self.pid,
            group: self.group,
            session: self.session,
            terminal: self.terminal,
            surroundings,
            credentials: self.credentials.clone(),
            limits: self.limits.clone(),
            program: self.program.clone(),
            actions,
            settings,
            ..Self::new(pid, space, files, self.cwd(), started_ns)
        }
    }

    /// Its working directory.
    pub fn cwd(&self) -> Location {
        self.surroundings.lock().cwd.clone()
    }

    /// Changes its working directory.
    pub fn set_cwd(&self, cwd: Location) {
        self.surroundings.lock().cwd = cwd;
    }

    /// Makes working directory and umask the process's own, if it shares them.
    pub fn unshare_surroundings(&mut self) {
        let own = self.surroundings.lock().clone();
        self.surroundings = Arc::new(Mutex::new(own));
    }

    /// Permission bits that new files do not get.
    pub fn umask(&self) -> u32 {
        self.surroundings.lock().umask
    }

    /// Changes the umask; the one before.
    pub fn replace_umask(&self, umask: u32) -> u32 {
        std::mem::replace(&mut self.surroundings.lock().umask, umask)
    }

    /// Whether it can still be waited for but not run.
    pub fn is_zombie(&self) -> bool {
        self.end.is_some_and(|end| end.is_zombie)
    }

    /// Whether anything is to happen when it has used some amount of processor time.
    pub fn is_processor_time_watched(&self) -> bool {
        self.timers.has_processor_timers() || self.limits.get(Resource::Cpu).soft != UNLIMITED
    }

    /// The signal for having used more processor time than allowed, once for each second beyond the soft limit.
    pub fn processor_time_excess(&mut self) -> Option<Signal> {
        let limit = self.limits.get(Resource::Cpu);
        let used = self.time.total_ns() / SECOND_NS;
        if used >= limit.hard {
            return Some(Signal::KILL);
        }
        let next = limit.soft.max(self.warned_at_seconds.saturating_add(1));
        (used >= next).then(|| {
            self.warned_at_seconds = used;
            Signal::XCPU
        })
    }

    /// Something to know by whether it still is this process.
    pub fn life(&mut self, notifier: &Notifier) -> Arc<Life> {
        let new = || Arc::new(Life { pid: self.pid, phase: AtomicU8::new(PHASE_ALIVE), beacon: Beacon::new(notifier) });
        let life = self.life.get_or_insert_with(new);
        if self.end.is_some_and(|end| end.is_zombie) && !life.has_ended() {
            life.enter(PHASE_ENDED);
        }
        life.clone()
    }

    /// Tells those who watch its life that it has ended.
    pub fn show_end(&self) {
        if let Some(life) = &self.life {
            life.enter(PHASE_ENDED);
        }
    }

    /// Tells those who watch its life that there is nothing more to wait for.
    pub fn show_gone(&self) {
        if let Some(life) = &self.life {
            life.enter(PHASE_GONE);
        }
    }

    /// What it does with a signal.
    pub fn action(&self, signal: Signal) -> Action {
        self.actions.lock()[usize::from(signal.number()) - 1]
    }

    /// Changes what it does with a signal.
    pub fn set_action(&mut self, signal: Signal, action: Action) {
        self.actions.lock()[usize::from(signal.number()) - 1] = action;
    }

    /// Whether a signal has no effect on it.
    pub fn is_ignored(&self, signal: Signal) -> bool {
        match self.action(signal).handler {
            HANDLER_IGNORE => true,
            HANDLER_DEFAULT => signal.is_ignored_by_default(),
            _ => false,
        }
    }

    /// What `execve` does to signals: handlers are gone, ignored ones stay ignored, and nobody shares the actions.
    pub fn reset_handlers(&mut self) {
        let mut actions = *self.actions.lock();
        for action in &mut actions {
            let handler = if action.handler == HANDLER_IGNORE { HANDLER_IGNORE } else { HANDLER_DEFAULT };
            *action = Action { handler, ..Action::default() };
        }
        self.actions = Arc::new(Mutex::new(actions));
    }

    /// Whether a change of what one does with a signal is one for the other.
    pub fn shares_actions_with(&self, other: &Process) -> bool {
        Arc::ptr_eq(&self.actions, &other.actions)
    }

    /// Whether both have the same working directory and umask, whoever changes them.
    pub fn shares_surroundings_with(&self, other: &Process) -> bool {
        Arc::ptr_eq(&self.surroundings, &other.surroundings)
    }
}

/// What a child process has in common with its parent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sharing {
    /// Descriptors (`CLONE_FILES`).
    pub files: bool,
    /// Working directory and umask (`CLONE_FS`).
    pub surroundings: bool,
    /// What is done with signals (`CLONE_SIGHAND`).
    pub actions: bool,
}
