//! `signalfd(2)`.

use crate::call::Call;
use crate::errno::Errno;
use crate::file::signalfd::SignalFd;
use crate::file::{Body, OpenFile, READABLE, WRITABLE};
use crate::outcome::SysResult;
use crate::signal::SignalSet;
use crate::sys::entry;
use crate::table::SystemCall;

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[entry(282, "signalfd", signalfd), entry(289, "signalfd4", signalfd4)];

fn signalfd(call: &mut Call<'_>) -> SysResult {
    make(call, 0)
}

fn signalfd4(call: &mut Call<'_>) -> SysResult {
    make(call, call.int(3))
}

fn make(call: &mut Call<'_>, flags: i32) -> SysResult {
    if flags & !(libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) != 0 || call.args[2] != size_of::<SignalSet>() as u64 {
        return Err(Errno::EINVAL.into());
    }
    let accepted = call.read::<SignalSet>(call.args[1])?.as_mask();
    let fd = call.int(0);
    if fd != -1 {
        let file = call.file(0)?;
        let Body::Signal(existing) = &file.body else { return Err(Errno::EINVAL.into()) };
        existing.set(accepted);
        return Ok(fd as u64);
    }
    let status = (flags & libc::SFD_NONBLOCK) as u32;
    let file = OpenFile::anonymous(
        Body::Signal(SignalFd::new(accepted)),
        "anon_inode:[signalfd]",
        READABLE | WRITABLE,
        status,
    );
    Ok(call.install(file, flags & libc::SFD_CLOEXEC != 0)? as u64)
}
