//! `fork`, the one system interface here that safe Rust does not offer.

#![allow(unsafe_code)]

use std::io;

use rustix::process::Pid;

/// Which of the two processes returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forked {
    /// The old one, with the id of the new one.
    Parent(Pid),
    /// The new one.
    Child,
}

/// Forks. Refused when the process has more than one thread: the copies of their locks would stay locked for ever.
pub(crate) fn fork() -> io::Result<Forked> {
    let thread_count = std::fs::read_dir("/proc/self/task")?.count();
    if thread_count != 1 {
        let text = format!("a process with {thread_count} threads must not fork");
        return Err(io::Error::other(text));
    }
    // SAFETY: the calling thread is the only one, as was just counted, and no other can start meanwhile. So no lock is
    // held by a thread that the child lacks, and the child may do everything that the parent may.
    let result = unsafe { libc::fork() };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?)),
    }
}
