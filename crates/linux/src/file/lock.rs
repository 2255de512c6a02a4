//! Locks on files: those of `flock(2)`, and record locks of `fcntl(2)`, of processes and of open file descriptions.
//!
//! A process's record locks belong to its table of descriptors, as on Linux: they go when any descriptor of the file is
//! closed there, and with the table. The others belong to an open file, and go with it.

pub(crate) mod saved;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::notifier::{Beacon, Notifier};
use crate::outcome::ObjectId;
use crate::waits::Tid;

/// Most locks of one guest.
pub const LOCKS_MAX: usize = 8192;

/// Device and number of a file.
pub type FileKey = (u64, u64);

/// Whose a lock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Owner {
    /// A table of descriptors, by its number.
    Table(u64),
    /// An open file, by its number.
    Open(u64),
}

/// A record lock as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// First byte.
    pub start: u64,
    /// Last byte; [`RANGE_END`] for "to the end of the file, wherever that is".
    pub end: u64,
    /// Whether nobody else may have a lock there.
    pub is_exclusive: bool,
}

/// The last byte that can be locked.
pub const RANGE_END: u64 = i64::MAX as u64;

/// A record lock that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What is locked.
    pub request: Request,
    /// Whose it is.
    pub owner: Owner,
    /// The process that took it.
    pub pid: u32,
}

/// Why a lock is not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Somebody else has one in the way: ask again when this object rings.
    Held(ObjectId),
    /// Not at all.
    Errno(Errno),
}

/// All locks of one guest. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Locks(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    last_owner: u64,
    files: BTreeMap<FileKey, FileLocks>,
    waiting: BTreeMap<Tid, (Owner, FileKey, Request)>,
}

#[derive(Debug)]
struct FileLocks {
    records: Vec<Record>,
    /// Locks of `flock(2)`: open file, whether exclusive.
    whole: BTreeMap<u64, bool>,
    beacon: Beacon,
}

/// The locks of an open file: given back when it is dropped.
#[derive(Debug)]
pub struct OpenLocks {
    locks: Locks,
    key: FileKey,
    id: u64,
}

/// The record locks of a table of descriptors: given back when it is dropped.
#[derive(Debug)]
pub struct TableLocks {
    locks: Locks,
    id: u64,
}

impl Request {
    fn overlaps(&self, other: &Request) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    fn conflicts(&self, other: &Request) -> bool {
        self.overlaps(other) && (self.is_exclusive || other.is_exclusive)
    }

    fn touches(&self, other: &Request) -> bool {
        self.start <= other.end.saturating_add(1) && other.start <= self.end.saturating_add(1)
    }
}

impl FileLocks {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.whole.is_empty()
    }

    fn in_the_way(&self, owner: Owner, request: &Request) -> impl Iterator<Item = &Record> {
        let request = *request;
        self.records.iter().filter(move |held| held.owner != owner && held.request.conflicts(&request))
    }

    /// Takes a range away from an owner, and gives it back as one lock if `granted`.
    fn replace(&mut self, owner: Owner, pid: u32, range: Request, granted: bool) {
        let mut new = range;
        let mut kept = Vec::with_capacity(self.records.len() + 2);
        for held in self.records.drain(..) {
            let other = held.request;
            let is_same_kind = granted && other.is_exclusive == range.is_exclusive;
            if held.owner != owner || !(other.overlaps(&range) || is_same_kind && other.touches(&range)) {
                kept.push(held);
                continue;
            }
            if is_same_kind {
                new.start = new.start.min(other.start);
                new.end = new.end.max(other.end);
                continue;
            }
            if other.start < range.start {
                kept.push(Record { request: Request { end: range.start - 1, ..other }, ..held });
            }
            if other.end > range.end {
                kept.push(Record { request: Request { start: range.end + 1, ..other }, ..held });
            }
        }
        if granted {
            kept.push(Record { request: new, owner, pid });
        }
        kept.sort_by_key(|held| held.request.start);
        self.records = kept;
    }
}

impl State {
    fn file(&mut self, key: FileKey, notifier: &Notifier) -> &mut FileLocks {
        self.files.entry(key).or_insert_with(|| FileLocks {
            records: Vec::new(),
            whole: BTreeMap::new(),
            beacon: Beacon::new(notifier),
        })
    }

    fn count(&self) -> usize {
        self.files.values().map(|file| file.records.len() + file.whole.len()).sum()
    }

