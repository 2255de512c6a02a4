//! Telling programs what happens to files: `inotify(7)`.
//!
//! Whoever changes or uses a file tells [`Watches`], which knows who watches it. A file is known by its device and number,
//! so a watch outlives the names of the file and keeps nothing in memory.

pub(crate) mod saved;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::errno::Errno;
use crate::file::buffers::{Buffers, Reservation};
use crate::file::lock::FileKey;
use crate::file::readiness;
use crate::notifier::{Beacon, Notifier};

/// Most events that wait in one instance (`fs.inotify.max_queued_events`).
pub const EVENTS_MAX: usize = 16_384;
/// Most instances of one guest (`fs.inotify.max_user_instances`).
pub const INSTANCES_MAX: usize = 128;
/// Most watches of one guest (`fs.inotify.max_user_watches`).
pub const WATCHES_MAX: usize = 8192;
/// Bytes of an event without its name (`struct inotify_event`).
const HEADER_BYTES: usize = 16;
/// What an event counts on the monitor's heap, besides its name.
const EVENT_BYTES: usize = 64;

/// The names of `inotify(7)`, unsigned.
const ALL_EVENTS: u32 = libc::IN_ALL_EVENTS;

/// Who watches what, in one guest. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Watches(Arc<Registry>);

#[derive(Debug, Default)]
struct Registry {
    count: AtomicUsize,
    instances: AtomicUsize,
    files: Mutex<BTreeMap<FileKey, Vec<Watch>>>,
    last_cookie: AtomicUsize,
}

#[derive(Debug, Clone)]
struct Watch {
    instance: Weak<Inotify>,
    descriptor: i32,
    mask: u32,
}

/// The name that a file was found by: its directory and its name there.
pub type FoundIn = Arc<(FileKey, Vec<u8>)>;

impl Watches {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) == 0
    }

    /// A value that joins the two events of a renaming.
    pub fn new_cookie(&self) -> u32 {
        self.0.last_cookie.fetch_add(1, Ordering::Relaxed) as u32 + 1
    }

    /// Something has happened to a file; `name` is that of the file in the directory watched, or nothing.
    pub fn tell(&self, key: FileKey, event: u32, cookie: u32, name: &[u8]) {
        if self.is_empty() {
            return;
        }
        let watches = self.0.files.lock().get(&key).cloned().unwrap_or_default();
        for watch in watches.iter().filter(|watch| watch.mask & event & ALL_EVENTS != 0) {
            let Some(instance) = watch.instance.upgrade() else { continue };
            instance.push(watch.descriptor, event, cookie, name);
            if watch.mask & libc::IN_ONESHOT != 0 {
                let _ = instance.remove(watch.descriptor);
            }
        }
    }

    /// Something has happened to a file: its directory is told first, with the name, then who watches the file itself.
    pub fn tell_both(&self, key: FileKey, found_in: Option<&FoundIn>, event: u32) {
        if let Some(found_in) = found_in {
            self.tell(found_in.0, event, 0, &found_in.1);
        }
        self.tell(key, event, 0, b"");
    }

    /// A file is gone for good: its watches end.
    pub fn tell_gone(&self, key: FileKey) {
        if self.is_empty() {
            return;
        }
        self.tell(key, libc::IN_DELETE_SELF, 0, b"");
        let watches = self.0.files.lock().get(&key).cloned().unwrap_or_default();
        for watch in watches {
            if let Some(instance) = watch.instance.upgrade() {
                let _ = instance.remove(watch.descriptor);
            }
        }
    }

    fn forget(&self, key: FileKey, instance: *const Inotify, descriptor: i32) {
        let mut files = self.0.files.lock();
        let Some(watches) = files.get_mut(&key) else { return };
        let before = watches.len();
        watches.retain(|watch| watch.descriptor != descriptor || watch.instance.as_ptr() != instance);
        self.0.count.fetch_sub(before - watches.len(), Ordering::Relaxed);
        if watches.is_empty() {
            files.remove(&key);
        }
    }
}

