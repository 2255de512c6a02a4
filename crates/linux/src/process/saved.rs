//! Processes as they are saved. What several may have in common is numbered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    Actions, End, Job, Life, PHASE_GONE, Pid, Process, ProcessorTime, ProgramFacts, Settings, Surroundings, Usage,
};
use crate::credentials::Credentials;
use crate::file::table::saved::SavedFdTable;
use crate::fs::node::saved::SavedLocation;
use crate::limits::Limits;
use crate::mm::SpaceId;
use crate::notifier::saved::SavedBeacon;
use crate::signal::{Action, PendingSignals, Signal};
use crate::state::{Restorer, Saver, SectionId, StateError};
use crate::timers::Timers;

/// A [`Process`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedProcess {
    pub(crate) pid: Pid,
    parent: Pid,
    group: Pid,
    session: Pid,
    terminal: Option<u32>,
    space: SpaceId,
    files: SavedFdTable,
    surroundings: u32,
    credentials: Credentials,
    limits: Limits,
    program: u32,
    actions: u32,
    pending: PendingSignals,
    signals_sent: u64,
    timers: Timers,
    started_ns: u64,
    first_thread_status: Option<u8>,
    time: ProcessorTime,
    warned_at_seconds: u64,
    children_usage: Usage,
    settings: Settings,
    exit_signal: Option<Signal>,
    is_holding_parent: bool,
    has_called_exec: bool,
    job: Job,
    end: Option<End>,
    life: Option<u32>,
}

/// A [`Surroundings`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedSurroundings {
    cwd: SavedLocation,
    umask: u32,
}

/// A [`Life`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedLife {
    pid: Pid,
    phase: u8,
    beacon: SavedBeacon,
}

impl Process {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedProcess {
        let Self {
            pid,
            parent,
            group,
            session,
            terminal,
            space,
            files,
            surroundings,
            credentials,
            limits,
            program,
            actions,
            pending,
            signals_sent,
            timers,
            started_ns,
            first_thread_status,
            time,
            warned_at_seconds,
            children_usage,
            settings,
            exit_signal,
            is_holding_parent,
            has_called_exec,
            job,
            end,
            life,
        } = self;
        SavedProcess {
            pid: *pid,
            parent: *parent,
            group: *group,
            session: *session,
            terminal: *terminal,
            space: *space,
            files: files.save(saver),
            surroundings: saver.surroundings.number(surroundings),
            credentials: credentials.clone(),
            limits: limits.clone(),
            program: saver.programs.number(program),
            actions: saver.actions.number(actions),
            pending: pending.clone(),
            signals_sent: *signals_sent,
            timers: timers.clone(),
            started_ns: *started_ns,
            first_thread_status: *first_thread_status,
            time: *time,
            warned_at_seconds: *warned_at_seconds,
            children_usage: *children_usage,
            settings: settings.clone(),
            exit_signal: *exit_signal,
            is_holding_parent: *is_holding_parent,
            has_called_exec: *has_called_exec,
            job: *job,
            end: *end,
            life: life.as_ref().map(|life| saver.lives.number(life)),
        }
    }
}

impl SavedProcess {
    pub(crate) fn restore(self, restorer: &Restorer<'_>) -> Result<Process, StateError> {
        let Self {
            pid,
            parent,
            group,
            session,
            terminal,
            space,
            files,
            surroundings,
            credentials,
            limits,
            program,
            actions,
            pending,
            signals_sent,
            timers,
            started_ns,
            first_thread_status,
            time,
            warned_at_seconds,
            children_usage,
            settings,
            exit_signal,
            is_holding_parent,
            has_called_exec,
            job,
            end,
            life,
        } = self;
        if (space == SpaceId::NONE) != end.is_some_and(|end| end.is_zombie) {
            return Err(StateError::broken(
                SectionId::Processes,
                "a process that has ended with memory, or one without",
            ));
        }
        Ok(Process {
            pid,
            parent,
            group,
            session,
            terminal,
            space,
            files: files.restore(restorer)?,
            surroundings: restorer.surroundings(surroundings)?.clone(),
            credentials,
            limits,
            program: restorer.program(program)?.clone(),
            actions: restorer.actions(actions)?.clone(),
            pending,
            signals_sent,
            timers,
            started_ns,
            first_thread_status,
            time,
            warned_at_seconds,
            children_usage,
            settings,
            exit_signal,
            is_holding_parent,
            has_called_exec,
            job,
            end,
            life: life.map(|life| restorer.life(life).cloned()).transpose()?,
        })
    }
}

impl Surroundings {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedSurroundings {
        let Self { cwd, umask } = self;
        SavedSurroundings { cwd: cwd.save(saver), umask: *umask }
    }
}

impl SavedSurroundings {
    pub(crate) fn restore(self, restorer: &Restorer<'_>) -> Result<Surroundings, StateError> {
        let Self { cwd, umask } = self;
        Ok(Surroundings { cwd: cwd.restore(restorer)?, umask })
    }
}

impl Life {
    pub(crate) fn save(&self) -> SavedLife {
        let Self { pid, phase, beacon } = self;
        SavedLife { pid: *pid, phase: phase.load(Ordering::Relaxed), beacon: beacon.save() }
    }
}

impl SavedLife {
    pub(crate) fn restore(self, restorer: &mut Restorer<'_>) -> Result<Arc<Life>, StateError> {
        let Self { pid, phase, beacon } = self;
        if phase > PHASE_GONE {
            return Err(StateError::broken(SectionId::Processes, "a process in an unknown phase of its life"));
        }
        Ok(Arc::new(Life { pid, phase: AtomicU8::new(phase), beacon: beacon.restore(restorer)? }))
    }
}

/// What processes do with signals, one action for each.
pub(crate) fn save_actions(actions: &Mutex<Actions>) -> Vec<Action> {
    actions.lock().to_vec()
}

/// See [`save_actions`].
pub(crate) fn restore_actions(saved: Vec<Action>) -> Result<Arc<Mutex<Actions>>, StateError> {
    let rule = "a process without an action for each signal";
    let actions = saved.try_into().map_err(|_| StateError::broken(SectionId::Processes, rule))?;
    Ok(Arc::new(Mutex::new(actions)))
}

impl ProgramFacts {
    /// The same, without what it counts.
    pub(crate) fn save(&self) -> ProgramFacts {
        let Self { path, arguments, environment, auxiliary, stack_start, memory: _ } = self;
        ProgramFacts {
            path: path.clone(),
            arguments: arguments.clone(),
            environment: environment.clone(),
            auxiliary: auxiliary.clone(),
            stack_start: *stack_start,
            memory: None,
        }
    }

    /// The same, counted again.
    pub(crate) fn restore(mut self, restorer: &Restorer<'_>) -> Arc<ProgramFacts> {
        let bytes = self.path.len() + self.arguments.len() + self.environment.len() + self.auxiliary.len();
        self.memory = Some(restorer.buffers.take(bytes));
        Arc::new(self)
    }
}
