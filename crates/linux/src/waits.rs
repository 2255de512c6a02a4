//! Which threads wait for what.

pub(crate) mod saved;

use std::collections::{BTreeMap, BTreeSet};

use crate::notifier::Notifier;
use crate::outcome::{ObjectId, Wait, WaitKey, Woken};

/// A guest thread's id, as `gettid` returns it.
pub type Tid = u32;

/// All parked threads. Waking one moves it to [`Waits::take_woken`]; the scheduler makes it runnable.
#[derive(Debug, Default)]
pub struct Waits {
    parked: BTreeMap<Tid, Wait>,
    queues: BTreeMap<WaitKey, Vec<Tid>>,
    deadlines: BTreeSet<(u64, Tid)>,
    woken: Vec<(Tid, Woken)>,
    notifier: Notifier,
}

impl Waits {
    /// An identity for a new object.
    pub fn new_object(&mut self) -> ObjectId {
        self.notifier.new_object()
    }

    /// Where objects ring that do not hold the kernel.
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Parks a thread.
    pub fn park(&mut self, tid: Tid, wait: Wait) {
        debug_assert!(!self.parked.contains_key(&tid), "thread {tid} is parked already");
        for key in &wait.keys {
            self.queues.entry(*key).or_default().push(tid);
        }
        if let Some(deadline) = wait.deadline_ns {
            self.deadlines.insert((deadline, tid));
        }
        self.parked.insert(tid, wait);
    }

    /// Ends a thread's wait, whatever it is. `None` if it was not parked.
    pub fn wake(&mut self, tid: Tid, why: Woken) -> Option<Wait> {
        let wait = self.unpark(tid)?;
        self.woken.push((tid, why));
        Some(wait)
    }

    /// Forgets a thread that ends.
    pub fn forget(&mut self, tid: Tid) {
        self.unpark(tid);
        self.woken.retain(|(woken, _)| *woken != tid);
    }

    fn unpark(&mut self, tid: Tid) -> Option<Wait> {
        let wait = self.parked.remove(&tid)?;
        for key in &wait.keys {
            if let Some(queue) = self.queues.get_mut(key) {
                queue.retain(|waiting| *waiting != tid);
                if queue.is_empty() {
                    self.queues.remove(key);
                }
            }
        }
        if let Some(deadline) = wait.deadline_ns {
            self.deadlines.remove(&(deadline, tid));
        }
        Some(wait)
    }

    /// An object's readiness has changed: everybody who waits for it looks again.
    pub fn notify(&mut self, object: ObjectId) {
        self.notify_key(WaitKey::Object(object), usize::MAX);
    }

    /// Wakes up to `limit` threads that wait for `key`, in the order in which they came; how many it were.
    pub fn notify_key(&mut self, key: WaitKey, limit: usize) -> usize {
        let chosen: Vec<Tid> = match self.queues.get(&key) {
            Some(queue) => queue.iter().copied().take(limit).collect(),
            None => return 0,
        };
        for tid in &chosen {
            self.wake(*tid, Woken::Notified);
        }
        chosen.len()
    }

    /// Makes a thread that waits for `from` wait for `to` instead, at the end of its queue.
    pub fn requeue(&mut self, tid: Tid, from: WaitKey, to: WaitKey) {
        if let Some(mut wait) = self.unpark(tid) {
            wait.keys.iter_mut().filter(|key| **key == from).for_each(|key| *key = to);
            self.park(tid, wait);
        }
    }

    /// Threads that wait for `key`, in the order in which they came.
    pub fn waiters(&self, key: WaitKey) -> &[Tid] {
        self.queues.get(&key).map_or(&[], Vec::as_slice)
    }

    /// What a parked thread waits for.
    pub fn wait_of(&self, tid: Tid) -> Option<&Wait> {
        self.parked.get(&tid)
    }

    /// The earliest deadline of any parked thread, or alarm of any object.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let deadline = self.deadlines.first().map(|(deadline, _)| *deadline);
        deadline.into_iter().chain(self.notifier.next_alarm_ns()).min()
    }

    /// Ends the waits whose deadline is not after `now_ns`, and rings the objects whose alarm is not.
    pub fn expire(&mut self, now_ns: u64) {
        self.notifier.expire(now_ns);
        while let Some((deadline, tid)) = self.deadlines.first().copied()
            && deadline <= now_ns
        {
            self.wake(tid, Woken::Deadline);
        }
    }

    /// The threads woken since the last call, in order.
    pub fn take_woken(&mut self) -> Vec<(Tid, Woken)> {
        for object in self.notifier.take_rung() {
            self.notify(object);
        }
        std::mem::take(&mut self.woken)
    }

    /// Whether [`Waits::take_woken`] may give any.
    pub fn has_woken(&self) -> bool {
        !self.woken.is_empty() || self.notifier.has_rung()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wake_up_ends_a_wait_once() {
        let mut waits = Waits::default();
        let (a, b) = (waits.new_object(), waits.new_object());
        let wait = Wait { keys: vec![WaitKey::Object(a), WaitKey::Object(b)], deadline_ns: Some(5) };
        waits.park(7, wait);
        waits.notify(a);
        waits.notify(b);
        waits.expire(10);
        assert_eq!(waits.take_woken(), [(7, Woken::Notified)]);
        assert_eq!(waits.next_deadline_ns(), None);
        assert!(waits.waiters(WaitKey::Object(b)).is_empty());
    }

    #[test]
    fn a_limited_notification_takes_waiters_in_order() {
        let mut waits = Waits::default();
        let key = WaitKey::PrivateFutex(1, 8);
        for tid in [3, 1, 2] {
            waits.park(tid, Wait::on(key));
        }
        assert_eq!(waits.notify_key(key, 2), 2);
        assert_eq!(waits.take_woken(), [(3, Woken::Notified), (1, Woken::Notified)]);
        assert_eq!(waits.waiters(key), [2]);
    }
}
