//! Futexes that are locks with an owner (`FUTEX_LOCK_PI` and its relatives, `PTHREAD_PRIO_INHERIT`). The word holds the
//! owner's id. There is one priority, so there is none to inherit: what remains is that a lock is handed over in turns, and
//! that an owner's end is told.
//!
//! Waiters of a lock are apart from those of `FUTEX_WAIT` on the same word: their key has another bit set.

use super::futex::{ALL_BITS, FLAG_REALTIME, OWNER_DIED, OWNER_MASK, WAITERS, is_private, key, wake_key};
use crate::call::Call;
use crate::errno::Errno;
use crate::kernel::Kernel;
use crate::outcome::{Stop, SysResult, Wait, WaitKey, Woken};
use crate::process::Pid;
use crate::sys::time;
use crate::waits::Tid;

const FUTEX: u64 = 202;
/// Set in the address of a key of those who wait for a lock; words are aligned to four bytes.
const LOCK_BIT: u64 = 2;

fn lock_key(kernel: &mut Kernel, pid: Pid, address: u64, is_private: bool) -> Result<WaitKey, Errno> {
    Ok(match key(kernel, pid, address, is_private)? {
        WaitKey::PrivateFutex(space, address) => WaitKey::PrivateFutex(space, address | LOCK_BIT),
        WaitKey::SharedFutex(content, offset) => WaitKey::SharedFutex(content, offset | LOCK_BIT),
        other => other,
    })
}

/// Replaces a word, if it still is what it was; what it is otherwise.
fn exchange(kernel: &mut Kernel, pid: Pid, address: u64, old: u32, new: u32) -> Result<Result<u32, u32>, Errno> {
    let (frame, offset) = kernel.locate_word(pid, address, true)?;
    Ok(kernel.frames.memory().compare_exchange_u32(frame, offset, old, new))
}

fn load(kernel: &mut Kernel, pid: Pid, address: u64) -> Result<u32, Errno> {
    let (frame, offset) = kernel.locate_word(pid, address, true)?;
    Ok(kernel.frames.memory().load_u32(frame, offset))
}

/// `FUTEX_LOCK_PI`, whose deadline is one of the wall clock, and `FUTEX_LOCK_PI2`, which says of which.
pub(super) fn lock(call: &mut Call<'_>, is_first_form: bool) -> SysResult {
    let [address, operation, _, timeout, ..] = call.args;
    match call.woken {
        Some(Woken::Deadline) => return Err(Errno::ETIMEDOUT.into()),
        // Never told: the call is made again after the handler.
        Some(Woken::Signal) => {
            call.thread().restart_call(FUTEX);
            return Err(Stop::Replaced);
        }
        Some(Woken::Notified) | None => {}
    }
    let key = lock_key(call.kernel, call.pid, address, is_private(call))?;
    if call.woken.is_some() && load(call.kernel, call.pid, address)? & OWNER_MASK == call.tid {
        return Ok(0); // Handed over.
    }
    if take(call, address, key)? {
        return Ok(0);
    }
    let is_realtime = is_first_form || operation as u32 & FLAG_REALTIME != 0;
    let deadline_ns = time::read_optional_timespec(call, timeout)?.map(|time_ns| match is_realtime {
        true => call.kernel.clock.monotonic_of_realtime(time_ns),
        false => time_ns,
    });
    Err(Stop::Block(Wait { keys: vec![key], deadline_ns }))
}

/// `FUTEX_TRYLOCK_PI`.
pub(super) fn try_lock(call: &mut Call<'_>) -> SysResult {
    let address = call.args[0];
    let key = lock_key(call.kernel, call.pid, address, is_private(call))?;
    if take(call, address, key)? { Ok(0) } else { Err(Errno::EAGAIN.into()) }
}

/// Makes the caller the owner if there is none; else the word says that somebody waits.
fn take(call: &mut Call<'_>, address: u64, key: WaitKey) -> Result<bool, Errno> {
    let (tid, pid) = (call.tid, call.pid);
    let mut word = load(call.kernel, pid, address)?;
    loop {
        let owner = word & OWNER_MASK;
        if owner == tid {
            return Err(Errno::EDEADLK);
        }
        if owner != 0 && !call.kernel.threads.contains_key(&owner) && word & OWNER_DIED == 0 {
            return Err(Errno::ESRCH);
        }
        let is_free = owner == 0;
        let has_waiters = !call.kernel.waits.waiters(key).is_empty();
        let waiters = if has_waiters { WAITERS } else { 0 };
        let new = if is_free { tid | word & OWNER_DIED | waiters } else { word | WAITERS };
        match exchange(call.kernel, pid, address, word, new)? {
            Ok(_) => return Ok(is_free),
            Err(found) => word = found,
        }
    }
}

/// `FUTEX_UNLOCK_PI`: the first who waits is the owner now.
pub(super) fn unlock(call: &mut Call<'_>) -> SysResult {
    let address = call.args[0];
    let key = lock_key(call.kernel, call.pid, address, is_private(call))?;
    let mut word = load(call.kernel, call.pid, address)?;
    loop {
        if word & OWNER_MASK != call.tid {
            return Err(Errno::EPERM.into());
        }
        let new = word_of_next(call.kernel, key);
        match exchange(call.kernel, call.pid, address, word, new)? {
            Ok(_) => break,
            Err(found) => word = found,
        }
    }
    wake_key(call.kernel, key, 1, ALL_BITS);
    Ok(0)
}

/// What a lock's word is when the first who waits has it.
fn word_of_next(kernel: &Kernel, key: WaitKey) -> u32 {
    match kernel.waits.waiters(key) {
        [] => 0,
        [next] => *next,
        [next, ..] => *next | WAITERS,
    }
}

/// Hands a lock over whose owner ends, which the next one is told.
pub(super) fn leave(kernel: &mut Kernel, pid: Pid, tid: Tid, address: u64) {
    // Without the flag for one address space a lock has another key: both are looked at.
    for is_private in [true, false] {
        let Ok(key) = lock_key(kernel, pid, address, is_private) else { return };
        if kernel.waits.waiters(key).is_empty() && is_private {
            continue;
        }
        let Ok(mut word) = load(kernel, pid, address) else { return };
        while word & OWNER_MASK == tid {
            let new = word_of_next(kernel, key) | OWNER_DIED;
            match exchange(kernel, pid, address, word, new) {
                Ok(Ok(_)) => {
                    wake_key(kernel, key, 1, ALL_BITS);
                    return;
                }
                Ok(Err(found)) => word = found,
                Err(_) => return,
            }
        }
    }
}
