//! Clocks as they are saved: what they showed.

use std::sync::Arc;

use calypte_platform::Machine;
use serde::{Deserialize, Serialize};

use super::{Clock, MONOTONIC_AT_START_NS};
use crate::state::{ClockPolicy, SectionId, StateError};

/// Longest time that a guest can have run: some two hundred years.
const MONOTONIC_NS_MAX: u64 = u64::MAX / 4;

/// A [`Clock`].
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct SavedClock {
    monotonic_ns: u64,
    realtime_ns: u64,
}

impl Clock {
    pub(crate) fn save(&self) -> SavedClock {
        // How fast the counter runs and what the host's clocks showed is the machine's. The frame is the vDSO's.
        let Self { machine: _, scale, rate: _, started: _, monotonic_at_start_ns: _, published: _ } = self;
        let counter = self.counter();
        SavedClock { monotonic_ns: scale.monotonic_ns(counter), realtime_ns: scale.realtime_ns(counter) }
    }
}

impl SavedClock {
    /// Clocks that go on from the saved ones.
    pub(crate) fn restore(self, machine: Arc<dyn Machine>, policy: ClockPolicy) -> Result<Clock, StateError> {
        let Self { monotonic_ns, realtime_ns } = self;
        let mut clock = Clock::new(machine);
        let away_ns = match policy {
            ClockPolicy::Continue => 0,
            ClockPolicy::Advance => clock.started.realtime_ns.saturating_sub(realtime_ns),
        };
        let monotonic_ns = monotonic_ns.checked_add(away_ns).filter(|monotonic| *monotonic <= MONOTONIC_NS_MAX);
        let monotonic_ns = monotonic_ns.filter(|monotonic| *monotonic >= MONOTONIC_AT_START_NS);
        let rule = "a clock that shows an impossible time";
        let monotonic_ns = monotonic_ns.ok_or_else(|| StateError::broken(SectionId::Kernel, rule))?;
        clock.monotonic_at_start_ns = monotonic_ns;
        clock.scale.monotonic_ns = monotonic_ns;
        Ok(clock)
    }
}
