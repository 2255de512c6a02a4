//! The system interfaces of the jail that have no safe form.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::thread::UnshareFlags;

/// `unshare(2)` of namespaces.
pub(crate) fn unshare(namespaces: UnshareFlags) -> rustix::io::Result<()> {
    assert!(!namespaces.contains(UnshareFlags::FILES), "descriptor tables stay shared");
    // SAFETY: the danger is in a table of file descriptors that threads no longer share, which was just excluded.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// Makes all mounts of a tree read-only, without devices, set-user-ID programs and execution (`mount_setattr(2)`).
pub(crate) fn restrict_mounts(tree: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is an empty C string, the structure is of the size given; the kernel reads both during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
