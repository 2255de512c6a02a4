//! Descriptors for processes: `pidfd_open(2)`.

use std::sync::Arc;

use crate::file::{Body, OpenFile, READABLE, WRITABLE, readiness};
use crate::process::Life;

/// A process that is meant whatever becomes of its id.
#[derive(Debug)]
pub struct PidFd {
    pub(super) life: Arc<Life>,
}

impl PidFd {
    /// Its life.
    pub fn life(&self) -> &Arc<Life> {
        &self.life
    }

    /// Readable when the process has ended.
    pub fn readiness(&self) -> u32 {
        readiness::from(self.life.has_ended(), false)
    }
}

/// An open file for a process; `flags` may have `O_NONBLOCK`.
pub fn open(life: Arc<Life>, flags: u32) -> Arc<OpenFile> {
    OpenFile::anonymous(Body::Process(PidFd { life }), "anon_inode:[pidfd]", READABLE | WRITABLE, flags)
}
