//! Processes: what the threads of one program share.

use crate::credentials::Credentials;
use crate::file::FdTable;
use crate::fs::Location;
use crate::limits::Limits;
use crate::mm::SpaceId;
use crate::signal::{Action, HANDLER_DEFAULT, HANDLER_IGNORE, PendingSignals, SIGNAL_MAX, Signal};
use crate::timers::Timers;

/// A process's id, that of its first thread.
pub type Pid = u32;

/// One process.
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// Its parent's id, 0 for the first process.
    pub parent: Pid,
    /// Its process group.
    pub group: Pid,
    /// Its session.
    pub session: Pid,
    /// Its memory.
    pub space: SpaceId,
    /// Its descriptors.
    pub files: FdTable,
    /// Its working directory.
    pub cwd: Location,
    /// Permission bits that new files do not get.
    pub umask: u32,
    /// Who it is.
    pub credentials: Credentials,
    /// What it may use.
    pub limits: Limits,
    /// The program it runs.
    pub program: ProgramFacts,
    /// What it does with signals, by number less one.
    actions: Box<[Action; SIGNAL_MAX as usize]>,
    /// Signals sent to it as a whole.
    pub pending: PendingSignals,
    /// Interval timers.
    pub timers: Timers,
    /// When it started, nanoseconds of the monotonic clock.
    pub started_ns: u64,
    /// With what its first thread has ended before the others: the process's status then.
    pub first_thread_status: Option<u8>,
    /// Time that its ended threads have run, nanoseconds.
    pub ended_threads_cpu_ns: u64,
    /// `PR_SET_DUMPABLE` and the like: values that are kept and given back.
    pub settings: Settings,
}

/// What `/proc` and `AT_*` say about the program.
#[derive(Debug, Clone, Default)]
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
}

/// Settings of `prctl(2)` and `personality(2)` without an effect here beyond being remembered.
#[derive(Debug, Clone)]
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
            space,
            files,
            cwd,
            umask: 0o022,
            credentials: Credentials::default(),
            limits: Limits::default(),
            program: ProgramFacts::default(),
            actions: Box::new([Action::default(); SIGNAL_MAX as usize]),
            pending: PendingSignals::default(),
            timers: Timers::default(),
            started_ns,
            first_thread_status: None,
            ended_threads_cpu_ns: 0,
            settings: Settings::default(),
        }
    }

    /// What it does with a signal.
    pub fn action(&self, signal: Signal) -> Action {
        self.actions[usize::from(signal.number()) - 1]
    }

    /// Changes what it does with a signal.
    pub fn set_action(&mut self, signal: Signal, action: Action) {
        self.actions[usize::from(signal.number()) - 1] = action;
    }

    /// Whether a signal has no effect on it.
    pub fn is_ignored(&self, signal: Signal) -> bool {
        match self.action(signal).handler {
            HANDLER_IGNORE => true,
            HANDLER_DEFAULT => signal.is_ignored_by_default(),
            _ => false,
        }
    }

    /// What `execve` does to signals: handlers are gone, ignored ones stay ignored.
    pub fn reset_handlers(&mut self) {
        for action in self.actions.iter_mut() {
            let handler = if action.handler == HANDLER_IGNORE { HANDLER_IGNORE } else { HANDLER_DEFAULT };
            *action = Action { handler, ..Action::default() };
        }
    }
}
