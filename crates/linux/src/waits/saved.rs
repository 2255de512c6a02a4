//! Parked threads as they are saved.

use serde::{Deserialize, Serialize};

use super::{Tid, Waits};
use crate::notifier::saved::SavedNotifier;
use crate::outcome::{Wait, WaitKey, Woken};
use crate::state::{SectionId, StateError};

/// The [`Waits`] of a guest.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedWaits {
    parked: Vec<(Tid, Wait)>,
    /// Who waits for what, in the order in which they came.
    queues: Vec<(WaitKey, Vec<Tid>)>,
    woken: Vec<(Tid, Woken)>,
    pub(crate) notifier: SavedNotifier,
}

impl Waits {
    pub(crate) fn save(&self) -> SavedWaits {
        // Deadlines are those of the waits.
        let Self { parked, queues, deadlines: _, woken, notifier } = self;
        SavedWaits {
            parked: parked.iter().map(|(tid, wait)| (*tid, wait.clone())).collect(),
            queues: queues.iter().map(|(key, queue)| (*key, queue.clone())).collect(),
            woken: woken.clone(),
            notifier: notifier.save(),
        }
    }

    /// Parks the threads again. The notifier stays the one that the objects ring.
    pub(crate) fn restore(&mut self, saved: SavedWaits) -> Result<(), StateError> {
        let SavedWaits { parked, queues, woken, notifier } = saved;
        let broken = |rule| StateError::broken(SectionId::Kernel, rule);
        let mut expected: Vec<(WaitKey, Tid)> = Vec::new();
        for (tid, wait) in parked {
            expected.extend(wait.keys.iter().map(|key| (*key, tid)));
            self.deadlines.extend(wait.deadline_ns.map(|deadline| (deadline, tid)));
            if self.parked.insert(tid, wait).is_some() {
                return Err(broken("a thread that is parked twice"));
            }
        }
        let mut found: Vec<(WaitKey, Tid)> =
            queues.iter().flat_map(|(key, queue)| queue.iter().map(|tid| (*key, *tid))).collect();
        expected.sort_unstable();
        found.sort_unstable();
        if expected != found || queues.iter().any(|(_, queue)| queue.is_empty()) {
            return Err(broken("queues that are not those of the parked threads"));
        }
        self.queues = queues.into_iter().collect();
        self.woken = woken;
        self.notifier.restore(notifier)
    }

    /// The threads that are parked.
    pub(crate) fn parked(&self) -> impl Iterator<Item = Tid> {
        self.parked.keys().copied()
    }

    /// The threads that are parked no more and do not run yet.
    pub(crate) fn woken(&self) -> impl Iterator<Item = Tid> {
        self.woken.iter().map(|(tid, _)| *tid)
    }
}
