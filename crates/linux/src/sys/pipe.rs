//! `pipe(2)` and `eventfd(2)`.

use crate::call::Call;
use crate::errno::Errno;
use crate::file::event::EventFd;
use crate::file::pipe::Pipe;
use crate::file::{Body, OpenFile, READABLE, WRITABLE};
use crate::outcome::SysResult;
use crate::sys::entry;
use crate::table::SystemCall;

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(22, "pipe", pipe),
    entry(284, "eventfd", eventfd),
    entry(290, "eventfd2", eventfd2),
    entry(293, "pipe2", pipe2).supports("O_CLOEXEC, O_NONBLOCK; O_DIRECT and others are EINVAL"),
];

fn make_pipe(call: &mut Call<'_>, flags: i32) -> SysResult {
    if flags & !(libc::O_CLOEXEC | libc::O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let pipe = Pipe::new(call.kernel.waits.notifier(), call.kernel.files.buffers());
    let status = flags as u32;
    let reader = OpenFile::anonymous(Body::Pipe(pipe.open(true, false)), "pipe:", READABLE, status);
    let writer = OpenFile::anonymous(Body::Pipe(pipe.open(false, true)), "pipe:", WRITABLE, status);
    install_pair(call, reader, writer, flags & libc::O_CLOEXEC != 0, call.args[0])
}

/// Gives two files descriptors and writes those to the guest; neither stays if anything fails.
pub(super) fn install_pair(
    call: &mut Call<'_>,
    first: std::sync::Arc<OpenFile>,
    second: std::sync::Arc<OpenFile>,
    is_closed_on_exec: bool,
    address: u64,
) -> SysResult {
    let first = call.install(first, is_closed_on_exec)?;
    let second = match call.install(second, is_closed_on_exec) {
        Ok(second) => second,
        Err(errno) => {
            call.process().files.remove(first)?;
            return Err(errno.into());
        }
    };
    if let Err(errno) = call.write(address, &[first, second]) {
        let files = &mut call.process().files;
        files.remove(first)?;
        files.remove(second)?;
        return Err(errno.into());
    }
    Ok(0)
}

fn pipe(call: &mut Call<'_>) -> SysResult {
    make_pipe(call, 0)
}

fn pipe2(call: &mut Call<'_>) -> SysResult {
    make_pipe(call, call.int(1))
}

fn make_event(call: &mut Call<'_>, flags: i32) -> SysResult {
    if flags & !(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let count = u64::from(call.args[0] as u32);
    let event = EventFd::new(call.kernel.waits.notifier(), count, flags & libc::EFD_SEMAPHORE != 0);
    let status = (flags & libc::EFD_NONBLOCK) as u32;
    let file = OpenFile::anonymous(Body::Event(event), "anon_inode:[eventfd]", READABLE | WRITABLE, status);
    Ok(call.install(file, flags & libc::EFD_CLOEXEC != 0)? as u64)
}

fn eventfd(call: &mut Call<'_>) -> SysResult {
    make_event(call, 0)
}

fn eventfd2(call: &mut Call<'_>) -> SysResult {
    make_event(call, call.int(1))
}
