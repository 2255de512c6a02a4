//! The run queue as it is saved. What virtual CPUs do is not: no thread is on one then.

use serde::{Deserialize, Serialize};

use super::{Scheduler, Slot};
use crate::waits::Tid;

/// The [`Scheduler`] of a guest.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedScheduler {
    /// Threads that wait for a virtual CPU, in order.
    pub(crate) ready: Vec<Tid>,
}

impl Scheduler {
    pub(crate) fn save(&self) -> SavedScheduler {
        // How many there are, whether they sleep, whether and for how long they may run is up to the monitor. A wish to yield ends with
        // the call that has it.
        let Self { ready, vcpus, idle: _, is_yield_wanted: _, is_frozen: _, quota: _, ticker_until_ns: _ } = self;
        debug_assert!(vcpus.iter().all(|Slot { running, kicker: _ }| running.is_none()));
        SavedScheduler { ready: ready.iter().copied().collect() }
    }

    pub(crate) fn restore(&mut self, saved: SavedScheduler) {
        let SavedScheduler { ready } = saved;
        self.ready = ready.into();
    }
}
