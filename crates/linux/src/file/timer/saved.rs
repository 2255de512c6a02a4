//! A timer that is read, as it is saved.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Setting, TimerFd};
use crate::notifier::saved::SavedBeacon;
use crate::state::{Restorer, StateError};

/// A [`TimerFd`]. Its alarm is the notifier's.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedTimer {
    setting: Setting,
    beacon: SavedBeacon,
    is_realtime: bool,
}

impl TimerFd {
    pub(crate) fn save(&self) -> SavedTimer {
        let Self { setting, beacon, is_realtime } = self;
        SavedTimer { setting: *setting.lock(), beacon: beacon.save(), is_realtime: *is_realtime }
    }
}

impl SavedTimer {
    pub(crate) fn restore(self, restorer: &mut Restorer<'_>) -> Result<TimerFd, StateError> {
        let Self { setting, beacon, is_realtime } = self;
        Ok(TimerFd { setting: Mutex::new(setting), beacon: beacon.restore(restorer)?, is_realtime })
    }
}
