//! Why a virtual CPU came back to the monitor.

/// What the guest thread was doing when it needed the monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It executed `syscall`: number in `rax`, arguments in `rdi`, `rsi`, `rdx`, `r10`, `r8`, `r9`. `rip` is the
    /// address after the instruction; `rcx` and `r11` hold what the hardware put there.
    SystemCall,
    /// It touched memory without a mapping that allows it. `rip` is the instruction, which will run again.
    PageFault {
        /// The address touched.
        address: u64,
        /// How it was touched.
        access: Access,
    },
    /// Another exception. `rip` is as the hardware reports it: the instruction for faults, the next one for traps.
    Exception {
        /// Vector number (Intel SDM volume 3, chapter 6).
        vector: u8,
        /// Error code, zero where the vector has none.
        error_code: u64,
    },
    /// The run was ended by [`crate::Kicker::kick`].
    Preempted,
}

/// How an address was touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read as data.
    Read,
    /// Written as data.
    Write,
    /// Fetched as an instruction.
    Execute,
}
