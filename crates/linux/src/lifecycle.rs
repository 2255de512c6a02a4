//! What happens to processes: they end, are waited for, lose their parent, stop and go on (`exit(3)`, `wait(2)`,
//! `credentials(7)`).
//!
//! ```text
//!            end_process          last thread gone            wait4, or nobody wants to know
//!   alive ───────────────▶ ending ────────────────▶ zombie ────────────────▶ gone
//!   │  ▲
//!   ▼  │ SIGCONT
//!  stopped
//! ```
//!
//! A thread that a virtual CPU runs is only marked, and ends when it is off that virtual CPU: until then the process is
//! *ending* and its memory stays.

use std::collections::BTreeSet;

use crate::file::FdTable;
use crate::kernel::{FIRST_PID, Kernel};
use crate::mm::SpaceId;
use crate::outcome::WaitKey;
use crate::process::{End, Ending, INIT_PID, Job, JobChange, Pid, Process, Usage};
use crate::signal::{FLAG_NO_CHILD_STOP, FLAG_NO_CHILD_WAIT, HANDLER_IGNORE, Info, Signal};
use crate::thread::{NAME_BYTES, ThreadState};
use crate::waits::Tid;

/// `CLD_EXITED`.
pub const CODE_EXITED: i32 = 1;
/// `CLD_KILLED`.
pub const CODE_KILLED: i32 = 2;
/// `CLD_STOPPED`.
pub const CODE_STOPPED: i32 = 5;
/// `CLD_CONTINUED`.
pub const CODE_CONTINUED: i32 = 6;

impl Kernel {
    /// Ends a process with all its threads. With the first process the guest ends; its threads are left as they are.
    pub fn end_process(&mut self, pid: Pid, ending: Ending) {
        let name = self.threads.get(&pid).map_or([0; NAME_BYTES], |thread| thread.name);
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if process.end.is_some() {
            return;
        }
        process.end = Some(End { ending, is_zombie: false, usage: Usage::default(), name });
        process.job = Job::default();
        if pid == FIRST_PID {
            self.exit.get_or_insert(ending.into());
            self.scheduler.kick_all();
            return;
        }
        for tid in self.threads_of(pid) {
            self.end_or_mark(tid);
        }
    }

    /// Ends a thread at once, or as soon as it is off its virtual CPU: whether it has ended.
    pub(crate) fn end_or_mark(&mut self, tid: Tid) -> bool {
        let thread = self.threads.get_mut(&tid).expect("the caller has just seen it");
        match thread.state {
            ThreadState::Running(vcpu) => {
                thread.is_killed = true;
                self.scheduler.kick(vcpu);
                false
            }
            ThreadState::Ready | ThreadState::Parked | ThreadState::Stopped => {
                self.end_thread(tid);
                true
            }
        }
    }

