//! Pseudo-terminals: `pty(7)`, `tty(4)`.
//!
//! A [`Terminal`] is a pair: what is written to the master passes the [`discipline`] and is read from the slave, and the
//! other way round. Open files have [`TerminalEnd`]s. [`Terminals`] knows the guest's terminals by number; [`control`] is
//! what they do to sessions and process groups.

pub mod control;
pub mod discipline;
pub(crate) mod saved;
pub mod termios;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::file::readiness;
use crate::fs::metadata::Time;
use crate::notifier::{Beacon, Notifier};
use crate::process::Pid;
use crate::signal::Signal;
use crate::tty::discipline::Discipline;

/// Most terminals of a guest.
pub const TERMINALS_MAX: usize = 64;

/// A pair of master and slave.
#[derive(Debug)]
pub struct Terminal {
    index: u32,
    state: Mutex<State>,
    master_side: Beacon,
    slave_side: Beacon,
}

#[derive(Debug)]
struct State {
    settings: Settings,
    masters: usize,
    slaves: usize,
}

/// What a terminal has beside who has it open.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Settings {
    discipline: Discipline,
    /// Rows, columns, and their size in pixels.
    window: [u16; 4],
    /// Whether the slave cannot be opened yet (`unlockpt(3)`).
    is_locked: bool,
    /// Whether the slave was open and nobody has it open now.
    is_slave_gone: bool,
    /// The session that it controls, 0 for none.
    session: Pid,
    /// The process group in the foreground, 0 for none.
    foreground: Pid,
    owner: Owner,
}

/// Who has opened the master, and when: the slave is theirs.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When.
    pub opened: Time,
}

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// That of the program that plays the terminal.
    Master,
    /// That of the programs that run in it.
    Slave,
}

/// An open end.
#[derive(Debug)]
pub struct TerminalEnd {
    terminal: Arc<Terminal>,
    side: Side,
    terminals: Terminals,
}

/// The terminals of a guest.
#[derive(Debug, Clone, Default)]
pub struct Terminals(Arc<Mutex<Registry>>);

#[derive(Debug, Default)]
struct Registry {
    by_index: BTreeMap<u32, Arc<Terminal>>,
    /// Ends that were closed as the last of their side.
    closed: Vec<(Arc<Terminal>, Side)>,
}

impl Terminals {
    /// Makes a terminal: its master. `ENOSPC` if there are too many.
    pub fn open_master(&self, notifier: &Notifier, owner: Owner) -> Result<TerminalEnd, Errno> {
        let mut registry = self.0.lock();
        if registry.by_index.len() >= TERMINALS_MAX {
            return Err(Errno::ENOSPC);
        }
        let index = (0..).find(|index| !registry.by_index.contains_key(index)).ok_or(Errno::ENOSPC)?;
        let settings = Settings { is_locked: true, owner, ..Settings::default() };
        let terminal = Arc::new(Terminal {
            index,
            state: Mutex::new(State { settings, masters: 1, slaves: 0 }),
            master_side: Beacon::new(notifier),
            slave_side: Beacon::new(notifier),
        });
        registry.by_index.insert(index, terminal.clone());
        Ok(TerminalEnd { terminal, side: Side::Master, terminals: self.clone() })
    }

    /// The terminal of this number, as long as its master is open.
    pub fn get(&self, index: u32) -> Option<Arc<Terminal>> {
        let terminal = self.0.lock().by_index.get(&index).cloned()?;
        terminal.has_master().then_some(terminal)
    }

    /// Whose the terminal of this number is; `None` if there is none.
    pub fn owner(&self, index: u32) -> Option<Owner> {
        self.get(index).map(|terminal| terminal.state.lock().settings.owner)
    }

    /// The numbers of those whose master is open.
    pub fn indices(&self) -> Vec<u32> {
        let registry = self.0.lock();
        registry.by_index.values().filter(|terminal| terminal.has_master()).map(|terminal| terminal.index).collect()
    }

    /// Opens a slave. `EIO` if it is locked or its master is gone.
    pub fn open_slave(&self, terminal: &Arc<Terminal>) -> Result<TerminalEnd, Errno> {
        let mut state = terminal.state.lock();
        if state.masters == 0 || state.settings.is_locked {
            return Err(Errno::EIO);
        }
        state.slaves += 1;
        state.settings.is_slave_gone = false;
        drop(state);
        terminal.master_side.ring();
        Ok(TerminalEnd { terminal: terminal.clone(), side: Side::Slave, terminals: self.clone() })
    }

    /// The sides that nobody has open any more since the last call, and forgets the terminals without any.
    fn take_closed(&self) -> Vec<(Arc<Terminal>, Side)> {
        let mut registry = self.0.lock();
        if registry.closed.is_empty() {
            return Vec::new();
        }
        let closed = std::mem::take(&mut registry.closed);
        registry.by_index.retain(|_, terminal| terminal.is_open());
        closed
    }
}

impl Terminal {
    /// Its number, as in `/dev/pts`.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The session that it controls.
    pub fn session(&self) -> Option<Pid> {
        Some(self.state.lock().settings.session).filter(|session| *session != 0)
    }

    /// The process group in the foreground.
    pub fn foreground(&self) -> Option<Pid> {
        Some(self.state.lock().settings.foreground).filter(|group| *group != 0)
    }

    /// Changes the process group in the foreground.
    pub fn set_foreground(&self, group: Pid) {
        self.state.lock().settings.foreground = group;
    }

