//! What programs say about the use of their memory: `madvise(2)`, `mlock(2)` and its relatives.

use calypte_platform::{PAGE_SIZE, Protection};

use crate::call::Call;
use crate::errno::Errno;
use crate::mm::ForkAdvice;
use crate::outcome::{Stop, SysResult, Wait};
use crate::sys::entry;
use crate::sys::memory::{locked_limit, locked_room, memory};
use crate::table::SystemCall;

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(28, "madvise", madvise).supports(
        "`MADV_DONTNEED`, `MADV_DONTNEED_LOCKED`, `MADV_FREE` (at once), `MADV_REMOVE`, `MADV_POPULATE_READ` and `_WRITE`, \
         `MADV_DONTFORK`, `MADV_DOFORK`, `MADV_WIPEONFORK`, `MADV_KEEPONFORK`; access patterns, huge pages, merging, dumping, \
         `MADV_COLD` and `MADV_PAGEOUT` have no effect; others are `EINVAL`",
    ),
    entry(149, "mlock", mlock),
    entry(150, "munlock", munlock),
    entry(151, "mlockall", mlockall).supports(
        "counted; pages without content get it when they are used",
    ),
    entry(152, "munlockall", munlockall),
    entry(325, "mlock2", mlock2),
];

const PAGE: u64 = PAGE_SIZE as u64;

fn madvise(call: &mut Call<'_>) -> SysResult {
    /// Normal, random, sequential, will need; merging; huge pages; dumping; cold, page-out; collapse.
    const WITHOUT_EFFECT: [i32; 13] = [0, 1, 2, 3, 12, 13, 14, 15, 16, 17, 20, 21, 25];
    let [address, length, ..] = call.args;
    let advice = call.int(2);
    let (space, frames) = memory(call);
    match advice {
        libc::MADV_DONTNEED => space.discard(frames, address, length, |_, is_locked| is_locked)?,
        libc::MADV_DONTNEED_LOCKED => space.discard(frames, address, length, |_, _| false)?,
        libc::MADV_FREE => {
            space.discard(frames, address, length, |is_anonymous, is_locked| is_locked || !is_anonymous)?;
        }
        libc::MADV_REMOVE => space.remove(frames, address, length)?,
        libc::MADV_DONTFORK => space.set_on_fork(address, length, ForkAdvice::Omit)?,
        libc::MADV_WIPEONFORK => space.set_on_fork(address, length, ForkAdvice::Wipe)?,
        libc::MADV_DOFORK | libc::MADV_KEEPONFORK => space.set_on_fork(address, length, ForkAdvice::Inherit)?,
        libc::MADV_POPULATE_READ => return populate(call, (address, length), Protection::READ),
        libc::MADV_POPULATE_WRITE => return populate(call, (address, length), Protection::WRITE),
        advice if WITHOUT_EFFECT.contains(&advice) => space.check_advised(address, length)?,
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// Backs a range, a bounded part of it at a time: others may run in between.
fn populate(call: &mut Call<'_>, range: (u64, u64), needed: Protection) -> SysResult {
    let done = call.progress() as u64;
    let (space, frames) = memory(call);
    let done = space.populate(frames, range, done, needed)?;
    if done >= range.1 {
        return Ok(0);
    }
    let now_ns = call.kernel.clock.monotonic_ns();
    let wait = Wait { keys: Vec::new(), deadline_ns: Some(now_ns) };
    Err(call.block_with_progress(wait, usize::try_from(done).unwrap_or(usize::MAX)))
}

fn mlock(call: &mut Call<'_>) -> SysResult {
    lock(call, false)
}

fn mlock2(call: &mut Call<'_>) -> SysResult {
    const ON_FAULT: u64 = 1;
    match call.args[2] {
        0 => lock(call, false),
        ON_FAULT => lock(call, true),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// The pages that hold a range: address and bytes.
fn pages_of(address: u64, length: u64) -> Result<(u64, u64), Errno> {
    let start = address / PAGE * PAGE;
    let length = length.saturating_add(address - start).checked_next_multiple_of(PAGE).ok_or(Errno::EINVAL)?;
    start.checked_add(length).ok_or(Errno::EINVAL)?;
    Ok((start, length))
}

/// Guest memory is never paged out by the guest: locking is accounting and populating.
fn lock(call: &mut Call<'_>, is_on_fault: bool) -> SysResult {
    let [address, length, ..] = call.args;
    locked_limit(call)?;
    let (start, length) = pages_of(address, length)?;
    if call.progress() == 0 {
        let counted = memory(call).0.locked_bytes(start, start + length);
        if length - counted.min(length) > locked_room(call)? {
            return Err(Errno::ENOMEM.into());
        }
        memory(call).0.set_locked(start, length, true)?;
    }
    if is_on_fault || length == 0 {
        return Ok(0);
    }
    match populate(call, (start, length), Protection::READ) {
        // Pages that may not be read, or have no content.
        Err(Stop::Errno(Errno::EINVAL | Errno::EFAULT)) => Err(Errno::ENOMEM.into()),
        other => other,
    }
}

fn munlock(call: &mut Call<'_>) -> SysResult {
    let [address, length, ..] = call.args;
    let (start, length) = pages_of(address, length)?;
    memory(call).0.set_locked(start, length, false)?;
    Ok(0)
}

fn mlockall(call: &mut Call<'_>) -> SysResult {
    const CURRENT: u64 = 1;
    const FUTURE: u64 = 2;
    const ON_FAULT: u64 = 4;
    let flags = call.args[0];
    if flags & (CURRENT | FUTURE) == 0 || flags & !(CURRENT | FUTURE | ON_FAULT) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let limit = locked_limit(call)?;
    let size = memory(call).0.size();
    if flags & CURRENT != 0 && size > limit {
        return Err(Errno::ENOMEM.into());
    }
    memory(call).0.set_all_locked((flags & CURRENT != 0).then_some(true), flags & FUTURE != 0)?;
    Ok(0)
}

fn munlockall(call: &mut Call<'_>) -> SysResult {
    memory(call).0.set_all_locked(Some(false), false)?;
    Ok(0)
}