/// An inotify instance.
#[derive(Debug)]
pub struct Inotify {
    state: Mutex<State>,
    watches: Watches,
    budget: Buffers,
    beacon: Beacon,
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    last_descriptor: i32,
    watched: BTreeMap<i32, FileKey>,
}

#[derive(Debug)]
struct Event {
    descriptor: i32,
    mask: u32,
    cookie: u32,
    name: Vec<u8>,
    _memory: Reservation,
}

impl Event {
    fn length(&self) -> usize {
        // Names end with a zero and are padded to whole headers.
        let name = if self.name.is_empty() { 0 } else { (self.name.len() + 1).next_multiple_of(HEADER_BYTES) };
        HEADER_BYTES + name
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        let end = bytes.len() + self.length();
        bytes.extend_from_slice(&self.descriptor.to_ne_bytes());
        bytes.extend_from_slice(&self.mask.to_ne_bytes());
        bytes.extend_from_slice(&self.cookie.to_ne_bytes());
        bytes.extend_from_slice(&((self.length() - HEADER_BYTES) as u32).to_ne_bytes());
        bytes.extend_from_slice(&self.name);
        bytes.resize(end, 0);
    }
}

impl Inotify {
    /// An instance that watches nothing. `EMFILE` when there are too many.
    pub fn new(watches: &Watches, notifier: &Notifier, budget: &Buffers) -> Result<Arc<Self>, Errno> {
        if watches.0.instances.load(Ordering::Relaxed) >= INSTANCES_MAX {
            return Err(Errno::EMFILE);
        }
        watches.0.instances.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Self {
            state: Mutex::default(),
            watches: watches.clone(),
            budget: budget.clone(),
            beacon: Beacon::new(notifier),
        }))
    }

    /// The bell to wait for.
    pub fn beacon(&self) -> &Beacon {
        &self.beacon
    }

    /// `inotify_add_watch(2)`: the watch descriptor, which is the old one for a file watched already.
    pub fn add(self: &Arc<Self>, key: FileKey, mask: u32) -> Result<i32, Errno> {
        let kept = mask & (ALL_EVENTS | libc::IN_ONESHOT | libc::IN_EXCL_UNLINK);
        let mut files = self.watches.0.files.lock();
        let watches = files.entry(key).or_default();
        let own = watches.iter_mut().find(|watch| std::ptr::eq(watch.instance.as_ptr(), Arc::as_ptr(self)));
        if let Some(watch) = own {
            if mask & libc::IN_MASK_CREATE != 0 {
                return Err(Errno::EEXIST);
            }
            watch.mask = if mask & libc::IN_MASK_ADD != 0 { watch.mask | kept } else { kept };
            return Ok(watch.descriptor);
        }
        if self.watches.0.count.load(Ordering::Relaxed) >= WATCHES_MAX {
            if watches.is_empty() {
                files.remove(&key);
            }
            return Err(Errno::ENOSPC);
        }
        let mut state = self.state.lock();
        state.last_descriptor = state.last_descriptor.checked_add(1).ok_or(Errno::ENOSPC)?;
        let descriptor = state.last_descriptor;
        state.watched.insert(descriptor, key);
        watches.push(Watch { instance: Arc::downgrade(self), descriptor, mask: kept });
        self.watches.0.count.fetch_add(1, Ordering::Relaxed);
        Ok(descriptor)
    }

    /// `inotify_rm_watch(2)`, and what ends a watch otherwise: the last event says so.
    pub fn remove(&self, descriptor: i32) -> Result<(), Errno> {
        let key = self.state.lock().watched.remove(&descriptor).ok_or(Errno::EINVAL)?;
        self.watches.forget(key, self, descriptor);
        self.push(descriptor, libc::IN_IGNORED, 0, b"");
        Ok(())
    }

    /// Adds an event, unless it is just like the last one. When there is no room, the last event says that some are lost.
    fn push(&self, descriptor: i32, mask: u32, cookie: u32, name: &[u8]) {
        let mut state = self.state.lock();
        let (descriptor, mask, cookie, name) = if state.events.len() < EVENTS_MAX {
            (descriptor, mask, cookie, name)
        } else {
            (-1, libc::IN_Q_OVERFLOW, 0, &b""[..])
        };
        let is_same = |event: &Event| {
            event.descriptor == descriptor && event.mask == mask && event.cookie == cookie && event.name == name
        };
        if state.events.back().is_some_and(is_same) {
            return;
        }
        let (event, memory) = match self.budget.reserve(EVENT_BYTES + name.len()) {
            Ok(memory) => ((descriptor, mask, cookie, name), memory),
            Err(_) if state.events.back().is_some_and(|last| last.mask == libc::IN_Q_OVERFLOW) => return,
            Err(_) => ((-1, libc::IN_Q_OVERFLOW, 0, &b""[..]), self.budget.take(EVENT_BYTES)),
        };
        let (descriptor, mask, cookie, name) = event;
        state.events.push_back(Event { descriptor, mask, cookie, name: name.to_vec(), _memory: memory });
        drop(state);
        self.beacon.ring();
    }

    /// Takes as many whole events as fit. `EINVAL` if that is none, `EAGAIN` if none waits.
    pub fn read(&self, length: usize) -> Result<Vec<u8>, Errno> {
        let mut state = self.state.lock();
        let first = state.events.front().ok_or(Errno::EAGAIN)?.length();
        if first > length {
            return Err(Errno::EINVAL);
        }
        let mut bytes = Vec::new();
        while let Some(event) = state.events.front()
            && bytes.len() + event.length() <= length
        {
            event.encode(&mut bytes);
            state.events.pop_front();
        }
        Ok(bytes)
    }

    /// Bytes of the events that wait (`FIONREAD`).
    pub fn length(&self) -> usize {
        self.state.lock().events.iter().map(Event::length).sum()
    }

    /// What can be done now.
    pub fn readiness(&self) -> u32 {
        readiness::from(!self.state.lock().events.is_empty(), false)
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        for (descriptor, key) in std::mem::take(&mut self.state.get_mut().watched) {
            self.watches.forget(key, self, descriptor);
        }
        self.watches.0.instances.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: FileKey = (1, 2);

    fn instance(watches: &Watches) -> Arc<Inotify> {
        Inotify::new(watches, &Notifier::default(), &Buffers::default()).unwrap()
    }

    #[test]
    fn equal_events_are_one_and_a_full_queue_says_so() {
        let watches = Watches::default();
        let inotify = instance(&watches);
        let descriptor = inotify.add(KEY, libc::IN_MODIFY).unwrap();
        watches.tell(KEY, libc::IN_MODIFY, 0, b"");
        watches.tell(KEY, libc::IN_MODIFY, 0, b"");
        watches.tell(KEY, libc::IN_OPEN, 0, b"");
        assert_eq!(inotify.length(), HEADER_BYTES);
        for index in 0..EVENTS_MAX * 2 {
            watches.tell(KEY, libc::IN_MODIFY, 0, index.to_string().as_bytes());
        }
        let state = inotify.state.lock();
        assert_eq!(state.events.len(), EVENTS_MAX + 1);
        assert_eq!(state.events.back().map(|event| (event.descriptor, event.mask)), Some((-1, libc::IN_Q_OVERFLOW)));
        assert_eq!(state.events[0].descriptor, descriptor);
    }

    #[test]
    fn watches_end_with_the_file_and_with_the_instance() {
        let watches = Watches::default();
        let (a, b) = (instance(&watches), instance(&watches));
        a.add(KEY, libc::IN_DELETE_SELF).unwrap();
        b.add((3, 4), libc::IN_ONESHOT | libc::IN_OPEN).unwrap();
        watches.tell_gone(KEY);
        assert_eq!(
            a.state.lock().events.iter().map(|event| event.mask).collect::<Vec<u32>>(),
            [libc::IN_DELETE_SELF, libc::IN_IGNORED]
        );
        assert_eq!(a.remove(1), Err(Errno::EINVAL));
        watches.tell((3, 4), libc::IN_OPEN, 0, b"");
        assert!(watches.is_empty());
        b.add(KEY, libc::IN_OPEN).unwrap();
        drop(b);
        assert!(watches.is_empty());
    }
}
