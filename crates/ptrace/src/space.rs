//! Address spaces: a record of mappings, and the stubs that follow it.
//!
//! The record is the truth. Each virtual CPU that runs an address space has a stub process for it, which is to the record
//! what a translation buffer is to page tables: a change only notes what is stale in each stub, and a stub is brought up
//! to date before user code runs in it. Where mappings are taken away, stubs that run user code at this moment are
//! interrupted first. Pages of a stub that the record has and the stub has not are mapped when they are touched.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use calypte_platform::{AddressSpace, FrameRange, PlatformError, Protection, SpaceToken};

use crate::control::{CALLS_MAX, Call};
use crate::filter::MAP_FLAGS;
use crate::layout::{CODE, FRAMES_FD, PAGE};
use crate::memory::{Frames, offset_of};
use crate::record::{Record, Run};
use crate::tracee::Tracee;

/// Stale ranges that a stub keeps apart. More become one range around all of them.
const STALE_RANGES_MAX: usize = 256;

/// A stub process of one virtual CPU for one address space.
#[derive(Debug)]
pub(crate) struct Stub {
    /// The process.
    pub(crate) tracee: Tracee,
    /// Odd while user code may run in it.
    entries: AtomicU64,
}

impl Stub {
    /// A stub that does not run.
    pub(crate) fn new(tracee: Tracee) -> Self {
        Self { tracee, entries: AtomicU64::new(0) }
    }

    /// Whether user code may run in it.
    pub(crate) fn is_entered(&self) -> bool {
        !self.entries.load(Ordering::SeqCst).is_multiple_of(2)
    }

    /// User code does not run in it any more.
    pub(crate) fn leave(&self) {
        self.entries.fetch_add(1, Ordering::SeqCst);
    }

    /// If user code may run in it, makes it stop and returns when it has.
    fn interrupt_and_wait(&self) {
        let entries = self.entries.load(Ordering::SeqCst);
        if entries.is_multiple_of(2) {
            return;
        }
        self.tracee.interrupt();
        while self.entries.load(Ordering::SeqCst) == entries {
            std::thread::yield_now();
        }
    }
}

/// A stub and what in it does not agree with the record.
#[derive(Debug)]
struct Follower {
    stub: Arc<Stub>,
    stale: Stale,
}

/// Ranges of addresses.
#[derive(Debug, Default)]
struct Stale(Vec<Range<u64>>);

impl Stale {
    fn add(&mut self, range: Range<u64>) {
        match self.0.last_mut() {
            Some(last) if range.start <= last.end && last.start <= range.end => {
                *last = last.start.min(range.start)..last.end.max(range.end);
            }
            _ => self.0.push(range),
        }
        if self.0.len() > STALE_RANGES_MAX {
            let start = self.0.iter().map(|range| range.start).min().unwrap_or(0);
            let end = self.0.iter().map(|range| range.end).max().unwrap_or(0);
            self.0.clear();
            self.0.push(start..end);
        }
    }
}

/// What is known about an address at which a stub has faulted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// The stub was not up to date.
    Stale,
    /// This run covers it.
    Mapped(Run),
    /// Nothing is mapped there.
    Unmapped,
}

#[derive(Debug, Default)]
struct State {
    record: Record,
    followers: Vec<Follower>,
}

impl State {
    fn follower(&mut self, stub: &Arc<Stub>) -> &mut Follower {
        let found = self.followers.iter_mut().find(|follower| Arc::ptr_eq(&follower.stub, stub));
        found.expect("a virtual CPU's stub follows its address space")
    }
}

/// The part of an address space that virtual CPUs share.
#[derive(Debug, Default)]
pub(crate) struct SharedSpace {
    state: Mutex<State>,
    is_ended: AtomicBool,
}

