//! `futex(2)`, and the robust futexes of a thread that ends.
//!
//! A futex is known by the address of its word in its address space, or, in shared memory, by the place in the shared object.
//! Not by the frame: copy-on-write gives a word another one while threads wait.

use crate::call::Call;
use crate::errno::Errno;
use crate::kernel::Kernel;
use crate::outcome::{Stop, SysResult, Wait, WaitKey, Woken};
use crate::process::Pid;
use crate::sys::{entry, futex_lock, time};
use crate::table::SystemCall;
use crate::waits::Tid;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(202, "futex", futex).supports(
        "WAIT, WAKE, WAIT_BITSET, WAKE_BITSET, REQUEUE, CMP_REQUEUE, WAKE_OP, LOCK_PI, LOCK_PI2, TRYLOCK_PI, UNLOCK_PI, \
         FUTEX_PRIVATE_FLAG, FUTEX_CLOCK_REALTIME of waits; FUTEX_WAIT_REQUEUE_PI, FUTEX_FD and others are ENOSYS",
    ),
    entry(273, "set_robust_list", set_robust_list),
    entry(274, "get_robust_list", get_robust_list),
    entry(449, "futex_waitv", wait_for_any).supports("words of 32 bits; others are EINVAL"),
];

const WAIT: u32 = 0;
const WAKE: u32 = 1;
const REQUEUE: u32 = 3;
const CMP_REQUEUE: u32 = 4;
const WAKE_OP: u32 = 5;
const LOCK_PI: u32 = 6;
const UNLOCK_PI: u32 = 7;
const TRYLOCK_PI: u32 = 8;
const WAIT_BITSET: u32 = 9;
const WAKE_BITSET: u32 = 10;
const LOCK_PI2: u32 = 13;
const FLAG_PRIVATE: u32 = 128;
pub(super) const FLAG_REALTIME: u32 = 256;
pub(super) const ALL_BITS: u32 = u32::MAX;

/// Most futexes that a call waits for at a time (`FUTEX_WAITV_MAX`).
const WAITERS_MAX: u64 = 128;
/// `FUTEX2_SIZE_U32`.
const SIZE_U32: u32 = 2;

/// Most entries of a robust list that are looked at (`ROBUST_LIST_LIMIT`).
const ROBUST_ENTRIES_MAX: usize = 2048;
/// Bytes of `struct robust_list_head`.
const ROBUST_HEAD_BYTES: u64 = 24;
pub(super) const OWNER_DIED: u32 = 0x4000_0000;
pub(super) const WAITERS: u32 = 0x8000_0000;
pub(super) const OWNER_MASK: u32 = 0x3fff_ffff;