    /// Its last thread has ended: a process becomes a zombie and gives back what it has.
    pub(crate) fn finish_process(&mut self, pid: Pid, name: [u8; NAME_BYTES]) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        if pid == FIRST_PID || process.is_zombie() {
            return;
        }
        let ending = process.end.map_or(Ending::Status(process.first_thread_status.unwrap_or(0)), |end| end.ending);
        let space = std::mem::replace(&mut process.space, SpaceId::NONE);
        let resident_max_kib = self.spaces.sizes(space).0 / 1024;
        let usage = Usage { time: process.time, resident_max_kib };
        let name = process.end.map_or(name, |end| end.name);
        process.end = Some(End { ending, is_zombie: true, usage, name });
        process.job = Job::default();
        process.timers = Default::default();
        process.pending = Default::default();
        process.program = Default::default();
        let files = std::mem::take(&mut process.files);
        drop::<FdTable>(files);
        self.network.settle_closed();
        self.leave_terminal(pid, true);
        self.spaces.release(space, &mut self.frames);
        self.release_parent(pid);
        let groups = self.guarded_groups(pid);
        self.leave_children(pid);
        for group in groups {
            self.continue_orphaned_group(group, pid);
        }
        self.processes[&pid].show_end();
        if self.tell_of_end(pid) {
            self.forget_process(pid);
        }
    }

    /// Lets a parent go on that waits for its `vfork` child to need its memory no more.
    pub(crate) fn release_parent(&mut self, pid: Pid) {
        if std::mem::take(&mut self.process_mut(pid).is_holding_parent) {
            self.waits.notify_key(WaitKey::Release(pid), usize::MAX);
        }
    }

    /// Gives the children of a process that ends to a new parent.
    fn leave_children(&mut self, pid: Pid) {
        let adopter = self.adopter(pid);
        for child in self.processes_where(|process| process.parent == pid) {
            let process = self.process_mut(child);
            process.parent = adopter;
            let wish = process.settings.parent_death_signal;
            // Whatever it was made to send, its new parent is told as of any child.
            process.exit_signal = Some(Signal::CHLD);
            let is_zombie = process.is_zombie();
            if let Some(signal) = Signal::new(wish) {
                // A full queue loses it, as on Linux.
                let _ = self.signal_process(child, Info::from_process(signal, pid, false));
            }
            if is_zombie && self.tell_of_end(child) {
                self.forget_process(child);
            }
        }
    }

    /// The nearest ancestor that wants orphans (`PR_SET_CHILD_SUBREAPER`), or [`INIT_PID`].
    fn adopter(&self, pid: Pid) -> Pid {
        let mut at = self.processes[&pid].parent;
        // Parents are older than their children, but for adopted ones: the count ends the walk whatever happens.
        for _ in 0..self.processes.len() {
            let Some(process) = self.processes.get(&at) else { break };
            if process.settings.is_subreaper && process.end.is_none() {
                return at;
            }
            at = process.parent;
        }
        INIT_PID
    }

    /// Tells the parent of a zombie: whether the zombie can be forgotten, because nobody will wait for it.
    fn tell_of_end(&mut self, pid: Pid) -> bool {
        let process = &self.processes[&pid];
        let parent_pid = process.parent;
        let (code, status) = match process.end.map(|end| end.ending) {
            Some(Ending::Status(status)) => (CODE_EXITED, i32::from(status)),
            Some(Ending::Signal(signal)) => (CODE_KILLED, i32::from(signal.number())),
            Some(Ending::OutOfMemory) | None => (CODE_KILLED, i32::from(Signal::KILL.number())),
        };
        let info = self.child_info(pid, code, status);
        let exit_signal = process.exit_signal;
        let Some(parent) = self.processes.get(&parent_pid).filter(|parent| parent.end.is_none()) else { return true };
        let action = parent.action(Signal::CHLD);
        let is_ordinary = exit_signal == Some(Signal::CHLD);
        let is_unwanted = is_ordinary && (action.handler == HANDLER_IGNORE || action.flags & FLAG_NO_CHILD_WAIT != 0);
        if let Some(signal) = exit_signal
            && !(is_ordinary && action.handler == HANDLER_IGNORE)
        {
            let _ = self.signal_process(parent_pid, Info { signal, ..info });
        }
        self.waits.notify_key(WaitKey::Child(parent_pid), usize::MAX);
        is_unwanted
    }

    /// What `SIGCHLD` says about a child.
    fn child_info(&self, pid: Pid, code: i32, status: i32) -> Info {
        let process = &self.processes[&pid];
        let [user, system] = process.time.ticks();
        let uid = u64::from(process.credentials.uid);
        let fields = [u64::from(pid) | uid << 32, u64::from(status.cast_unsigned()), user, system];
        Info { signal: Signal::CHLD, code, fields }
    }

    /// A zombie that has been waited for, or that nobody will wait for.
    pub(crate) fn forget_process(&mut self, pid: Pid) {
        if let Some(process) = self.processes.remove(&pid) {
            process.show_gone();
            self.waits.notify_key(WaitKey::Child(process.parent), usize::MAX);
        }
    }

    /// The processes that a condition holds for, by id.
    pub(crate) fn processes_where(&self, is_meant: impl Fn(&Process) -> bool) -> Vec<Pid> {
        self.processes.values().filter(|process| is_meant(process)).map(|process| process.pid).collect()
    }

    /// Whether no member of a process group has a parent in the same session but another group: nobody would continue it.
    pub(crate) fn is_orphaned_group(&self, group: Pid, besides: Pid) -> bool {
        let has_guardian = |process: &Process| {
            process.group == group
                && process.pid != besides
                && !process.is_zombie()
                && self
                    .processes
                    .get(&process.parent)
                    .is_some_and(|parent| parent.session == process.session && parent.group != group)
        };
        !self.processes.values().any(has_guardian)
    }

    /// The groups that the end of a process may orphan: its own, if its parent guards that, and those that it guards.
    fn guarded_groups(&self, pid: Pid) -> BTreeSet<Pid> {
        let process = &self.processes[&pid];
        let is_guarded_by = |child: &Process, parent: &Process| {
            child.session == parent.session && child.group != parent.group && child.parent == parent.pid
        };
        let of_children = self.processes.values().filter(|child| is_guarded_by(child, process));
        let own = self.processes.get(&process.parent).filter(|parent| is_guarded_by(process, parent));
        of_children.map(|child| child.group).chain(own.map(|_| process.group)).collect()
    }

    /// Hangs up and continues the members of a group that the end of a process has orphaned, if any is stopped (POSIX,
    /// `exit`).
    fn continue_orphaned_group(&mut self, group: Pid, pid: Pid) {
        if !self.is_orphaned_group(group, pid) {
            return;
        }
        let members = self.processes_where(|process| process.group == group && process.pid != pid);
        if !members.iter().any(|member| self.processes[member].job.stopped_by.is_some()) {
            return;
        }
        for member in members {
            for signal in [Signal::HUP, Signal::CONT] {
                let _ = self.signal_process(member, Info::from_kernel(signal));
            }
        }
    }

    /// Stops a process by a signal. Its threads leave their virtual CPUs before they run user code again.
    pub(crate) fn stop_process(&mut self, pid: Pid, signal: Signal) {
        let process = self.process_mut(pid);
        if process.end.is_some() || process.job.stopped_by.is_some() {
            return;
        }
        process.job = Job { stopped_by: Some(signal), report: Some(JobChange::Stopped(signal)) };
        for tid in self.threads_of(pid) {
            if let ThreadState::Running(vcpu) = self.threads[&tid].state {
                self.scheduler.kick(vcpu);
            }
        }
        self.tell_of_job(pid, CODE_STOPPED, signal);
    }

    /// Lets a stopped process go on.
    pub(crate) fn continue_process(&mut self, pid: Pid) {
        let process = self.process_mut(pid);
        if process.job.stopped_by.is_none() {
            return;
        }
        process.job = Job { stopped_by: None, report: Some(JobChange::Continued) };
        for tid in self.threads_of(pid) {
            let thread = self.threads.get_mut(&tid).expect("just listed");
            if thread.state == ThreadState::Stopped {
                thread.state = ThreadState::Ready;
                self.scheduler.push_ready(tid);
            }
        }
        self.tell_of_job(pid, CODE_CONTINUED, Signal::CONT);
    }

    fn tell_of_job(&mut self, pid: Pid, code: i32, signal: Signal) {
        let info = self.child_info(pid, code, signal.number().into());
        let parent_pid = self.processes[&pid].parent;
        let Some(parent) = self.processes.get(&parent_pid) else { return };
        let action = parent.action(Signal::CHLD);
        if action.handler != HANDLER_IGNORE && action.flags & FLAG_NO_CHILD_STOP == 0 {
            let _ = self.signal_process(parent_pid, info);
        }
        self.waits.notify_key(WaitKey::Child(parent_pid), usize::MAX);
    }
}
