//! `inotify_init1(2)`, `inotify_add_watch(2)`, `inotify_rm_watch(2)`.

use crate::call::Call;
use crate::errno::Errno;
use crate::file::inotify::Inotify;
use crate::file::{Body, OpenFile, READABLE};
use crate::fs::metadata::MAY_READ;
use crate::fs::walk::Walker;
use crate::outcome::SysResult;
use crate::sys::entry;
use crate::table::SystemCall;

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(253, "inotify_init", inotify_init),
    entry(254, "inotify_add_watch", inotify_add_watch)
        .supports("all events and flags; files of the host tell of opens, reads and closes only"),
    entry(255, "inotify_rm_watch", inotify_rm_watch),
    entry(294, "inotify_init1", inotify_init1),
];

const FLAGS: u32 = libc::IN_ALL_EVENTS
    | libc::IN_UNMOUNT
    | libc::IN_Q_OVERFLOW
    | libc::IN_IGNORED
    | libc::IN_ONLYDIR
    | libc::IN_DONT_FOLLOW
    | libc::IN_EXCL_UNLINK
    | libc::IN_MASK_CREATE
    | libc::IN_MASK_ADD
    | libc::IN_ISDIR
    | libc::IN_ONESHOT;

fn make(call: &mut Call<'_>, flags: i32) -> SysResult {
    if flags & !(libc::IN_CLOEXEC | libc::IN_NONBLOCK) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let files = &call.kernel.files;
    let inotify = Inotify::new(files.watches(), call.kernel.waits.notifier(), files.buffers())?;
    let status = (flags & libc::IN_NONBLOCK) as u32;
    let file = OpenFile::anonymous(Body::Inotify(inotify), "anon_inode:inotify", READABLE, status);
    Ok(call.install(file, flags & libc::IN_CLOEXEC != 0)? as u64)
}

fn inotify_init(call: &mut Call<'_>) -> SysResult {
    make(call, 0)
}

fn inotify_init1(call: &mut Call<'_>) -> SysResult {
    make(call, call.int(0))
}

fn inotify_add_watch(call: &mut Call<'_>) -> SysResult {
    let mask = call.args[2] as u32;
    let is_valid = mask & libc::IN_ALL_EVENTS != 0 && mask & !FLAGS == 0;
    let both = libc::IN_MASK_ADD | libc::IN_MASK_CREATE;
    if !is_valid {
        return Err(Errno::EINVAL.into());
    }
    let file = call.usable_file(0)?;
    if mask & both == both {
        return Err(Errno::EINVAL.into());
    }
    let Body::Inotify(inotify) = &file.body else { return Err(Errno::EINVAL.into()) };
    let path = call.read_path(call.args[1])?;
    let flags = if mask & libc::IN_DONT_FOLLOW != 0 { libc::AT_SYMLINK_NOFOLLOW } else { 0 };
    let location = call.locate(libc::AT_FDCWD, &path, flags)?;
    let metadata = location.metadata(call.kernel)?;
    if mask & libc::IN_ONLYDIR != 0 && !metadata.is_directory() {
        return Err(Errno::ENOTDIR.into());
    }
    metadata.check(Walker::new(call.kernel, call.pid)?.credentials(), MAY_READ)?;
    Ok(inotify.add((metadata.device, metadata.inode), mask)? as u64)
}

fn inotify_rm_watch(call: &mut Call<'_>) -> SysResult {
    let file = call.usable_file(0)?;
    let Body::Inotify(inotify) = &file.body else { return Err(Errno::EINVAL.into()) };
    inotify.remove(call.int(1))?;
    Ok(0)
}
