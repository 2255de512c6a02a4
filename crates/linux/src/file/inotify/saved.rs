//! Who watches what, as it is saved.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{EVENT_BYTES, EVENTS_MAX, Event, INSTANCES_MAX, Inotify, Registry, State, WATCHES_MAX, Watch, Watches};
use crate::file::lock::FileKey;
use crate::notifier::saved::SavedBeacon;
use crate::state::{Restorer, Saver, SectionId, StateError};

/// The [`Watches`] of a guest.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedWatches {
    files: Vec<(FileKey, Vec<SavedWatch>)>,
    last_cookie: u64,
}

/// A [`Watch`]: instance, descriptor, mask.
#[derive(Debug, Serialize, Deserialize)]
struct SavedWatch(u32, i32, u32);

/// An [`Inotify`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedInotify {
    events: Vec<SavedEvent>,
    last_descriptor: i32,
    watched: Vec<(i32, FileKey)>,
    beacon: SavedBeacon,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedEvent {
    descriptor: i32,
    mask: u32,
    cookie: u32,
    name: ByteBuf,
}

fn broken(rule: &'static str) -> StateError {
    StateError::broken(SectionId::Files, rule)
}

impl Watches {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedWatches {
        // How many there are is counted again.
        let Registry { count: _, instances: _, files, last_cookie } = &*self.0;
        let mut saved = Vec::new();
        for (key, watches) in &*files.lock() {
            let mut of_file = Vec::new();
            for Watch { instance, descriptor, mask } in watches {
                let Some(instance) = instance.upgrade() else { continue };
                of_file.push(SavedWatch(saver.inotifies.number(&instance), *descriptor, *mask));
            }
            saved.push((*key, of_file));
        }
        SavedWatches { files: saved, last_cookie: last_cookie.load(Ordering::Relaxed) as u64 }
    }

    /// Watches again. The instances exist.
    pub(crate) fn restore(&self, saved: SavedWatches, restorer: &Restorer<'_>) -> Result<(), StateError> {
        let SavedWatches { files, last_cookie } = saved;
        let mut count = 0;
        let mut restored = self.0.files.lock();
        for (key, watches) in files {
            let mut of_file = Vec::new();
            for SavedWatch(instance, descriptor, mask) in watches {
                let instance = restorer.inotify(instance)?;
                if instance.state.lock().watched.get(&descriptor) != Some(&key) {
                    return Err(broken("a watch that its instance does not know"));
                }
                of_file.push(Watch { instance: Arc::downgrade(instance), descriptor, mask });
            }
            count += of_file.len();
            restored.insert(key, of_file);
        }
        if count > WATCHES_MAX || self.0.instances.load(Ordering::Relaxed) > INSTANCES_MAX {
            return Err(broken("more watches than there may be"));
        }
        self.0.count.store(count, Ordering::Relaxed);
        self.0.last_cookie.store(last_cookie as usize, Ordering::Relaxed);
        Ok(())
    }
}

impl Inotify {
    pub(crate) fn save(&self) -> SavedInotify {
        let Self { state, watches: _, budget: _, beacon } = self;
        let State { events, last_descriptor, watched } = &*state.lock();
        let event = |Event { descriptor, mask, cookie, name, _memory }: &Event| SavedEvent {
            descriptor: *descriptor,
            mask: *mask,
            cookie: *cookie,
            name: ByteBuf::from(name.clone()),
        };
        SavedInotify {
            events: events.iter().map(event).collect(),
            last_descriptor: *last_descriptor,
            watched: watched.iter().map(|(descriptor, key)| (*descriptor, *key)).collect(),
            beacon: beacon.save(),
        }
    }
}

impl SavedInotify {
    pub(crate) fn restore(self, restorer: &mut Restorer<'_>) -> Result<Arc<Inotify>, StateError> {
        let Self { events, last_descriptor, watched, beacon } = self;
        // One more tells that some were lost.
        if events.len() > EVENTS_MAX + 1 || watched.len() > WATCHES_MAX || last_descriptor < 0 {
            return Err(broken("more events or watches than an inotify instance has"));
        }
        let budget = restorer.buffers.clone();
        let event = |SavedEvent { descriptor, mask, cookie, name }: SavedEvent| {
            let memory = budget.take(EVENT_BYTES + name.len());
            Event { descriptor, mask, cookie, name: name.into_vec(), _memory: memory }
        };
        let events = events.into_iter().map(event).collect();
        let state = State { events, last_descriptor, watched: watched.into_iter().collect() };
        let watches = restorer.tree.watches().clone();
        watches.0.instances.fetch_add(1, Ordering::Relaxed);
        let beacon = beacon.restore(restorer)?;
        Ok(Arc::new(Inotify { state: Mutex::new(state), watches, budget, beacon }))
    }
}
