//! Resource limits of a process (`getrlimit(2)`).

use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::errno::Errno;

/// `RLIM_INFINITY`.
pub const UNLIMITED: u64 = u64::MAX;
/// Most descriptors that a process may ever be allowed.
pub const FILES_MAX: u64 = 4096;
/// Most threads of a guest.
pub const THREADS_MAX: u64 = 1024;
/// Most stack of a first thread: 8 MiB, as everywhere.
pub const STACK_BYTES: u64 = 8 << 20;

/// A resource by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names of getrlimit(2)")]
pub enum Resource {
    Cpu,
    FileSize,
    Data,
    Stack,
    Core,
    ResidentSet,
    Processes,
    Files,
    LockedMemory,
    AddressSpace,
    Locks,
    PendingSignals,
    QueueBytes,
    Nice,
    RealtimePriority,
    RealtimeTime,
}

impl Resource {
    /// All, in the order of their numbers.
    pub const ALL: [Resource; 16] = [
        Self::Cpu,
        Self::FileSize,
        Self::Data,
        Self::Stack,
        Self::Core,
        Self::ResidentSet,
        Self::Processes,
        Self::Files,
        Self::LockedMemory,
        Self::AddressSpace,
        Self::Locks,
        Self::PendingSignals,
        Self::QueueBytes,
        Self::Nice,
        Self::RealtimePriority,
        Self::RealtimeTime,
    ];

    /// The resource with a number that a program gave.
    pub fn from_number(number: u64) -> Option<Self> {
        usize::try_from(number).ok().and_then(|number| Self::ALL.get(number)).copied()
    }
}

/// A limit: what holds, and how far the process may raise it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Serialize, Deserialize)]
#[repr(C)]
pub struct Limit {
    /// What holds (`rlim_cur`).
    pub soft: u64,
    /// How far `soft` may be raised (`rlim_max`).
    pub hard: u64,
}

/// All limits of a process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Limits([Limit; Resource::ALL.len()]);

impl Default for Limits {
    fn default() -> Self {
        Self(Resource::ALL.map(|resource| match resource {
            Resource::Stack => Limit { soft: STACK_BYTES, hard: UNLIMITED },
            Resource::Core | Resource::Nice | Resource::RealtimePriority => Limit { soft: 0, hard: 0 },
            Resource::Files => Limit { soft: 1024, hard: FILES_MAX },
            Resource::Processes => Limit { soft: THREADS_MAX, hard: THREADS_MAX },
            Resource::LockedMemory => Limit { soft: 8 << 20, hard: 8 << 20 },
            Resource::PendingSignals => Limit { soft: 1024, hard: 1024 },
            Resource::QueueBytes => Limit { soft: 819_200, hard: 819_200 },
            _ => Limit { soft: UNLIMITED, hard: UNLIMITED },
        }))
    }
}

impl Limits {
    /// One of them.
    pub fn get(&self, resource: Resource) -> Limit {
        self.0[resource as usize]
    }

    /// Changes one: never above the hard limit that holds, not even for root, since the limits of a guest protect the
    /// monitor.
    pub fn set(&mut self, resource: Resource, limit: Limit) -> Result<(), Errno> {
        if limit.soft > limit.hard {
            return Err(Errno::EINVAL);
        }
        let current = &mut self.0[resource as usize];
        if limit.hard > current.hard {
            return Err(Errno::EPERM);
        }
        *current = limit;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_lowered_and_never_raised_above_the_hard_one() {
        let mut limits = Limits::default();
        let files = |soft, hard| Limit { soft, hard };
        assert_eq!(limits.set(Resource::Files, files(FILES_MAX, FILES_MAX)), Ok(()));
        assert_eq!(limits.set(Resource::Files, files(10, FILES_MAX + 1)), Err(Errno::EPERM));
        assert_eq!(limits.set(Resource::Files, files(11, 10)), Err(Errno::EINVAL));
        assert_eq!(limits.set(Resource::Files, files(10, 10)), Ok(()));
        assert_eq!(limits.set(Resource::Files, files(11, 11)), Err(Errno::EPERM));
    }
}
