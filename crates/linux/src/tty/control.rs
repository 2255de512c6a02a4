//! Terminals and the sessions they control: who has which, who is in the foreground, what hanging up does
//! (`credentials(7)`, `setsid(2)`, POSIX "General Terminal Interface").
//!
//! A process knows its controlling terminal by number ([`crate::process::Process::terminal`]), a terminal its session by
//! the leader's id. A number is not another terminal's before every process has lost it.

use std::sync::Arc;

use crate::call::Call;
use crate::errno::Errno;
use crate::kernel::Kernel;
use crate::outcome::{Stop, Wait, WaitKey};
use crate::process::Pid;
use crate::signal::{HANDLER_IGNORE, Info, Signal};
use crate::tty::{Side, Terminal, TerminalEnd};

impl Kernel {
    /// Sends a signal to a process group.
    pub(crate) fn signal_group(&mut self, group: Pid, signal: Signal) {
        for pid in self.processes_where(|process| process.group == group) {
            // A full queue loses it, as on Linux.
            let _ = self.signal_process(pid, Info::from_kernel(signal));
        }
    }

    /// Sends a signal to whoever is in the foreground of a terminal.
    pub(crate) fn signal_foreground(&mut self, terminal: &Terminal, signal: Signal) {
        if let Some(group) = terminal.foreground() {
            self.signal_group(group, signal);
        }
    }

    /// The controlling terminal of a process.
    pub(crate) fn terminal_of(&self, pid: Pid) -> Option<Arc<Terminal>> {
        self.files.terminals().get(self.processes.get(&pid)?.terminal?)
    }

    /// Whether a terminal is a process's controlling one.
    pub(crate) fn is_controlled_by(&self, pid: Pid, terminal: &Terminal) -> bool {
        self.processes.get(&pid).is_some_and(|process| process.terminal == Some(terminal.index()))
    }

    /// A session's leader without a terminal gets this one, if no session has it yet.
    pub(crate) fn acquire_terminal(&mut self, pid: Pid, terminal: &Terminal) {
        let process = self.process_mut(pid);
        if process.session == pid && process.terminal.is_none() && terminal.session().is_none() {
            process.terminal = Some(terminal.index());
            terminal.set_session(pid, process.group);
        }
    }

    /// Takes a terminal away from the session that it controls.
    pub(crate) fn release_terminal(&mut self, terminal: &Terminal) {
        terminal.set_session(0, 0);
        self.forget_terminal(terminal);
    }

    fn forget_terminal(&mut self, terminal: &Terminal) {
        for process in self.processes.values_mut().filter(|process| process.terminal == Some(terminal.index())) {
            process.terminal = None;
        }
    }

    /// A process gives up its controlling terminal, a session's leader for all of the session: those in the foreground are
    /// hung up, and go on unless the leader has ended.
    pub(crate) fn leave_terminal(&mut self, pid: Pid, has_ended: bool) {
        let terminal = self.terminal_of(pid);
        let process = self.process_mut(pid);
        process.terminal = None;
        let is_leader = process.session == pid;
        if let Some(terminal) = terminal
            && is_leader
        {
            self.signal_foreground(&terminal, Signal::HUP);
            if !has_ended {
                self.signal_foreground(&terminal, Signal::CONT);
            }
            self.release_terminal(&terminal);
        }
    }

    /// Does what the closing of terminals' ends asks for: the leader of a session whose master is gone is hung up.
    pub(crate) fn settle_terminals(&mut self) {
        for (terminal, side) in self.files.terminals().clone().take_closed() {
            match (side, terminal.session()) {
                (Side::Master, Some(leader)) => {
                    self.release_terminal(&terminal);
                    for signal in [Signal::HUP, Signal::CONT] {
                        // The leader may have ended, or its queue be full.
                        let _ = self.signal_process(leader, Info::from_kernel(signal));
                    }
                }
                (Side::Master, None) => self.forget_terminal(&terminal),
                // Somebody may have opened it again in the same call.
                (Side::Slave, _) if terminal.is_slave_open() => {}
                (Side::Slave, _) => self.forget_terminal(&terminal),
            }
        }
    }
}

impl Terminal {
    fn is_slave_open(&self) -> bool {
        self.state.lock().slaves > 0
    }
}

impl Call<'_> {
    /// Holds a process in the background to the rules of job control before it reads (`SIGTTIN`) or writes and changes
    /// (`SIGTTOU`): its group is sent the signal, and the call is made again when that has had its effect. `EIO` if the
    /// signal could have none.
    pub(crate) fn check_foreground(&mut self, end: &TerminalEnd, signal: Signal) -> Result<(), Stop> {
        let terminal = end.terminal();
        if end.side() == Side::Master || !self.kernel.is_controlled_by(self.pid, terminal) {
            return Ok(());
        }
        self.check_group(terminal, end, signal)
    }

    /// The same for a terminal that is known to be the caller's.
    pub(crate) fn check_group(&mut self, terminal: &Terminal, end: &TerminalEnd, signal: Signal) -> Result<(), Stop> {
        let group = self.process().group;
        if terminal.foreground().is_none_or(|foreground| foreground == group) {
            return Ok(());
        }
        let is_blocked = self.thread().blocked.contains(signal);
        if is_blocked || self.process().action(signal).handler == HANDLER_IGNORE {
            return if signal == Signal::TTIN { Err(Errno::EIO.into()) } else { Ok(()) };
        }
        // Nobody is left out but a process that does not exist.
        if self.kernel.is_orphaned_group(group, 0) {
            return Err(Errno::EIO.into());
        }
        if self.is_interrupted() {
            return Err(Errno::EINTR.into());
        }
        self.kernel.signal_group(group, signal);
        // Should another thread take the signal, this one has not waited long.
        end.beacon().ring();
        Err(Stop::Block(Wait::on(WaitKey::Object(end.beacon().object()))))
    }
}
