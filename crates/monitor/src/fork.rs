//! `fork`, the one system interface here that safe Rust does not offer, and what is made of it.

#![allow(unsafe_code)]

use std::io::{self, Read, Write};

use calypte_jail::{Begun, Children};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

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

/// Which of the two processes returns from [`fork_separated`].
#[derive(Debug)]
pub(crate) enum Separated {
    /// The old one, with the id of the new one.
    Parent(Pid),
    /// The new one, whose jail has begun.
    Child(Begun),
}

/// Forks a process that is the first in a process id namespace of its own, where the host allows that.
///
/// Only children of a process can be put into another process id namespace, and only once. So a process in between does
/// it, forks the one that is wanted, and ends: its child becomes the caller's, which must be a "child subreaper"
/// (`PR_SET_CHILD_SUBREAPER`).
pub(crate) fn fork_separated() -> io::Result<Separated> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    match fork()? {
        Forked::Parent(between) => {
            drop(writer);
            let mut answer = [0; size_of::<i32>()];
            let read = std::fs::File::from(reader).read_exact(&mut answer);
            waitid(WaitId::Pid(between), WaitIdOptions::EXITED)?;
            read?;
            match i32::from_ne_bytes(answer) {
                pid @ 1.. => Ok(Separated::Parent(Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?)),
                errno => Err(io::Error::from_raw_os_error(-errno)),
            }
        }
        Forked::Child => {
            drop(reader);
            let begun = calypte_jail::begin(Children::Separate);
            let answer = match fork() {
                Ok(Forked::Child) => return Ok(Separated::Child(begun)),
                Ok(Forked::Parent(pid)) => pid.as_raw_nonzero().get(),
                Err(error) => -error.raw_os_error().unwrap_or(libc::EAGAIN),
            };
            // Without a reader there is nobody to tell.
            drop(std::fs::File::from(writer).write_all(&answer.to_ne_bytes()));
            std::process::exit(0)
        }
    }
}
