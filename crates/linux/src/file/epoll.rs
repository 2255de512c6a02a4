//! Waiting for many files at once: `epoll(7)`.

pub(crate) mod saved;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::errno::Errno;
use crate::file::buffers::{Buffers, Reservation};
use crate::file::{Body, OpenFile, readiness};
use crate::kernel::Kernel;
use crate::notifier::{Beacon, Notifier};
use crate::outcome::WaitKey;

/// Most files that one instance watches.
pub const ITEMS_MAX: usize = 4096;
/// What an item counts on the monitor's heap.
const ITEM_BYTES: usize = 256;
/// Deepest nesting of instances (Linux allows five).
pub const NESTING_MAX: usize = 3;
/// Most other instances that one instance watches. Together with the depth it bounds the work of a wait.
pub const NESTED_ITEMS_MAX: usize = 8;

const ONE_SHOT: u32 = libc::EPOLLONESHOT as u32;
const EDGE_TRIGGERED: u32 = libc::EPOLLET as u32;
/// Everybody who waits looks for himself here, so it has no effect but its rules.
const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;
/// Flags among the events; `EPOLLWAKEUP` has no effect here.
const FLAGS: u32 = ONE_SHOT | EDGE_TRIGGERED | libc::EPOLLWAKEUP as u32 | EXCLUSIVE;
/// What may be asked for together with [`EXCLUSIVE`].
const WITH_EXCLUSIVE: u32 = readiness::IN | readiness::OUT | readiness::ERROR | readiness::HANG_UP | FLAGS & !ONE_SHOT;

/// An epoll instance.
#[derive(Debug)]
pub struct Epoll {
    state: Mutex<State>,
    beacon: Beacon,
    budget: Buffers,
}

/// A file may be watched once under each of its descriptors. The address of the file tells it apart from another one that
/// has got the same descriptor since; the weak reference keeps the address from being used again.
type ItemKey = (i32, usize);

#[derive(Debug, Default)]
struct State {
    items: BTreeMap<ItemKey, Item>,
    /// Where the last wait has stopped: the next one begins behind it, so that no file starves the others.
    cursor: Option<ItemKey>,
}

#[derive(Debug, Clone)]
struct Item {
    file: Weak<OpenFile>,
    events: u32,
    data: u64,
    /// The file's count of changes when it was reported last, for edge-triggered items.
    reported_changes: Option<u64>,
    /// Whether the file is an epoll instance.
    is_nested: bool,
    _memory: Arc<Reservation>,
}

/// What is reported whether it is asked for or not, until a one-shot item has reported.
const ALWAYS: u32 = readiness::ERROR | readiness::HANG_UP;

/// What has been found out about instances in one call. Nested instances may lead to the same one in many ways; each is
/// looked at once, so that the work of a call is bounded by the number of all items that a guest may have.
#[derive(Debug, Default)]
pub struct Findings {
    ready: BTreeMap<usize, bool>,
    changes: BTreeMap<usize, u64>,
}

/// A report of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// What it is ready for.
    pub events: u32,
    /// The value given with it.
    pub data: u64,
}

fn key(fd: i32, file: &Arc<OpenFile>) -> ItemKey {
    (fd, Arc::as_ptr(file).addr())
}

impl Epoll {
    /// An instance that watches nothing.
    pub fn new(notifier: &Notifier, budget: &Buffers) -> Self {
        Self { state: Mutex::default(), beacon: Beacon::new(notifier), budget: budget.clone() }
    }

    /// The bell that rings when what is watched changes.
    pub fn beacon(&self) -> &Beacon {
        &self.beacon
    }

    /// `EPOLL_CTL_ADD`.
    pub fn add(&self, fd: i32, file: &Arc<OpenFile>, events: u32, data: u64) -> Result<(), Errno> {
        if !file.is_pollable() {
            return Err(Errno::EPERM);
        }
        let is_exclusive = events & EXCLUSIVE != 0;
        if is_exclusive && (events & !WITH_EXCLUSIVE != 0 || matches!(file.body, Body::Epoll(_))) {
            return Err(Errno::EINVAL);
        }
        if let Body::Epoll(inner) = &file.body {
            // This instance is not locked: it may be found below, which is the loop looked for.
            if inner.depth_or_loop(self, 1)? + 1 > NESTING_MAX {
                return Err(Errno::EINVAL);
            }
        }
        let mut state = self.state.lock();
        state.items.retain(|_, item| item.file.strong_count() > 0);
        if state.items.len() >= ITEMS_MAX {
            return Err(Errno::ENOSPC);
        }
        let nested = state.items.values().filter(|item| item.is_nested).count();
        let is_nested = matches!(file.body, Body::Epoll(_));
        if is_nested && nested >= NESTED_ITEMS_MAX {
            return Err(Errno::EINVAL);
        }
        let memory = Arc::new(self.budget.reserve(ITEM_BYTES).map_err(|_| Errno::ENOSPC)?);
        let item = Item {
            file: Arc::downgrade(file),
            events: events | ALWAYS,
            data,
            reported_changes: None,
            is_nested,
            _memory: memory,
        };
        match state.items.entry(key(fd, file)) {
            std::collections::btree_map::Entry::Occupied(_) => return Err(Errno::EEXIST),
            std::collections::btree_map::Entry::Vacant(entry) => _ = entry.insert(item),
        }
        drop(state);
        self.beacon.ring();
        Ok(())
    }

