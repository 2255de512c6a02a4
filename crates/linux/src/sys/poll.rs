//! `poll(2)` and `select(2)`.

use std::collections::BTreeSet;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::call::Call;
use crate::clock::SECOND_NS;
use crate::errno::Errno;
use crate::file::epoll::Findings;
use crate::file::{DESCRIPTORS_MAX, readiness};
use crate::outcome::{Stop, SysResult, Wait, WaitKey};
use crate::signal::SignalSet;
use crate::sys::entry;
use crate::table::SystemCall;

const POLLING: &str =
    "POLLRDBAND, POLLWRBAND, POLLMSG and POLLREMOVE are never told; more than 4096 descriptors are EINVAL";

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(7, "poll", poll).supports(POLLING),
    entry(23, "select", select),
    entry(270, "pselect6", pselect6),
    entry(271, "ppoll", ppoll).supports(POLLING),
];

/// Bytes of a signal set.
const SIGNAL_SET_BYTES: u64 = 8;

const READ_SET: u32 = readiness::IN | readiness::READ_NORMAL | readiness::HANG_UP | readiness::ERROR;
const WRITE_SET: u32 = readiness::OUT | readiness::WRITE_NORMAL | readiness::ERROR;
const EXCEPTION_SET: u32 = readiness::PRIORITY;

/// `struct pollfd`.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct PollFd {
    fd: i32,
    events: u16,
    ready: u16,
}

/// A time-out in milliseconds; negative is for ever.
pub(super) fn timeout_ms(milliseconds: i32) -> Option<u64> {
    u64::try_from(milliseconds).ok().map(|milliseconds| milliseconds * 1_000_000)
}

/// A time-out as a `timespec`; a null pointer is for ever.
pub(super) fn timeout_spec(call: &mut Call<'_>, address: u64) -> Result<Option<u64>, Errno> {
    if address == 0 {
        return Ok(None);
    }
    let [seconds, nanoseconds] = call.read::<[i64; 2]>(address)?;
    let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
    let nanoseconds = u64::try_from(nanoseconds).ok().filter(|ns| *ns < SECOND_NS).ok_or(Errno::EINVAL)?;
    Ok(Some(seconds.saturating_mul(SECOND_NS).saturating_add(nanoseconds)))
}

/// Replaces the signal mask for the time of a call, if it asks for that.
pub(super) fn replace_mask(call: &mut Call<'_>, address: u64, size: u64) -> Result<(), Errno> {
    if address == 0 {
        return Ok(());
    }
    if size != SIGNAL_SET_BYTES {
        return Err(Errno::EINVAL);
    }
    let mask = call.read::<SignalSet>(address)?;
    call.replace_blocked_signals(mask);
    Ok(())
}

/// Blocks until something that is watched changes, unless the time is up already.
fn block(call: &Call<'_>, keys: BTreeSet<WaitKey>, timeout_ns: Option<u64>) -> SysResult {
    if call.is_interrupted() {
        return Err(Errno::EINTR.into());
    }
    let deadline_ns = call.deadline(timeout_ns);
    Err(Stop::Block(Wait { keys: keys.into_iter().collect(), deadline_ns }))
}

/// Tells the program what is left of its time, as Linux does at the end of these calls. Where that cannot be written, nothing
/// happens.
fn tell_left(call: &mut Call<'_>, result: SysResult, timeout_ns: Option<u64>, address: u64, unit_ns: u64) -> SysResult {
    let is_over = !matches!(result, Err(Stop::Block(_)));
    if let (true, Some(1..), Some(deadline_ns)) = (is_over, timeout_ns, call.deadline(timeout_ns)) {
        let left_ns = deadline_ns.saturating_sub(call.kernel.clock.monotonic_ns());
        if let Err(errno) = call.write(address, &[left_ns / SECOND_NS, left_ns % SECOND_NS / unit_ns]) {
            tracing::debug!(errno = errno.name(), "time left not told");
        }
    }
    result
}

