//! Locks: `flock(2)`, and the commands of `fcntl(2)` for record locks.

use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::call::Call;
use crate::errno::Errno;
use crate::file::OpenFile;
use crate::file::lock::{FileKey, Owner, RANGE_END, Refused, Request};
use crate::outcome::{ObjectId, Stop, SysResult, Wait, WaitKey};
use crate::sys::entry;
use crate::table::SystemCall;

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[entry(73, "flock", flock)];

/// `struct flock` of x86-64.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Flock {
    kind: i16,
    whence: i16,
    padding: i32,
    start: i64,
    length: i64,
    pid: i32,
    padding_after: i32,
}

fn wait_for(call: &Call<'_>, object: ObjectId) -> Stop {
    if call.is_interrupted() {
        return Errno::EINTR.into();
    }
    Stop::Block(Wait::on(WaitKey::Object(object)))
}

fn flock(call: &mut Call<'_>) -> SysResult {
    let file = call.usable_file(0)?;
    let operation = call.int(1);
    let wanted = match operation & !libc::LOCK_NB {
        libc::LOCK_SH => Some(false),
        libc::LOCK_EX => Some(true),
        libc::LOCK_UN => None,
        _ => return Err(Errno::EINVAL.into()),
    };
    let held = file.locks(call.kernel)?;
    match held.set_whole(wanted, call.kernel.waits.notifier()) {
        Ok(()) => Ok(0),
        Err(Refused::Errno(errno)) => Err(errno.into()),
        Err(Refused::Held(_)) if operation & libc::LOCK_NB != 0 => Err(Errno::EAGAIN.into()),
        Err(Refused::Held(object)) => Err(wait_for(call, object)),
    }
}

/// The bytes that a `struct flock` means.
fn range(call: &Call<'_>, file: &OpenFile, lock: &Flock, is_exclusive: bool) -> Result<Request, Errno> {
    let base = match i32::from(lock.whence) {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => file.offset(),
        libc::SEEK_END => file.metadata(call.kernel)?.size,
        _ => return Err(Errno::EINVAL),
    };
    let base = i64::try_from(base).map_err(|_| Errno::EOVERFLOW)?;
    let first = base.checked_add(lock.start).ok_or(Errno::EOVERFLOW)?;
    let (start, end) = match lock.length {
        0 => (first, i64::MAX),
        length @ 1.. => (first, first.checked_add(length - 1).ok_or(Errno::EOVERFLOW)?),
        // A negative length means the bytes before.
        length => (first.checked_add(length).ok_or(Errno::EINVAL)?, first - 1),
    };
    let start = u64::try_from(start).map_err(|_| Errno::EINVAL)?;
    Ok(Request { start, end: end as u64, is_exclusive })
}

/// As whose a command takes locks.
fn owner(call: &mut Call<'_>, file: &OpenFile, is_of_open_file: bool) -> Result<Owner, Errno> {
    if is_of_open_file {
        return Ok(file.locks(call.kernel)?.owner());
    }
    let locks = call.kernel.files.locks().clone();
    Ok(call.process().files.lock_owner(&locks))
}

fn is_of_open_file(command: i32) -> bool {
    matches!(command, libc::F_OFD_SETLK | libc::F_OFD_SETLKW | libc::F_OFD_GETLK)
}

/// `F_GETLK`, `F_SETLK`, `F_SETLKW`, and those of open file descriptions.
pub(super) fn record_lock(call: &mut Call<'_>, file: &Arc<OpenFile>, command: i32, address: u64) -> SysResult {
    let mut lock: Flock = call.read(address)?;
    if is_of_open_file(command) && lock.pid != 0 {
        return Err(Errno::EINVAL.into());
    }
    let kind = i32::from(lock.kind);
    if !matches!(kind, libc::F_RDLCK | libc::F_WRLCK | libc::F_UNLCK) {
        return Err(Errno::EINVAL.into());
    }
    let request = range(call, file, &lock, kind == libc::F_WRLCK)?;
    let key = file.key(call.kernel)?;
    if matches!(command, libc::F_GETLK | libc::F_OFD_GETLK) {
        if kind == libc::F_UNLCK {
            return Err(Errno::EINVAL.into());
        }
        let owner = owner(call, file, is_of_open_file(command))?;
        describe(call, &mut lock, key, owner, &request);
        call.write(address, &lock)?;
        return Ok(0);
    }
    if kind == libc::F_RDLCK && !file.is_readable() || kind == libc::F_WRLCK && !file.is_writable() {
        return Err(Errno::EBADF.into());
    }
    let owner = owner(call, file, is_of_open_file(command))?;
    if kind == libc::F_UNLCK {
        call.kernel.files.locks().unset(key, owner, request)?;
        return Ok(0);
    }
    take(call, key, owner, request, matches!(command, libc::F_SETLKW | libc::F_OFD_SETLKW))
}

/// What `F_GETLK` answers: the lock in the way, or that there is none.
fn describe(call: &Call<'_>, lock: &mut Flock, key: FileKey, owner: Owner, request: &Request) {
    let Some(held) = call.kernel.files.locks().find(key, owner, request) else {
        lock.kind = libc::F_UNLCK as i16;
        return;
    };
    lock.kind = if held.request.is_exclusive { libc::F_WRLCK } else { libc::F_RDLCK } as i16;
    lock.whence = libc::SEEK_SET as i16;
    lock.start = held.request.start as i64;
    let is_to_end = held.request.end == RANGE_END;
    lock.length = if is_to_end { 0 } else { (held.request.end - held.request.start + 1) as i64 };
    lock.pid = match held.owner {
        Owner::Table(_) => held.pid as i32,
        Owner::Open(_) => -1,
    };
}

fn take(call: &mut Call<'_>, key: FileKey, owner: Owner, request: Request, is_waiting: bool) -> SysResult {
    let locks = call.kernel.files.locks().clone();
    locks.stop_waiting(call.tid);
    match locks.set(key, owner, call.pid, request, call.kernel.waits.notifier()) {
        Ok(()) => Ok(0),
        Err(Refused::Errno(errno)) => Err(errno.into()),
        Err(Refused::Held(_)) if !is_waiting => Err(Errno::EAGAIN.into()),
        Err(Refused::Held(object)) => {
            // Circles are looked for among processes only, as on Linux.
            if let (Owner::Table(_), false) = (owner, call.is_interrupted()) {
                let waits = &call.kernel.waits;
                locks.wait(call.tid, owner, key, request, &|tid| waits.wait_of(tid).is_some())?;
            }
            Err(wait_for(call, object))
        }
    }
}