    /// Locks of a file have changed: everybody who waits for it looks again.
    fn changed(&mut self, key: FileKey) {
        if let Some(file) = self.files.get(&key) {
            file.beacon.ring();
            if file.is_empty() {
                self.files.remove(&key);
            }
        }
    }

    /// Whether waiting for a request would close a circle of processes that wait for each other.
    fn is_deadlock(&self, owner: Owner, key: FileKey, request: &Request, is_parked: &dyn Fn(Tid) -> bool) -> bool {
        let holders = |owner: Owner, key: &FileKey, request: &Request| -> Vec<Owner> {
            let file = self.files.get(key);
            file.map_or_else(Vec::new, |file| file.in_the_way(owner, request).map(|held| held.owner).collect())
        };
        let mut seen = BTreeSet::new();
        let mut pending = holders(owner, &key, request);
        while let Some(holder) = pending.pop() {
            if holder == owner {
                return true;
            }
            if !seen.insert(holder) {
                continue;
            }
            for (tid, (waiting, key, request)) in &self.waiting {
                if *waiting == holder && is_parked(*tid) {
                    pending.extend(holders(holder, key, request));
                }
            }
        }
        false
    }
}

impl Locks {
    fn new_owner(&self) -> u64 {
        let mut state = self.0.lock();
        state.last_owner += 1;
        state.last_owner
    }

    /// A table of descriptors that takes its first record lock.
    pub fn new_table(&self) -> TableLocks {
        TableLocks { locks: self.clone(), id: self.new_owner() }
    }

    /// An open file that takes its first lock.
    pub fn new_open(&self, key: FileKey) -> OpenLocks {
        OpenLocks { locks: self.clone(), key, id: self.new_owner() }
    }

    /// Takes a record lock. `ENOLCK` when there are too many.
    pub fn set(
        &self,
        key: FileKey,
        owner: Owner,
        pid: u32,
        request: Request,
        notifier: &Notifier,
    ) -> Result<(), Refused> {
        let mut state = self.0.lock();
        // Taking one from the middle of another makes three.
        if state.count() + 2 > LOCKS_MAX {
            return Err(Refused::Errno(Errno::ENOLCK));
        }
        let file = state.file(key, notifier);
        if file.in_the_way(owner, &request).next().is_some() {
            return Err(Refused::Held(file.beacon.object()));
        }
        file.replace(owner, pid, request, true);
        state.changed(key);
        Ok(())
    }

    /// Gives a range back.
    pub fn unset(&self, key: FileKey, owner: Owner, range: Request) -> Result<(), Errno> {
        let mut state = self.0.lock();
        let is_full = state.count() + 2 > LOCKS_MAX;
        let Some(file) = state.files.get_mut(&key) else { return Ok(()) };
        let is_split = file
            .records
            .iter()
            .any(|held| held.owner == owner && held.request.start < range.start && held.request.end > range.end);
        if is_full && is_split {
            return Err(Errno::ENOLCK);
        }
        file.replace(owner, 0, range, false);
        state.changed(key);
        Ok(())
    }

    /// The first lock that is in the way of a request.
    pub fn find(&self, key: FileKey, owner: Owner, request: &Request) -> Option<Record> {
        self.0.lock().files.get(&key)?.in_the_way(owner, request).next().copied()
    }

    /// Remembers that a thread waits for a lock. `EDEADLK` if it would wait for itself. `is_parked` tells whether a thread
    /// that was remembered earlier still waits.
    pub fn wait(
        &self,
        tid: Tid,
        owner: Owner,
        key: FileKey,
        request: Request,
        is_parked: &dyn Fn(Tid) -> bool,
    ) -> Result<(), Errno> {
        let mut state = self.0.lock();
        if state.is_deadlock(owner, key, &request, is_parked) {
            return Err(Errno::EDEADLK);
        }
        state.waiting.retain(|tid, _| is_parked(*tid));
        state.waiting.insert(tid, (owner, key, request));
        Ok(())
    }

    /// A thread does not wait any more.
    pub fn stop_waiting(&self, tid: Tid) {
        self.0.lock().waiting.remove(&tid);
    }
}

impl OpenLocks {
    /// The file they are on.
    pub fn key(&self) -> FileKey {
        self.key
    }

    /// As whose its record locks are held.
    pub fn owner(&self) -> Owner {
        Owner::Open(self.id)
    }