fn poll_files(call: &mut Call<'_>, timeout_ns: Option<u64>) -> SysResult {
    let count = usize::try_from(call.args[1]).ok().filter(|count| *count <= DESCRIPTORS_MAX).ok_or(Errno::EINVAL)?;
    let mut entries = call.read_bytes(call.args[0], count * size_of::<PollFd>())?;
    let (mut keys, mut findings) = (BTreeSet::new(), Findings::default());
    let mut ready_count = 0;
    for bytes in entries.chunks_exact_mut(size_of::<PollFd>()) {
        let mut entry = PollFd::read_from_bytes(bytes).map_err(|_| Errno::EFAULT)?;
        entry.ready = 0;
        if entry.fd >= 0 {
            entry.ready = match call.file_of(entry.fd) {
                Err(_) => libc::POLLNVAL.cast_unsigned(),
                Ok(file) if file.is_path_only() => libc::POLLNVAL.cast_unsigned(),
                Ok(file) => {
                    let wanted = u32::from(entry.events) | readiness::ERROR | readiness::HANG_UP;
                    file.wait_keys(call.kernel, &mut keys);
                    (file.readiness_with(call.kernel, &mut findings) & wanted) as u16
                }
            };
        }
        ready_count += u64::from(entry.ready != 0);
        bytes.copy_from_slice(entry.as_bytes());
    }
    if ready_count == 0 && timeout_ns != Some(0) && !call.has_timed_out() {
        return block(call, keys, timeout_ns);
    }
    call.write_bytes(call.args[0], &entries)?;
    Ok(ready_count)
}

fn poll(call: &mut Call<'_>) -> SysResult {
    poll_files(call, timeout_ms(call.int(2)))
}

fn ppoll(call: &mut Call<'_>) -> SysResult {
    replace_mask(call, call.args[3], call.args[4])?;
    let timeout_ns = timeout_spec(call, call.args[2])?;
    let result = poll_files(call, timeout_ns);
    tell_left(call, result, timeout_ns, call.args[2], 1)
}

/// The three sets of `select(2)`; a set that is not given is empty.
fn select_files(call: &mut Call<'_>, timeout_ns: Option<u64>) -> SysResult {
    let count = usize::try_from(call.int(0)).map_err(|_| Errno::EINVAL)?.min(DESCRIPTORS_MAX);
    let length = count.div_ceil(64) * 8;
    let addresses = [call.args[1], call.args[2], call.args[3]];
    let mut wanted: [Vec<u8>; 3] = Default::default();
    for (set, address) in wanted.iter_mut().zip(addresses) {
        *set = if address == 0 { vec![0; length] } else { call.read_bytes(address, length)? };
    }
    let mut found: [Vec<u8>; 3] = std::array::from_fn(|_| vec![0; length]);
    let (mut keys, mut findings) = (BTreeSet::new(), Findings::default());
    let mut ready_count = 0;
    for fd in 0..count {
        let (byte, bit) = (fd / 8, 1_u8 << (fd % 8));
        if wanted.iter().all(|set| set[byte] & bit == 0) {
            continue;
        }
        let file = call.file_of(fd as i32)?;
        let ready = file.readiness_with(call.kernel, &mut findings);
        file.wait_keys(call.kernel, &mut keys);
        for ((wanted, found), events) in wanted.iter().zip(&mut found).zip([READ_SET, WRITE_SET, EXCEPTION_SET]) {
            if wanted[byte] & bit != 0 && ready & events != 0 {
                found[byte] |= bit;
                ready_count += 1;
            }
        }
    }
    if ready_count == 0 && timeout_ns != Some(0) && !call.has_timed_out() {
        return block(call, keys, timeout_ns);
    }
    for (set, address) in found.iter().zip(addresses) {
        if address != 0 {
            call.write_bytes(address, set)?;
        }
    }
    Ok(ready_count)
}

fn select(call: &mut Call<'_>) -> SysResult {
    let timeout_ns = match call.args[4] {
        0 => None,
        address => {
            let [seconds, microseconds] = call.read::<[i64; 2]>(address)?;
            let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
            let microseconds = u64::try_from(microseconds).map_err(|_| Errno::EINVAL)?;
            Some(seconds.saturating_mul(SECOND_NS).saturating_add(microseconds.saturating_mul(1000)))
        }
    };
    let result = select_files(call, timeout_ns);
    tell_left(call, result, timeout_ns, call.args[4], 1000)
}

fn pselect6(call: &mut Call<'_>) -> SysResult {
    if call.args[5] != 0 {
        let [address, size] = call.read::<[u64; 2]>(call.args[5])?;
        replace_mask(call, address, size)?;
    }
    let timeout_ns = timeout_spec(call, call.args[4])?;
    let result = select_files(call, timeout_ns);
    tell_left(call, result, timeout_ns, call.args[4], 1)
}
