//! An epoll instance as it is saved.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Epoll, ITEM_BYTES, ITEMS_MAX, Item, NESTED_ITEMS_MAX, State, key};
use crate::file::{Body, OpenFile};
use crate::notifier::saved::SavedBeacon;
use crate::state::{Restorer, Saver, SectionId, StateError};

/// An [`Epoll`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedEpoll {
    items: Vec<SavedItem>,
    /// Descriptor and file of the item where the last wait has stopped.
    cursor: Option<(i32, Option<u32>)>,
    beacon: SavedBeacon,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedItem {
    fd: i32,
    file: u32,
    events: u32,
    data: u64,
    reported_changes: Option<u64>,
}

impl Epoll {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedEpoll {
        let Self { state, beacon, budget: _ } = self;
        let State { items, cursor } = &*state.lock();
        let mut saved = Vec::new();
        let mut stopped_at = None;
        for ((fd, address), item) in items {
            let Item { file, events, data, reported_changes, is_nested: _, _memory } = item;
            let Some(file) = file.upgrade() else { continue };
            let number = saver.file(&file);
            if *cursor == Some((*fd, *address)) {
                stopped_at = Some(number);
            }
            saved.push(SavedItem {
                fd: *fd,
                file: number,
                events: *events,
                data: *data,
                reported_changes: *reported_changes,
            });
        }
        SavedEpoll { items: saved, cursor: cursor.map(|(fd, _)| (fd, stopped_at)), beacon: beacon.save() }
    }
}

impl SavedEpoll {
    /// The instance without what it watches, and that, which may be files that are made later.
    pub(crate) fn restore(self, restorer: &mut Restorer<'_>) -> Result<(Epoll, SavedItems), StateError> {
        let Self { items, cursor, beacon } = self;
        if items.len() > ITEMS_MAX {
            return Err(StateError::broken(SectionId::Files, "more files watched by an epoll instance than it can"));
        }
        let epoll =
            Epoll { state: Mutex::default(), beacon: beacon.restore(restorer)?, budget: restorer.buffers.clone() };
        Ok((epoll, SavedItems { items, cursor }))
    }
}

/// What an instance watches.
pub(crate) struct SavedItems {
    items: Vec<SavedItem>,
    cursor: Option<(i32, Option<u32>)>,
}

impl SavedItems {
    /// Makes an instance watch its files, which exist now.
    pub(crate) fn restore(self, epoll: &Epoll, restorer: &Restorer<'_>) -> Result<(), StateError> {
        let broken = |rule| StateError::broken(SectionId::Files, rule);
        let mut state = State::default();
        let mut nested = 0;
        for SavedItem { fd, file, events, data, reported_changes } in self.items {
            let file = restorer.file(file)?;
            if !file.is_pollable() {
                return Err(broken("an epoll instance that watches a file which cannot be watched"));
            }
            let is_nested = matches!(file.body, Body::Epoll(_));
            nested += usize::from(is_nested);
            let memory = Arc::new(restorer.buffers.take(ITEM_BYTES));
            let file_key = key(fd, file);
            let file = Arc::downgrade(file);
            let item = Item { file, events, data, reported_changes, is_nested, _memory: memory };
            if state.items.insert(file_key, item).is_some() {
                return Err(broken("an epoll instance that watches a file twice"));
            }
        }
        if nested > NESTED_ITEMS_MAX {
            return Err(broken("an epoll instance that watches too many others"));
        }
        // Of a file that is gone only the descriptor is known: go on behind all with that.
        let of_file = |number| restorer.file(number).map(|file: &Arc<OpenFile>| Arc::as_ptr(file).addr());
        if let Some((fd, file)) = self.cursor {
            state.cursor = Some((fd, file.map_or(Ok(usize::MAX), of_file)?));
        }
        *epoll.state.lock() = state;
        Ok(())
    }
}

impl Epoll {
    /// `ELOOP`, as a broken rule, if instances watch each other in a circle or are nested too deep.
    pub(crate) fn check_nesting(&self) -> Result<(), StateError> {
        let is_sound = self.snapshot().iter().all(|(_, item)| match item.file.upgrade() {
            Some(file) => match &file.body {
                Body::Epoll(inner) => inner.depth_or_loop(self, 1).is_ok(),
                _ => true,
            },
            None => true,
        });
        let rule = "epoll instances nested in a circle or too deep";
        if is_sound { Ok(()) } else { Err(StateError::broken(SectionId::Files, rule)) }
    }
}
