//! Where things are in a stub's address space.
//!
//! ```text
//!  0x10000          what is at `CODE`, while a stub is being made
//!  …                guest mappings
//!  0x7ffffffef000   code: the signal handler (one `int3`) and the loop that makes system calls
//!  0x7fffffff0000   calls: what that loop is to do, read-only for the stub
//!  0x7fffffff1000 … stack on which the host's kernel leaves what it knows of an exception, to the end of addresses
//! ```

use calypte_platform::PAGE_SIZE;

/// [`PAGE_SIZE`] as an address difference.
pub(crate) const PAGE: u64 = PAGE_SIZE as u64;

/// One past the highest address that Linux gives to programs.
pub(crate) const RESERVED_END: u64 = 0x7fff_ffff_f000;
/// Bytes of the pages that a stub shares with its virtual CPU.
pub(crate) const CONTROL_BYTES: u64 = 16 * PAGE;
/// The page of code, and one past the highest address of guest mappings.
pub(crate) const CODE: u64 = RESERVED_END - CONTROL_BYTES;
/// The page of calls.
pub(crate) const CALLS: u64 = CODE + PAGE;
/// The lowest byte of the signal stack.
pub(crate) const SIGNAL_STACK: u64 = CALLS + PAGE;
/// Bytes of the signal stack: several times the largest signal frame of today's processors.
pub(crate) const SIGNAL_STACK_BYTES: u64 = RESERVED_END - SIGNAL_STACK;

/// Where a new stub, which is still a copy of the monitor, has the shared pages at first. It is the lowest address that
/// Linux lets anybody map (`vm.mmap_min_addr`), so nothing of the monitor is there, as something may be at [`CODE`].
pub(crate) const STAGING: u64 = 0x1_0000;

/// The file descriptor of the frames in a stub, which in the end has no other.
pub(crate) const FRAMES_FD: i32 = 0;
/// That of the shared pages while a stub is being made.
pub(crate) const CONTROL_FD: i32 = 1;
