//! Which thread runs on which virtual CPU. Plain data; [`crate::vcpu`] acts on it.

pub(crate) mod saved;

use std::collections::VecDeque;
use std::sync::Arc;

use calypte_platform::Kicker;

use crate::quota::Quota;
use crate::waits::Tid;

/// How long a thread runs while others wait: 4 ms, between Linux's minimum and its usual latency target.
pub const SLICE_NS: u64 = 4_000_000;

/// The run queue and what each virtual CPU does.
#[derive(Default)]
pub struct Scheduler {
    ready: VecDeque<Tid>,
    vcpus: Vec<Slot>,
    idle: usize,
    is_yield_wanted: bool,
    is_frozen: bool,
    /// What the guest may use of the processors, when that has a bound.
    pub(crate) quota: Option<Quota>,
    /// When the ticker will look again by itself.
    pub(crate) ticker_until_ns: Option<u64>,
}

#[derive(Default)]
struct Slot {
    running: Option<Tid>,
    kicker: Option<Arc<dyn Kicker>>,
}

impl Scheduler {
    /// A scheduler for so many virtual CPUs.
    pub fn new(vcpu_count: usize) -> Self {
        Self { vcpus: (0..vcpu_count).map(|_| Slot::default()).collect(), ..Self::default() }
    }

    /// How many virtual CPUs there are.
    pub fn vcpu_count(&self) -> usize {
        self.vcpus.len()
    }

    pub(crate) fn attach(&mut self, vcpu: usize, kicker: Arc<dyn Kicker>) {
        self.vcpus[vcpu].kicker = Some(kicker);
    }

    pub(crate) fn running(&self, vcpu: usize) -> Option<Tid> {
        self.vcpus[vcpu].running
    }

    /// The threads on virtual CPUs.
    pub(crate) fn all_running(&self) -> impl Iterator<Item = Tid> {
        self.vcpus.iter().filter_map(|slot| slot.running)
    }

    pub(crate) fn set_running(&mut self, vcpu: usize, tid: Option<Tid>) {
        self.vcpus[vcpu].running = tid;
    }

    pub(crate) fn push_ready(&mut self, tid: Tid) {
        debug_assert!(!self.ready.contains(&tid), "thread {tid} is in the run queue already");
        self.ready.push_back(tid);
    }

    pub(crate) fn push_ready_first(&mut self, tid: Tid) {
        self.ready.push_front(tid);
    }

    /// Threads that wait for a virtual CPU, in order.
    pub(crate) fn ready(&self) -> impl Iterator<Item = Tid> {
        self.ready.iter().copied()
    }

    pub(crate) fn pop_ready(&mut self) -> Option<Tid> {
        self.ready.pop_front()
    }

    /// Whether threads wait for a virtual CPU.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(crate) fn forget(&mut self, tid: Tid) {
        self.ready.retain(|ready| *ready != tid);
    }

    pub(crate) fn set_idle(&mut self, is_idle: bool) {
        if is_idle {
            self.idle += 1;
        } else {
            self.idle -= 1;
        }
    }

    /// Virtual CPUs that sleep for want of threads.
    pub fn idle(&self) -> usize {
        self.idle
    }

    /// Whether nothing is to run.
    pub fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    pub(crate) fn set_frozen(&mut self, is_frozen: bool) {
        self.is_frozen = is_frozen;
    }

    /// Whether guest code may run at all.
    pub(crate) fn may_run(&self) -> bool {
        !self.is_frozen && !self.quota.as_ref().is_some_and(Quota::is_used_up)
    }

    /// `sched_yield`: the calling thread goes to the end of the queue after its call.
    pub fn request_yield(&mut self) {
        self.is_yield_wanted = true;
    }

    pub(crate) fn take_yield(&mut self) -> bool {
        std::mem::take(&mut self.is_yield_wanted)
    }

    /// Makes a virtual CPU come back to the monitor.
    pub fn kick(&self, vcpu: usize) {
        if let Some(kicker) = &self.vcpus[vcpu].kicker {
            kicker.kick();
        }
    }

    /// Makes every virtual CPU that runs a thread come back to the monitor.
    pub fn kick_all(&self) {
        self.vcpus.iter().filter(|slot| slot.running.is_some()).filter_map(|slot| slot.kicker.as_ref()).for_each(
            |kicker| {
                kicker.kick();
            },
        );
    }
}