impl SharedSpace {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the address space is gone, and all its stubs.
    pub(crate) fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::SeqCst)
    }

    /// Adds a stub in which nothing is mapped.
    pub(crate) fn follow(&self, stub: Arc<Stub>) {
        let mut stale = Stale::default();
        stale.add(0..CODE);
        self.lock().followers.push(Follower { stub, stale });
    }

    /// Forgets a stub.
    pub(crate) fn unfollow(&self, stub: &Arc<Stub>) {
        self.lock().followers.retain(|follower| !Arc::ptr_eq(&follower.stub, stub));
    }

    /// The next calls that `stub` must make to be up to date. If there are none it is marked as running user code, which
    /// must then end with [`Stub::leave`].
    pub(crate) fn enter_or_calls(&self, stub: &Arc<Stub>) -> Vec<Call> {
        let mut state = self.lock();
        let mut stale = std::mem::take(&mut state.follower(stub).stale);
        let mut calls = Vec::new();
        while let Some(range) = stale.0.pop() {
            if let Some(rest) = update_calls(&state.record, range, &mut calls) {
                stale.add(rest);
                break;
            }
        }
        state.follower(stub).stale = stale;
        if calls.is_empty() {
            stub.entries.fetch_add(1, Ordering::SeqCst);
        }
        calls
    }

    /// The stub has nothing mapped any more: pages come as they are touched.
    pub(crate) fn forget_mappings(&self, stub: &Arc<Stub>) {
        self.lock().follower(stub).stale = Stale::default();
    }

    /// What there is at an address.
    pub(crate) fn find(&self, stub: &Arc<Stub>, address: u64) -> Finding {
        let mut state = self.lock();
        if !state.follower(stub).stale.0.is_empty() {
            return Finding::Stale;
        }
        state.record.at(address).map_or(Finding::Unmapped, Finding::Mapped)
    }

    /// Adds a mapping. Stubs that run find it when they touch it.
    fn add(&self, run: Run) {
        let mut state = self.lock();
        state.record.insert(run);
        state.followers.iter_mut().for_each(|follower| follower.stale.add(run.address..run.end()));
    }

    /// Changes mappings in ranges. What they allowed and do not any more is gone from all stubs on return.
    fn change(&self, ranges: impl Iterator<Item = Range<u64>>, mut change: impl FnMut(&mut Record, Range<u64>)) {
        let mut state = self.lock();
        for range in ranges {
            change(&mut state.record, range.clone());
            state.followers.iter_mut().for_each(|follower| follower.stale.add(range.clone()));
        }
        let stubs = state.followers.iter().map(|follower| Arc::clone(&follower.stub));
        let running: Vec<Arc<Stub>> = stubs.filter(|stub| stub.is_entered()).collect();
        drop(state);
        running.iter().for_each(|stub| stub.interrupt_and_wait());
    }
}

/// Appends the calls that make a range agree with the record. Of a range with too many runs the rest is returned.
fn update_calls(record: &Record, range: Range<u64>, calls: &mut Vec<Call>) -> Option<Range<u64>> {
    let room = CALLS_MAX - calls.len();
    let mut runs = record.runs(range.clone());
    // One call is kept for the removal of what was there.
    let mapped: Vec<Run> = runs.by_ref().take(room.saturating_sub(1)).collect();
    let rest = runs.next().map(|run| run.address..range.end);
    let done = range.start..rest.as_ref().map_or(range.end, |rest| rest.start);
    if room == 0 || done.is_empty() {
        return Some(range);
    }
    let is_covered = mapped.len() == 1 && mapped[0].address == done.start && mapped[0].end() == done.end;
    if !is_covered || mapped[0].protection.is_empty() {
        calls.push(unmap_call(done));
    }
    calls.extend(mapped.iter().filter(|run| !run.protection.is_empty()).map(map_call));
    rest
}

/// The call that removes what is mapped in a range.
pub(crate) fn unmap_call(range: Range<u64>) -> Call {
    Call { number: libc::SYS_munmap, arguments: [range.start, range.end - range.start, 0, 0, 0, 0] }
}

/// The call that maps a run, whatever was there.
pub(crate) fn map_call(run: &Run) -> Call {
    let allows = |protection, flag: i32| if run.protection.contains(protection) { flag } else { 0 };
    let protection = allows(Protection::READ, libc::PROT_READ)
        | allows(Protection::WRITE, libc::PROT_WRITE)
        | allows(Protection::EXECUTE, libc::PROT_EXEC);
    let length = run.end() - run.address;
    let arguments =
        [run.address, length, protection as u64, MAP_FLAGS as u64, FRAMES_FD as u64, offset_of(run.frames.first)];
    Call { number: libc::SYS_mmap, arguments }
}

/// The address spaces of a machine by token.
pub(crate) type Spaces = Mutex<BTreeMap<u64, Arc<SharedSpace>>>;

/// An address space.
pub(crate) struct PtraceAddressSpace {
    token: u64,
    shared: Arc<SharedSpace>,
    frames: Arc<Frames>,
    spaces: Arc<Spaces>,
}

impl PtraceAddressSpace {
    /// An address space without mappings, listed in `spaces`. `token` is used once.
    pub(crate) fn new(token: u64, frames: Arc<Frames>, spaces: Arc<Spaces>) -> Self {
        let shared = Arc::<SharedSpace>::default();
        spaces.lock().unwrap_or_else(PoisonError::into_inner).insert(token, Arc::clone(&shared));
        Self { token, shared, frames, spaces }
    }
}