    fn set_session(&self, session: Pid, foreground: Pid) {
        let mut state = self.state.lock();
        state.settings.session = session;
        state.settings.foreground = foreground;
    }

    fn has_master(&self) -> bool {
        self.state.lock().masters > 0
    }

    fn is_open(&self) -> bool {
        let state = self.state.lock();
        state.masters + state.slaves > 0
    }

    fn ring(&self) {
        self.master_side.ring();
        self.slave_side.ring();
    }
}

impl TerminalEnd {
    /// The pair.
    pub fn terminal(&self) -> &Arc<Terminal> {
        &self.terminal
    }

    /// Which end it is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Whether the master of this slave is gone.
    pub fn is_hung_up(&self) -> bool {
        self.side == Side::Slave && !self.terminal.has_master()
    }

    /// The bell to wait for.
    pub fn beacon(&self) -> &Beacon {
        match self.side {
            Side::Master => &self.terminal.master_side,
            Side::Slave => &self.terminal.slave_side,
        }
    }

    /// Looks at the discipline, or changes it without effect on who waits.
    pub fn with<T>(&self, look: impl FnOnce(&mut Discipline) -> T) -> T {
        look(&mut self.terminal.state.lock().settings.discipline)
    }

    /// Changes the discipline and wakes who waits.
    pub fn change<T>(&self, change: impl FnOnce(&mut Discipline) -> T) -> T {
        let result = self.with(change);
        self.terminal.ring();
        result
    }

    /// Reads what is there: `EAGAIN` if there is nothing, of a master `EIO` if there will be nothing either.
    pub fn read(&self, length: usize) -> Result<Vec<u8>, Errno> {
        let mut state = self.terminal.state.lock();
        let is_other_gone = state.settings.is_slave_gone;
        let has_master = state.masters > 0;
        let discipline = &mut state.settings.discipline;
        let result = match self.side {
            Side::Slave if !has_master => return Ok(Vec::new()),
            Side::Slave => discipline.read(length),
            Side::Master => match discipline.read_output(length) {
                Err(Errno::EAGAIN) if is_other_gone => Err(Errno::EIO),
                result => result,
            },
        };
        drop(state);
        if result.is_ok() {
            self.terminal.ring();
        }
        result
    }

    /// Writes as much as there is room for; from the master, with the signals that the bytes are. `EAGAIN` if that is
    /// nothing, `EIO` if the master is gone.
    pub fn write(&self, bytes: &[u8]) -> Result<(usize, Vec<Signal>), Errno> {
        let mut state = self.terminal.state.lock();
        let has_master = state.masters > 0;
        let discipline = &mut state.settings.discipline;
        let result = match self.side {
            Side::Slave if !has_master => return Err(Errno::EIO),
            Side::Slave => discipline.write(bytes).map(|taken| (taken, Vec::new())),
            Side::Master => discipline.receive(bytes),
        };
        drop(state);
        if result.is_ok() {
            self.terminal.ring();
        }
        result
    }

    /// What can be done now.
    pub fn readiness(&self) -> u32 {
        let state = self.terminal.state.lock();
        let discipline = &state.settings.discipline;
        match self.side {
            Side::Slave if state.masters == 0 => readiness::BOTH | readiness::ERROR | readiness::HANG_UP,
            Side::Slave => {
                let termios = discipline.termios();
                let wanted = if termios.time_tenths() == 0 { termios.minimum() } else { 1 };
                readiness::from(discipline.is_readable(wanted), discipline.has_output_room())
            }
            Side::Master => {
                let hang_up = if state.settings.is_slave_gone { readiness::HANG_UP } else { 0 };
                readiness::from(discipline.output_length() > 0, discipline.has_input_room()) | hang_up
            }
        }
    }

    /// Bytes that wait to be read (`FIONREAD`).
    pub fn length(&self) -> usize {
        self.with(|discipline| match self.side {
            Side::Master => discipline.output_length(),
            Side::Slave => discipline.input_length(),
        })
    }

    /// Locks the slave or unlocks it.
    pub fn set_locked(&self, is_locked: bool) {
        self.terminal.state.lock().settings.is_locked = is_locked;
    }

    /// Whether the slave is locked.
    pub fn is_locked(&self) -> bool {
        self.terminal.state.lock().settings.is_locked
    }

    /// Rows, columns, and their size in pixels.
    pub fn window(&self) -> [u16; 4] {
        self.terminal.state.lock().settings.window
    }

    /// Changes the window's size: whether it was another.
    pub fn set_window(&self, window: [u16; 4]) -> bool {
        let old = std::mem::replace(&mut self.terminal.state.lock().settings.window, window);
        old != window
    }

    /// Opens the slave of this pair.
    pub fn open_slave(&self) -> Result<TerminalEnd, Errno> {
        self.terminals.open_slave(&self.terminal)
    }
}

impl Drop for TerminalEnd {
    fn drop(&mut self) {
        let is_last = {
            let mut state = self.terminal.state.lock();
            let count = match self.side {
                Side::Master => &mut state.masters,
                Side::Slave => &mut state.slaves,
            };
            *count -= 1;
            let is_last = *count == 0;
            state.settings.is_slave_gone |= is_last && self.side == Side::Slave;
            is_last
        };
        if is_last {
            self.terminals.0.lock().closed.push((self.terminal.clone(), self.side));
        }
        self.terminal.ring();
    }
}
