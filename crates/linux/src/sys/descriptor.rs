//! Descriptors: `close(2)`, `dup(2)`, `fcntl(2)`.

use crate::call::Call;
use crate::errno::Errno;
use crate::file::owner::Owner;
use crate::file::{Body, OpenFile};
use crate::outcome::SysResult;
use crate::sys::{entry, lock};
use crate::table::SystemCall;

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(3, "close", close),
    entry(32, "dup", dup),
    entry(33, "dup2", dup2),
    entry(72, "fcntl", fcntl).supports(
        "DUPFD, DUPFD_CLOEXEC, GETFD, SETFD, GETFL, SETFL (O_APPEND, O_NONBLOCK, O_ASYNC), GETLK, SETLK, SETLKW and the OFD \
         ones, GETPIPE_SZ, SETPIPE_SZ, ADD_SEALS, GET_SEALS, SETOWN, GETOWN, SETOWN_EX, GETOWN_EX: SIGIO when there is something to \
         read, for urgent data too; SETSIG of anything but 0, NOTIFY, leases, hints of lifetime and others are EINVAL",
    ),
    entry(292, "dup3", dup3),
    entry(436, "close_range", close_range).supports("all flags; CLOSE_RANGE_UNSHARE for all threads of the process"),
];

/// Commands about who is told of a file (`asm-generic/fcntl.h`), and kinds of owners.
const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const OWNER_THREAD: i32 = 0;
const OWNER_PROCESS: i32 = 1;
const OWNER_GROUP: i32 = 2;
const CLOSE_RANGE_CLOEXEC: u64 = 4;
const CLOSE_RANGE_UNSHARE: u64 = 2;

fn close(call: &mut Call<'_>) -> SysResult {
    let fd = call.int(0);
    let file = call.process().files.remove(fd)?;
    drop(file);
    call.kernel.network.settle_closed();
    Ok(0)
}

fn close_range(call: &mut Call<'_>) -> SysResult {
    let (first, last, flags) = (call.args[0] as u32, call.args[1] as u32, call.args[2]);
    if first > last || flags & !(CLOSE_RANGE_CLOEXEC | CLOSE_RANGE_UNSHARE) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let files = &mut call.process().files;
    if flags & CLOSE_RANGE_UNSHARE != 0 {
        files.unshare();
    }
    let range = (i64::from(first))..=(i64::from(last));
    let chosen: Vec<i32> = files.descriptors().filter(|fd| range.contains(&i64::from(*fd))).collect();
    for fd in chosen {
        if flags & CLOSE_RANGE_CLOEXEC != 0 {
            files.set_closed_on_exec(fd, true)?;
        } else {
            files.remove(fd)?;
        }
    }
    call.kernel.network.settle_closed();
    Ok(0)
}

fn dup(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    Ok(call.install(file, false)? as u64)
}

fn duplicate_to(call: &mut Call<'_>, is_closed_on_exec: bool) -> SysResult {
    let file = call.file(0)?;
    let fd = call.int(1);
    let before = call.process().files.replace(fd, file, is_closed_on_exec)?;
    drop(before);
    call.kernel.network.settle_closed();
    Ok(fd as u64)
}

fn dup2(call: &mut Call<'_>) -> SysResult {
    if call.int(0) == call.int(1) {
        call.file(0)?;
        return Ok(call.int(1) as u64);
    }
    duplicate_to(call, false)
}

fn dup3(call: &mut Call<'_>) -> SysResult {
    if call.int(0) == call.int(1) || call.int(2) & !libc::O_CLOEXEC != 0 {
        return Err(Errno::EINVAL.into());
    }
    duplicate_to(call, call.int(2) & libc::O_CLOEXEC != 0)
}

fn owner_of_number(number: i32) -> Result<Option<Owner>, Errno> {
    match number {
        0.. => owner_of_kind(OWNER_PROCESS, number),
        _ => owner_of_kind(OWNER_GROUP, number.checked_neg().ok_or(Errno::EINVAL)?),
    }
}

/// The owner that a `struct f_owner_ex` names; an id of 0 is nobody.
fn owner_of_kind(kind: i32, id: i32) -> Result<Option<Owner>, Errno> {
    let id = match u32::try_from(id) {
        Ok(0) => None,
        Ok(id) => Some(id),
        Err(_) => return Err(Errno::ESRCH),
    };
    match kind {
        OWNER_THREAD => Ok(id.map(Owner::Thread)),
        OWNER_PROCESS => Ok(id.map(Owner::Process)),
        OWNER_GROUP => Ok(id.map(Owner::Group)),
        _ => Err(Errno::EINVAL),
    }
}

