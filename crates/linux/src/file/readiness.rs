//! What can be done with a file without blocking: the bits of `poll(2)` and `epoll(7)`, which are the same numbers.

/// Data can be read, or the end of it.
pub const IN: u32 = libc::EPOLLIN as u32;
/// Urgent data can be read.
pub const PRIORITY: u32 = libc::EPOLLPRI as u32;
/// Data can be written.
pub const OUT: u32 = libc::EPOLLOUT as u32;
/// There is an error to be fetched, or nobody will read what is written.
pub const ERROR: u32 = libc::EPOLLERR as u32;
/// The other side is gone.
pub const HANG_UP: u32 = libc::EPOLLHUP as u32;
/// The other side will send no more.
pub const READ_HANG_UP: u32 = libc::EPOLLRDHUP as u32;
/// As [`IN`].
pub const READ_NORMAL: u32 = libc::EPOLLRDNORM as u32;
/// As [`OUT`].
pub const WRITE_NORMAL: u32 = libc::EPOLLWRNORM as u32;

/// Readable and writable.
pub const BOTH: u32 = IN | READ_NORMAL | OUT | WRITE_NORMAL;

/// Bits from two conditions.
pub fn from(is_readable: bool, is_writable: bool) -> u32 {
    let read = if is_readable { IN | READ_NORMAL } else { 0 };
    let write = if is_writable { OUT | WRITE_NORMAL } else { 0 };
    read | write
}
