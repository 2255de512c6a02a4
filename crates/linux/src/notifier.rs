//! How an object tells that its readiness has changed, without holding the kernel: it rings, and the parked threads that
//! wait for it are woken when [`crate::waits::Waits`] looks next, which is at the latest when the call that rang is over.

pub(crate) mod saved;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::outcome::ObjectId;

/// Where objects ring. Cheap to clone; all clones of one guest are the same.
#[derive(Debug, Clone, Default)]
pub struct Notifier(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    last_object: u64,
    rung: Vec<ObjectId>,
    alarms: BTreeSet<(u64, ObjectId)>,
    alarm_of: BTreeMap<ObjectId, u64>,
}

impl Notifier {
    /// An identity for a new object.
    pub fn new_object(&self) -> ObjectId {
        let mut state = self.0.lock();
        state.last_object += 1;
        ObjectId(state.last_object)
    }

    /// An object's readiness has changed.
    pub fn ring(&self, object: ObjectId) {
        let mut state = self.0.lock();
        if state.rung.last() != Some(&object) {
            state.rung.push(object);
        }
    }

    /// Makes an object ring by itself at a time of the monotonic clock; `None` takes that back.
    pub fn set_alarm(&self, object: ObjectId, at_ns: Option<u64>) {
        let mut state = self.0.lock();
        if let Some(previous) = state.alarm_of.remove(&object) {
            state.alarms.remove(&(previous, object));
        }
        if let Some(at) = at_ns {
            state.alarms.insert((at, object));
            state.alarm_of.insert(object, at);
        }
    }

    /// When the next alarm is due.
    pub fn next_alarm_ns(&self) -> Option<u64> {
        self.0.lock().alarms.first().map(|(at, _)| *at)
    }

    /// Rings the objects whose alarm is not after `now_ns`.
    pub fn expire(&self, now_ns: u64) {
        let mut state = self.0.lock();
        while let Some((at, object)) = state.alarms.first().copied()
            && at <= now_ns
        {
            state.alarms.remove(&(at, object));
            state.alarm_of.remove(&object);
            state.rung.push(object);
        }
    }

    /// The objects that have rung since the last call.
    pub fn take_rung(&self) -> Vec<ObjectId> {
        std::mem::take(&mut self.0.lock().rung)
    }

    /// Whether [`Notifier::take_rung`] would give any.
    pub fn has_rung(&self) -> bool {
        !self.0.lock().rung.is_empty()
    }
}

/// An object's own bell, with a count of its changes: edge-triggered epoll compares it with the count it saw last.
#[derive(Debug)]
pub struct Beacon {
    object: ObjectId,
    changes: AtomicU64,
    notifier: Notifier,
}

impl Beacon {
    /// A bell for a new object.
    pub fn new(notifier: &Notifier) -> Self {
        Self { object: notifier.new_object(), changes: AtomicU64::new(0), notifier: notifier.clone() }
    }

    /// The object's identity.
    pub fn object(&self) -> ObjectId {
        self.object
    }

    /// Tells that readiness has changed.
    pub fn ring(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.notifier.ring(self.object);
    }

    /// Rings by itself at a time of the monotonic clock; `None` takes that back.
    pub fn set_alarm(&self, at_ns: Option<u64>) {
        self.notifier.set_alarm(self.object, at_ns);
    }

    /// How often the object has changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Where it rings.
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }
}

impl Drop for Beacon {
    fn drop(&mut self) {
        self.notifier.set_alarm(self.object, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_rings_once_unless_taken_back() {
        let notifier = Notifier::default();
        let (kept, dropped) = (Beacon::new(&notifier), Beacon::new(&notifier));
        kept.set_alarm(Some(10));
        dropped.set_alarm(Some(5));
        assert_eq!(notifier.next_alarm_ns(), Some(5));
        drop(dropped);
        notifier.expire(9);
        assert!(!notifier.has_rung());
        notifier.expire(10);
        assert_eq!(notifier.take_rung(), [kept.object()]);
        assert_eq!(notifier.next_alarm_ns(), None);
    }
}
