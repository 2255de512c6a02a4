//! Tables of descriptors as they are saved.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{DESCRIPTORS_MAX, FdTable, Slot, Table, put};
use crate::file::lock::TableLocks;
use crate::state::{Restorer, Saver, SectionId, StateError};

/// An [`FdTable`]: which table it is, and the process's own limit.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedFdTable {
    table: u32,
    limit: u64,
}

/// A [`Table`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedTable {
    slots: Vec<SavedSlot>,
    /// As who its record locks are held, if there ever were any.
    locks: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedSlot {
    fd: u32,
    file: u32,
    is_closed_on_exec: bool,
}

impl FdTable {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedFdTable {
        let Self { table, limit } = self;
        SavedFdTable { table: saver.tables.number(table), limit: *limit as u64 }
    }
}

impl SavedFdTable {
    pub(crate) fn restore(self, restorer: &Restorer<'_>) -> Result<FdTable, StateError> {
        let Self { table, limit } = self;
        let mut table = FdTable { table: restorer.table(table)?.clone(), limit: 0 };
        table.set_limit(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(table)
    }
}

impl Table {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedTable {
        let Self { slots, locks } = self;
        let mut saved = Vec::new();
        for (fd, slot) in (0..).zip(slots.lock().iter()) {
            let Some(Slot { file, is_closed_on_exec }) = slot else { continue };
            saved.push(SavedSlot { fd, file: saver.file(file), is_closed_on_exec: *is_closed_on_exec });
        }
        SavedTable { slots: saved, locks: locks.lock().as_ref().map(TableLocks::save) }
    }
}

impl SavedTable {
    pub(crate) fn restore(self, restorer: &Restorer<'_>) -> Result<Arc<Table>, StateError> {
        let Self { slots, locks } = self;
        let broken = |rule| StateError::broken(SectionId::Files, rule);
        let mut restored = Vec::new();
        for SavedSlot { fd, file, is_closed_on_exec } in slots {
            let index = fd as usize;
            if index >= DESCRIPTORS_MAX {
                return Err(broken("a descriptor beyond the highest possible one"));
            }
            let file = restorer.file(file)?.clone();
            if put(&mut restored, index, Slot { file, is_closed_on_exec }).is_some() {
                return Err(broken("a descriptor that is there twice"));
            }
        }
        let locks = Mutex::new(locks.map(|id| TableLocks::restore(id, restorer)));
        Ok(Arc::new(Table { slots: Mutex::new(restored), locks }))
    }
}