    /// `EPOLL_CTL_MOD`.
    pub fn modify(&self, fd: i32, file: &Arc<OpenFile>, events: u32, data: u64) -> Result<(), Errno> {
        {
            let mut state = self.state.lock();
            let item = state.items.get_mut(&key(fd, file)).ok_or(Errno::ENOENT)?;
            if (events | item.events) & EXCLUSIVE != 0 {
                return Err(Errno::EINVAL);
            }
            (item.events, item.data, item.reported_changes) = (events | ALWAYS, data, None);
        }
        self.beacon.ring();
        Ok(())
    }

    /// `EPOLL_CTL_DEL`.
    pub fn delete(&self, fd: i32, file: &Arc<OpenFile>) -> Result<(), Errno> {
        self.state.lock().items.remove(&key(fd, file)).map(drop).ok_or(Errno::ENOENT)
    }

    /// Reports up to `count_max` ready files.
    pub fn take_events(&self, kernel: &Kernel, count_max: usize) -> Vec<Event> {
        let (mut events, mut findings) = (Vec::new(), Findings::default());
        for (key, mut item) in self.snapshot() {
            if events.len() >= count_max {
                break;
            }
            let Some((ready, changes)) = item.check(kernel, 0, &mut findings) else { continue };
            events.push(Event { events: ready, data: item.data });
            item.reported_changes = Some(changes);
            if item.events & ONE_SHOT != 0 {
                item.events &= FLAGS;
            }
            let mut state = self.state.lock();
            state.cursor = Some(key);
            if let Some(kept) = state.items.get_mut(&key) {
                *kept = item;
            }
        }
        events
    }

    /// The items in the order in which they are to be looked at. A copy: looking may lead back here through a nested
    /// instance.
    fn snapshot(&self) -> Vec<(ItemKey, Item)> {
        let mut state = self.state.lock();
        state.items.retain(|_, item| item.file.strong_count() > 0);
        let mut items: Vec<(ItemKey, Item)> = state.items.iter().map(|(key, item)| (*key, item.clone())).collect();
        if let Some(cursor) = state.cursor {
            let first = items.partition_point(|(key, _)| *key <= cursor);
            items.rotate_left(first);
        }
        items
    }

    /// Whether any file is ready. `depth` counts the instances around this one.
    pub fn has_ready(&self, kernel: &Kernel, depth: usize, findings: &mut Findings) -> bool {
        if let Some(is_ready) = findings.ready.get(&self.address()) {
            return *is_ready;
        }
        let is_ready = depth < NESTING_MAX
            && self.snapshot().iter().any(|(_, item)| item.check(kernel, depth + 1, findings).is_some());
        findings.ready.insert(self.address(), is_ready);
        is_ready
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// What to wait for until a file is ready.
    pub fn wait_keys(&self, kernel: &Kernel, keys: &mut BTreeSet<WaitKey>, depth: usize) {
        // What is watched in several ways is waited for once: nested instances could name the same files without end.
        if !keys.insert(WaitKey::Object(self.beacon.object())) || depth >= NESTING_MAX {
            return;
        }
        for (_, item) in self.snapshot() {
            match item.file.upgrade() {
                Some(file) if item.is_armed() => match &file.body {
                    Body::Epoll(inner) => inner.wait_keys(kernel, keys, depth + 1),
                    _ => file.wait_keys(kernel, keys),
                },
                _ => {}
            }
        }
    }

    /// Counts changes of all files watched.
    pub fn changes(&self, kernel: &Kernel, depth: usize, findings: &mut Findings) -> u64 {
        if depth >= NESTING_MAX {
            return 0;
        }
        if let Some(changes) = findings.changes.get(&self.address()) {
            return *changes;
        }
        let mut sum = self.beacon.changes();
        for file in self.snapshot().iter().filter_map(|(_, item)| item.file.upgrade()) {
            sum = sum.wrapping_add(changes(&file, kernel, depth + 1, findings));
        }
        findings.changes.insert(self.address(), sum);
        sum
    }

    /// How deep instances are nested below. `ELOOP` if `outer` is among them.
    fn depth_or_loop(&self, outer: &Epoll, depth: usize) -> Result<usize, Errno> {
        if std::ptr::eq(self, outer) || depth > NESTING_MAX {
            return Err(Errno::ELOOP);
        }
        let mut deepest = depth;
        for (_, item) in self.snapshot() {
            if let Some(file) = item.file.upgrade()
                && let Body::Epoll(inner) = &file.body
            {
                deepest = deepest.max(inner.depth_or_loop(outer, depth + 1)?);
            }
        }
        Ok(deepest)
    }
}

impl Item {
    /// Whether it reports anything at all: a one-shot item does not, once it has.
    fn is_armed(&self) -> bool {
        self.events & !FLAGS != 0
    }

    /// What is to be reported, with the file's count of changes; `None` if nothing is.
    fn check(&self, kernel: &Kernel, depth: usize, findings: &mut Findings) -> Option<(u32, u64)> {
        if !self.is_armed() {
            return None;
        }
        let file = self.file.upgrade()?;
        let is_ready = match &file.body {
            Body::Epoll(inner) => readiness::from(inner.has_ready(kernel, depth, findings), false),
            _ => file.readiness(kernel),
        };
        let ready = is_ready & self.events;
        if ready == 0 {
            return None;
        }
        let changes = changes(&file, kernel, depth, findings);
        let is_news = self.events & EDGE_TRIGGERED == 0 || self.reported_changes != Some(changes);
        is_news.then_some((ready, changes))
    }
}

fn changes(file: &OpenFile, kernel: &Kernel, depth: usize, findings: &mut Findings) -> u64 {
    match &file.body {
        Body::Epoll(inner) => inner.changes(kernel, depth, findings),
        _ => file.changes(kernel),
    }
}