    /// `flock(2)`: `None` gives the lock back. A lock that is to become one of the other kind is given back first.
    pub fn set_whole(&self, is_exclusive: Option<bool>, notifier: &Notifier) -> Result<(), Refused> {
        let mut state = self.locks.0.lock();
        let is_full = state.count() >= LOCKS_MAX;
        let file = state.file(self.key, notifier);
        let held = file.whole.get(&self.id).copied();
        if held.is_some() && held == is_exclusive {
            return Ok(());
        }
        let is_released = file.whole.remove(&self.id).is_some();
        let result = match is_exclusive {
            None => Ok(()),
            Some(is_exclusive) if file.whole.values().any(|held| *held || is_exclusive) => {
                Err(Refused::Held(file.beacon.object()))
            }
            Some(_) if is_full => Err(Refused::Errno(Errno::ENOLCK)),
            Some(is_exclusive) => {
                file.whole.insert(self.id, is_exclusive);
                Ok(())
            }
        };
        if is_released || is_exclusive.is_none() {
            state.changed(self.key);
        }
        result
    }
}

impl Drop for OpenLocks {
    fn drop(&mut self) {
        let mut state = self.locks.0.lock();
        if let Some(file) = state.files.get_mut(&self.key) {
            file.whole.remove(&self.id);
            file.records.retain(|held| held.owner != Owner::Open(self.id));
            state.changed(self.key);
        }
    }
}

impl TableLocks {
    /// As whose its record locks are held.
    pub fn owner(&self) -> Owner {
        Owner::Table(self.id)
    }

    /// A descriptor of a file is closed: all its locks go.
    pub fn release(&self, key: FileKey) {
        let mut state = self.locks.0.lock();
        if let Some(file) = state.files.get_mut(&key) {
            file.records.retain(|held| held.owner != self.owner());
            state.changed(key);
        }
    }
}

impl Drop for TableLocks {
    fn drop(&mut self) {
        let keys: Vec<FileKey> = self.locks.0.lock().files.keys().copied().collect();
        for key in keys {
            self.release(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: FileKey = (1, 2);

    fn request(start: u64, end: u64, is_exclusive: bool) -> Request {
        Request { start, end, is_exclusive }
    }

    #[test]
    fn ranges_are_split_and_merged() {
        let (locks, notifier) = (Locks::default(), Notifier::default());
        let table = locks.new_table();
        let owner = table.owner();
        locks.set(KEY, owner, 1, request(0, 99, true), &notifier).unwrap();
        locks.set(KEY, owner, 1, request(40, 49, false), &notifier).unwrap();
        locks.unset(KEY, owner, request(60, 69, true)).unwrap();
        let held: Vec<(u64, u64, bool)> = locks.0.lock().files[&KEY]
            .records
            .iter()
            .map(|held| (held.request.start, held.request.end, held.request.is_exclusive))
            .collect();
        assert_eq!(held, [(0, 39, true), (40, 49, false), (50, 59, true), (70, 99, true)]);
        locks.set(KEY, owner, 1, request(40, 69, true), &notifier).unwrap();
        assert_eq!(locks.0.lock().files[&KEY].records.len(), 1);
        drop(table);
        assert!(locks.0.lock().files.is_empty());
    }

    #[test]
    fn circles_are_found_and_ended_waits_do_not_count() {
        let (locks, notifier) = (Locks::default(), Notifier::default());
        let (a, b) = (locks.new_table(), locks.new_table());
        locks.set(KEY, a.owner(), 1, request(0, 0, true), &notifier).unwrap();
        locks.set(KEY, b.owner(), 2, request(1, 1, true), &notifier).unwrap();
        assert_eq!(locks.wait(10, a.owner(), KEY, request(1, 1, true), &|_| true), Ok(()));
        assert_eq!(locks.wait(11, b.owner(), KEY, request(0, 0, true), &|_| true), Err(Errno::EDEADLK));
        assert_eq!(locks.wait(11, b.owner(), KEY, request(0, 0, true), &|_| false), Ok(()));
    }

    #[test]
    fn a_lock_given_back_rings() {
        let (locks, notifier) = (Locks::default(), Notifier::default());
        let (a, b) = (locks.new_open(KEY), locks.new_open(KEY));
        a.set_whole(Some(false), &notifier).unwrap();
        b.set_whole(Some(false), &notifier).unwrap();
        let Err(Refused::Held(object)) = a.set_whole(Some(true), &notifier) else { panic!("it is shared") };
        notifier.take_rung();
        drop(b);
        assert_eq!(notifier.take_rung(), [object]);
        a.set_whole(Some(true), &notifier).unwrap();
    }
}
