//! An event counter as it is saved.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{COUNT_MAX, EventFd};
use crate::notifier::saved::SavedBeacon;
use crate::state::{Restorer, SectionId, StateError};

/// An [`EventFd`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedEvent {
    count: u64,
    is_semaphore: bool,
    beacon: SavedBeacon,
}

impl EventFd {
    pub(crate) fn save(&self) -> SavedEvent {
        let Self { count, is_semaphore, beacon } = self;
        SavedEvent { count: *count.lock(), is_semaphore: *is_semaphore, beacon: beacon.save() }
    }
}

impl SavedEvent {
    pub(crate) fn restore(self, restorer: &mut Restorer<'_>) -> Result<EventFd, StateError> {
        let Self { count, is_semaphore, beacon } = self;
        if count > COUNT_MAX {
            return Err(StateError::broken(SectionId::Files, "a count beyond the largest of an eventfd"));
        }
        Ok(EventFd { count: Mutex::new(count), is_semaphore, beacon: beacon.restore(restorer)? })
    }
}
