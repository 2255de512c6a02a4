//! Bells as they are saved.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::{Beacon, Notifier, State};
use crate::outcome::ObjectId;
use crate::state::{Restorer, SectionId, StateError};

/// A [`Notifier`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedNotifier {
    last_object: u64,
    rung: Vec<ObjectId>,
    alarms: Vec<(ObjectId, u64)>,
}

/// A [`Beacon`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct SavedBeacon {
    object: ObjectId,
    changes: u64,
}

impl Notifier {
    pub(crate) fn save(&self) -> SavedNotifier {
        let State { last_object, rung, alarms: _, alarm_of } = &*self.0.lock();
        let alarms = alarm_of.iter().map(|(object, at)| (*object, *at)).collect();
        SavedNotifier { last_object: *last_object, rung: rung.clone(), alarms }
    }

    /// Puts back what objects have rung and which alarms are set, whatever making the objects again has done.
    pub(crate) fn restore(&self, saved: SavedNotifier) -> Result<(), StateError> {
        let SavedNotifier { last_object, rung, alarms } = saved;
        StateError::check_last_number(SectionId::Kernel, last_object, u64::BITS)?;
        let objects = alarms.iter().map(|(object, _)| object).chain(&rung);
        if objects.into_iter().any(|object| object.0 > last_object) {
            return Err(StateError::broken(SectionId::Kernel, "an alarm of an object that was never made"));
        }
        let by_time = alarms.iter().map(|(object, at)| (*at, *object)).collect();
        *self.0.lock() = State { last_object, rung, alarms: by_time, alarm_of: alarms.into_iter().collect() };
        Ok(())
    }
}

impl SavedNotifier {
    /// The highest identity that any object has had.
    pub(crate) fn last_object(&self) -> u64 {
        self.last_object
    }
}

impl Beacon {
    pub(crate) fn save(&self) -> SavedBeacon {
        let Self { object, changes, notifier: _ } = self;
        SavedBeacon { object: *object, changes: changes.load(Ordering::Relaxed) }
    }
}

impl SavedBeacon {
    pub(crate) fn restore(self, restorer: &mut Restorer<'_>) -> Result<Beacon, StateError> {
        let Self { object, changes } = self;
        restorer.claim_object(object)?;
        Ok(Beacon { object, changes: AtomicU64::new(changes), notifier: restorer.notifier.clone() })
    }
}
