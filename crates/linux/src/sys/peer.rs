//! Looking into other processes: their memory (`process_vm_readv(2)`), what they share (`kcmp(2)`).

use std::cmp::Ordering;
use std::sync::Arc;

use calypte_platform::PAGE_SIZE;

use crate::call::Call;
use crate::errno::Errno;
use crate::outcome::SysResult;
use crate::process::{Pid, Process};
use crate::sys::entry;
use crate::sys::vector::{BYTES_MAX, Vector};
use crate::table::SystemCall;

const PIECES: &str = "at most 2 MiB a call";

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(310, "process_vm_readv", process_vm_readv).supports(PIECES),
    entry(311, "process_vm_writev", process_vm_writev).supports(PIECES),
    entry(312, "kcmp", kcmp).supports("`KCMP_EPOLL_TFD` gives `EOPNOTSUPP`"),
];

fn process_vm_readv(call: &mut Call<'_>) -> SysResult {
    transfer(call, |call, pid, local, done, address, length| {
        let mut bytes = vec![0; length];
        call.kernel.read_user(pid, address, &mut bytes)?;
        local.scatter(call, done, &bytes)
    })
}

fn process_vm_writev(call: &mut Call<'_>) -> SysResult {
    transfer(call, |call, pid, local, done, address, length| {
        let bytes = local.gather_piece(call, done, length)?;
        call.kernel.write_user(pid, address, &bytes)?;
        if bytes.len() < length { Err(Errno::EFAULT) } else { Ok(()) }
    })
}

/// Moves a piece between the caller's buffer, so many bytes into it, and an address of the other process.
type Move = fn(&mut Call<'_>, Pid, &Vector, usize, u64, usize) -> Result<(), Errno>;

/// Moves page by page, until something cannot be accessed: that is an error only if it is the first.
fn transfer(call: &mut Call<'_>, step: Move) -> SysResult {
    let [_, local_address, local_count, remote_address, remote_count, flags] = call.args;
    if flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    let local = Vector::read(call, local_address, local_count, BYTES_MAX)?;
    let remote = Vector::read(call, remote_address, remote_count, BYTES_MAX)?;
    let pid = u32::try_from(call.int(0)).ok().and_then(|id| call.kernel.process_of(id)).ok_or(Errno::ESRCH)?;
    call.accessible(pid)?;
    let mut done = 0;
    for part in remote.parts() {
        let mut moved = 0;
        while moved < part.length && done < local.length() {
            let address = part.address.wrapping_add(moved);
            let to_page_end = PAGE_SIZE - address as usize % PAGE_SIZE;
            let length = to_page_end.min((part.length - moved) as usize).min(local.length() - done);
            match step(call, pid, &local, done, address, length) {
                Ok(()) => {}
                Err(errno) if done == 0 => return Err(errno.into()),
                Err(_) => return Ok(done as u64),
            }
            done += length;
            moved += length as u64;
        }
    }
    Ok(done as u64)
}

/// 0 for the same, 1 and 2 for an order of those that differ.
fn kcmp(call: &mut Call<'_>) -> SysResult {
    const FILE: i32 = 0;
    const VM: i32 = 1;
    const FILES: i32 = 2;
    const FS: i32 = 3;
    const SIGHAND: i32 = 4;
    const IO: i32 = 5;
    const SYSVSEM: i32 = 6;
    const EPOLL_TFD: i32 = 7;
    let named = |index: usize| {
        u32::try_from(call.int(index)).ok().and_then(|id| call.kernel.process_of(id)).ok_or(Errno::ESRCH)
    };
    let (first, second) = (named(0)?, named(1)?);
    call.accessible(first)?;
    call.accessible(second)?;
    let (one, other): (&Process, &Process) = (&call.kernel.processes[&first], &call.kernel.processes[&second]);
    let is_same = match call.int(2) {
        FILE => {
            let [fd, other_fd] = [call.args[3] as i32, call.args[4] as i32];
            let (file, other_file) = (one.files.get(fd)?, other.files.get(other_fd)?);
            return Ok(match Arc::as_ptr(&file).cmp(&Arc::as_ptr(&other_file)) {
                Ordering::Equal => 0,
                Ordering::Less => 1,
                Ordering::Greater => 2,
            });
        }
        VM => one.space == other.space,
        FILES => one.files.is_shared_with(&other.files),
        FS => one.shares_surroundings_with(other),
        SIGHAND => one.shares_actions_with(other),
        // Nobody has any of these.
        IO | SYSVSEM => true,
        EPOLL_TFD => return Err(Errno::EOPNOTSUPP.into()),
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(if is_same { 0 } else { 1 + u64::from(first > second) })
}