impl AddressSpace for PtraceAddressSpace {
    fn token(&self) -> SpaceToken {
        SpaceToken(self.token)
    }

    fn map(&mut self, address: u64, frames: FrameRange, protection: Protection) -> Result<(), PlatformError> {
        let range = checked_range(address, u64::from(frames.count) * PAGE);
        self.frames.check(frames);
        if !range.is_empty() {
            self.shared.add(Run { address, frames, protection });
        }
        Ok(())
    }

    fn unmap(&mut self, address: u64, length: u64) {
        self.shared.change(std::iter::once(checked_range(address, length)), Record::remove);
    }

    fn protect(&mut self, address: u64, length: u64, protection: Protection) {
        self.protect_all(&[(address, length, protection)]);
    }

    fn protect_all(&mut self, ranges: &[(u64, u64, Protection)]) {
        let mut protections = ranges.iter().map(|(_, _, protection)| *protection);
        let ranges = ranges.iter().map(|(address, length, _)| checked_range(*address, *length));
        self.shared.change(ranges, |record, range| {
            record.protect(range, protections.next().expect("as many as ranges"));
        });
    }
}

impl Drop for PtraceAddressSpace {
    fn drop(&mut self) {
        self.spaces.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.token);
        self.shared.is_ended.store(true, Ordering::SeqCst);
        for follower in self.shared.lock().followers.drain(..) {
            follower.stub.tracee.end();
        }
    }
}

/// The range of a request; panics when the caller let something through that guest mappings may not be.
fn checked_range(address: u64, length: u64) -> Range<u64> {
    assert!(address.is_multiple_of(PAGE) && length.is_multiple_of(PAGE), "{length:#x} at {address:#x} is not pages");
    let end = address.checked_add(length).filter(|&end| end <= CODE);
    address..end.unwrap_or_else(|| panic!("{length:#x} at {address:#x} is outside guest mappings"))
}

#[cfg(test)]
mod tests {
    use calypte_platform::Frame;

    use super::*;

    fn run(page: u64, first: u32, count: u32, protection: Protection) -> Run {
        Run { address: page * PAGE, frames: FrameRange { first: Frame(first), count }, protection }
    }

    #[test]
    fn a_range_is_brought_up_to_date_in_pieces() {
        let mut record = Record::default();
        // Every other page.
        (0..100).for_each(|index| record.insert(run(100 + 2 * index, index as u32, 1, Protection::READ)));
        let mut calls = Vec::new();
        let mut rest = Some(0..1000 * PAGE);
        let mut rounds = Vec::new();
        while let Some(range) = rest {
            rest = update_calls(&record, range, &mut calls);
            rounds.push(calls.len());
            calls.clear();
        }
        assert_eq!(rounds, [CALLS_MAX, 100 - (CALLS_MAX - 1) + 1]);
    }

    #[test]
    fn a_run_replaces_what_was_there_and_pages_without_access_are_not_mapped() {
        let mut record = Record::default();
        record.insert(run(50, 7, 2, Protection::READ | Protection::WRITE));
        record.insert(run(60, 9, 2, Protection::empty()));
        let calls_for = |pages: Range<u64>| {
            let mut calls = Vec::new();
            assert_eq!(update_calls(&record, pages.start * PAGE..pages.end * PAGE, &mut calls), None);
            calls
        };
        let map = |page: u64, frame: u64, count: u64| Call {
            number: libc::SYS_mmap,
            arguments: [page * PAGE, count * PAGE, 3, MAP_FLAGS as u64, 0, frame * PAGE],
        };
        assert_eq!(calls_for(50..52), [map(50, 7, 2)]);
        assert_eq!(calls_for(51..52), [map(51, 8, 1)]);
        assert_eq!(calls_for(49..52), [unmap_call(49 * PAGE..52 * PAGE), map(50, 7, 2)]);
        assert_eq!(calls_for(60..62), [unmap_call(60 * PAGE..62 * PAGE)]);
    }

    #[test]
    fn stale_ranges_are_bounded_and_lose_nothing() {
        let mut stale = Stale::default();
        stale.add(10..20);
        stale.add(20..30);
        stale.add(5..12);
        assert_eq!((stale.0.len(), &stale.0[0]), (1, &(5..30)));
        (0..1000).rev().for_each(|index| stale.add(index * 100..index * 100 + 1));
        assert!(stale.0.len() <= STALE_RANGES_MAX);
        for address in [5, 29, 0, 99_900, 50_000] {
            assert!(stale.0.iter().any(|range| range.contains(&address)), "{address}");
        }
    }
}
