//! Terminals as they are saved.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Settings, Side, State, TERMINALS_MAX, Terminal, TerminalEnd};
use crate::notifier::saved::SavedBeacon;
use crate::state::{Restorer, Saver, SectionId, StateError};

/// A [`Terminal`]. Who has it open is told by the ends.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedTerminal {
    index: u32,
    settings: Settings,
    master_side: SavedBeacon,
    slave_side: SavedBeacon,
}

/// A [`TerminalEnd`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedTerminalEnd {
    terminal: u32,
    side: Side,
}

impl Terminal {
    pub(crate) fn save(&self) -> SavedTerminal {
        let Self { index, state, master_side, slave_side } = self;
        let State { settings, masters: _, slaves: _ } = &*state.lock();
        SavedTerminal {
            index: *index,
            settings: settings.clone(),
            master_side: master_side.save(),
            slave_side: slave_side.save(),
        }
    }
}

impl SavedTerminal {
    pub(crate) fn restore(self, restorer: &mut Restorer<'_>) -> Result<Arc<Terminal>, StateError> {
        let Self { index, settings, master_side, slave_side } = self;
        if !settings.discipline.is_sound() {
            return Err(StateError::broken(SectionId::Files, "a terminal in which more waits than may"));
        }
        let state = Mutex::new(State { settings, masters: 0, slaves: 0 });
        let (master_side, slave_side) = (master_side.restore(restorer)?, slave_side.restore(restorer)?);
        let terminal = Arc::new(Terminal { index, state, master_side, slave_side });
        let mut registry = restorer.tree.terminals().0.lock();
        let is_new = registry.by_index.insert(index, terminal.clone()).is_none();
        if !is_new || registry.by_index.len() > TERMINALS_MAX {
            return Err(StateError::broken(SectionId::Files, "two terminals of one number, or too many"));
        }
        drop(registry);
        Ok(terminal)
    }
}

impl TerminalEnd {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedTerminalEnd {
        let Self { terminal, side, terminals: _ } = self;
        SavedTerminalEnd { terminal: saver.terminals.number(terminal), side: *side }
    }
}

impl SavedTerminalEnd {
    pub(crate) fn restore(self, restorer: &Restorer<'_>) -> Result<TerminalEnd, StateError> {
        let Self { terminal, side } = self;
        let terminal = restorer.terminal(terminal)?.clone();
        {
            let mut state = terminal.state.lock();
            match side {
                Side::Master => state.masters += 1,
                Side::Slave => state.slaves += 1,
            }
        }
        Ok(TerminalEnd { terminal, side, terminals: restorer.tree.terminals().clone() })
    }
}