fn exists(call: &Call<'_>, owner: Owner) -> bool {
    let kernel = &call.kernel;
    match owner {
        Owner::Thread(tid) => kernel.threads.contains_key(&tid),
        Owner::Process(pid) => kernel.process_of(pid).is_some(),
        Owner::Group(group) => kernel.processes.values().any(|process| process.group == group),
    }
}

fn set_owner(call: &mut Call<'_>, file: &OpenFile, owner: Option<Owner>) -> SysResult {
    if owner.is_some_and(|owner| !exists(call, owner)) {
        return Err(Errno::ESRCH.into());
    }
    let credentials = &call.process().credentials;
    file.set_owner(owner, [credentials.uid, credentials.uid_effective]);
    Ok(0)
}

/// An owner as `struct f_owner_ex`: one that is gone has no id.
fn kind_and_id(call: &Call<'_>, file: &OpenFile) -> [i32; 2] {
    let is_there = |id: u32, owner: Owner| if exists(call, owner) { id.cast_signed() } else { 0 };
    match file.owner() {
        Some(owner @ Owner::Thread(id)) => [OWNER_THREAD, is_there(id, owner)],
        Some(owner @ Owner::Process(id)) => [OWNER_PROCESS, is_there(id, owner)],
        Some(owner @ Owner::Group(id)) => [OWNER_GROUP, is_there(id, owner)],
        None => [OWNER_THREAD, 0],
    }
}

fn fcntl(call: &mut Call<'_>) -> SysResult {
    let file = call.file(0)?;
    let fd = call.int(0);
    let argument = call.args[2];
    let command = call.int(1);
    if file.is_path_only()
        && !matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC | libc::F_GETFD | libc::F_SETFD | libc::F_GETFL)
    {
        return Err(Errno::EBADF.into());
    }
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
            let is_closed_on_exec = command == libc::F_DUPFD_CLOEXEC;
            let minimum = call.int(2);
            Ok(call.process().files.insert_at_least(file, is_closed_on_exec, minimum)? as u64)
        }
        libc::F_GETFD => Ok(u64::from(call.process().files.is_closed_on_exec(fd)?)),
        libc::F_SETFD => {
            call.process().files.set_closed_on_exec(fd, argument & libc::FD_CLOEXEC as u64 != 0)?;
            Ok(0)
        }
        libc::F_GETFL => Ok(file.flags().into()),
        libc::F_SETFL => {
            file.set_flags(argument as u32);
            let is_asynchronous = argument as i32 & libc::O_ASYNC != 0;
            // Files that nobody is told of have not got the flag.
            let _ = call.kernel.set_asynchronous(&file, is_asynchronous);
            Ok(0)
        }
        libc::F_GETLK | libc::F_SETLK | libc::F_SETLKW | libc::F_OFD_GETLK | libc::F_OFD_SETLK | libc::F_OFD_SETLKW => {
            lock::record_lock(call, &file, command, argument)
        }
        libc::F_GETPIPE_SZ | libc::F_SETPIPE_SZ => {
            let Body::Pipe(end) = &file.body else { return Err(Errno::EBADF.into()) };
            if command == libc::F_GETPIPE_SZ {
                return Ok(end.capacity() as u64);
            }
            let wanted = usize::try_from(call.int(2)).map_err(|_| Errno::EINVAL)?;
            Ok(end.set_capacity(wanted)? as u64)
        }
        F_SETSIG if argument as u32 == 0 => Ok(0),
        F_GETSIG => Ok(0),
        libc::F_SETOWN => set_owner(call, &file, owner_of_number(call.int(2))?),
        F_SETOWN_EX => {
            let [kind, id] = call.read::<[i32; 2]>(argument)?;
            set_owner(call, &file, owner_of_kind(kind, id)?)
        }
        libc::F_GETOWN => {
            let [kind, id] = kind_and_id(call, &file);
            Ok(i64::from(if kind == OWNER_GROUP { -id } else { id }).cast_unsigned())
        }
        F_GETOWN_EX => {
            let told = kind_and_id(call, &file);
            call.write(argument, &told)?;
            Ok(0)
        }
        libc::F_GET_SEALS => match &file.body {
            Body::Tmp(inode) => Ok(inode.state().seals.get()?.into()),
            _ => Err(Errno::EINVAL.into()),
        },
        libc::F_ADD_SEALS => match &file.body {
            Body::Tmp(_) if !file.is_writable() => Err(Errno::EPERM.into()),
            Body::Tmp(inode) => {
                inode.add_seals(argument as u32)?;
                Ok(0)
            }
            _ => Err(Errno::EINVAL.into()),
        },
        _ => Err(Errno::EINVAL.into()),
    }
}
