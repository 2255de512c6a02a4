//! Locks on files as they are saved.

use serde::{Deserialize, Serialize};

use super::{FileKey, FileLocks, LOCKS_MAX, Locks, OpenLocks, Owner, Record, Request, State, TableLocks};
use crate::notifier::saved::SavedBeacon;
use crate::state::{Restorer, SectionId, StateError};
use crate::waits::Tid;

/// The [`Locks`] of a guest.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedLocks {
    last_owner: u64,
    files: Vec<(FileKey, SavedFileLocks)>,
    waiting: Vec<(Tid, Owner, FileKey, Request)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedFileLocks {
    records: Vec<Record>,
    whole: Vec<(u64, bool)>,
    beacon: SavedBeacon,
}

/// An [`OpenLocks`]: whose file it is, and as who.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedOpenLocks {
    key: FileKey,
    id: u64,
}

impl Locks {
    pub(crate) fn save(&self) -> SavedLocks {
        let State { last_owner, files, waiting } = &*self.0.lock();
        let file = |(key, FileLocks { records, whole, beacon }): (&FileKey, &FileLocks)| {
            let whole = whole.iter().map(|(id, is_exclusive)| (*id, *is_exclusive)).collect();
            (*key, SavedFileLocks { records: records.clone(), whole, beacon: beacon.save() })
        };
        SavedLocks {
            last_owner: *last_owner,
            files: files.iter().map(file).collect(),
            waiting: waiting.iter().map(|(tid, (owner, key, request))| (*tid, *owner, *key, *request)).collect(),
        }
    }

    pub(crate) fn restore(&self, saved: SavedLocks, restorer: &mut Restorer<'_>) -> Result<(), StateError> {
        let SavedLocks { last_owner, files, waiting } = saved;
        StateError::check_last_number(SectionId::Files, last_owner, u64::BITS)?;
        let broken = |rule| StateError::broken(SectionId::Files, rule);
        let mut state = State { last_owner, ..State::default() };
        for (key, SavedFileLocks { records, whole, beacon }) in files {
            if records.iter().any(|record| record.request.start > record.request.end) {
                return Err(broken("a lock that ends before it begins"));
            }
            let locks = FileLocks { records, whole: whole.into_iter().collect(), beacon: beacon.restore(restorer)? };
            state.files.insert(key, locks);
        }
        if state.count() > LOCKS_MAX {
            return Err(broken("more locks than there may be"));
        }
        state.waiting = waiting.into_iter().map(|(tid, owner, key, request)| (tid, (owner, key, request))).collect();
        *self.0.lock() = state;
        Ok(())
    }
}

impl OpenLocks {
    pub(crate) fn save(&self) -> SavedOpenLocks {
        let Self { locks: _, key, id } = self;
        SavedOpenLocks { key: *key, id: *id }
    }
}

impl SavedOpenLocks {
    pub(crate) fn restore(self, restorer: &Restorer<'_>) -> OpenLocks {
        let Self { key, id } = self;
        OpenLocks { locks: restorer.tree.locks().clone(), key, id }
    }
}

impl TableLocks {
    /// As who its locks are held.
    pub(crate) fn save(&self) -> u64 {
        let Self { locks: _, id } = self;
        *id
    }

    pub(crate) fn restore(id: u64, restorer: &Restorer<'_>) -> Self {
        Self { locks: restorer.tree.locks().clone(), id }
    }
}
