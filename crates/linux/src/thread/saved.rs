//! Threads as they are saved.

use serde::{Deserialize, Serialize};

use super::Thread;
use crate::state::{Restorer, Saver, StateError};

/// A [`Thread`]: itself, and what it has of others, which its own form leaves out.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedThread {
    thread: Thread,
    opening: Option<u32>,
}

impl Thread {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedThread {
        SavedThread { thread: self.clone(), opening: self.opening.as_ref().map(|file| saver.file(file)) }
    }
}

impl SavedThread {
    pub(crate) fn restore(self, restorer: &Restorer<'_>) -> Result<Thread, StateError> {
        let Self { mut thread, opening } = self;
        thread.opening = opening.map(|file| restorer.file(file).cloned()).transpose()?;
        Ok(thread)
    }
}
