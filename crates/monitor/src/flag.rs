//! Wakes a thread that serves the guest's streams.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Says "there may be something to do" to one waiting thread, at almost no cost when it has been said already.
#[derive(Debug, Default)]
pub(crate) struct Flag {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl Flag {
    /// Wakes the waiting thread.
    pub(crate) fn set(&self) {
        let mut is_set = self.is_set.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *is_set, true) {
            self.changed.notify_one();
        }
    }

    /// Waits until the flag is set, then for `delay` more, so that what follows at once is served together; clears it.
    pub(crate) fn wait(&self, delay: Duration) {
        let is_set = self.is_set.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_set = self.changed.wait_while(is_set, |is_set| !*is_set).unwrap_or_else(PoisonError::into_inner);
        if !delay.is_zero() {
            drop(is_set);
            std::thread::sleep(delay);
            is_set = self.is_set.lock().unwrap_or_else(PoisonError::into_inner);
        }
        *is_set = false;
    }
}
