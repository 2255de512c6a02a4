//! File descriptors that Tokio has no type for (a pidfd, a `SOCK_SEQPACKET` socket) in Tokio's poll loop. The only unsafe
//! code of this crate: Tokio's registration of anything is `unsafe`, because it cannot know that a descriptor stays open.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor, which must not block, for as long as the result lives.
pub(crate) fn polled(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open for as long as it lives and always names the same descriptor; the `AsyncFd` owns it and
    // hands out only shared references, through which it can be neither closed nor replaced.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
