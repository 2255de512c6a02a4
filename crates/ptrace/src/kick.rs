//! Ending a run of a virtual CPU from another thread.
//!
//! A signal sent to a stub is not lost: it stops the stub when it goes on, however late. It is sent only while user code may
//! run, though, so a flag says it too:
//!
//! ```text
//!  other thread                     virtual CPU's thread
//!  kicked = true                    stub entered
//!  stub entered? then signal        was kicked? then Pre-empted, else go on
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use calypte_platform::Kicker;

use crate::space::Stub;

/// Shared between a virtual CPU and those who interrupt it.
#[derive(Debug, Default)]
pub(crate) struct KickState {
    kicked: AtomicBool,
    /// The stub of the run in progress, or of the last one.
    target: Mutex<Option<Arc<Stub>>>,
}

impl KickState {
    /// Runs take place in this stub from now on.
    pub(crate) fn set_target(&self, stub: Option<Arc<Stub>>) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = stub;
    }

    /// Whether the run was kicked; the stub must have been entered before.
    pub(crate) fn take_kick(&self) -> bool {
        self.kicked.swap(false, Ordering::SeqCst)
    }
}

impl Kicker for KickState {
    fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stub) = &*target
            && stub.is_entered()
        {
            stub.tracee.interrupt();
        }
    }
}
