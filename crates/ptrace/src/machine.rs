//! The machine: what belongs to one guest and outlives its parts.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use calypte_platform::{AddressSpace, Machine, Memory, PlatformError, Timestamp, Vcpu, timestamp};

use crate::layout::{CODE, RESERVED_END};
use crate::memory::Frames;
use crate::space::{PtraceAddressSpace, Spaces};
use crate::vcpu::PtraceVcpu;

/// How large a machine may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Most frames it may have. Not zero.
    pub memory_frames_max: u32,
}

#[derive(Debug)]
struct PtraceMachine {
    frames: Arc<Frames>,
    spaces: Arc<Spaces>,
    last_token: AtomicU64,
}

/// A machine without frames, address spaces or virtual CPUs.
pub fn create_machine(config: &Config) -> Result<Arc<dyn Machine>, PlatformError> {
    timestamp::start_measuring();
    let frames = Arc::new(Frames::new(config.memory_frames_max)?);
    Ok(Arc::new(PtraceMachine { frames, spaces: Arc::default(), last_token: AtomicU64::new(0) }))
}

impl Machine for PtraceMachine {
    fn platform(&self) -> &'static str {
        "ptrace"
    }

    fn memory(&self) -> Arc<dyn Memory> {
        Arc::clone(&self.frames) as Arc<dyn Memory>
    }

    fn create_address_space(&self) -> Result<Box<dyn AddressSpace>, PlatformError> {
        let token = self.last_token.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Box::new(PtraceAddressSpace::new(token, Arc::clone(&self.frames), Arc::clone(&self.spaces))))
    }

    fn create_vcpu(&self) -> Result<Box<dyn Vcpu>, PlatformError> {
        Ok(Box::new(PtraceVcpu::new(&self.frames, Arc::clone(&self.spaces))?))
    }

    fn reserved(&self) -> Range<u64> {
        CODE..RESERVED_END
    }

    fn user_end(&self) -> u64 {
        CODE
    }

    fn synchronize(&self) -> bool {
        // SAFETY: the call takes no pointers. It returns when every running thread of the host has passed a barrier.
        unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) == 0 }
    }

    fn runs_guest_in_this_process(&self) -> bool {
        false
    }

    fn timestamp(&self) -> Option<Timestamp> {
        timestamp::read()
    }
}