fn futex(call: &mut Call<'_>) -> SysResult {
    let [address, operation, value, fourth, second, sixth] = call.args;
    let operation = operation as u32;
    let value = value as u32;
    let command = operation & !(FLAG_PRIVATE | FLAG_REALTIME);
    if operation & FLAG_REALTIME != 0 && !matches!(command, WAIT | WAIT_BITSET | LOCK_PI2) {
        return Err(Errno::ENOSYS.into());
    }
    match command {
        WAIT => wait(call, ALL_BITS, false),
        WAIT_BITSET => wait(call, sixth as u32, true),
        WAKE => wake(call, value, ALL_BITS),
        WAKE_BITSET => wake(call, value, sixth as u32),
        REQUEUE => requeue(call, None),
        CMP_REQUEUE => requeue(call, Some(sixth as u32)),
        WAKE_OP => wake_op(call, address, second, value, fourth as u32, sixth as u32),
        LOCK_PI => futex_lock::lock(call, true),
        LOCK_PI2 => futex_lock::lock(call, false),
        TRYLOCK_PI => futex_lock::try_lock(call),
        UNLOCK_PI => futex_lock::unlock(call),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// What the word at an address is known by.
pub(super) fn key(kernel: &mut Kernel, pid: Pid, address: u64, is_private: bool) -> Result<WaitKey, Errno> {
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    if address >= kernel.machine.user_end() {
        return Err(Errno::EFAULT);
    }
    let space = kernel.processes.get(&pid).ok_or(Errno::ESRCH)?.space;
    if is_private {
        return Ok(WaitKey::PrivateFutex(space.0, address));
    }
    Ok(match kernel.spaces.shared_word(space, address)? {
        Some((content, offset)) => WaitKey::SharedFutex(content.0, offset),
        None => WaitKey::PrivateFutex(space.0, address | 1),
    })
}

/// What the word at an address holds.
fn value(kernel: &mut Kernel, pid: Pid, address: u64) -> Result<u32, Errno> {
    let (frame, offset) = kernel.locate_word(pid, address, false)?;
    Ok(kernel.frames.memory().load_u32(frame, offset))
}

pub(super) fn is_private(call: &Call<'_>) -> bool {
    call.args[1] as u32 & FLAG_PRIVATE != 0
}

fn wait(call: &mut Call<'_>, bits: u32, is_absolute: bool) -> SysResult {
    match call.woken {
        Some(Woken::Notified) => return Ok(0),
        Some(Woken::Deadline) => return Err(Errno::ETIMEDOUT.into()),
        Some(Woken::Signal) => return Err(Errno::EINTR.into()),
        None => {}
    }
    if bits == 0 {
        return Err(Errno::EINVAL.into());
    }
    let [address, operation, expected, timeout, ..] = call.args;
    let is_realtime = operation as u32 & FLAG_REALTIME != 0;
    let clock_now = call.kernel.clock.monotonic_ns();
    let deadline_ns = time::read_optional_timespec(call, timeout)?.map(|time_ns| match (is_absolute, is_realtime) {
        (false, _) => clock_now.saturating_add(time_ns),
        (true, true) => call.kernel.clock.monotonic_of_realtime(time_ns),
        (true, false) => time_ns,
    });
    let key = key(call.kernel, call.pid, address, is_private(call))?;
    if value(call.kernel, call.pid, address)? != expected as u32 {
        return Err(Errno::EAGAIN.into());
    }
    call.thread().futex_bits = bits;
    Err(Stop::Block(Wait { keys: vec![key], deadline_ns }))
}

/// `struct futex_waitv`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Waiter {
    expected: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

/// `futex_waitv(2)`: which of several words somebody was woken at.
fn wait_for_any(call: &mut Call<'_>) -> SysResult {
    match call.woken {
        Some(Woken::Notified) => return Ok(call.thread().futex_index.into()),
        Some(Woken::Deadline) => return Err(Errno::ETIMEDOUT.into()),
        Some(Woken::Signal) => return Err(Errno::EINTR.into()),
        None => {}
    }
    let [waiters, count, flags, timeout, clock, _] = call.args;
    let count = count & u64::from(u32::MAX);
    if flags as u32 != 0 || !(1..=WAITERS_MAX).contains(&count) || waiters == 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut deadline_ns = None;
    if timeout != 0 {
        let is_realtime = match clock as i32 {
            libc::CLOCK_REALTIME => true,
            libc::CLOCK_MONOTONIC => false,
            _ => return Err(Errno::EINVAL.into()),
        };
        deadline_ns = time::read_optional_timespec(call, timeout)?.map(|time_ns| match is_realtime {
            true => call.kernel.clock.monotonic_of_realtime(time_ns),
            false => time_ns,
        });
    }
    let size = std::mem::size_of::<Waiter>() as u64;
    let mut all = Vec::new();
    for index in 0..count {
        let waiter: Waiter = call.read(waiters.wrapping_add(index * size))?;
        if waiter.reserved != 0 || waiter.flags & !FLAG_PRIVATE != SIZE_U32 {
            return Err(Errno::EINVAL.into());
        }
        let key = key(call.kernel, call.pid, waiter.address, waiter.flags & FLAG_PRIVATE != 0)?;
        all.push((key, waiter));
    }
    for (_, waiter) in &all {
        if value(call.kernel, call.pid, waiter.address)? != waiter.expected as u32 {
            return Err(Errno::EAGAIN.into());
        }
    }
    call.thread().futex_bits = ALL_BITS;
    Err(Stop::Block(Wait { keys: all.into_iter().map(|(key, _)| key).collect(), deadline_ns }))
}

/// Wakes up to `count` waiters that have one of `bits`, in the order in which they came.
fn wake(call: &mut Call<'_>, count: u32, bits: u32) -> SysResult {
    if bits == 0 {
        return Err(Errno::EINVAL.into());
    }
    let key = key(call.kernel, call.pid, call.args[0], is_private(call))?;
    Ok(wake_key(call.kernel, key, count, bits))
}

pub(super) fn wake_key(kernel: &mut Kernel, key: WaitKey, count: u32, bits: u32) -> u64 {
    let is_meant = |tid: &Tid| kernel.threads.get(tid).is_some_and(|thread| thread.futex_bits & bits != 0);
    let chosen: Vec<Tid> = kernel.waits.waiters(key).iter().copied().filter(is_meant).take(count as usize).collect();
    for tid in &chosen {
        let wait = kernel.waits.wake(*tid, Woken::Notified);
        let index = wait.and_then(|wait| wait.keys.iter().position(|one| *one == key)).unwrap_or(0);
        if let Some(thread) = kernel.threads.get_mut(tid) {
            thread.futex_index = index as u32;
        }
    }
    chosen.len() as u64
}

fn requeue(call: &mut Call<'_>, expected: Option<u32>) -> SysResult {
    let [address, _, wake_count, move_count, second, _] = call.args;
    let (wake_count, move_count) = (wake_count as i32, move_count as i32);
    if wake_count < 0 || move_count < 0 {
        return Err(Errno::EINVAL.into());
    }
    let from = key(call.kernel, call.pid, address, is_private(call))?;
    let to = key(call.kernel, call.pid, second, is_private(call))?;
    if let Some(expected) = expected
        && value(call.kernel, call.pid, address)? != expected
    {
        return Err(Errno::EAGAIN.into());
    }
    let woken = wake_key(call.kernel, from, wake_count.cast_unsigned(), ALL_BITS);
    let moved: Vec<Tid> = call.kernel.waits.waiters(from).iter().copied().take(move_count as usize).collect();
    for tid in &moved {
        call.kernel.waits.requeue(*tid, from, to);
    }
    // `FUTEX_REQUEUE` counts the woken only.
    Ok(woken + if expected.is_some() { moved.len() as u64 } else { 0 })
}

/// `FUTEX_WAKE_OP`: changes the second word in one step, wakes waiters of the first, and those of the second if the word was
/// as `encoded` asks.
fn wake_op(call: &mut Call<'_>, address: u64, second: u64, count: u32, second_count: u32, encoded: u32) -> SysResult {
    let operation = (encoded >> 28) & 7;
    let comparison = (encoded >> 24) & 15;
    let sign_extended = |bits: u32| ((bits << 20).cast_signed()) >> 20;
    let mut operand = sign_extended((encoded >> 12) & 0xfff).cast_unsigned();
    if encoded >> 31 != 0 {
        operand = 1 << (operand & 31);
    }
    let compared = sign_extended(encoded & 0xfff);
    if operation > 4 || comparison > 5 {
        return Err(Errno::ENOSYS.into());
    }
    let first_key = key(call.kernel, call.pid, address, is_private(call))?;
    let second_key = key(call.kernel, call.pid, second, is_private(call))?;
    let (frame, offset) = call.kernel.locate_word(call.pid, second, true)?;
    let memory = call.kernel.frames.memory();
    let mut old = memory.load_u32(frame, offset);
    loop {
        let new = match operation {
            0 => operand,
            1 => old.wrapping_add(operand),
            2 => old | operand,
            3 => old & !operand,
            _ => old ^ operand,
        };
        match memory.compare_exchange_u32(frame, offset, old, new) {
            Ok(_) => break,
            Err(found) => old = found,
        }
    }
    let old = old.cast_signed();
    let holds = match comparison {
        0 => old == compared,
        1 => old != compared,
        2 => old < compared,
        3 => old <= compared,
        4 => old > compared,
        _ => old >= compared,
    };
    let mut woken = wake_key(call.kernel, first_key, count, ALL_BITS);
    if holds {
        woken += wake_key(call.kernel, second_key, second_count, ALL_BITS);
    }
    Ok(woken)
}

fn set_robust_list(call: &mut Call<'_>) -> SysResult {
    let [head, length, ..] = call.args;
    if length != ROBUST_HEAD_BYTES {
        return Err(Errno::EINVAL.into());
    }
    call.thread().robust_list = head;
    Ok(0)
}

fn get_robust_list(call: &mut Call<'_>) -> SysResult {
    let [_, head_address, length_address, ..] = call.args;
    let tid = if call.int(0) == 0 { call.tid } else { call.int(0).cast_unsigned() };
    let thread = call.kernel.threads.get(&tid).ok_or(Errno::ESRCH)?;
    let (pid, head) = (thread.pid, thread.robust_list);
    call.accessible(pid)?;
    call.write(length_address, &ROBUST_HEAD_BYTES)?;
    call.write(head_address, &head)?;
    Ok(0)
}

/// Marks the robust futexes that a thread holds at its end, and wakes a waiter of each (`futex(2)`, "Robust futexes"). What
/// cannot be read ends the walk: the list is the thread's own.
pub(crate) fn leave_robust_list(kernel: &mut Kernel, pid: Pid, tid: Tid, head: u64) {
    if head == 0 {
        return;
    }
    let Ok([first, offset, pending]) = read_words(kernel, pid, head) else { return };
    let mut entry = first;
    for _ in 0..ROBUST_ENTRIES_MAX {
        if entry & !1 == head {
            break;
        }
        let next = read_words::<1>(kernel, pid, entry & !1);
        if entry != pending {
            leave_robust_futex(kernel, pid, tid, entry, offset);
        }
        match next {
            Ok([next]) => entry = next,
            Err(_) => break,
        }
    }
    if pending != 0 {
        leave_robust_futex(kernel, pid, tid, pending, offset);
    }
}

/// The lowest bit of an entry says that it is a lock with an owner for the kernel.
fn leave_robust_futex(kernel: &mut Kernel, pid: Pid, tid: Tid, entry: u64, offset: u64) {
    let address = (entry & !1).wrapping_add(offset);
    if entry & 1 != 0 {
        return futex_lock::leave(kernel, pid, tid, address);
    }
    let Ok((frame, offset)) = kernel.locate_word(pid, address, true) else { return };
    let memory = kernel.frames.memory();
    let mut word = memory.load_u32(frame, offset);
    while word & OWNER_MASK == tid {
        match memory.compare_exchange_u32(frame, offset, word, (word & WAITERS) | OWNER_DIED) {
            Ok(_) => {
                if word & WAITERS != 0
                    && let Ok(key) = key(kernel, pid, address, false)
                {
                    wake_key(kernel, key, 1, ALL_BITS);
                }
                return;
            }
            Err(found) => word = found,
        }
    }
}

fn read_words<const N: usize>(kernel: &mut Kernel, pid: Pid, address: u64) -> Result<[u64; N], Errno> {
    let mut words = [0; N];
    for (index, word) in words.iter_mut().enumerate() {
        let mut bytes = [0; 8];
        kernel.read_user(pid, address.wrapping_add(index as u64 * 8), &mut bytes)?;
        *word = u64::from_le_bytes(bytes);
    }
    Ok(words)
}

/// Zeroes a word of a thread that ends and wakes a waiter (`CLONE_CHILD_CLEARTID`).
pub(crate) fn clear_and_wake(kernel: &mut Kernel, pid: Pid, address: u64) {
    if address != 0
        && kernel.write_user(pid, address, &0_u32.to_le_bytes()).is_ok()
        && let Ok(key) = key(kernel, pid, address, false)
    {
        wake_key(kernel, key, 1, ALL_BITS);
    }
}
